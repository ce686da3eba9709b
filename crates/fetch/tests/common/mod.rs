//! Nodes in one process: real stores, a real swarm on loopback, a registry with faults to order.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its part")]

pub mod liar;
pub mod plug;

use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::StreamExt;
use shoal_content::{Cid, Digest, Origin, Outline};
use shoal_fetch::{Body, Config, Error, Fetch, Pulls, Shown};
use shoal_store::{Options, Store};
use shoal_swarm::{Admission, Blocks, Identity, Multiaddr, PeerId, Provides, Seed, Swarm, SwarmKey};
use shoal_upstream::{Upstream, fake::Fake};
use tempfile::TempDir;

use self::plug::Plug;

/// Longer than anything here should take, on a busy machine too.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// What a node shows to its peers, with a lie put over it.
pub struct Mask {
    pub shown: Shown,
    pub lie: Mutex<Option<Lie>>,
}

/// What a node lies about.
#[derive(Clone)]
pub enum Lie {
    /// Reports this outline for that blob.
    Outline(Digest, Arc<Outline>),
    /// Sends these bytes as that block.
    Block(Cid, Bytes),
    /// Does not answer when asked for blocks, for so long.
    Silent(Duration),
}

impl Blocks for Mask {
    fn size(&self, cid: &Cid) -> Option<u64> {
        match &*self.lie.lock().unwrap() {
            Some(Lie::Block(of, bytes)) if of == cid => return Some(bytes.len() as u64),
            _ => {}
        }
        self.shown.size(cid)
    }

    fn read(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        let lie = self.lie.lock().unwrap().clone();
        match lie {
            Some(Lie::Block(of, bytes)) if of == *cid => return Ok(Some(bytes)),
            #[allow(
                clippy::disallowed_methods,
                reason = "held up as by a slow disk; nothing waits for this but the askers"
            )]
            Some(Lie::Silent(time)) => std::thread::sleep(time),
            _ => {}
        }
        self.shown.read(cid)
    }
}

impl Provides for Mask {
    fn outline(&self, digest: &Digest) -> Option<Arc<Outline>> {
        match &*self.lie.lock().unwrap() {
            Some(Lie::Outline(of, outline)) if of == digest => return Some(outline.clone()),
            _ => {}
        }
        self.shown.outline(digest)
    }

    fn coordinate(&self, peer: PeerId, request: Vec<u8>) -> Option<tokio::sync::oneshot::Receiver<Vec<u8>>> {
        self.shown.coordinate(peer, request)
    }

    fn tag(&self, name: &str) -> Option<shoal_swarm::KnownTag> {
        self.shown.tag(name)
    }
}

pub struct Node {
    pub fetch: Fetch,
    pub store: Store,
    pub swarm: Swarm,
    pub mask: Arc<Mask>,
    pub folder: TempDir,
}

pub struct Bed {
    key: SwarmKey,
    seeds: Vec<Multiaddr>,
}

impl Bed {
    pub fn new() -> Self {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        Self { key: SwarmKey::generate(), seeds: Vec::new() }
    }

    /// A node that knows all nodes before it.
    pub async fn node(&mut self, registry: &Fake) -> Node {
        self.node_with(registry, Config::default(), |_| {}).await
    }

    /// Nodes that come from now on reach those before them by a way that can be unplugged.
    pub async fn unpluggable(&mut self) -> Plug {
        let plug = Plug::default();
        for seed in &mut self.seeds {
            *seed = plug.to(seed).await;
        }
        plug
    }

    /// A peer of whatever kind, connected to all before it.
    pub async fn join(&mut self, provides: Arc<dyn Provides>) -> Swarm {
        let mut config = shoal_swarm::Config::new(Identity::generate(), Admission::Noise(self.key.clone()));
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        config.seeds = self.seeds.iter().map(|seed| seed.to_string().parse::<Seed>().unwrap()).collect();
        let swarm = Swarm::start(config, provides).unwrap();
        let addresses = swarm.listening().await.unwrap();
        let known = self.seeds.len();
        self.seeds.push(addresses[0].clone());
        until("the node is connected to all before it", async || swarm.peers().await.unwrap().len() >= known).await;
        swarm
    }

    pub async fn node_with(&mut self, registry: &Fake, config: Config, options: impl FnOnce(&mut Options)) -> Node {
        let folder = tempfile::tempdir().unwrap();
        let announced: Arc<OnceLock<Swarm>> = Arc::default();
        let mut store_options = Options::new(folder.path());
        let on_change = announced.clone();
        store_options.on_change = Some(Arc::new(move |change| {
            if let Some(swarm) = on_change.get() {
                shoal_fetch::announce(swarm, &change);
            }
        }));
        options(&mut store_options);
        let store = Store::open(store_options).unwrap();
        let mask = Arc::new(Mask { shown: Shown::new(store.clone()), lie: Mutex::new(None) });
        let swarm = self.join(mask.clone()).await;
        announced.set(swarm.clone()).unwrap();
        let mut upstream_config = registry.config();
        // A paced body on a busy machine must not look like a stalled one: it would be asked for again.
        upstream_config.timeouts.stall = Duration::from_secs(3);
        let upstream = Upstream::new(&upstream_config).unwrap();
        let fetch = Fetch::new(config, mask.shown.clone(), swarm.clone(), upstream);
        Node { fetch, store, swarm, mask, folder }
    }
}

impl Node {
    /// Reads a blob as a runtime does; what came before an error is given with it.
    pub async fn read(&self, origin: &Origin, digest: &Digest) -> (Vec<u8>, Result<(), Error>) {
        match self.fetch.blob(origin, digest, None).await {
            Ok(body) => drain(body).await,
            Err(error) => (Vec::new(), Err(error)),
        }
    }

    /// Waits until this node finds that `holders` peers hold a blob.
    pub async fn finds(&self, digest: &Digest, holders: usize) {
        until("the holders are found", async || {
            let mut found = self.swarm.providers(digest);
            let mut peers = std::collections::HashSet::new();
            while let Some(peer) = found.recv().await {
                peers.insert(peer);
            }
            peers.len() >= holders
        })
        .await;
    }
}

pub async fn drain(mut body: Body) -> (Vec<u8>, Result<(), Error>) {
    let mut bytes = Vec::new();
    while let Some(piece) = body.stream.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => return (bytes, Err(error)),
        }
    }
    (bytes, Ok(()))
}

/// Asks again and again until it is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Bytes that do not repeat, the same for the same seed.
pub fn content(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    Bytes::from(out)
}
