//! CPU and memory of a process, as proc(5) has them.

use std::fs;

use anyhow::{Context, Result};

/// CPU seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cpu {
    pub(super) user: f64,
    pub(super) system: f64,
}

impl Cpu {
    /// What a process has used so far: fields 14 and 15 of `stat`, in ticks of 10 ms.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, after_name) = stat.rsplit_once(") ").context("a name in brackets")?;
        let ticks: Vec<f64> = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
        let [user, system] = ticks[..] else { anyhow::bail!("no times in {stat:?}") };
        Ok(Self { user: user / 100.0, system: system / 100.0 })
    }
}

impl std::ops::Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl std::ops::Sub for Cpu {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { user: self.user - other.user, system: self.system - other.system }
    }
}

/// Resident memory in bytes.
pub(super) fn resident(pid: u32) -> Result<u64> {
    status(pid, "VmRSS:")
}

/// The most that was resident since [`forget_peak`], in bytes.
pub(super) fn peak(pid: u32) -> Result<u64> {
    status(pid, "VmHWM:")
}

/// From now on [`peak`] counts anew.
pub(super) fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn status(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}
