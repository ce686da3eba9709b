//! How fast blocks go between two Kubos, two nodes of ours, and one of each, on this machine's loopback: `cargo xtask bench ipfs`.
//!
//! Each figure is a file of 1 GiB in leaves of 1 MiB, from disk to disk, every leaf verified. Kubo is at its best: 16 MiB outstanding, 32 workers,
//! and `pin add`, which fetches and prints nothing. All kinds are measured one after the other, several times over, so that what else the
//! machine does meets all of them. The first argument is how many times; the second, if there is one, a part of the names of those to be measured.
#![allow(clippy::print_stdout, reason = "figures are for standard output")]

use std::{fs, path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use shoal_tests::{
    blobs::noise,
    http,
    ipfs::{Folder, Kubo, Ours, cpu_seconds, hash_of, hash_of_file, kubo},
};

const SIZE: usize = 1 << 30;
const MIB: f64 = (1 << 20) as f64;
const RUNS: usize = 3;

/// What is measured, in the order in which it is printed.
const KINDS: [&str; 6] = [
    "Kubo to Kubo, TLS or noise",
    "Kubo to Kubo, swarm key",
    "Shoal to Shoal, noise",
    "Shoal to Shoal, swarm key",
    "Shoal to Kubo, swarm key",
    "Kubo to Shoal, swarm key",
];

/// Seconds on the clock, and of all cores in both ends.
#[derive(Clone, Copy, Debug)]
struct Cost {
    time: f64,
    cpu: f64,
}

fn main() -> Result<()> {
    let runs = std::env::args().nth(1).map_or(Ok(RUNS), |runs| runs.parse()).context("the argument is a number")?;
    let only = std::env::args().nth(2).unwrap_or_default();
    let kinds: Vec<usize> = (0..KINDS.len()).filter(|kind| KINDS[*kind].contains(&only)).collect();
    let program = kubo::program()?.context("Kubo is not installed: `cargo xtask deps` installs it");
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); KINDS.len()];
    for run in 0..runs {
        for kind in kinds.iter().copied() {
            let program = || program.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"));
            let folder = Folder::new(&format!("bench-{run}-{kind}"))?;
            let seed = (run * KINDS.len() + kind) as u64 + 1;
            let cost = match kind {
                0 => kubos(program()?, &folder.0, None, seed)?,
                1 => kubos(program()?, &folder.0, Some(&key(&folder.0)?), seed)?,
                2 => shoals(&folder.0, "noise", seed)?,
                3 => shoals(&folder.0, "pnet", seed)?,
                4 => shoal_to_kubo(program()?, &folder.0, seed)?,
                _ => kubo_to_shoal(program()?, &folder.0, seed)?,
            };
            println!("run {run}: {:28} {:7.1} MiB/s", KINDS[kind], SIZE as f64 / MIB / cost.time);
            costs[kind].push(cost);
        }
    }
    let medians: Vec<Option<Cost>> = costs.iter().map(|costs| median(costs)).collect();
    println!("\n{:28} {:>9} {:>12} {:>9}", "median", "MiB/s", "CPU s/GiB", "of Kubo's");
    for (kind, cost) in medians.iter().enumerate() {
        let Some(cost) = cost else { continue };
        // Kubo's own figure under the same encryption.
        let kubo = if kind == 0 || kind == 2 { medians[0] } else { medians[1] };
        let ratio = kubo.map_or(f64::NAN, |kubo| kubo.time / cost.time);
        println!("{:28} {:9.1} {:12.2} {ratio:9.2}", KINDS[kind], SIZE as f64 / MIB / cost.time, cost.cpu);
    }
    Ok(())
}

fn median(costs: &[Cost]) -> Option<Cost> {
    let of = |value: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    Some(Cost { time: of(|cost| cost.time)?, cpu: of(|cost| cost.cpu)? })
}

fn measure(pids: [u32; 2], work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let cpu = || pids.iter().map(|pid| cpu_seconds(*pid)).sum::<Result<f64>>();
    let (before, start) = (cpu()?, Instant::now());
    work()?;
    let time = start.elapsed().as_secs_f64();
    Ok(Cost { time, cpu: cpu()? - before })
}

fn key(folder: &Path) -> Result<std::path::PathBuf> {
    let text = format!("/key/swarm/psk/1.0.0/\n/base16/\n{}\n", "42".repeat(32));
    shoal_tests::ipfs::file(folder, "swarm.key", text.as_bytes())
}

fn kubos(program: &Path, folder: &Path, key: Option<&Path>, seed: u64) -> Result<Cost> {
    let from = Kubo::start(program, &folder.join("from"), key, &[])?;
    let to = Kubo::start(program, &folder.join("to"), key, std::slice::from_ref(&from.address))?;
    to.wait_for_peer(&from.peer)?;
    let root = from.add(&content(folder, seed)?, &[])?;
    measure([from.pid(), to.pid()], || to.ipfs(&["pin", "add", &root]).map(drop))
}

fn shoals(folder: &Path, admission: &str, seed: u64) -> Result<Cost> {
    let from = Ours::start(&folder.join("from"), admission, Vec::new())?;
    let to = Ours::start(&folder.join("to"), admission, vec![from.node.listens.swarm])?;
    to.node.wait_for_peers(1)?;
    let content = noise(seed, SIZE);
    let digest = to.upstream.add(content.clone());
    let target = format!("/v2/a/b/blobs/{digest}?ns={}", to.upstream.name().replace(':', "%3A"));
    // A node gives out what its upstream has answered for.
    let head = http::request(std::net::TcpStream::connect(to.node.listens.gateway)?, "HEAD", &target, &[])?;
    ensure!(head.status == 200, "{} for HEAD", head.status);
    to.upstream.remove(&digest);
    from.hold(content)?;
    let cost = measure([from.node.pid(), to.node.pid()], || {
        // Into its store and out of its gateway, as a runtime has it; nobody but the other node has the blob.
        let bytes = http::drain(std::net::TcpStream::connect(to.node.listens.gateway)?, &target)?;
        ensure!(bytes == SIZE as u64, "{bytes} bytes came\n{}", to.node.log()?);
        Ok(())
    })?;
    ensure!(to.node.bytes()?.upstream == 0, "bytes came from upstream");
    Ok(cost)
}

fn shoal_to_kubo(program: &Path, folder: &Path, seed: u64) -> Result<Cost> {
    let from = Ours::start(&folder.join("from"), "pnet", Vec::new())?;
    let to = Kubo::start(program, &folder.join("to"), Some(&from.key), &[from.address()])?;
    to.wait_for_peer(&from.peer)?;
    let (_, root) = from.hold(noise(seed, SIZE))?;
    measure([from.node.pid(), to.pid()], || to.ipfs(&["pin", "add", &root]).map(drop))
}

fn kubo_to_shoal(program: &Path, folder: &Path, seed: u64) -> Result<Cost> {
    let to = Ours::start(&folder.join("to"), "pnet", Vec::new())?;
    let from = Kubo::start(program, &folder.join("from"), Some(&to.key), &[to.address()])?;
    to.node.wait_for_peers(1)?;
    let file = content(folder, seed)?;
    let root = from.add(&file, &[])?;
    let got = folder.join("got");
    let cost = measure([from.pid(), to.node.pid()], || to.get(&root, &got))?;
    ensure!(hash_of_file(&got)?.0 == hash_of(&fs::read(&file)?), "other bytes came");
    Ok(cost)
}

fn content(folder: &Path, seed: u64) -> Result<std::path::PathBuf> {
    shoal_tests::ipfs::file(folder, "content", &noise(seed, SIZE))
}
