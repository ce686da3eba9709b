//! What a node's swarm is made of.

use std::{fmt, sync::Arc, time::Duration};

use libp2p::Multiaddr;

use crate::{Identity, Metrics, Resolve, Seed, SwarmKey, SystemResolver};

/// Who may join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Anybody who reaches the port.
    Open,
    /// Who has the key; it costs nothing once the handshake is done. Shoal only.
    Noise(SwarmKey),
    /// Who has the key, as Kubo and Helia mean it: everything is encrypted a second time, at a third of the speed.
    Pnet(SwarmKey),
}

/// How a node takes part in its swarm.
pub struct Config {
    /// The node's key.
    pub identity: Identity,
    /// Who may join.
    pub admission: Admission,
    /// TCP addresses to listen on, as `/ip4/0.0.0.0/tcp/4001`.
    pub listen: Vec<Multiaddr>,
    /// Addresses that peers are told, where they are not those that the node listens on.
    pub advertise: Vec<Multiaddr>,
    /// Peers to join.
    pub seeds: Vec<Seed>,
    /// How often a name among the seeds is asked for again once a peer is connected; every second before.
    pub resolve_every: Duration,
    /// What turns names into addresses.
    pub resolver: Arc<dyn Resolve>,
    /// Whether peers on the local network are found by mDNS.
    pub mdns: bool,
    /// Peers to be connected to at most. When more come, who has been of least use is let go.
    pub max_peers: usize,
    /// Physical memory of the process in bytes above which no new connection is taken; unbounded without.
    pub max_memory: Option<usize>,
    /// How long a dial may take, handshake included.
    pub dial_timeout: Duration,
    /// How long a peer may be silent, pings included, before it is held for dead. A link that needs longer than this to
    /// empty its send buffer needs a larger value.
    pub dead_after: Duration,
    /// Life of a provider record since it was last announced.
    ///
    /// Thirty minutes: records of a node that is known to be down are hidden at once and a stale one costs a refusal of one round trip,
    /// so a short life would buy little, and each halving of it doubles what announcing costs.
    pub provider_ttl: Duration,
    /// Providers kept of one key, the freshest. Kademlia's k.
    pub providers_per_key: usize,
    /// Keys of which providers are kept. Each costs about 150 bytes, and 8 for each provider.
    pub provider_keys: usize,
    /// How long a lookup of providers may take.
    pub lookup_timeout: Duration,
    /// How long a peer may take to answer with an outline.
    pub outline_timeout: Duration,
    /// How long a peer may take to answer with a block.
    pub block_timeout: Duration,
    /// Limits of bitswap.
    pub bitswap: shoal_bitswap::Config,
    /// Where counters go, if anywhere.
    pub metrics: Option<Metrics>,
}

impl Config {
    /// A node with this identity, and the defaults in everything else: it listens nowhere and knows nobody.
    pub fn new(identity: Identity, admission: Admission) -> Self {
        Self {
            identity,
            admission,
            listen: Vec::new(),
            advertise: Vec::new(),
            seeds: Vec::new(),
            resolve_every: Duration::from_secs(10),
            resolver: Arc::new(SystemResolver),
            mdns: false,
            max_peers: 512,
            max_memory: None,
            dial_timeout: Duration::from_secs(3),
            dead_after: Duration::from_secs(8),
            provider_ttl: Duration::from_secs(30 * 60),
            providers_per_key: 20,
            provider_keys: 200_000,
            lookup_timeout: Duration::from_secs(5),
            outline_timeout: Duration::from_secs(1),
            block_timeout: Duration::from_secs(30),
            bitswap: shoal_bitswap::Config::default(),
            metrics: None,
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("identity", &self.identity)
            .field("admission", &self.admission)
            .field("listen", &self.listen)
            .field("advertise", &self.advertise)
            .field("seeds", &self.seeds)
            .field("mdns", &self.mdns)
            .field("max_peers", &self.max_peers)
            .field("provider_ttl", &self.provider_ttl)
            .finish_non_exhaustive()
    }
}
