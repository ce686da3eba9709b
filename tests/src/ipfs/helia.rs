//! Helia: `tests/ipfs/helia/peer.mjs`, asked by lines of JSON.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::sources;

/// Node.js that its packages need.
const NODE: u32 = 22;

/// It gives up by itself after two minutes.
const ANSWER: Duration = Duration::from_secs(150);

/// A running Helia.
#[derive(Debug)]
pub struct Helia {
    /// Its name in the swarm.
    pub peer: String,
    child: Child,
    requests: ChildStdin,
    answers: mpsc::Receiver<String>,
}

/// The folder of its program.
pub fn folder() -> PathBuf {
    sources().join("helia")
}

/// Node.js of a version that will do: the one in PATH, or the one among the packages; `None` where the packages are not installed.
pub fn node() -> Option<PathBuf> {
    let modules = folder().join("node_modules");
    if !modules.join("helia").is_dir() {
        return None;
    }
    let packaged = ["x64", "arm64"].map(|machine| modules.join(format!("node-linux-{machine}/bin/node")));
    let all = [PathBuf::from("node")].into_iter().chain(packaged);
    all.into_iter().find(|node| version(node).is_some_and(|version| version >= NODE))
}

fn version(node: &Path) -> Option<u32> {
    let printed = Command::new(node).arg("--version").output().ok()?.stdout;
    String::from_utf8(printed).ok()?.strip_prefix('v')?.split('.').next()?.parse().ok()
}

impl Helia {
    /// Starts a peer with this swarm key that dials `peers`.
    pub fn start(node: &Path, key: &Path, peers: &[String]) -> Result<Helia> {
        let mut child = Command::new(node)
            .arg("peer.mjs")
            .arg(json!({ "key": key, "dial": peers }).to_string())
            .current_dir(folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting node")?;
        let requests = child.stdin.take().context("a pipe")?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        let (sender, answers) = mpsc::sync_channel(16);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut helia = Helia { peer: String::new(), child, requests, answers };
        helia.peer = helia.answer()?["peer"].as_str().context("no peer")?.to_owned();
        Ok(helia)
    }

    fn answer(&mut self) -> Result<Value> {
        let line = self.answers.recv_timeout(ANSWER).context("helia does not answer")?;
        let answer: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
        if let Some(error) = answer["error"].as_str() {
            bail!("helia: {error}");
        }
        Ok(answer)
    }

    fn ask(&mut self, request: &Value) -> Result<Value> {
        writeln!(self.requests, "{request}")?;
        self.answer().with_context(|| format!("{request}"))
    }

    /// Adds a file in leaves of `chunk` bytes, announces it, and gives its root.
    pub fn add(&mut self, file: &Path, chunk: u64, raw: bool, version: u32) -> Result<String> {
        let answer = self.ask(&json!({ "add": file, "chunk": chunk, "raw": raw, "version": version }))?;
        Ok(answer["root"].as_str().context("no root")?.to_owned())
    }

    /// The root that `unixfs-v1-2025` gives a file.
    pub fn root(&mut self, file: &Path) -> Result<String> {
        self.add(file, 1 << 20, true, 1)
    }

    /// Reads bytes of a file: their SHA-256 and number.
    pub fn cat(&mut self, cid: &str, from: u64, to: u64) -> Result<(String, u64)> {
        let answer = self.ask(&json!({ "cat": cid, "from": from, "to": to }))?;
        let hash = answer["sha256"].as_str().context("no sha256")?.to_owned();
        Ok((hash, answer["bytes"].as_u64().context("no bytes")?))
    }

    /// Whether its DHT names `peer` as a provider.
    pub fn names(&mut self, cid: &str, peer: &str) -> Result<bool> {
        let answer = self.ask(&json!({ "providers": cid }))?;
        Ok(answer["peers"].as_array().context("no peers")?.iter().any(|found| found == peer))
    }
}

impl Drop for Helia {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an independent reader makes of a CAR file: see `tests/ipfs/helia/car.mjs`. `range` is the part of the file that is to be in it.
pub fn read_car(node: &Path, car: &[u8], range: Option<(u64, u64)>) -> Result<Value> {
    let mut reader = Command::new(node);
    reader.arg("car.mjs").current_dir(folder()).stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some((from, to)) = range {
        reader.args([from.to_string(), to.to_string()]);
    }
    let mut child = reader.spawn()?;
    let mut input = child.stdin.take().context("a pipe")?;
    // What it says comes after it has read all, so there is nothing to read beside.
    let written = input.write_all(car);
    drop(input);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "car.mjs: {}", output.status);
    written?;
    Ok(serde_json::from_slice(&output.stdout)?)
}
