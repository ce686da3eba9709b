//! What a node says of itself on its admin socket. Sockets with a path are in no network namespace, so no process is needed.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::testbed::Host;

/// A node that is not asked something hard answers in a millisecond; on a busy machine in some more.
const QUICK: Duration = Duration::from_millis(500);
/// A search of the swarm ends after five seconds.
const SEARCH: Duration = Duration::from_secs(8);

/// Bytes by where they came from, since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    pub(crate) peers: u64,
    pub(crate) upstream: u64,
}

impl Sources {
    /// What came since a time before.
    pub(crate) fn since(self, before: Sources) -> Sources {
        Sources {
            peers: self.peers.saturating_sub(before.peers),
            upstream: self.upstream.saturating_sub(before.upstream),
        }
    }
}

/// The admin socket of the node on a host.
pub(crate) fn socket(host: &Host) -> PathBuf {
    host.folder.join("shoal/sock")
}

/// Where a node's bytes came from so far.
pub(crate) fn sources(socket: &Path) -> Result<Sources> {
    let status = get(socket, "/v1/status", QUICK)?;
    let count = |name: &str| status["bytes"][name].as_u64().with_context(|| format!("no bytes.{name} in {status}"));
    Ok(Sources { peers: count("peers")?, upstream: count("upstream")? })
}

/// Its connected peers, as a number.
pub(crate) fn peers(socket: &Path) -> Result<u64> {
    let status = get(socket, "/v1/status", QUICK)?;
    status["peers"].as_u64().with_context(|| format!("no peers in {status}"))
}

/// Its name in the swarm.
pub(crate) fn peer_id(socket: &Path) -> Result<String> {
    let status = get(socket, "/v1/status", QUICK)?;
    Ok(status["peer_id"].as_str().with_context(|| format!("no peer_id in {status}"))?.to_owned())
}

/// Whether a node finds a peer that has the whole of a blob.
pub(crate) fn finds_holder(socket: &Path, digest: &str) -> Result<bool> {
    let found = get(socket, &format!("/v1/find?what={digest}"), SEARCH)?;
    let holders = found[0]["holders"].as_array().with_context(|| format!("no holders in {found}"))?;
    Ok(holders.iter().any(|holder| holder["whole"] == true))
}

fn get(socket: &Path, target: &str, limit: Duration) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: shoal\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head =
        answer.windows(4).position(|window| window == b"\r\n\r\n").context("an answer without an end of its head")?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{target}: {}", String::from_utf8_lossy(&answer));
    serde_json::from_slice(&answer[head + 4..]).with_context(|| target.to_owned())
}
