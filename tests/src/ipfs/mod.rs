//! Other IPFS peers, and nodes of ours beside them in one private swarm on loopback.
//!
//! Kubo and Helia are installed by `cargo xtask deps`. Where they are missing a test says so on standard error and passes, unless `CI` or
//! `SHOAL_REQUIRE_E2E` is set.

pub mod helia;
pub mod kubo;

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

pub use self::{helia::Helia, kubo::Kubo};
use crate::{
    blobs::Blobs,
    shoal::{Listens, Setup, Shoal},
};

/// How the peers that are not ours may be missing: said aloud, and an error where they are required.
pub fn missing(what: &str) -> Result<()> {
    let required = ["CI", "SHOAL_REQUIRE_E2E"].iter().any(|name| std::env::var_os(name).is_some());
    ensure!(!required, "{what} is not installed: `cargo xtask deps` installs it");
    // Straight to standard error: what is printed by a test that passes is not shown.
    writeln!(std::io::stderr(), "SKIPPED: {what} is not installed: `cargo xtask deps` installs it")?;
    Ok(())
}

/// The folder of these peers' programs and locks.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ipfs")
}

/// A free port of loopback.
pub fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// A node of ours that admits by pnet, and an upstream that its blobs come from.
#[derive(Debug)]
pub struct Ours {
    /// The node.
    pub node: Shoal,
    /// Its registry.
    pub upstream: Blobs,
    /// Its name in the swarm.
    pub peer: String,
    /// Its key, in the form that all read.
    pub key: PathBuf,
    /// Where its IPFS gateway listens.
    pub ipfs: SocketAddr,
}

impl Ours {
    /// Starts a node with all that it keeps in `folder`; it dials `peers`. `admission` is `pnet`, or `noise` for Shoal alone.
    pub fn start(folder: &Path, admission: &str, peers: Vec<SocketAddr>) -> Result<Ours> {
        let upstream = Blobs::start()?;
        let listens = Listens { gateway: free()?, swarm: free()?, metrics: free()? };
        let ipfs = free()?;
        let setup = Setup {
            registries: vec![(upstream.name(), format!("http://{}", upstream.name()))],
            peers,
            gateway: String::new(),
            swarm: format!("admission = \"{admission}\"\n"),
            more: format!("[ipfs]\nlisten = \"{ipfs}\"\n"),
        };
        let node = Shoal::start_on_loopback(folder, listens, &setup)?;
        let status: serde_json::Value = serde_json::from_str(&node.command(&["status", "--json"])?)?;
        let peer = status["peer_id"].as_str().context("no peer_id in the status")?.to_owned();
        Ok(Ours { node, upstream, peer, key: folder.join("swarm.key"), ipfs })
    }

    /// Where peers connect.
    pub fn address(&self) -> String {
        let SocketAddr::V4(swarm) = self.node.listens.swarm else { unreachable!("the tests listen on IPv4") };
        format!("/ip4/{}/tcp/{}/p2p/{}", swarm.ip(), swarm.port(), self.peer)
    }

    /// Takes a blob in from upstream through the gateway, as a pull does, and gives its digest and the root of its DAG.
    pub fn hold(&self, content: Vec<u8>) -> Result<(String, String)> {
        let size = content.len() as u64;
        let digest = self.upstream.add(content);
        let target = format!("/v2/a/b/blobs/{digest}?ns={}", self.upstream.name().replace(':', "%3A"));
        let stream = std::net::TcpStream::connect(self.node.listens.gateway)?;
        ensure!(crate::http::drain(stream, &target)? == size, "the blob came short\n{}", self.node.log()?);
        self.upstream.remove(&digest);
        let root = crate::wait_for("the blob in the list", std::time::Duration::from_secs(60), || self.root(&digest))?;
        Ok((digest, root))
    }

    fn root(&self, digest: &str) -> Result<Option<String>> {
        let blobs: serde_json::Value = serde_json::from_str(&self.node.command(&["ls", "--json"])?)?;
        let blob = blobs.as_array().and_then(|blobs| blobs.iter().find(|blob| blob["digest"] == digest));
        Ok(blob.and_then(|blob| blob["root"].as_str()).map(str::to_owned))
    }

    /// `shoal get CID -o FILE`
    pub fn get(&self, cid: &str, file: &Path) -> Result<()> {
        let got = self.node.command(&["get", cid, "--output", file.to_str().context("a path in UTF-8")?]);
        got.map(drop).with_context(|| self.node.log().unwrap_or_default())
    }
}

/// SHA-256 of a file, and its size.
pub fn hash_of_file(path: &Path) -> Result<(String, u64)> {
    hash(&mut File::open(path).with_context(|| path.display().to_string())?)
}

/// SHA-256 of all that can be read, and how much it was.
pub fn hash(from: &mut impl Read) -> Result<(String, u64)> {
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok((hex::encode(hash.finalize()), size)),
            read => {
                hash.update(&buffer[..read]);
                size += read as u64;
            }
        }
    }
}

/// SHA-256 of bytes.
pub fn hash_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Writes a file and gives its path.
pub fn file(folder: &Path, name: &str, content: &[u8]) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let path = folder.join(name);
    fs::write(&path, content)?;
    Ok(path)
}

/// A folder for one test, emptied of what an earlier run left; removed when dropped.
#[derive(Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    /// Under cargo's target directory, since some machines keep `/tmp` in memory.
    pub fn new(name: &str) -> Result<Folder> {
        let path = crate::testbed::work_folder()?.join(format!("ipfs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Seconds of all cores that a process has used, in user and system: fields 14 and 15 of `/proc/<pid>/stat`, in ticks of 10 ms.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = stat.rsplit_once(") ").context("a name in brackets")?;
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}
