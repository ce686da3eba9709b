//! An end, as its parent sees it.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use shoal_swarm::SwarmKey;

use super::{end, usage::Cpu};

/// A process; it ends when this is dropped.
pub(super) struct End {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Where a node listens, as other nodes' seed.
    pub(super) address: String,
    pub(super) peer: String,
}

impl End {
    /// A node that knows these others.
    pub(super) fn node(folder: &Path, key: &SwarmKey, seeds: &[&End]) -> Result<Self> {
        let folder = folder.to_str().context("the folder's name is text")?.to_owned();
        let mut words = vec![folder];
        words.extend(seeds.iter().map(|seed| seed.address.clone()));
        let mut end = Self::start("node", key, &words)?;
        end.introduced()?;
        Ok(end)
    }

    /// Gives `size` bytes to whoever opens a stream.
    pub(super) fn bare_server(key: &SwarmKey, size: u64) -> Result<Self> {
        let mut end = Self::start("bare", key, &[size.to_string()])?;
        end.tell(&json!({ "do": "serve" }))?;
        end.introduced()?;
        Ok(end)
    }

    /// Will read `size` bytes.
    pub(super) fn bare_reader(key: &SwarmKey, size: u64) -> Result<Self> {
        Self::start("bare", key, &[size.to_string()])
    }

    /// A peer without manners.
    pub(super) fn rude(key: &SwarmKey, victim: &End) -> Result<Self> {
        Self::start("rude", key, &[victim.address.clone(), victim.peer.clone()])
    }

    fn start(kind: &str, key: &SwarmKey, words: &[String]) -> Result<Self> {
        let key = key.to_string().trim().replace('\n', " ");
        let mut child = Command::new(std::env::current_exe()?)
            .args([end::END, kind, &key])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting an end")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("it is piped")?);
        Ok(Self { child, input, output, address: String::new(), peer: String::new() })
    }

    fn introduced(&mut self) -> Result<()> {
        let name = self.answer()?;
        self.address = end::text(&name, "address")?.to_owned();
        self.peer = end::text(&name, "peer")?.to_owned();
        Ok(())
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn cpu(&self) -> Result<Cpu> {
        Cpu::of(self.pid())
    }

    /// Says what it shall do, and does not wait.
    pub(super) fn tell(&mut self, command: &Value) -> Result<()> {
        let input = self.input.as_mut().context("its input is open")?;
        writeln!(input, "{command}")?;
        Ok(input.flush()?)
    }

    /// Its answer to what it was told.
    pub(super) fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            bail!("an end has ended ({status}); what it said is above");
        }
        Ok(serde_json::from_str(&line)?)
    }

    pub(super) fn ask(&mut self, command: &Value) -> Result<Value> {
        self.tell(command)?;
        self.answer()
    }

    /// Makes and stores a blob; its digest.
    pub(super) fn hold(&mut self, seed: u64, size: u64) -> Result<String> {
        let held = self.ask(&json!({ "do": "hold", "seed": seed, "size": size }))?;
        Ok(end::text(&held, "digest")?.to_owned())
    }

    /// Bytes of blocks that it has sent to each peer it is connected to.
    pub(super) fn sent(&mut self) -> Result<Vec<(String, u64)>> {
        let count = self.ask(&json!({ "do": "count" }))?;
        let sent = count["sent"].as_object().context("it says what it sent")?;
        Ok(sent.iter().map(|(peer, bytes)| (peer.clone(), bytes.as_u64().unwrap_or(0))).collect())
    }

    /// Waits until it is connected to so many peers.
    pub(super) fn wait_for_peers(&mut self, count: usize) -> Result<()> {
        crate::wait_for(&format!("{count} peers of an end"), CONNECTED_WITHIN, || {
            Ok((self.sent()?.len() >= count).then_some(()))
        })
    }

    /// Waits until it finds so many holders of a blob.
    pub(super) fn wait_for_holders(&mut self, digest: &str, count: usize) -> Result<()> {
        crate::wait_for(&format!("{count} holders found"), CONNECTED_WITHIN, || {
            let found = self.ask(&json!({ "do": "providers", "digest": digest }))?;
            Ok((found["peers"].as_array().map_or(0, Vec::len) >= count).then_some(()))
        })
    }
}

const CONNECTED_WITHIN: std::time::Duration = std::time::Duration::from_secs(20);

impl Drop for End {
    fn drop(&mut self) {
        // Its input ends, and it with that; what it was doing is of no use to anybody.
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
