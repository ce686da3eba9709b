//! The table and the JSON.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::json;

use super::{link, measure::Row, options::Options};

const HEAD: &str = "\
scenario        system        fault           last    bound        ÷ bound        ÷ direct  slowest  upstream  CPU s per GB   peak  cores busy  limit   whole
                                                 s        s     (min–max)                  ÷ alone   ÷ image    own    all    MiB    (others)
";

/// All rows, with what they were measured under.
pub(crate) fn table(options: &Options, containerd: &str, rows: &[Row]) -> String {
    let tcp = options.tcp.clone().or_else(|| link::congestion_control().ok()).unwrap_or_default();
    let mut table = format!(
        "{} nodes at {} Mbit/s, upstream ({}) at {} Mbit/s, each way; {} MiB in four layers; medians of {}; {} cores; TCP {tcp}; containerd {containerd}\n\n{HEAD}",
        options.nodes,
        options.node * options.scale,
        options.quirk,
        options.upstream * options.scale,
        options.mib,
        options.runs,
        std::thread::available_parallelism().map_or(0, usize::from),
    );
    for row in rows {
        table.push_str(&line(row));
        table.push('\n');
    }
    for row in rows {
        if let Some(words) = row.runs.iter().find_map(super::outcome::Run::failure) {
            let _ = writeln!(table, "{}, {}{}: {words}", row.scenario, row.system, fault_of(row, ", "));
        }
    }
    if rows.iter().any(|row| row.limit() == "others") {
        table.push_str("limit `others`: something else took more than a tenth of the cores, so that row says little\n");
    }
    if rows.iter().any(|row| row.limit() == "cores") {
        table.push_str("limit `cores`: the cores of this machine, not the links, set that time\n");
    }
    table
}

fn fault_of(row: &Row, before: &str) -> String {
    row.fault.map_or_else(String::new, |fault| format!("{before}{fault}"))
}

/// One row.
pub(crate) fn line(row: &Row) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
    let spread = row.spread.map_or_else(String::new, |(least, most)| format!("({least:.2}–{most:.2})"));
    let (whole, living) = row.whole();
    let mut line = format!(
        "{:<15} {:<13} {:<12} {:>7} {:>8.2} {:>6} {:<13} {:>8} {:>8.2} {:>9.2} {:>6.1} {:>6.1} {:>6.0} {:>4.0}% ({:>2.0}%)  {:<6}  {whole}/{living}",
        row.scenario,
        row.system,
        fault_of(row, ""),
        number(row.last),
        row.bound,
        number(row.ratio()),
        spread,
        number(row.to_direct),
        row.slowest,
        row.copies,
        row.cpu,
        row.cpu_of_all,
        row.peak,
        row.busy * 100.0,
        row.others * 100.0,
        row.limit(),
    );
    if let Some(lost) = row.lost {
        let _ = write!(line, "  lost {lost:.1} s");
    }
    line
}

/// All figures of all runs.
pub(crate) fn json(options: &Options, containerd: &str, rows: &[Row]) -> Result<String> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let runs = row.runs.iter().map(|run| {
                let nodes = run.nodes.iter().map(|node| {
                    json!({
                        "node": node.node, "began_s": node.began, "over_s": node.over,
                        "failed": node.failed, "died": node.died,
                    })
                });
                json!({
                    "image_bytes": run.bytes, "distinct_bytes": run.distinct, "quarters_s": run.quarters(), "bound_s": run.bound, "nodes": nodes.collect::<Vec<_>>(),
                    "upstream_sent_bytes": run.upstream_sent, "upstream_blob_bytes": run.upstream_blobs,
                    "upstream_requests": run.upstream_requests, "cpu_s": run.cpu, "interrupts_s": run.interrupts,
                    "busy": run.busy, "others": run.others, "peak_bytes": run.peak, "fault_at_s": run.fault_at,
                })
            });
            let (whole, living) = row.whole();
            json!({
                "scenario": row.scenario.to_string(), "system": row.system.to_string(),
                "fault": row.fault.map(|fault| fault.to_string()),
                "last_s": row.last, "bound_s": row.bound, "ratio": row.ratio(), "spread": row.spread,
                "to_direct": row.to_direct,
                "slowest_to_alone": row.slowest, "upstream_copies": row.copies,
                "cpu_s_per_gb": row.cpu, "cpu_s_per_gb_of_all": row.cpu_of_all, "peak_mib": row.peak,
                "busy": row.busy, "others": row.others, "limit": row.limit(), "lost_s": row.lost,
                "whole": whole, "living": living, "runs": runs.collect::<Vec<_>>(),
            })
        })
        .collect();
    let all = json!({
        "nodes": options.nodes, "scale": options.scale, "mib": options.mib,
        "upstream_mbit": options.upstream * options.scale, "node_mbit": options.node * options.scale,
        "upstream_is": options.quirk.to_string(),
        "containerd": containerd,
        "congestion_control": options.tcp.clone().or_else(|| link::congestion_control().ok()),
        "rows": rows,
    });
    Ok(serde_json::to_string_pretty(&all)?)
}
