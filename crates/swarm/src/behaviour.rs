//! The protocols that a node speaks, in one behaviour.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use libp2p::{
    StreamProtocol, connection_limits, identify, kad, mdns, memory_connection_limits, ping,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};

use crate::{
    Provides, config::Config, coordinate, error::Error, outlines, record_store::ProviderStore, records::Limits, tell,
};

/// The name that Kubo and Helia use on private addresses. Swarms are kept apart by their keys, not by names.
pub(crate) const KADEMLIA: StreamProtocol = StreamProtocol::new("/ipfs/lan/kad/1.0.0");

/// Kademlia's k: to how many peers a key is announced, and how many are asked for it.
pub(crate) const REPLICATION: NonZeroUsize = NonZeroUsize::new(20).expect("not zero");

/// Requests to peers that one Kademlia query has under way; go's α.
const PARALLELISM: NonZeroUsize = NonZeroUsize::new(10).expect("not zero");

/// How often the table of peers is refreshed by looking for ourselves. Nodes that only others know come in by this.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(60);

/// How long a peer may take for one Kademlia answer.
const KADEMLIA_TIMEOUT: Duration = Duration::from_secs(3);

/// Time for an outline's whole exchange, at both ends. Callers wait as long as they are configured to; this frees what is left behind.
const OUTLINE_STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// Outlines that one connection may have under way in each direction.
const MAX_OUTLINE_STREAMS: usize = 64;

/// Time for a request to a coordinator, which keeps it until it has something to hand out, and never for longer than a second.
const COORDINATE_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests to coordinators on one connection: a pull has some layers under way at once, each with two open.
const MAX_COORDINATE_STREAMS: usize = 128;

/// Time to hand one batch of announcements to a peer.
const TELL_TIMEOUT: Duration = Duration::from_secs(5);

/// Batches of announcements under way to one peer.
const MAX_TELL_STREAMS: usize = 16;

/// Connections to one peer: both may dial at once, and a peer that lost its network comes back while its old ones still stand.
const MAX_CONNECTIONS_PER_PEER: u32 = 4;

/// Handshakes under way in each direction.
const MAX_PENDING: u32 = 128;

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    // The limits come first, so that the others do not hear of connections that are refused.
    limits: connection_limits::Behaviour,
    memory: Toggle<memory_connection_limits::Behaviour>,
    pub(crate) kademlia: kad::Behaviour<ProviderStore>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) outlines: outlines::Behaviour,
    pub(crate) coordinate: coordinate::Behaviour,
    pub(crate) tell: tell::Behaviour,
    pub(crate) bitswap: shoal_bitswap::Behaviour,
}

impl Behaviour {
    pub(crate) fn new(config: &Config, provides: &Arc<dyn Provides>) -> Result<Self, Error> {
        let peer = config.identity.peer();
        let mdns = config.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), peer)).transpose();
        Ok(Self {
            limits: connection_limits::Behaviour::new(connection_limits(config.max_peers)),
            memory: config.max_memory.map(memory_connection_limits::Behaviour::with_max_bytes).into(),
            kademlia: kademlia(config),
            identify: identify::Behaviour::new(identify_config(config)),
            ping: ping::Behaviour::new(
                // Four chances to be heard before a peer is held for dead.
                ping::Config::new().with_interval(config.dead_after / 4).with_timeout(config.dead_after),
            ),
            mdns: mdns.map_err(Error::Mdns)?.into(),
            outlines: request_response::Behaviour::with_codec(
                outlines::Codec,
                [(outlines::PROTOCOL, ProtocolSupport::Full)],
                request_response::Config::default()
                    .with_request_timeout(OUTLINE_STREAM_TIMEOUT)
                    .with_max_concurrent_streams(MAX_OUTLINE_STREAMS),
            ),
            coordinate: request_response::Behaviour::with_codec(
                coordinate::Codec,
                [(coordinate::PROTOCOL, ProtocolSupport::Full)],
                request_response::Config::default()
                    .with_request_timeout(COORDINATE_TIMEOUT)
                    .with_max_concurrent_streams(MAX_COORDINATE_STREAMS),
            ),
            tell: request_response::Behaviour::with_codec(
                tell::Codec,
                [(KADEMLIA, ProtocolSupport::Outbound)],
                request_response::Config::default()
                    .with_request_timeout(TELL_TIMEOUT)
                    .with_max_concurrent_streams(MAX_TELL_STREAMS),
            ),
            bitswap: shoal_bitswap::Behaviour::new(
                Arc::clone(provides) as Arc<dyn shoal_bitswap::Blocks>,
                config.bitswap.clone(),
            ),
        })
    }
}

/// A few more than the peers that are kept: newcomers are let in first, and then somebody is let go for them.
fn connection_limits(max_peers: usize) -> connection_limits::ConnectionLimits {
    let peers = u32::try_from(max_peers).unwrap_or(u32::MAX);
    connection_limits::ConnectionLimits::default()
        .with_max_established(Some(peers.saturating_mul(2).saturating_add(MAX_CONNECTIONS_PER_PEER)))
        .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
        .with_max_pending_incoming(Some(MAX_PENDING))
        .with_max_pending_outgoing(Some(MAX_PENDING))
}

fn identify_config(config: &Config) -> identify::Config {
    // The protocol version is the one by which IPFS peers know one another.
    identify::Config::new("ipfs/0.1.0".into(), config.identity.keypair().public())
        .with_agent_version(format!("shoal/{}", env!("CARGO_PKG_VERSION")))
        .with_push_listen_addr_updates(true)
        .with_cache_size(config.max_peers)
        .with_hide_listen_addrs(!config.advertise.is_empty())
}

fn kademlia(config: &Config) -> kad::Behaviour<ProviderStore> {
    let peer = config.identity.peer();
    let limits = Limits {
        keys: config.provider_keys,
        providers_per_key: config.providers_per_key,
        // A swarm far larger than the connections that one node keeps.
        peers: config.max_peers.saturating_mul(8).max(1024),
        ttl: config.provider_ttl,
    };
    let mut kademlia = kad::Config::new(KADEMLIA);
    kademlia
        .set_replication_factor(REPLICATION)
        .set_parallelism(PARALLELISM)
        .set_query_timeout(config.lookup_timeout)
        .set_substreams_timeout(KADEMLIA_TIMEOUT)
        .set_provider_record_ttl(Some(config.provider_ttl))
        // Announcing again is our own affair, and values are not kept.
        .set_provider_publication_interval(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(Some(BOOTSTRAP_INTERVAL));
    let mut behaviour = kad::Behaviour::with_config(peer, ProviderStore::new(peer, limits), kademlia);
    // It would stay a client until an address is confirmed from outside, which in a cluster nobody does.
    behaviour.set_mode(Some(kad::Mode::Server));
    behaviour
}
