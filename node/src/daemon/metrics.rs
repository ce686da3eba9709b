//! What is counted outside the parts that count themselves: store, sessions, the process. Read when it is asked for.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

use super::Node;

/// Registers all of it. The registry does not keep the node alive.
pub(super) fn register(node: &Arc<Node>, registry: &mut Registry) {
    let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("shoal_build", "The running program", build);
    registry.register_collector(Box::new(NodeCollector(Arc::downgrade(node))));
}

struct NodeCollector(Weak<Node>);

impl fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeCollector")
    }
}

impl Collector for NodeCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(node) = self.0.upgrade() else { return Ok(()) };
        let mut out = Out { encoder };
        let usage = node.store.usage();
        out.bytes("shoal_store_quota", "Bytes that blobs may take", usage.quota)?;
        out.bytes("shoal_store_used", "Bytes of whole blobs", usage.bytes)?;
        out.bytes("shoal_store_partial", "Bytes reserved for blobs in progress", usage.partial_bytes)?;
        out.gauge("shoal_store_blobs", "Whole blobs", usage.blobs)?;
        out.gauge("shoal_store_partials", "Blobs in progress, those of earlier runs included", usage.partials)?;
        out.gauge("shoal_store_unverified", "Blobs being verified before they are served", usage.unverified)?;
        out.counter("shoal_store_evictions", "Blobs evicted", usage.evictions)?;
        out.counter_bytes("shoal_store_evicted", "Bytes evicted", usage.evicted_bytes)?;
        out.counter("shoal_store_dropped_partials", "Partials dropped to make room", usage.dropped_partials)?;
        out.counter("shoal_store_quarantined", "Files that did not match their digest", usage.quarantined)?;
        out.counter("shoal_store_refused", "Blobs for which no room could be made", usage.refused)?;
        out.counter("shoal_store_direct_writes", "Leaves written past the page cache", usage.direct_writes)?;
        out.counter("shoal_store_cached_writes", "Leaves written through the page cache", usage.cached_writes)?;

        let counted = node.fetch.counters();
        out.counter_bytes("shoal_fetch_from_upstream", "Blob bytes from registries", counted.from_upstream)?;
        out.counter_bytes("shoal_fetch_from_peers", "Blob bytes from peers", counted.from_peers)?;
        out.counter_bytes("shoal_fetch_from_disk", "Blob bytes read from this node's disk", counted.from_disk)?;
        let manifests = counted.manifests_from_upstream;
        out.counter_bytes("shoal_fetch_manifests_from_upstream", "Manifest bytes from registries", manifests)?;
        out.gauge("shoal_fetch_sessions_running", "Blobs being fetched", node.fetch.sessions().len() as u64)?;
        out.counter("shoal_fetch_sessions", "Sessions begun", counted.sessions)?;
        out.counter("shoal_fetch_failed_sessions", "Sessions that ended without the blob", counted.failed)?;
        out.counter("shoal_fetch_lies", "Blobs whose digest did not match what peers had said", counted.lies)?;
        out.counter("shoal_fetch_unstored", "Blobs served without being stored, for want of room", counted.unstored)?;
        out.counter("shoal_fetch_stale_tags", "Tags answered from memory, upstream being down", counted.stale_tags)?;
        out.counter(
            "shoal_fetch_unproven",
            "Requests whose callers had not shown that they may read",
            counted.unproven,
        )?;
        out.counter(
            "shoal_fetch_unchecked",
            "Requests answered unasked whether they may, upstream being down",
            counted.unchecked,
        )?;
        out.gauge("shoal_fetch_avoided_peers", "Peers avoided because they lied", node.fetch.avoided().len() as u64)?;

        let asked = node.registries.snapshot();
        out.counter_bytes("shoal_upstream_received", "Body bytes from registries, manifests included", asked.bytes)?;
        out.counter_bytes("shoal_upstream_discarded", "Of these, thrown away: a range was ignored", asked.discarded)?;
        out.counter("shoal_upstream_requests", "Requests to registries, retries and tokens included", asked.sent)?;
        out.counter("shoal_upstream_retries", "Requests sent again after a failure", asked.retries)?;
        out.counter("shoal_upstream_resumed", "Bodies that broke and were taken up again", asked.resumed)?;
        out.counter("shoal_upstream_blocked", "Requests not sent: the host had just given no answer", asked.blocked)?;
        out.counter("shoal_upstream_denied", "Calls that a registry denied", asked.denied)?;
        out.counter("shoal_upstream_rate_limited", "Calls that a registry's rate limit ended", asked.rate_limited)?;
        out.counter("shoal_upstream_unreachable", "Calls that no registry answered", asked.unreachable)?;

        if let Some(bytes) = resident_bytes() {
            out.bytes("process_resident_memory", "Resident memory of the process", bytes)?;
        }
        out.gauge("shoal_uptime_seconds", "How long the node has been running", node.started.elapsed().as_secs())
    }
}

struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Out<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.write(name, help, None, MetricType::Gauge, &ConstGauge::new(signed(value)))
    }

    fn bytes(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.write(name, help, Some(&Unit::Bytes), MetricType::Gauge, &ConstGauge::new(signed(value)))
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.write(name, help, None, MetricType::Counter, &ConstCounter::new(value))
    }

    fn counter_bytes(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.write(name, help, Some(&Unit::Bytes), MetricType::Counter, &ConstCounter::new(value))
    }

    fn write(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        kind: MetricType,
        value: &impl EncodeMetric,
    ) -> fmt::Result {
        value.encode(self.encoder.encode_descriptor(name, help, unit, kind)?)
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Resident memory as the kernel counts it (proc(5), statm).
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: sysconf reads a constant.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Some(pages * u64::try_from(page).ok()?)
}
