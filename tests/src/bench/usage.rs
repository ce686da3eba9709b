//! CPU and memory of processes, and how busy the machine was, as proc(5) has them.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result};

use crate::testbed::{Host, NAMESPACES};

/// Name and CPU seconds (user and system time) by process id.
pub(crate) type Processes = HashMap<u32, (String, f64)>;

/// CPU seconds of the machine since it started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// In processes, interrupts and hypervisor.
    pub(crate) busy: f64,
    /// Of these, in interrupts: most of what the network costs a receiver.
    pub(crate) interrupts: f64,
    /// All.
    pub(crate) total: f64,
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf reads a constant.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ticks as f64
}

/// Process ids on hosts.
fn processes(hosts: &[&Host]) -> Result<Vec<u32>> {
    let mut namespaces = Vec::new();
    for host in hosts {
        namespaces.push(fs::metadata(Path::new(NAMESPACES).join(&host.namespace))?.ino());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended since its name was read.
        let Ok(namespace) = fs::metadata(entry.path().join("ns/net")) else { continue };
        if namespaces.contains(&namespace.ino()) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Name and CPU seconds so far of each process on hosts.
pub(crate) fn cpu(hosts: &[&Host]) -> Result<Processes> {
    Ok(processes(hosts)?.into_iter().filter_map(|pid| Some((pid, cpu_of(pid)?))).collect())
}

/// Name and CPU seconds of a process: the bracketed field of `stat`, and those 12th and 13th after it.
fn cpu_of(pid: u32) -> Option<(String, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, after_name) = stat.rsplit_once(") ")?;
    let name = head.split_once('(')?.1.to_owned();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Some((name, ticks as f64 / ticks_per_second()))
}

/// The most memory in bytes that a process had resident at once.
pub(crate) fn peak_resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// The machine's counters now.
pub(crate) fn machine() -> Result<Machine> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).context("no cpu line in /proc/stat")?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; what follows is contained in the first two.
    let field = |index: usize| fields.get(index).copied().unwrap_or(0) as f64 / ticks_per_second();
    let total: f64 = (0..8).map(field).sum();
    Ok(Machine { busy: total - field(3) - field(4), interrupts: field(5) + field(6), total })
}
