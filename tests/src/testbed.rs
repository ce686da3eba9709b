//! A network of hosts on this machine, each a network namespace on a switch that is one too.
//!
//! Nothing of it touches the machine's own network: the switch has no port outside, so its addresses are free to choose.
//! Names hold the process that made them and when it started; where that process is gone, the next testbed removes them.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU8, AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    process::{run, sh},
    wait::wait_for,
};

const PREFIX: &str = "shoal-";
pub(crate) const NAMESPACES: &str = "/run/netns";

/// A connection on one machine is there at once or not at all.
const CONNECT: Duration = Duration::from_secs(1);

/// More than one GSO packet (64 KiB), so that the shaper need not cut packets up.
const SHAPER_BURST: &str = "256kb";

static TESTBEDS: AtomicU32 = AtomicU32::new(0);

/// One network, and a folder for all that its hosts keep.
#[derive(Debug)]
pub struct Testbed {
    name: String,
    folder: PathBuf,
    hosts: AtomicU8,
    _alone: File,
}

impl Testbed {
    /// An empty network. Waits until no other testbed is left on this machine.
    pub fn new() -> Result<Testbed> {
        // SAFETY: geteuid(2) has no arguments and always succeeds.
        ensure!(unsafe { libc::geteuid() } == 0, "network namespaces need root");
        let base = work_folder()?;
        let alone = File::create(base.join("lock"))?;
        alone.lock().context("waiting for another testbed to end")?;
        sweep(&base)?;

        let number = TESTBEDS.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let start = started(pid).context("this process has no start time")?;
        let name = format!("{PREFIX}{pid}.{start}.{number}");
        let folder = base.join(&name);
        fs::create_dir_all(&folder)?;
        let testbed = Testbed { name, folder, hosts: AtomicU8::new(0), _alone: alone };
        let switch = testbed.switch();
        sh(&format!("ip netns add {switch}"))?;
        sh(&format!("ip -n {switch} link add br0 type bridge"))?;
        sh(&format!("ip -n {switch} link set br0 up"))?;
        Ok(testbed)
    }

    /// Plugs in another host. Addresses are 10.88.0.1 and up, in the order of the calls.
    pub fn host(&self, name: &str) -> Result<Host> {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        let address = Ipv4Addr::new(10, 88, 0, number);
        let (switch, port) = (self.switch(), format!("port{number}"));
        let namespace = format!("{}-{name}", self.name);
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder)?;
        sh(&format!("ip netns add {namespace}"))?;
        sh(&format!("ip -n {switch} link add {port} type veth peer name eth0 netns {namespace}"))?;
        sh(&format!("ip -n {switch} link set {port} master br0 up"))?;
        sh(&format!("ip -n {namespace} address add {address}/24 dev eth0"))?;
        sh(&format!("ip -n {namespace} link set eth0 up"))?;
        sh(&format!("ip -n {namespace} link set lo up"))?;
        Ok(Host { name: name.to_owned(), namespace, address, folder, switch, port })
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        let keep = std::env::var_os("SHOAL_E2E_KEEP").is_some_and(|keep| keep == "1");
        let removed = remove(&self.name).and_then(|()| if keep { Ok(()) } else { remove_folder(&self.folder) });
        if let Err(error) = removed {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("{} was not removed: {error:#}", self.name);
            }
        }
    }
}

/// A host of a [`Testbed`].
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name within the testbed.
    pub name: String,
    /// Its address on the switch.
    pub address: Ipv4Addr,
    /// Where its programs keep what they keep.
    pub folder: PathBuf,
    pub(crate) namespace: String,
    pub(crate) switch: String,
    pub(crate) port: String,
}

/// Bytes that went through a host's link, headers included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// To the host.
    pub received: u64,
    /// From the host.
    pub sent: u64,
}

impl Host {
    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Like [`command`](Self::command), ended after `limit`.
    pub fn command_within(&self, limit: Duration, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.command("timeout");
        command.args(["--kill-after=5", &limit.as_secs().to_string()]).arg(program);
        command
    }

