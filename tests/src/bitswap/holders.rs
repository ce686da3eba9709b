//! One blob from four holders, through a session: how much faster than from one, how evenly, and what a faulty holder costs.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use shoal_swarm::SwarmKey;

use super::{
    MIB,
    child::End,
    options::Options,
    report::{Limit, Report, Row},
};

const HOLDERS: usize = 4;

/// What may go wrong at one of the holders, after it has served a tenth of the blob.
const FAULTS: [&str; 4] = ["none", "slow", "stalls", "lies"];

pub(super) fn measure(options: &Options, folder: &Path, report: &mut Report) -> Result<()> {
    let leaves = options.shared >> 20;
    for run in 0..options.runs {
        let one = pull(options, &folder.join("one"), 1, "none", 0)?;
        report.add(Row::new("holders", "1 holder").with("MiB/s", one.speed(options), Limit::None));
        let mut faultless = f64::NAN;
        for fault in FAULTS {
            // A tenth of the speed at which each of four served.
            let pause = (faultless * 10.0 * 1e3 * HOLDERS as f64 / leaves as f64).max(1.0) as u64;
            let pulled = pull(options, &folder.join(fault), HOLDERS, fault, pause)
                .with_context(|| format!("run {run}, fault {fault}"))?;
            let name = if fault == "none" { "4 holders".to_owned() } else { format!("4 holders, one {fault}") };
            let row = Row::new("holders", &name).with("MiB/s", pulled.speed(options), Limit::None).with(
                "duplicates %",
                pulled.duplicates(options),
                if fault == "none" { Limit::AtMost(1.0) } else { Limit::None },
            );
            report.add(if fault == "none" {
                faultless = pulled.took;
                row.with("of one holder", one.took / pulled.took, Limit::AtLeast(1.0)).with(
                    "farthest from even %",
                    pulled.unevenness(),
                    Limit::AtMost(20.0),
                )
            } else {
                row.with("lost s", pulled.took - faultless, Limit::AtMost(1.0))
                    .with("asked after", pulled.asked as f64, Limit::None)
                    .with("avoided", f64::from(u8::from(pulled.avoided)), Limit::None)
            });
        }
    }
    Ok(())
}

struct Pulled {
    took: f64,
    /// Bytes that each holder has sent.
    sent: Vec<u64>,
    /// Blocks that the faulty holder was asked for since it was.
    asked: u64,
    /// The asker avoids it as a liar.
    avoided: bool,
}

impl Pulled {
    fn speed(&self, options: &Options) -> f64 {
        options.shared as f64 / MIB / self.took
    }

    /// What was sent more than once, in percent of the blob.
    fn duplicates(&self, options: &Options) -> f64 {
        (self.sent.iter().sum::<u64>() as f64 / options.shared as f64 - 1.0) * 100.0
    }

    /// How far the holder farthest from an even share is from it, in percent.
    fn unevenness(&self) -> f64 {
        let even = self.sent.iter().sum::<u64>() as f64 / self.sent.len() as f64;
        self.sent.iter().map(|&sent| (sent as f64 / even - 1.0).abs() * 100.0).fold(0.0, f64::max)
    }
}

fn pull(options: &Options, folder: &Path, holders: usize, fault: &str, pause: u64) -> Result<Pulled> {
    let key = SwarmKey::generate();
    let mut nodes: Vec<End> = Vec::new();
    let mut digest = String::new();
    for number in 0..holders {
        let mut node = End::node(&folder.join(format!("holder-{number}")), &key, &nodes.iter().collect::<Vec<_>>())?;
        digest = node.hold(2, options.shared)?;
        nodes.push(node);
    }
    let mut asker = End::node(&folder.join("asker"), &key, &nodes.iter().collect::<Vec<_>>())?;
    asker.wait_for_peers(holders)?;
    asker.wait_for_holders(&digest, holders)?;
    if fault != "none" {
        let after = (options.shared >> 20) / 10;
        nodes[0].ask(&json!({ "do": "fault", "fault": fault, "pause_ms": pause, "after": after }))?;
    }
    let answer = asker.ask(&json!({ "do": "pull", "digest": digest }))?;
    let took = answer["verified"].as_f64().context("it says how long it took")?;
    let mut sent = Vec::new();
    for node in &mut nodes {
        sent.push(node.sent()?.iter().map(|(_, bytes)| bytes).sum());
    }
    let asked = nodes[0].ask(&json!({ "do": "count" }))?["asked_since_fault"].as_u64().unwrap_or(0);
    let avoided = asker.ask(&json!({ "do": "count" }))?["avoided"].to_string().contains(&nodes[0].peer);
    drop((asker, nodes));
    std::fs::remove_dir_all(folder)?;
    Ok(Pulled { took, sent, asked, avoided })
}
