//! Counters of what the gateway answered.

use std::fmt::Write as _;

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// What a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `/v2/`.
    Ping,
    /// A manifest or index.
    Manifest,
    /// A blob.
    Blob,
    /// A list of tags.
    Tags,
    /// A list of referrers.
    Referrers,
    /// Anything that is not served.
    Other,
}

/// Why a body ended short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// No source could give the rest.
    Source,
    /// Nothing came for too long.
    Stall,
    /// The source's body was not as long as it said.
    Length,
    /// The client went away first.
    Abandoned,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    kind: Kind,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KindLabels {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CutLabels {
    reason: Cut,
}

/// The gateway's counters. Cheap to clone; clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    bytes: Family<KindLabels, Counter>,
    cut: Family<CutLabels, Counter>,
    in_flight: Gauge,
    connections: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) slow_clients: Counter,
    pub(crate) resumes_refused: Counter,
    pub(crate) late: Counter,
    pub(crate) stale: Counter,
    pub(crate) port_closed: Counter,
}

impl Metrics {
    /// Puts the counters into `registry`.
    pub fn register(&self, registry: &mut Registry) {
        // Counted from zero, so that the first cut shows as a rise and not as a new series.
        for reason in [Cut::Source, Cut::Stall, Cut::Length, Cut::Abandoned] {
            drop(self.cut.get_or_create(&CutLabels { reason }));
        }
        let gateway = registry.sub_registry_with_prefix("gateway");
        gateway.register("requests", "Requests answered, by what they asked for and the status", self.requests.clone());
        gateway.register("body_bytes", "Bytes of bodies handed to clients' connections", self.bytes.clone());
        gateway.register("bodies_cut", "Blob bodies that ended short, by reason", self.cut.clone());
        gateway.register("requests_in_flight", "Requests whose answer is not finished", self.in_flight.clone());
        gateway.register("connections", "Connections of clients", self.connections.clone());
        gateway.register(
            "connections_refused",
            "Connections closed because there were too many",
            self.connections_refused.clone(),
        );
        gateway.register(
            "slow_clients",
            "Connections cut because their client took no byte",
            self.slow_clients.clone(),
        );
        gateway.register(
            "resumes_refused",
            "Ranges answered 404 because the body before them was cut",
            self.resumes_refused.clone(),
        );
        gateway.register("late", "Requests given up because their budget was spent", self.late.clone());
        gateway.register(
            "stale_tags",
            "Tags answered from memory because upstream could not be asked",
            self.stale.clone(),
        );
        gateway.register("port_closed", "Times the port was closed because the node hung", self.port_closed.clone());
    }

    /// How many requests of this kind were answered with this status.
    pub fn requests(&self, kind: Kind, status: u16) -> u64 {
        self.requests.get_or_create(&RequestLabels { kind, status }).get()
    }

    /// How many bytes of bodies of this kind were handed to connections.
    pub fn bytes(&self, kind: Kind) -> u64 {
        self.bytes.get_or_create(&KindLabels { kind }).get()
    }

    /// How many bodies ended short for this reason.
    pub fn cut(&self, reason: Cut) -> u64 {
        self.cut.get_or_create(&CutLabels { reason }).get()
    }

    /// How many requests have not been answered to their end.
    pub fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// How many connections are open.
    pub fn connections(&self) -> i64 {
        self.connections.get()
    }

    /// How many resumes were refused after a cut.
    pub fn resumes_refused(&self) -> u64 {
        self.resumes_refused.get()
    }

    /// How often the watchdog closed the port.
    pub fn port_closed(&self) -> u64 {
        self.port_closed.get()
    }

    pub(crate) fn answered(&self, kind: Kind, status: u16) {
        self.requests.get_or_create(&RequestLabels { kind, status }).inc();
    }

    pub(crate) fn sent(&self, kind: Kind, bytes: u64) {
        self.bytes.get_or_create(&KindLabels { kind }).inc_by(bytes);
    }

    pub(crate) fn count_cut(&self, reason: Cut) {
        self.cut.get_or_create(&CutLabels { reason }).inc();
    }

    pub(crate) fn begin_request(&self) -> Going {
        Going::new(&self.in_flight)
    }

    pub(crate) fn open_connection(&self) -> Going {
        Going::new(&self.connections)
    }
}

/// Something that is counted for as long as this lives.
#[derive(Debug)]
pub(crate) struct Going(Gauge);

impl Going {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Kind::Ping => "ping",
            Kind::Manifest => "manifest",
            Kind::Blob => "blob",
            Kind::Tags => "tags",
            Kind::Referrers => "referrers",
            Kind::Other => "other",
        })
    }
}

impl EncodeLabelValue for Cut {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(match self {
            Cut::Source => "source",
            Cut::Stall => "stall",
            Cut::Length => "length",
            Cut::Abandoned => "abandoned",
        })
    }
}
