//! Eight askers at one holder at once: each for a blob of its own, where the holder alone decides who gets how much, and all for one
//! blob, where they pass on to one another what they have.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use shoal_swarm::SwarmKey;

use super::{
    MIB,
    child::End,
    options::Options,
    report::{Limit, Report, Row},
};

const ASKERS: usize = 8;

/// Wants of each asker.
const WINDOW: usize = 8;

const LIMIT: Duration = Duration::from_secs(120);

pub(super) fn measure(options: &Options, folder: &Path, report: &mut Report) -> Result<()> {
    for _ in 0..options.runs {
        let alone = apart(options, &folder.join("one"), 1)?;
        let together = apart(options, &folder.join("many"), ASKERS)?;
        report.add(Row::new("askers", "1, its own blob").with("MiB/s", alone.speed, Limit::None));
        report.add(
            Row::new("askers", "8, blobs of their own")
                .with("MiB/s", together.speed, Limit::None)
                .with("of one", together.speed / alone.speed, Limit::AtLeast(1.0))
                .with("farthest from even %", together.unevenness, Limit::AtMost(15.0)),
        );
        report.add(shared(options, &folder.join("same"))?);
    }
    Ok(())
}

struct Served {
    /// MiB/s of all askers together.
    speed: f64,
    /// How far the asker farthest from an even share was from it half way, in percent.
    unevenness: f64,
}

/// Each asker gets a blob of its own, leaf by leaf.
fn apart(options: &Options, folder: &Path, askers: usize) -> Result<Served> {
    let key = SwarmKey::generate();
    let mut holder = End::node(&folder.join("holder"), &key, &[])?;
    let mut nodes = Vec::new();
    for number in 0..askers {
        let digest = holder.hold(100 + number as u64, options.shared)?;
        let mut asker = End::node(&folder.join(format!("asker-{number}")), &key, &[&holder])?;
        asker.wait_for_peers(1)?;
        nodes.push((asker, json!({ "do": "get", "digest": digest, "from": holder.peer, "window": WINDOW })));
    }
    let peers: Vec<String> = nodes.iter().map(|(asker, _)| asker.peer.clone()).collect();
    let all = options.shared * askers as u64;
    let began = Instant::now();
    let (nodes, ended, shares) = at_once(nodes, || half_way(&mut holder, &peers, all / 2))?;
    let even = shares.iter().sum::<u64>() as f64 / askers as f64;
    let unevenness = shares.iter().map(|&share| (share as f64 / even - 1.0).abs() * 100.0).fold(0.0, f64::max);
    let speed = all as f64 / MIB / (ended - began).as_secs_f64();
    drop(nodes);
    drop(holder);
    std::fs::remove_dir_all(folder)?;
    Ok(Served { speed, unevenness })
}

/// All pull the same blob through sessions.
fn shared(options: &Options, folder: &Path) -> Result<Row> {
    let key = SwarmKey::generate();
    let mut holder = End::node(&folder.join("holder"), &key, &[])?;
    let digest = holder.hold(3, options.shared)?;
    let mut nodes = Vec::new();
    for number in 0..ASKERS {
        let mut asker = End::node(&folder.join(format!("asker-{number}")), &key, &[&holder])?;
        asker.wait_for_peers(1)?;
        nodes.push(asker);
    }
    for asker in &mut nodes {
        asker.wait_for_peers(ASKERS)?;
        asker.wait_for_holders(&digest, 1)?;
    }
    let nodes = nodes.into_iter().map(|asker| (asker, json!({ "do": "pull", "digest": digest }))).collect();
    let began = Instant::now();
    let (nodes, ended, ()) = at_once(nodes, || Ok(()))?;
    let took = (ended - began).as_secs_f64();
    let sent: u64 = holder.sent()?.iter().map(|(_, bytes)| bytes).sum();
    drop((nodes, holder));
    std::fs::remove_dir_all(folder)?;
    Ok(Row::new("askers", "8, the same blob")
        .with("MiB/s", options.shared as f64 * ASKERS as f64 / MIB / took, Limit::None)
        .with("copies sent by the holder", sent as f64 / options.shared as f64, Limit::AtMost(1.5)))
}

/// What each asker has been sent when all of them together have been sent so much.
fn half_way(holder: &mut End, askers: &[String], half: u64) -> Result<Vec<u64>> {
    crate::wait_for("half of it is sent", LIMIT, || {
        let sent = holder.sent()?.into_iter();
        let shares: Vec<u64> = sent.filter(|(peer, _)| askers.contains(peer)).map(|(_, bytes)| bytes).collect();
        Ok((shares.iter().sum::<u64>() >= half).then_some(shares))
    })
}

/// Lets all do what they are told, all at once, looks at something meanwhile, and waits for all. The nodes live on: they give to one another.
fn at_once<T>(nodes: Vec<(End, Value)>, look: impl FnOnce() -> Result<T>) -> Result<(Vec<End>, Instant, T)> {
    std::thread::scope(|scope| {
        let asking: Vec<_> = nodes
            .into_iter()
            .map(|(mut node, command)| scope.spawn(move || node.ask(&command).map(|_| (node, Instant::now()))))
            .collect();
        let found = look();
        let mut nodes = Vec::new();
        let mut last = None;
        for asked in asking {
            let (node, ended) = asked.join().map_err(|_| anyhow!("a thread panicked"))??;
            nodes.push(node);
            last = last.max(Some(ended));
        }
        Ok((nodes, last.context("nobody was asked")?, found?))
    })
}
