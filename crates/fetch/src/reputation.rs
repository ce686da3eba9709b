//! Which peers are avoided, and why: those whose word or whose bytes turned out to be wrong, and, as coordinators, those who do not answer.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use shoal_swarm::PeerId;

use crate::bounded::BoundedMap;

/// How long a peer that lied is not asked. Long enough to outlast an image, short enough that a node whose disk was mended comes back.
const AVOID: Duration = Duration::from_secs(10 * 60);

/// How long a coordinator that did not answer is not waited for.
const SILENT: Duration = Duration::from_secs(5);

/// Peers remembered at the most.
const CAPACITY: usize = 1024;

/// The peers that lied of late.
#[derive(Debug)]
pub(crate) struct Reputation {
    liars: Mutex<BoundedMap<PeerId, Lie>>,
    silent: Mutex<BoundedMap<PeerId, Instant>>,
}

#[derive(Debug)]
struct Lie {
    at: Instant,
    what: String,
}

impl Reputation {
    pub(crate) fn new() -> Self {
        Self { liars: Mutex::new(BoundedMap::new(CAPACITY)), silent: Mutex::new(BoundedMap::new(CAPACITY)) }
    }

    /// Notes that a peer lied; it is avoided from now on.
    pub(crate) fn lied(&self, peer: PeerId, what: String) {
        tracing::warn!(%peer, what, avoided_for = ?AVOID, "a peer lied: it is avoided");
        self.liars().insert(peer, Lie { at: Instant::now(), what });
    }

    /// Notes that a coordinator did not answer in time: other blobs need not wait for it, too.
    pub(crate) fn unanswered(&self, peer: PeerId) {
        self.silent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(peer, Instant::now());
    }

    /// Whether the peer did not answer as a coordinator a moment ago.
    pub(crate) fn is_silent(&self, peer: &PeerId) -> bool {
        let silent = self.silent.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        silent.get(peer).is_some_and(|at| at.elapsed() < SILENT)
    }

    /// Whether the peer is to be avoided now.
    pub(crate) fn is_avoided(&self, peer: &PeerId) -> bool {
        self.liars().get(peer).is_some_and(|lie| lie.at.elapsed() < AVOID)
    }

    /// The peers that are avoided now, each with what it did.
    pub(crate) fn avoided(&self) -> Vec<(PeerId, String)> {
        let liars = self.liars();
        let mut avoided: Vec<_> = liars
            .iter()
            .filter(|(_, lie)| lie.at.elapsed() < AVOID)
            .map(|(peer, lie)| (*peer, lie.what.clone()))
            .collect();
        avoided.sort();
        avoided
    }

    fn liars(&self) -> std::sync::MutexGuard<'_, BoundedMap<PeerId, Lie>> {
        self.liars.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
