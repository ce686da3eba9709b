//! Kubo: `ipfs` of a private swarm on loopback, set up for the tests or, for a benchmark, as fast as it goes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{free, hash};
use crate::{
    process::{Daemon, run},
    testbed::profile_folder,
    wait_for,
};

const READY: Duration = Duration::from_secs(60);
const FOUND: Duration = Duration::from_secs(60);

/// Time that Kubo gives a command before it gives up.
const COMMAND: &str = "--timeout=180s";

/// A running Kubo.
#[derive(Debug)]
pub struct Kubo {
    /// Its name in the swarm.
    pub peer: String,
    /// Where it listens, with its name.
    pub address: String,
    program: PathBuf,
    repo: PathBuf,
    daemon: Daemon,
}

/// The program: `SHOAL_KUBO`, or the one that `cargo xtask deps` built; `None` where it is not installed.
pub fn program() -> Result<Option<PathBuf>> {
    if let Some(program) = std::env::var_os("SHOAL_KUBO") {
        return Ok(Some(program.into()));
    }
    let target = profile_folder()?.parent().context("the profile's folder lies in target")?.to_owned();
    Ok(Some(target.join("tools/bin/ipfs")).filter(|program| program.is_file()))
}

impl Kubo {
    /// Starts a peer with this swarm key (`None`: an open swarm, on loopback alone) that dials `peers`.
    pub fn start(program: &Path, folder: &Path, key: Option<&Path>, peers: &[String]) -> Result<Kubo> {
        let repo = folder.join("repo");
        fs::create_dir_all(&repo)?;
        let swarm = free()?;
        let ipfs = |words: &[&str]| run(command(program, &repo).args(words));
        ipfs(&["init", "--empty-repo", "--profile=test,unixfs-v1-2025"])?;
        let listen = format!("/ip4/{}/tcp/{}", swarm.ip(), swarm.port());
        let api = free()?;
        let api = format!("/ip4/{}/tcp/{}", api.ip(), api.port());
        for (name, value) in [
            ("Addresses.Swarm", serde_json::json!([listen])),
            ("Addresses.API", serde_json::json!(api)),
            ("Addresses.Gateway", serde_json::json!([])),
            ("Bootstrap", serde_json::json!(peers)),
            ("Routing.Type", serde_json::json!("dht")),
            ("Routing.LoopbackAddressesOnLanDHT", serde_json::json!(true)),
            ("Provide.Enabled", serde_json::json!(true)),
            ("Swarm.Transports.Network.Websocket", serde_json::json!(false)),
            ("Swarm.Transports.Network.QUIC", serde_json::json!(false)),
            ("Swarm.DisableNatPortMap", serde_json::json!(true)),
            // Its best for bulk; a test does not mind.
            ("Internal.Bitswap", serde_json::json!({ "MaxOutstandingBytesPerPeer": 16 << 20, "TaskWorkerCount": 32 })),
        ] {
            ipfs(&["config", "--json", name, &value.to_string()])?;
        }
        let mut daemon = command(program, &repo);
        if let Some(key) = key {
            fs::copy(key, repo.join("swarm.key"))?;
            daemon.env("LIBP2P_FORCE_PNET", "1");
        }
        let mut daemon = Daemon::start("kubo", daemon.arg("daemon"), &folder.join("log"))?;
        let log = folder.join("log");
        daemon.wait_until("Daemon is ready", READY, || {
            Ok(fs::read_to_string(&log)?.contains("Daemon is ready").then_some(()))
        })?;
        let id: serde_json::Value = serde_json::from_str(&ipfs(&["id"])?)?;
        let peer = id["ID"].as_str().context("no ID")?.to_owned();
        let address = format!("{listen}/p2p/{peer}");
        Ok(Kubo { peer, address, program: program.to_owned(), repo, daemon })
    }

    /// `ipfs WORDS…` beside it.
    pub fn ipfs(&self, words: &[&str]) -> Result<String> {
        let printed = run(command(&self.program, &self.repo).arg(COMMAND).args(words));
        printed.map(|printed| printed.trim().to_owned())
    }

    /// Waits until it is connected to a peer.
    pub fn wait_for_peer(&self, peer: &str) -> Result<()> {
        wait_for(&format!("kubo is connected to {peer}"), FOUND, || {
            Ok(self.ipfs(&["swarm", "peers"])?.contains(peer).then_some(()))
        })
    }

    /// Adds a file and gives its root. `how` are options of `ipfs add`; without them it is profile `unixfs-v1-2025`.
    pub fn add(&self, file: &Path, how: &[&str]) -> Result<String> {
        let mut words = vec!["add", "--quieter", "--pin=false"];
        words.extend(how);
        words.push(file.to_str().context("a path in UTF-8")?);
        self.ipfs(&words)
    }

    /// Waits until the DHT names `peer` as a provider.
    pub fn finds(&self, cid: &str, peer: &str) -> Result<()> {
        wait_for(&format!("kubo finds {peer} as a provider of {cid}"), FOUND, || {
            let found = self.ipfs(&["routing", "findprovs", "--num-providers=1", cid])?;
            Ok(found.contains(peer).then_some(()))
        })
    }

    /// Reads a file, or `length` bytes of it from `offset` on: its SHA-256 and size.
    pub fn cat(&self, cid: &str, range: Option<(u64, u64)>) -> Result<(String, u64)> {
        let mut cat = command(&self.program, &self.repo);
        cat.args([COMMAND, "cat", cid]);
        if let Some((offset, length)) = range {
            cat.args([format!("--offset={offset}"), format!("--length={length}")]);
        }
        let mut child = cat.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let read = hash(child.stdout.as_mut().context("a pipe")?);
        let ended = child.wait_with_output()?;
        ensure!(ended.status.success(), "ipfs cat {cid}: {}", String::from_utf8_lossy(&ended.stderr));
        read
    }

    /// Forgets all blocks that nothing holds.
    pub fn collect_garbage(&self) -> Result<()> {
        self.ipfs(&["repo", "gc", "--quiet"]).map(drop)
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        self.daemon.log()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }
}

/// `ipfs` with this repository and nobody to report to.
fn command(program: &Path, repo: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("IPFS_PATH", repo).env("IPFS_TELEMETRY", "off").env("HOME", repo);
    command
}
