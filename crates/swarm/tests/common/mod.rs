//! Nodes for tests: on loopback, with blobs in memory.
#![allow(dead_code, unreachable_pub)]

use std::{
    collections::HashMap,
    future::Future,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use shoal_content::{Algorithm, Cid, Digest, LEAF_SIZE, LeafHash, Outline};
use shoal_swarm::{Admission, Blocks, Config, Identity, Multiaddr, PeerId, Provides, Seed, Swarm, SwarmKey};

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Blobs in memory.
#[derive(Default)]
pub struct Shelf {
    blobs: Mutex<HashMap<Digest, Arc<Outline>>>,
    leaves: Mutex<HashMap<Cid, Bytes>>,
}

impl Shelf {
    pub fn put(&self, content: &[u8]) -> (Digest, Arc<Outline>) {
        let digest = Digest::of(Algorithm::Sha256, content);
        let leaves: Vec<&[u8]> =
            if content.is_empty() { vec![content] } else { content.chunks(LEAF_SIZE as usize).collect() };
        let hashes: Vec<LeafHash> = leaves.iter().map(|leaf| LeafHash::of(leaf)).collect();
        for (leaf, hash) in leaves.iter().zip(&hashes) {
            self.leaves.lock().unwrap().insert(hash.cid(), Bytes::copy_from_slice(leaf));
        }
        let outline = Arc::new(Outline::complete(content.len() as u64, &hashes).unwrap());
        self.blobs.lock().unwrap().insert(digest, Arc::clone(&outline));
        (digest, outline)
    }

    pub fn lie(&self, digest: Digest, outline: Outline) {
        self.blobs.lock().unwrap().insert(digest, Arc::new(outline));
    }
}

impl Blocks for Shelf {
    fn size(&self, cid: &Cid) -> Option<u64> {
        self.leaves.lock().unwrap().get(cid).map(|leaf| leaf.len() as u64)
    }

    fn read(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        Ok(self.leaves.lock().unwrap().get(cid).cloned())
    }
}

impl Provides for Shelf {
    fn outline(&self, digest: &Digest) -> Option<Arc<Outline>> {
        self.blobs.lock().unwrap().get(digest).cloned()
    }
}

pub struct Node {
    pub swarm: Swarm,
    pub shelf: Arc<Shelf>,
    pub address: Multiaddr,
}

impl Node {
    pub async fn start(config: Config) -> Self {
        let shelf = Arc::new(Shelf::default());
        let swarm = Swarm::start(config, Arc::clone(&shelf) as Arc<dyn Provides>).unwrap();
        let address = within(swarm.listening()).await.unwrap().remove(0);
        Self { swarm, shelf, address }
    }

    pub fn peer(&self) -> PeerId {
        self.swarm.local_peer()
    }

    /// Stores a blob and announces it.
    pub fn hold(&self, content: &[u8]) -> (Digest, Arc<Outline>) {
        let (digest, outline) = self.shelf.put(content);
        self.swarm.announce(&digest, &outline.root().unwrap());
        (digest, outline)
    }

    pub fn seed(&self) -> Seed {
        self.address.to_string().parse().unwrap()
    }

    /// The port that the node listens on.
    pub fn port(&self) -> u16 {
        self.address.to_string().rsplit('/').next().unwrap().parse().unwrap()
    }

    pub async fn knows(&self, peer: PeerId) -> bool {
        self.swarm.peers().await.unwrap().iter().any(|other| other.id == peer && other.agent.is_some())
    }

    /// Waits until this node is connected to `peer`, and has heard who it is.
    pub async fn meets(&self, peer: PeerId) {
        eventually("the peer is met", || self.knows(peer)).await;
    }

    /// Waits until `peer` is no longer connected.
    pub async fn loses(&self, peer: PeerId) {
        eventually("the peer is lost", || async { !self.knows(peer).await }).await;
    }

    /// The first provider that is found, asking again until there is one.
    pub async fn finds(&self, digest: &Digest) -> PeerId {
        within(async {
            loop {
                if let Some(peer) = self.swarm.providers(digest).recv().await {
                    return peer;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

pub fn key() -> SwarmKey {
    SwarmKey::from_bytes([7; 32])
}

/// A node on a port of its own.
pub fn config() -> Config {
    let mut config = Config::new(Identity::generate(), Admission::Noise(key()));
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

/// Asks until the answer is yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let wait = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}
