//! One blob from one holder to one asker, from disk to disk, beside a bare stream of as many bytes over the same transport.
//!
//! Two askers are measured: `leaves` takes leaf by leaf from the one holder, with a fixed number of wants; `session` is what a runtime's request
//! makes of it, coordination and the reading of what landed included.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use shoal_swarm::SwarmKey;

use super::{
    GIB, MIB,
    child::End,
    options::Options,
    report::{Limit, Report, Row},
    usage,
};

pub(super) fn measure(options: &Options, folder: &Path, report: &mut Report) -> Result<()> {
    let key = SwarmKey::generate();
    let mut holder = End::node(&folder.join("holder"), &key, &[])?;
    let digest = holder.hold(1, options.size)?;
    for run in 0..options.runs {
        let bare = bare(options.size)?;
        let leaves = {
            let mut asker = End::node(&folder.join(format!("leaves-{run}")), &key, &[&holder])?;
            asker.wait_for_peers(1)?;
            let get = json!({
                "do": "get", "digest": digest, "from": holder.peer, "window": options.window, "keep": true,
            });
            transfer(&mut holder, &mut asker, options.size, &get)?
        };
        std::fs::remove_dir_all(folder.join(format!("leaves-{run}")))?;
        let session = {
            let mut asker = End::node(&folder.join(format!("session-{run}")), &key, &[&holder])?;
            asker.wait_for_peers(1)?;
            asker.wait_for_holders(&digest, 1)?;
            transfer(&mut holder, &mut asker, options.size, &json!({ "do": "pull", "digest": digest }))?
        };
        std::fs::remove_dir_all(folder.join(format!("session-{run}")))?;
        for (name, figures) in [("bare stream", &bare), ("leaves", &leaves), ("session", &session)] {
            report.add(row(options, name, figures, &bare));
        }
    }
    Ok(())
}

/// What one transfer took.
struct Figures {
    took: f64,
    answer: Value,
    user: f64,
    system: f64,
    peak: u64,
}

fn bare(size: u64) -> Result<Figures> {
    let key = SwarmKey::generate();
    let mut server = End::bare_server(&key, size)?;
    let mut reader = End::bare_reader(&key, size)?;
    let read = json!({ "do": "read", "address": server.address, "peer": server.peer });
    transfer(&mut server, &mut reader, size, &read)
}

/// Lets the asker do what it is told, and looks at both ends.
fn transfer(holder: &mut End, asker: &mut End, size: u64, command: &Value) -> Result<Figures> {
    let ends = [holder.pid(), asker.pid()];
    ends.iter().try_for_each(|pid| usage::forget_peak(*pid))?;
    let before = holder.cpu()? + asker.cpu()?;
    let answer = asker.ask(command)?;
    let cpu = holder.cpu()? + asker.cpu()? - before;
    let gib = size as f64 / GIB;
    let peak = ends.iter().map(|pid| usage::peak(*pid)).collect::<Result<Vec<u64>>>()?.into_iter().max().unwrap_or(0);
    let took = answer["verified"].as_f64().unwrap_or(f64::NAN);
    Ok(Figures { took, answer, user: cpu.user / gib, system: cpu.system / gib, peak })
}

fn row(options: &Options, name: &str, figures: &Figures, bare: &Figures) -> Row {
    let of = |name: &str| figures.answer[name].as_f64();
    let is_bare = name == "bare stream";
    let limit = |limit: Limit| if is_bare { Limit::None } else { limit };
    let size = options.size as f64 / MIB;
    let mut row = Row::new("one to one", name)
        .with("MiB/s", size / figures.took, Limit::None)
        .with("of bare", bare.took / figures.took, limit(Limit::AtLeast(0.7)))
        .with("CPU s/GiB", figures.user + figures.system, limit(Limit::AtMost(3.8)))
        .with("user", figures.user, Limit::None)
        .with("system", figures.system, Limit::None)
        .with("peak MiB", figures.peak as f64 / MIB, limit(Limit::AtMost(96.0)));
    if let (Some(gap), Some(first), Some(durable)) = (of("gap_ms"), of("first_ms"), of("durable")) {
        row = row.with("gap ms", gap, Limit::AtMost(100.0)).with("first ms", first, Limit::AtMost(5.0)).with(
            "durable MiB/s",
            size / durable,
            Limit::None,
        );
    }
    row
}
