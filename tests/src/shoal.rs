//! The program under test, on a host of a testbed or on this machine's loopback.

use std::{
    ffi::OsStr,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    http::{self, Answer},
    process::{Daemon, run},
    testbed::{Host, profile_folder},
    wait::wait_for,
};

const READY: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(30);

/// Port of the gateway on a testbed's host.
pub const GATEWAY_PORT: u16 = 5050;
const SWARM_PORT: u16 = 5051;
const METRICS_PORT: u16 = 5052;

/// All nodes of the tests are in one swarm: a key that is no secret.
const SWARM_KEY: &str =
    "/key/swarm/psk/1.0.0/\n/base16/\n000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

/// How a node of the tests differs from a default one.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Registries that it serves, each with the URL that it is at.
    pub registries: Vec<(String, String)>,
    /// Peers that it dials.
    pub peers: Vec<SocketAddr>,
    /// More lines of the section `[gateway]`.
    pub gateway: String,
    /// More lines of the section `[swarm]`.
    pub swarm: String,
    /// More lines of the configuration, as whole sections.
    pub more: String,
}

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
pub struct Listens {
    /// OCI endpoints.
    pub gateway: SocketAddr,
    /// libp2p.
    pub swarm: SocketAddr,
    /// Health, readiness, metrics.
    pub metrics: SocketAddr,
}

/// A running node.
#[derive(Debug)]
pub struct Shoal {
    /// Its data directory.
    pub data: PathBuf,
    /// Where it listens.
    pub listens: Listens,
    host: Option<Host>,
    folder: PathBuf,
    daemon: Daemon,
}

/// Blob bytes by where they came from, since the node started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes {
    /// From its own disk, for a runtime.
    pub disk: u64,
    /// From peers.
    pub peers: u64,
    /// From registries.
    pub upstream: u64,
}

impl Shoal {
    /// Starts a node on a host of a testbed, and waits until it is ready.
    pub fn start(host: &Host, setup: &Setup) -> Result<Shoal> {
        let listens = Listens {
            gateway: (Ipv4Addr::LOCALHOST, GATEWAY_PORT).into(),
            swarm: swarm_address(host),
            metrics: (Ipv4Addr::LOCALHOST, METRICS_PORT).into(),
        };
        let folder = host.folder.join("shoal");
        write_config(&folder, &listens, setup)?;
        Shoal::run(Some(host.clone()), folder, listens)
    }

    /// Starts a node on this machine's loopback, with all that it keeps in `folder`.
    pub fn start_on_loopback(folder: &Path, listens: Listens, setup: &Setup) -> Result<Shoal> {
        write_config(folder, &listens, setup)?;
        Shoal::run(None, folder.to_owned(), listens)
    }

    /// Starts it again as it was, after [`stop`](Self::stop) or [`kill`](Self::kill).
    pub fn restart(&mut self) -> Result<()> {
        ensure!(!self.daemon.is_alive()?, "it runs");
        *self = Shoal::run(self.host.clone(), self.folder.clone(), self.listens)?;
        Ok(())
    }

