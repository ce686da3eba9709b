//! Links: shaping them, counting what passes, cutting the network in two.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::fd::AsRawFd,
    path::Path,
};

use anyhow::{Context, Result};

use crate::{
    process::sh,
    testbed::{Host, NAMESPACES, Traffic},
};

/// What may leave at once, in milliseconds of the rate: timers of a busy machine are late by this much.
const BURST_MS: f64 = 4.0;
/// At least one packet as the sender's stack hands it over, which is 64 KiB.
const MIN_BURST: f64 = 80_000.0;
/// What waits in the queue before the link drops: as in a switch with a shallow buffer.
const QUEUE_MS: u32 = 20;

/// Nobody has this address (locally administered).
const NOBODY: &str = "02:00:00:00:00:01";

/// Shapes a host's link to so many Mbit/s each way.
pub(crate) fn shape(host: &Host, megabits: f64) -> Result<()> {
    let bits = megabits * 1e6;
    let burst = (bits / 8.0 * BURST_MS / 1e3).max(MIN_BURST) as u64;
    let shaper = format!("tbf rate {}bit burst {burst} latency {QUEUE_MS}ms", bits as u64);
    sh(&format!("tc -n {} qdisc replace dev eth0 root {shaper}", host.namespace))?;
    sh(&format!("tc -n {} qdisc replace dev {} root {shaper}", host.switch, host.port)).map(drop)
}

/// Takes the limit away.
pub(crate) fn unshape(host: &Host) {
    // There may be none.
    let _ = sh(&format!("tc -n {} qdisc del dev eth0 root", host.namespace));
    let _ = sh(&format!("tc -n {} qdisc del dev {} root", host.switch, host.port));
}

/// Congestion control of what starts on a host from now on.
pub(crate) fn set_congestion_control(host: &Host, name: &str) -> Result<()> {
    sh(&format!("ip netns exec {} sysctl -q -w net.ipv4.tcp_congestion_control={name}", host.namespace)).map(drop)
}

/// The machine's own, which new network namespaces take over.
pub(crate) fn congestion_control() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?.trim().to_owned())
}

/// What went through each of `hosts`' links so far, as their switch counted it.
pub(crate) fn traffic(hosts: &[&Host]) -> Result<Vec<Traffic>> {
    let Some(first) = hosts.first() else { return Ok(Vec::new()) };
    let table = device_table(&first.switch)?;
    let by_name: HashMap<&str, Traffic> = table.lines().filter_map(parse_device).collect();
    hosts
        .iter()
        .map(|host| {
            by_name.get(host.port.as_str()).copied().with_context(|| format!("{} is not in {table}", host.port))
        })
        .collect()
}

/// `/proc/net/dev` of a network namespace, which is shown to a thread that is in it.
fn device_table(namespace: &str) -> Result<String> {
    let namespace = File::open(Path::new(NAMESPACES).join(namespace))?;
    let read = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            // SAFETY: setns(2) takes an open namespace and a flag, and moves this short-lived thread alone.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            fs::read_to_string("/proc/thread-self/net/dev")
        });
        reading.join().expect("reading a file does not panic")
    });
    read.context("counting what went through the switch")
}

/// A line `port: rx-bytes packets errs drop fifo frame compressed multicast tx-bytes …`, turned round: what a port of the
/// switch received is what the host behind it sent.
fn parse_device(line: &str) -> Option<(&str, Traffic)> {
    let (name, fields) = line.split_once(':')?;
    let mut fields = fields.split_whitespace();
    let sent = fields.next()?.parse().ok()?;
    let received = fields.nth(7)?.parse().ok()?;
    Some((name.trim(), Traffic { received, sent }))
}

/// Cuts the network between two groups of hosts: packets vanish without a word.
pub(crate) fn cut(one: &[&Host], other: &[&Host]) -> Result<()> {
    if let Some(host) = one.first() {
        // The switch keeps what is sent to nobody; otherwise it would flood all links with it.
        let _ = sh(&format!("bridge -n {} fdb add {NOBODY} dev br0 self local", host.switch));
    }
    for (from, to) in pairs(one, other) {
        sh(&format!(
            "ip -n {} neighbour replace {} lladdr {NOBODY} dev eth0 nud permanent",
            from.namespace, to.address
        ))?;
    }
    Ok(())
}

/// Undoes [`cut`].
pub(crate) fn heal(one: &[&Host], other: &[&Host]) -> Result<()> {
    for (from, to) in pairs(one, other) {
        sh(&format!("ip -n {} neighbour del {} dev eth0", from.namespace, to.address))?;
    }
    Ok(())
}

fn pairs<'a>(one: &'a [&Host], other: &'a [&Host]) -> impl Iterator<Item = (&'a Host, &'a Host)> {
    one.iter().flat_map(|a| other.iter().flat_map(move |b| [(*a, *b), (*b, *a)]))
}

#[cfg(test)]
mod tests {
    use super::parse_device;

    #[test]
    fn what_a_port_of_the_switch_received_is_what_its_host_sent() {
        let line = " port1: 1000       8    0    0    0     0          0         0     2000      18    0    0    0     0       0          0";
        let (name, traffic) = parse_device(line).unwrap();
        assert_eq!((name, traffic.sent, traffic.received), ("port1", 1000, 2000));
        assert!(parse_device("Inter-|   Receive                                                |  Transmit").is_none());
    }
}
