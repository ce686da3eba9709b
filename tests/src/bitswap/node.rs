//! The node of an end: what `shoal` consists of, without its listeners.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use shoal_content::{
    Algorithm, Digest, Hasher, LeafHash, Registry,
    leaf::{leaf_count, leaf_range},
};
use shoal_fetch::{Config, Fetch, Shown};
use shoal_store::{Options, Store};
use shoal_swarm::{Admission, Identity, Multiaddr, Swarm, SwarmKey};
use shoal_upstream::{RegistryConfig, Upstream};

use super::mask::Mask;
use crate::blobs::noise;

/// A registry that nobody is at: all bytes come from peers.
pub(super) const NOWHERE: &str = "127.0.0.1:9";

/// More than any blob here, several times over.
const QUOTA: u64 = 64 << 30;

const TRIM_EVERY: Duration = Duration::from_secs(2);

pub(super) struct Node {
    pub(super) store: Store,
    pub(super) swarm: Swarm,
    pub(super) fetch: Fetch,
    pub(super) mask: Arc<Mask>,
    pub(super) address: Multiaddr,
}

impl Node {
    pub(super) async fn start(folder: &Path, key: SwarmKey, seeds: &[String]) -> Result<Self> {
        let announced: Arc<OnceLock<Swarm>> = Arc::default();
        let mut options = Options::new(folder);
        options.quota = QUOTA;
        let on_change = Arc::clone(&announced);
        options.on_change = Some(Arc::new(move |change| {
            if let Some(swarm) = on_change.get() {
                shoal_fetch::announce(swarm, &change);
            }
        }));
        let store = Store::open(options)?;
        let shown = Shown::new(store.clone());
        let mask = Arc::new(Mask::new(shown.clone()));
        let mut config = shoal_swarm::Config::new(Identity::generate(), Admission::Noise(key));
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
        config.seeds = seeds.iter().map(|seed| seed.parse()).collect::<Result<_, _>>()?;
        let swarm = Swarm::start(config, Arc::clone(&mask) as _)?;
        let address = swarm.listening().await?.into_iter().next().context("it listens at an address")?;
        let _ = announced.set(swarm.clone());
        tokio::spawn(trim(store.clone()));
        let fetch = Fetch::new(Config::default(), shown, swarm.clone(), upstream()?);
        Ok(Self { store, swarm, fetch, mask, address })
    }

    /// Makes a blob of noise and stores it. Blocks.
    pub(super) fn hold(store: &Store, seed: u64, size: u64) -> Result<Digest> {
        let leaf = |index: u64| {
            let range = leaf_range(size, index);
            noise(
                seed.wrapping_mul(1_000_003).wrapping_add(index),
                usize::try_from(range.end - range.start).unwrap_or(0),
            )
        };
        let mut hasher = Hasher::new(Algorithm::Sha256);
        (0..leaf_count(size)).for_each(|index| hasher.update(&leaf(index)));
        let digest = hasher.finish();
        let partial = store.partial(&digest, size)?;
        for index in 0..leaf_count(size) {
            let bytes = Bytes::from(leaf(index));
            partial.write_leaf(index, &bytes, LeafHash::of(&bytes))?;
        }
        partial.commit()?;
        Ok(digest)
    }
}

/// Gives memory back that the work has left, as `shoal serve` does.
async fn trim(store: Store) {
    let mut every = tokio::time::interval(TRIM_EVERY);
    loop {
        every.tick().await;
        store.trim();
        shoal_content::buffer::trim();
    }
}

fn upstream() -> Result<Upstream> {
    let registry: Registry = NOWHERE.parse()?;
    let rules = RegistryConfig {
        endpoint: Some(format!("http://{NOWHERE}").parse()?),
        allow_private: true,
        ..RegistryConfig::default()
    };
    let mut config = shoal_upstream::Config { registries: [(registry, rules)].into(), ..Default::default() };
    config.retry.attempts = 1;
    config.timeouts.connect = Duration::from_secs(1);
    Ok(Upstream::new(&config)?)
}
