//! Where bytes came from: counters for the node, and a record of each blob.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use shoal_content::Digest;

/// Records of finished sessions kept.
const CAPACITY: usize = 512;

/// Bytes and events since the node started.
#[derive(Debug, Default)]
pub struct Counters {
    /// Blob bytes that upstream sent.
    pub from_upstream: AtomicU64,
    /// Blob bytes that peers sent.
    pub from_peers: AtomicU64,
    /// Manifest bytes that upstream sent.
    pub manifests_from_upstream: AtomicU64,
    /// Blob bytes given to readers from blobs that were whole when asked for.
    pub from_disk: AtomicU64,
    /// Sessions begun.
    pub sessions: AtomicU64,
    /// Sessions that ended without the blob.
    pub failed: AtomicU64,
    /// Blobs whose digest did not match what peers had said.
    pub lies: AtomicU64,
    /// Blob bytes that upstream sent again to find out who lied; among `from_upstream`.
    pub read_again: AtomicU64,
    /// Blobs served through without being stored, for want of room.
    pub unstored: AtomicU64,
    /// Tags answered from what was last known, upstream being out of reach.
    pub stale_tags: AtomicU64,
    /// Requests refused because upstream does not let their callers read, or asked to bring credentials first.
    pub unproven: AtomicU64,
    /// Requests answered without knowing whether their callers may read, upstream being out of reach.
    pub unchecked: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "each is described at Counters")]
pub struct Counted {
    pub from_upstream: u64,
    pub from_peers: u64,
    pub manifests_from_upstream: u64,
    pub from_disk: u64,
    pub sessions: u64,
    pub failed: u64,
    pub lies: u64,
    pub read_again: u64,
    pub unstored: u64,
    pub stale_tags: u64,
    pub unproven: u64,
    pub unchecked: u64,
}

impl Counters {
    /// Reads all counters.
    pub fn read(&self) -> Counted {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            from_upstream: value(&self.from_upstream),
            from_peers: value(&self.from_peers),
            manifests_from_upstream: value(&self.manifests_from_upstream),
            from_disk: value(&self.from_disk),
            sessions: value(&self.sessions),
            failed: value(&self.failed),
            lies: value(&self.lies),
            read_again: value(&self.read_again),
            unstored: value(&self.unstored),
            stale_tags: value(&self.stale_tags),
            unproven: value(&self.unproven),
            unchecked: value(&self.unchecked),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// How one blob came to this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// The blob.
    pub digest: Digest,
    /// The repository that it was asked for in.
    pub origin: String,
    /// Its size in bytes; 0 while unknown.
    pub size: u64,
    /// When the session began, in seconds since 1970.
    pub began: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Bytes that were on disk already from an earlier session.
    pub resumed: u64,
    /// Bytes from upstream.
    pub from_upstream: u64,
    /// Bytes from each peer.
    pub from_peers: BTreeMap<String, u64>,
    /// What happened, in order: each with milliseconds since the beginning.
    pub events: Vec<(u64, String)>,
    /// `whole`, `stopped` when all readers left, or why it failed.
    pub outcome: String,
}

/// Events kept of one session; later ones are dropped.
const MAX_EVENTS: usize = 64;

impl Trace {
    pub(crate) fn new(digest: Digest, origin: String) -> Self {
        let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            digest,
            origin,
            size: 0,
            began,
            took_ms: 0,
            resumed: 0,
            from_upstream: 0,
            from_peers: BTreeMap::new(),
            events: Vec::new(),
            outcome: "under way".into(),
        }
    }

    pub(crate) fn event(&mut self, at: std::time::Duration, what: impl Into<String>) {
        if self.events.len() < MAX_EVENTS {
            self.events.push((u64::try_from(at.as_millis()).unwrap_or(u64::MAX), what.into()));
        }
    }
}

/// The latest finished sessions.
#[derive(Debug, Default)]
pub(crate) struct Traces(Mutex<VecDeque<Trace>>);

impl Traces {
    pub(crate) fn push(&self, trace: Trace) {
        let mut traces = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if traces.len() == CAPACITY {
            traces.pop_front();
        }
        traces.push_back(trace);
    }

    pub(crate) fn latest(&self) -> Vec<Trace> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter().rev().cloned().collect()
    }
}
