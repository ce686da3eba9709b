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
    sh(&format!("ip netns exec {} sysctl -q -w net.ipv4.tcp_congestion_control={name}", host.namespace))
        .context("it must be one of those in net.ipv4.tcp_allowed_congestion_control")
        .map(drop)
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
    use std::{
        fs::File,
        io::{self, Read, Write},
        net::{SocketAddr, TcpListener},
        os::fd::AsRawFd,
        path::Path,
        thread::JoinHandle,
        time::Instant,
    };

    use anyhow::Result;

    use super::{cut, heal, parse_device, shape, traffic, unshape};
    use crate::{Host, Testbed, testbed::NAMESPACES};

    const BYTES: usize = 2 << 20;
    const MEGABITS: f64 = 20.0;
    /// At that rate.
    const SECONDS: f64 = BYTES as f64 * 8.0 / 1e6 / MEGABITS;

    /// Swallows what it is sent on its one connection, then sends as much back.
    fn listen(host: &Host) -> Result<(SocketAddr, JoinHandle<io::Result<()>>)> {
        let namespace = File::open(Path::new(NAMESPACES).join(&host.namespace))?;
        let address: SocketAddr = (host.address, 7).into();
        let bound = std::thread::spawn(move || {
            // SAFETY: setns(2) takes an open namespace and a flag, and moves this short-lived thread alone.
            assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            TcpListener::bind(address)
        });
        let listener = bound.join().unwrap()?;
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            let mut buffer = vec![0; BYTES];
            stream.read_exact(&mut buffer)?;
            stream.write_all(&buffer)
        });
        Ok((address, serving))
    }

    /// Seconds to there and back.
    fn echo(from: &Host, to: SocketAddr) -> Result<(f64, f64)> {
        let mut stream = from.connect(to)?;
        let began = Instant::now();
        let mut buffer = vec![0; BYTES];
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer[..1])?;
        let there = began.elapsed().as_secs_f64();
        stream.read_exact(&mut buffer[1..])?;
        Ok((there, began.elapsed().as_secs_f64() - there))
    }

    #[test]
    #[ignore = "needs root"]
    fn a_shaped_link_is_as_slow_as_it_shall_be_each_way_and_what_passes_is_counted() -> Result<()> {
        let bed = Testbed::new()?;
        let [a, b] = [bed.host("a")?, bed.host("b")?];
        shape(&a, MEGABITS)?;
        let (address, serving) = listen(&b)?;
        let before = traffic(&[&a])?[0];
        let (there, back) = echo(&a, address)?;
        serving.join().unwrap()?;
        let after = traffic(&[&a])?[0];
        for seconds in [there, back] {
            assert!((SECONDS * 0.8..SECONDS * 1.6).contains(&seconds), "{there} s there, {back} s back");
        }
        // Counted beyond the queues: what was dropped in them, and sent again, is not in it.
        let passed = [after.sent - before.sent, after.received - before.received];
        assert!(passed.iter().all(|bytes| (BYTES..BYTES * 11 / 10).contains(&(*bytes as usize))), "{passed:?}");

        unshape(&a);
        let (address, serving) = listen(&a)?;
        let (there, _) = echo(&b, address)?;
        serving.join().unwrap()?;
        assert!(there < SECONDS / 2.0, "{there} s over a link without a limit");
        Ok(())
    }

    #[test]
    #[ignore = "needs root"]
    fn a_cut_swallows_what_one_half_sends_to_the_other_and_nothing_else_until_it_is_healed() -> Result<()> {
        let bed = Testbed::new()?;
        let [a, b, c] = [bed.host("a")?, bed.host("b")?, bed.host("c")?];
        let (to_b, serving_b) = listen(&b)?;
        let (to_c, serving_c) = listen(&c)?;
        cut(&[&a], &[&b])?;
        let refused = a.connect(to_b).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut, "{refused}");
        echo(&a, to_c)?;
        let c_before = traffic(&[&c])?[0];
        a.connect(to_b).unwrap_err();
        assert!(traffic(&[&c])?[0].received - c_before.received < 2048, "what is lost floods others");
        heal(&[&a], &[&b])?;
        echo(&a, to_b)?;
        serving_b.join().unwrap()?;
        serving_c.join().unwrap()?;
        Ok(())
    }

    #[test]
    fn what_a_port_of_the_switch_received_is_what_its_host_sent() {
        let line = " port1: 1000       8    0    0    0     0          0         0     2000      18    0    0    0     0       0          0";
        let (name, traffic) = parse_device(line).unwrap();
        assert_eq!((name, traffic.sent, traffic.received), ("port1", 1000, 2000));
        assert!(parse_device("Inter-|   Receive                                                |  Transmit").is_none());
    }
}
