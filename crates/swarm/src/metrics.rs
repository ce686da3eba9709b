//! Counters of the swarm, beside those of libp2p.

use std::{fmt, sync::Arc};

use libp2p::metrics::{Metrics as Libp2pMetrics, Recorder};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Upper ends of the buckets of lookup times, in seconds: what is promised is milliseconds, what is bounded is seconds.
const LOOKUP_BUCKETS: [f64; 10] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0, 5.0];

/// Registered counters. Make them once and give them to the node with its configuration.
#[derive(Clone)]
pub struct Metrics {
    libp2p: Arc<Libp2pMetrics>,
    pub(crate) counts: Counts,
}

/// Our own counters. Unregistered ones count for nobody.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub(crate) peers: Gauge,
    pub(crate) provider_keys: Gauge,
    pub(crate) provided_keys: Gauge,
    pub(crate) unannounced_keys: Gauge,
    pub(crate) wants: Gauge,
    pub(crate) records_refused: Counter,
    pub(crate) announcements: Counter,
    pub(crate) dials_failed: Counter,
    pub(crate) connections_refused: Counter,
    pub(crate) peers_silent: Counter,
    pub(crate) peers_let_go: Counter,
    pub(crate) lookups_refused: Counter,
    pub(crate) lookup_first: Histogram,
    pub(crate) outlines_served: Counter,
    pub(crate) outlines_busy: Counter,
    blocks_received: Counter,
    bytes_received: Counter,
    blocks_sent: Counter,
    bytes_sent: Counter,
    late_blocks: Counter,
    bad_blocks: Counter,
    failed_wants: Counter,
    refused_wants: Counter,
    stalled_streams: Counter,
    failed_reads: Counter,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            peers: Gauge::default(),
            provider_keys: Gauge::default(),
            provided_keys: Gauge::default(),
            unannounced_keys: Gauge::default(),
            wants: Gauge::default(),
            records_refused: Counter::default(),
            announcements: Counter::default(),
            dials_failed: Counter::default(),
            connections_refused: Counter::default(),
            peers_silent: Counter::default(),
            peers_let_go: Counter::default(),
            lookups_refused: Counter::default(),
            lookup_first: Histogram::new(LOOKUP_BUCKETS),
            outlines_served: Counter::default(),
            outlines_busy: Counter::default(),
            blocks_received: Counter::default(),
            bytes_received: Counter::default(),
            blocks_sent: Counter::default(),
            bytes_sent: Counter::default(),
            late_blocks: Counter::default(),
            bad_blocks: Counter::default(),
            failed_wants: Counter::default(),
            refused_wants: Counter::default(),
            stalled_streams: Counter::default(),
            failed_reads: Counter::default(),
        }
    }
}

impl Counts {
    /// Adds what bitswap has done between two readings of its counters.
    pub(crate) fn exchanged(&self, before: &shoal_bitswap::Counters, now: &shoal_bitswap::Counters) {
        for (counter, before, now) in [
            (&self.blocks_received, before.blocks_received, now.blocks_received),
            (&self.bytes_received, before.bytes_received, now.bytes_received),
            (&self.blocks_sent, before.blocks_sent, now.blocks_sent),
            (&self.bytes_sent, before.bytes_sent, now.bytes_sent),
            (&self.late_blocks, before.late_blocks, now.late_blocks),
            (&self.bad_blocks, before.bad_blocks, now.bad_blocks),
            (&self.failed_wants, before.failed_wants, now.failed_wants),
            (&self.refused_wants, before.refused_wants, now.refused_wants),
            (&self.stalled_streams, before.stalled_streams, now.stalled_streams),
            (&self.failed_reads, before.failed_reads, now.failed_reads),
        ] {
            counter.inc_by(now.saturating_sub(before));
        }
    }
}

impl Metrics {
    /// Registers all counters, those of libp2p included.
    pub fn register(registry: &mut Registry) -> Self {
        let libp2p = Arc::new(Libp2pMetrics::new(registry));
        let counts = Counts::default();
        let registry = registry.sub_registry_with_prefix("shoal_swarm");
        let c = counts.clone();
        registry.register("peers", "Connected peers", c.peers);
        registry.register("provider_keys", "Keys of which this node keeps providers for others", c.provider_keys);
        registry.register("provided_keys", "Keys that this node announces", c.provided_keys);
        registry.register(
            "unannounced_keys",
            "Keys of this node that no peer has been told of yet",
            c.unannounced_keys,
        );
        registry.register("wants", "Blocks and presences asked of peers and not answered yet", c.wants);
        registry.register("records_refused", "Provider records refused because a bound was reached", c.records_refused);
        registry.register("announcements", "Keys announced", c.announcements);
        registry.register("dials_failed", "Dials that led to no connection", c.dials_failed);
        registry.register(
            "connections_refused",
            "Inbound connections that failed in the handshake: strangers, for the most part",
            c.connections_refused,
        );
        registry.register("peers_silent", "Peers dropped because they fell silent", c.peers_silent);
        registry.register("peers_let_go", "Peers let go to make room for others", c.peers_let_go);
        registry.register("lookups_refused", "Lookups not begun because too many were under way", c.lookups_refused);
        registry.register("lookup_first_seconds", "Time to the first provider found", c.lookup_first);
        registry.register("outlines_served", "Outlines given to peers", c.outlines_served);
        registry.register(
            "outlines_busy",
            "Requests for outlines refused because too many were under way",
            c.outlines_busy,
        );
        registry.register("blocks_received", "Blocks that peers gave, checked", c.blocks_received);
        registry.register("bytes_received", "Bytes of blocks that peers gave, checked", c.bytes_received);
        registry.register("blocks_sent", "Blocks given to peers", c.blocks_sent);
        registry.register("bytes_sent", "Bytes of blocks given to peers", c.bytes_sent);
        registry.register("late_blocks", "Blocks that came after they were no longer wanted", c.late_blocks);
        registry.register("bad_blocks", "Blocks that hashed to nothing that was asked of their sender", c.bad_blocks);
        registry.register("failed_wants", "Blocks asked of peers that came to nothing", c.failed_wants);
        registry.register("refused_wants", "Wants of peers refused because they had too many", c.refused_wants);
        registry.register("stalled_streams", "Block streams closed because the peer stalled", c.stalled_streams);
        registry.register("failed_reads", "Blocks that could not be read from the store for a peer", c.failed_reads);
        Self { libp2p, counts }
    }

    pub(crate) fn record<E>(&self, event: &E)
    where
        Libp2pMetrics: Recorder<E>,
    {
        self.libp2p.record(event);
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.fmt(f)
    }
}
