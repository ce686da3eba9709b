//! A blob taken leaf by leaf: from one peer by its outline, each leaf checked and written, the whole digest checked, then made durable.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::{Value, json};
use shoal_content::{Digest, Origin};
use shoal_fetch::Pulls;
use shoal_swarm::PeerId;
use tokio::task::spawn_blocking;

use super::node::{NOWHERE, Node};

/// When bytes came.
struct Arrivals {
    asked: Instant,
    last: Option<Instant>,
    first: Duration,
    gap: Duration,
}

impl Arrivals {
    fn new() -> Self {
        Self { asked: Instant::now(), last: None, first: Duration::ZERO, gap: Duration::ZERO }
    }

    fn came(&mut self) {
        let now = Instant::now();
        match self.last.replace(now) {
            Some(last) => self.gap = self.gap.max(now - last),
            None => self.first = now - self.asked,
        }
    }

    /// All is there and has matched since `verified`.
    fn report(&self, began: Instant, verified: Instant) -> Value {
        json!({
            "verified": (verified - began).as_secs_f64(),
            "durable": began.elapsed().as_secs_f64(),
            "first_ms": self.first.as_secs_f64() * 1e3,
            "gap_ms": self.gap.as_secs_f64() * 1e3,
        })
    }
}

/// With `window` leaves wanted of the peer at once. Made durable only where it is to be kept.
pub(super) async fn get(node: &Node, digest: Digest, from: PeerId, window: usize, keep: bool) -> Result<Value> {
    let began = Instant::now();
    let outline = node.swarm.outline(from, &digest).await?.context("the peer does not hold it")?;
    let hashes = outline.hashes().context("its outline has gaps")?;
    let (store, size) = (node.store.clone(), outline.size());
    let partial = Arc::new(spawn_blocking(move || store.partial(&digest, size)).await??);
    node.mask.move_on(&partial);
    let mut left = (0..).zip(hashes);
    let mut fetches = FuturesUnordered::new();
    let mut writes = FuturesUnordered::new();
    let mut arrivals = Arrivals::new();
    loop {
        // What is being written counts, so that memory is bounded by the window.
        while fetches.len() + writes.len() < window
            && let Some((index, hash)) = left.next()
        {
            let (swarm, priority) = (&node.swarm, i32::MAX - i32::try_from(index).unwrap_or(i32::MAX));
            fetches.push(async move { (index, hash, swarm.block(from, hash.cid(), priority).await) });
        }
        tokio::select! {
            Some((index, hash, block)) = fetches.next() => {
                let block = block.with_context(|| format!("leaf {index}"))?;
                arrivals.came();
                let partial = Arc::clone(&partial);
                writes.push(spawn_blocking(move || partial.write_leaf(index, &block, hash)));
            }
            Some(written) = writes.next() => drop(written??),
            else => break,
        }
    }
    let whole = Arc::clone(&partial);
    spawn_blocking(move || whole.verify()).await??;
    let verified = Instant::now();
    if keep {
        spawn_blocking(move || partial.commit()).await??;
    }
    Ok(arrivals.report(began, verified))
}

/// As a runtime has it: through a session, whoever has it, and read to the end.
pub(super) async fn pull(node: &Node, digest: Digest) -> Result<Value> {
    let origin = Origin { registry: NOWHERE.parse()?, repository: "bench/blob".parse()? };
    let began = Instant::now();
    let mut arrivals = Arrivals::new();
    let mut body = node.fetch.blob(&origin, &digest, None).await?;
    let mut left = body.size;
    while let Some(piece) = body.stream.next().await {
        left -= piece?.len() as u64;
        arrivals.came();
    }
    anyhow::ensure!(left == 0, "{left} bytes of {digest} did not come");
    // The last leaf leaves when the blob is whole, verified and durable.
    let mut report = arrivals.report(began, Instant::now());
    let trace = node.fetch.traces().into_iter().rev().find(|trace| trace.digest == digest);
    report["from_upstream"] = trace.as_ref().map(|trace| trace.from_upstream).into();
    report["events"] = trace.map(|trace| trace.events.len()).into();
    Ok(report)
}

/// Leaves of a blob, one at a time, for as long as `lasts`: the milliseconds that each took.
pub(super) async fn sample(node: &Node, digest: Digest, from: PeerId, lasts: Duration) -> Result<Value> {
    let outline = node.swarm.outline(from, &digest).await?.context("the peer does not hold it")?;
    let hashes = outline.hashes().context("its outline has gaps")?;
    let mut times = Vec::new();
    let mut every = tokio::time::interval(SAMPLE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let began = Instant::now();
    for hash in hashes.iter().cycle() {
        if began.elapsed() >= lasts {
            break;
        }
        every.tick().await;
        let asked = Instant::now();
        node.swarm.block(from, hash.cid(), 1).await?;
        times.push(asked.elapsed().as_secs_f64() * 1e3);
    }
    Ok(json!({ "ms": times }))
}

/// How often a block is asked for to see how long it takes.
const SAMPLE_EVERY: Duration = Duration::from_millis(10);