    /// Connects from this host.
    pub fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let namespace = File::open(Path::new(NAMESPACES).join(&self.namespace))?;
        std::thread::scope(|scope| {
            let connecting = scope.spawn(move || {
                // A socket stays in the namespace that it was made in, so only this short-lived thread has to go there.
                // SAFETY: setns(2) takes an open namespace and a flag, and moves this thread alone.
                if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                TcpStream::connect_timeout(&to, CONNECT)
            });
            connecting.join().expect("connecting does not panic")
        })
    }

    /// What went through this host's link since it was plugged in.
    pub fn traffic(&self) -> Result<Traffic> {
        let printed = sh(&format!("ip -n {} -s -j link show eth0", self.namespace))?;
        let links: serde_json::Value = serde_json::from_str(&printed)?;
        let bytes = |way: &str| {
            links[0]["stats64"][way]["bytes"].as_u64().with_context(|| format!("no byte count in {printed}"))
        };
        Ok(Traffic { received: bytes("rx")?, sent: bytes("tx")? })
    }

    /// Limits what this host can send.
    pub fn limit_upload(&self, megabits: u32) -> Result<()> {
        shape(&self.namespace, "eth0", megabits)
    }

    /// Limits what this host can receive.
    pub fn limit_download(&self, megabits: u32) -> Result<()> {
        shape(&self.switch, &self.port, megabits)
    }

    /// Pulls the plug: packets are lost without a word to either side.
    pub fn unplug(&self) -> Result<()> {
        sh(&format!("ip -n {} link set {} down", self.switch, self.port)).map(drop)
    }

    /// Puts the plug back.
    pub fn plug_in(&self) -> Result<()> {
        sh(&format!("ip -n {} link set {} up", self.switch, self.port)).map(drop)
    }
}

fn shape(namespace: &str, device: &str, megabits: u32) -> Result<()> {
    sh(&format!(
        "tc -n {namespace} qdisc replace dev {device} root tbf rate {megabits}mbit burst {SHAPER_BURST} latency 100ms"
    ))
    .map(drop)
}

/// Where tests keep what is large: `e2e` beside the profile's folder in cargo's target folder.
pub fn work_folder() -> Result<PathBuf> {
    let folder = profile_folder()?.parent().context("the profile's folder has a parent")?.join("e2e");
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// `target/<profile>` of the build that this test belongs to.
pub fn profile_folder() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let deps = test.parent().context("a test lies in a folder")?;
    let profile = if deps.ends_with("deps") { deps.parent().context("deps lies in a profile's folder")? } else { deps };
    Ok(profile.to_owned())
}

/// Removes what testbeds of processes that are gone have left.
fn sweep(base: &Path) -> Result<()> {
    let mut stale: Vec<String> = Vec::new();
    for folder in [Path::new(NAMESPACES), base] {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let file = entry?.file_name().to_string_lossy().into_owned();
            let name = file.split('-').take(2).collect::<Vec<_>>().join("-");
            if owner_is_gone(&name) && !stale.contains(&name) {
                stale.push(name);
            }
        }
    }
    for name in stale {
        remove(&name)?;
        remove_folder(&base.join(&name))?;
    }
    Ok(())
}

fn owner_is_gone(testbed: &str) -> bool {
    let mut parts = testbed.strip_prefix(PREFIX).unwrap_or_default().split('.');
    let numbers = [parts.next(), parts.next()].map(|part| part.and_then(|number| number.parse::<u64>().ok()));
    let [Some(pid), Some(start)] = numbers else { return false };
    u32::try_from(pid).is_ok_and(|pid| started(pid) != Some(start))
}

/// When a process started, in clock ticks since boot: field 22 of `/proc/<pid>/stat`, the 20th after the name.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    after_name.split(' ').nth(19)?.parse().ok()
}

/// Ends what still runs in a testbed's namespaces and removes them.
fn remove(testbed: &str) -> Result<()> {
    let start = format!("{testbed}-");
    for entry in fs::read_dir(NAMESPACES).into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with(&start) {
            continue;
        }
        let pids = || sh(&format!("ip netns pids {name}"));
        for pid in pids()?.split_whitespace() {
            // It may have ended meanwhile.
            let _ = sh(&format!("kill -KILL {pid}"));
        }
        wait_for("an end of all in a namespace", Duration::from_secs(5), || Ok(pids()?.is_empty().then_some(())))?;
        sh(&format!("ip netns del {name}"))?;
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        if Path::new(point).starts_with(folder) {
            run(Command::new("umount").args(["--lazy", point]))?;
        }
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}
