//! What a build of `shoal` does in a second, a core and a byte of memory: two nodes and an upstream on this machine's loopback.
//!
//! `cargo xtask bench` runs it with a release build. Figures are of one machine at one time: compare only those taken side by side.
#![allow(clippy::print_stdout, reason = "the figures are for the person who called it")]

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use shoal_tests::{
    Setup, Shoal,
    blobs::{Blobs, noise},
    http,
    shoal::{self, Listens},
    testbed::work_folder,
    wait_for,
};

/// Large enough that starts and ends of a transfer do not count.
const BLOB: usize = 1 << 30;
const MIB: f64 = (1 << 20) as f64;
const GIB: f64 = (1 << 30) as f64;
/// Each figure is the median of so many.
const RUNS: u64 = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// Seconds on the clock, and of all cores in the nodes.
#[derive(Clone, Copy)]
struct Cost {
    time: f64,
    cpu: f64,
}

fn main() -> Result<()> {
    let folder = work_folder()?.join(format!("bench-{}", std::process::id()));
    let measured = measure(&folder);
    fs::remove_dir_all(&folder)?;
    measured
}

fn measure(folder: &std::path::Path) -> Result<()> {
    let upstream = Blobs::start()?;
    let registries = vec![(upstream.name(), format!("http://{}", upstream.name()))];
    let program = fs::metadata(shoal::program()?)?.len();
    println!("binary                 {:8.1} MiB", program as f64 / MIB);

    let (mut cold, mut shared, mut hit) = (Vec::new(), Vec::new(), Vec::new());
    let mut memory = (0, 0);
    for run in 0..RUNS {
        let digest = upstream.add(noise(run + 1, BLOB));
        let target = format!("/v2/a/b/blobs/{digest}?ns={}", upstream.name().replace(':', "%3A"));
        let a_listens = listens()?;
        let a = Shoal::start_on_loopback(
            &folder.join(format!("a{run}")),
            a_listens,
            &Setup { registries: registries.clone(), ..Setup::default() },
        )?;
        let setup = Setup { registries: registries.clone(), peers: vec![a_listens.swarm], ..Setup::default() };
        let b = Shoal::start_on_loopback(&folder.join(format!("b{run}")), listens()?, &setup)?;
        b.wait_for_peers(1)?;
        memory.0 = resident(b.pid())?;

        cold.push(cost(&[&a], || read(&a, &target))?);
        upstream.set_down(true);
        shared.push(cost(&[&a, &b], || read(&b, &target))?);
        ensure!(b.bytes()?.upstream == 0, "upstream is down and gave bytes");
        memory.1 = memory.1.max(resident(b.pid())?);
        wait_for("the blob in its place", LIMIT, || Ok(b.blob_file(&digest).exists().then_some(())))?;
        hit.push(cost(&[&b], || read(&b, &target))?);
        upstream.set_down(false);
        upstream.remove(&digest);
        for (node, name) in [(a, "a"), (b, "b")] {
            drop(node);
            fs::remove_dir_all(folder.join(format!("{name}{run}")))?;
        }
    }
    println!("memory, idle           {:8.1} MiB", memory.0 as f64 / MIB);
    println!("memory, after a pull   {:8.1} MiB", memory.1 as f64 / MIB);
    print("upstream to gateway", &cold);
    print("peer to peer", &shared);
    print("gateway, from disk", &hit);
    Ok(())
}

/// Medians of speed and of the cost in cores.
fn print(what: &str, costs: &[Cost]) {
    let median = |of: fn(&Cost) -> f64| {
        let mut values: Vec<f64> = costs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let speed = BLOB as f64 / MIB / median(|cost| cost.time);
    let cpu = median(|cost| cost.cpu) / (BLOB as f64 / GIB);
    println!("{what:22} {speed:8.1} MiB/s, {cpu:6.2} CPU seconds per GiB in the nodes");
}

fn read(node: &Shoal, target: &str) -> Result<()> {
    let stream = std::net::TcpStream::connect(node.listens.gateway)?;
    let bytes = http::drain(stream, target)?;
    ensure!(bytes == BLOB as u64, "{bytes} bytes came of {BLOB}\n{}", node.log()?);
    Ok(())
}

fn cost(nodes: &[&Shoal], work: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let cpu = || nodes.iter().map(|node| cpu_seconds(node.pid())).sum::<Result<f64>>();
    let (start, before) = (Instant::now(), cpu()?);
    work()?;
    Ok(Cost { time: start.elapsed().as_secs_f64(), cpu: cpu()? - before })
}

/// User and system time, fields 14 and 15 of `/proc/<pid>/stat`, in ticks of 10 ms.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = stat.rsplit_once(") ").context("a name in brackets")?;
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn listens() -> Result<Listens> {
    let free = || -> Result<SocketAddr> { Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?) };
    Ok(Listens { gateway: free()?, swarm: free()?, metrics: free()? })
}