    fn run(host: Option<Host>, folder: PathBuf, listens: Listens) -> Result<Shoal> {
        let program = program()?;
        let mut command = host.as_ref().map_or_else(|| Command::new(&program), |host| host.command(&program));
        command.arg("serve").arg("--config").arg(folder.join("shoal.toml"));
        let daemon = Daemon::start("shoal", &mut command, &folder.join("log"))?;
        let mut shoal = Shoal { data: folder.join("data"), listens, host, folder, daemon };
        shoal.wait_ready()?;
        Ok(shoal)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let (host, address) = (self.host.clone(), self.listens.metrics);
        self.daemon.wait_until("200 from /readyz", READY, || {
            let Ok(stream) = connect(host.as_ref(), address) else { return Ok(None) };
            let answer = http::request(stream, "GET", "/readyz", &[]);
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
    }

    /// Asks the gateway.
    pub fn get(&self, target: &str, headers: &[&str]) -> Result<Answer> {
        http::request(connect(self.host.as_ref(), self.listens.gateway)?, "GET", target, headers)
    }

    /// Runs `shoal COMMAND… --config …` beside it.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        let program = program()?;
        let mut command = match &self.host {
            Some(host) => host.command_within(SHORT, &program),
            None => Command::new(&program),
        };
        run(command.args(words).arg("--config").arg(self.folder.join("shoal.toml")))
    }

    /// Where its blob bytes came from.
    pub fn bytes(&self) -> Result<Bytes> {
        let status = self.status()?;
        let count =
            |source: &str| status["bytes"][source].as_u64().with_context(|| format!("no bytes.{source} in {status}"));
        Ok(Bytes { disk: count("disk")?, peers: count("peers")?, upstream: count("upstream")? })
    }

    /// How many peers are connected.
    pub fn peers(&self) -> Result<u64> {
        let status = self.status()?;
        status["peers"].as_u64().with_context(|| format!("no peers in {status}"))
    }

    /// Waits until so many peers are connected.
    pub fn wait_for_peers(&self, count: u64) -> Result<()> {
        wait_for(&format!("{count} connected peers"), SHORT, || Ok((self.peers()? >= count).then_some(())))
    }

    fn status(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.command(&["status", "--json"])?).context("shoal status --json")
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        self.daemon.log()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// SIGTERM, and a clean end.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.daemon.stop()?;
        ensure!(status.success(), "shoal ended with {status} after SIGTERM");
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// SIGSTOP: connections stay, nothing is answered.
    pub fn freeze(&mut self) -> Result<()> {
        self.daemon.freeze()
    }

    /// The file of a blob that it holds.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        self.data.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }
}

/// Where a node on this host will be for its peers.
pub fn swarm_address(host: &Host) -> SocketAddr {
    (host.address, SWARM_PORT).into()
}

/// The program: `SHOAL_BIN`, or the one that cargo built beside this test.
pub fn program() -> Result<PathBuf> {
    let program = match std::env::var_os("SHOAL_BIN") {
        Some(program) => PathBuf::from(program),
        None => profile_folder()?.join("shoal"),
    };
    ensure!(program.is_file(), "{} is not there: `cargo build --package shoal` makes it", program.display());
    Ok(program)
}

/// Runs `shoal WORDS…` on a host.
pub fn on_host<S: AsRef<OsStr>>(host: &Host, words: impl IntoIterator<Item = S>) -> Result<String> {
    run(host.command_within(SHORT, program()?).args(words))
}

fn connect(host: Option<&Host>, to: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    match host {
        Some(host) => host.connect(to),
        None => std::net::TcpStream::connect_timeout(&to, SHORT),
    }
}

fn write_config(folder: &Path, listens: &Listens, setup: &Setup) -> Result<()> {
    fs::create_dir_all(folder)?;
    let key = folder.join("swarm.key");
    fs::write(&key, SWARM_KEY)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let peers: Vec<String> = setup.peers.iter().map(|peer| format!("\"{peer}\"")).collect();
    let mut config = format!(
        "data_dir = \"{data}\"\n\
         quota = \"20GiB\"\n\
         [gateway]\nlisten = \"{gateway}\"\n{more_gateway}\
         [swarm]\nlisten = [\"/ip4/{swarm_ip}/tcp/{swarm_port}\"]\nkey_file = \"{key}\"\npeers = [{peers}]\n{swarm}\
         [admin]\nsocket = \"{socket}\"\n\
         [metrics]\nlisten = \"{metrics}\"\n\
         [log]\nlevel = \"{level}\"\n",
        data = folder.join("data").display(),
        gateway = listens.gateway,
        more_gateway = setup.gateway,
        swarm_ip = listens.swarm.ip(),
        swarm_port = listens.swarm.port(),
        key = key.display(),
        peers = peers.join(", "),
        swarm = setup.swarm,
        socket = folder.join("sock").display(),
        metrics = listens.metrics,
        level = std::env::var("SHOAL_E2E_LOG").unwrap_or_else(|_| "info".to_owned()),
    );
    for (name, endpoint) in &setup.registries {
        config.push_str(&format!("[registries.\"{name}\"]\nendpoint = \"{endpoint}\"\nallow_private = true\n"));
    }
    config.push_str(&setup.more);
    fs::write(folder.join("shoal.toml"), config)?;
    Ok(())
}
