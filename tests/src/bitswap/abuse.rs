//! What a peer without manners costs: memory of the node, and the time that its other peers wait for a block.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shoal_swarm::SwarmKey;

use super::{
    MIB,
    child::End,
    report::{Limit, Report, Row, median, p99},
    rude, usage,
};

/// A want of each kind of abuse is answered, refused or held meanwhile.
const ABUSES: [&str; 7] = ["wants", "streams", "too long", "endless", "unasked", "slow readers", "records"];

/// The victim's blob, of which another peer takes leaf after leaf.
const BLOB: u64 = 64 << 20;
const RECORDS: u64 = 10_000;
const WARM_UP_MS: u64 = 1_000;
/// Some hundred leaves: the worst hundredth of them are a few.
const SAMPLE_MS: u64 = 5_000;

/// In which all that was taken must be given back.
const FREED_WITHIN: Duration = Duration::from_secs(10);
/// What differs between two looks at an idle node.
const NOISE: u64 = 3 << 20;

pub(super) fn measure(folder: &Path, report: &mut Report) -> Result<()> {
    for what in ABUSES {
        let folder = folder.join(what.replace(' ', "-"));
        report.add(abuse(&folder, what).context(what)?);
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

fn abuse(folder: &Path, what: &str) -> Result<Row> {
    let key = SwarmKey::generate();
    let mut victim = End::node(&folder.join("victim"), &key, &[])?;
    let digest = victim.hold(5, BLOB)?;
    let mut other = End::node(&folder.join("other"), &key, &[&victim])?;
    other.wait_for_peers(1)?;
    let sample = |ms: u64| json!({ "do": "sample", "digest": digest, "from": victim.peer, "ms": ms });
    other.ask(&sample(WARM_UP_MS))?;
    usage::forget_peak(victim.pid())?;
    let before = times(&other.ask(&sample(SAMPLE_MS))?)?;
    let (rested, usual) = (usage::resident(victim.pid())?, usage::peak(victim.pid())?);

    usage::forget_peak(victim.pid())?;
    let cids = other.ask(&json!({ "do": "leaves", "digest": digest, "from": victim.peer }))?;
    let mut abuser = match what {
        "records" => {
            let mut node = End::node(&folder.join("rude"), &key, &[&victim])?;
            node.wait_for_peers(1)?;
            node.tell(&json!({ "do": "announce", "keys": RECORDS }))?;
            node
        }
        _ => {
            let mut rude = End::rude(&key, &victim)?;
            rude.tell(&json!({ "do": what, "ms": SAMPLE_MS, "cids": cids["cids"] }))?;
            rude
        }
    };
    let during = times(&other.ask(&sample(SAMPLE_MS))?)?;
    let done = abuser.answer()?["done"].as_u64().context("it says how much it did")?;
    if what == "records" {
        victim.wait_for_holders(&rude::key(RECORDS - 1).to_string(), 1)?;
    }
    let peak = usage::peak(victim.pid())?;
    drop(abuser);

    let (left, mut kept) = (Instant::now(), 0);
    let freed = crate::wait_for("memory is given back", FREED_WITHIN, || {
        kept = usage::resident(victim.pid())?.saturating_sub(rested);
        Ok((kept <= NOISE).then(|| left.elapsed()))
    });
    let took = freed.unwrap_or(FREED_WITHIN);
    Ok(Row::new("abuse", what)
        .with("done", done as f64, Limit::AtLeast(1.0))
        .with("grew MiB", peak.saturating_sub(usual) as f64 / MIB, Limit::AtMost(32.0))
        .with("kept MiB", kept as f64 / MIB, Limit::AtMost(NOISE as f64 / MIB))
        .with("freed in s", took.as_secs_f64(), Limit::None)
        .with("median ms", median(during.clone()), Limit::None)
        .with("p99 ms before", p99(before.clone()), Limit::None)
        .with("p99 ms", p99(during.clone()), Limit::None)
        .with("p99 times", p99(during) / p99(before), Limit::AtMost(2.0)))
}

fn times(answer: &Value) -> Result<Vec<f64>> {
    let times = answer["ms"].as_array().context("it says how long each took")?;
    Ok(times.iter().filter_map(Value::as_f64).collect())
}
