//! Which peers are avoided, and why: those whose word or whose bytes turned out to be wrong, those who take work and do none, and, as
//! coordinators, those who do not answer.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use shoal_swarm::PeerId;

use crate::bounded::BoundedMap;

/// How long a peer that lied is not asked. Long enough to outlast an image, short enough that a node whose disk was mended comes back.
const AVOID: Duration = Duration::from_secs(10 * 60);

/// How long both of two peers are not asked that contradict each other. Long enough for the rest of an image.
const SUSPECT: Duration = Duration::from_secs(60);

/// How long a coordinator that did not answer, or gave nothing, is not waited for.
const SILENT: Duration = Duration::from_secs(5);

/// Times that a coordinator is waited for at length, in vain, before the next nearest is asked: a busy one may miss one.
const MUTE: u32 = 2;

/// Peers remembered at the most.
const CAPACITY: usize = 1024;

/// The peers that lied of late.
#[derive(Debug)]
pub(crate) struct Reputation {
    liars: Mutex<BoundedMap<PeerId, Lie>>,
    suspects: Mutex<BoundedMap<PeerId, Suspicion>>,
    useless: Mutex<BoundedMap<PeerId, Lie>>,
    silent: Mutex<BoundedMap<PeerId, Silence>>,
}

#[derive(Debug)]
struct Lie {
    at: Instant,
    what: String,
}

/// A coordinator has not answered.
#[derive(Debug)]
struct Silence {
    at: Instant,
    /// How often it was waited for at length in vain since it last answered.
    at_length: u32,
}

/// One of two peers has lied, and it cannot be told which.
#[derive(Debug)]
struct Suspicion {
    at: Instant,
    /// Whom it contradicts.
    other: PeerId,
    what: String,
    is_cleared: bool,
}

impl Reputation {
    pub(crate) fn new() -> Self {
        Self {
            liars: Mutex::new(BoundedMap::new(CAPACITY)),
            suspects: Mutex::new(BoundedMap::new(CAPACITY)),
            useless: Mutex::new(BoundedMap::new(CAPACITY)),
            silent: Mutex::new(BoundedMap::new(CAPACITY)),
        }
    }

    /// Notes that a peer lied; it is avoided from now on.
    pub(crate) fn lied(&self, peer: PeerId, what: String) {
        if lock(&self.liars).get(&peer).is_some_and(Lie::counts) {
            return;
        }
        tracing::warn!(%peer, what, avoided_for = ?AVOID, "a peer lied: it is avoided");
        lock(&self.liars).insert(peer, Lie { at: Instant::now(), what });
    }

    /// Notes that one of two peers lied. Both are avoided for a while; who has stood against somebody else before is the liar, and the
    /// other is cleared.
    pub(crate) fn suspect(&self, one: PeerId, other: PeerId, what: &str) {
        for (peer, against) in [(one, other), (other, one)] {
            let mut suspects = lock(&self.suspects);
            let earlier =
                suspects.get(&peer).filter(|earlier| earlier.at.elapsed() < AVOID && earlier.other != against);
            let Some(before) = earlier.map(|earlier| earlier.other) else { continue };
            suspects.clear(&before);
            drop(suspects);
            self.lied(peer, format!("{what}: it has contradicted both {before} and {against}"));
            return;
        }
        tracing::warn!(%one, %other, what, avoided_for = ?SUSPECT, "one of two peers lied: both are avoided");
        let mut suspects = lock(&self.suspects);
        for (peer, against) in [(one, other), (other, one)] {
            let what = format!("{what}: it or {against} lied");
            suspects.insert(peer, Suspicion { at: Instant::now(), other: against, what, is_cleared: false });
        }
    }

    /// Notes that a peer is of no use as coordinator: it is not asked as such for a while.
    pub(crate) fn useless(&self, peer: PeerId, what: String) {
        if self.is_useless(&peer) {
            return;
        }
        tracing::warn!(%peer, what, avoided_for = ?SUSPECT, "a peer is of no use as coordinator");
        lock(&self.useless).insert(peer, Lie { at: Instant::now(), what });
    }

    /// Whether the peer was of no use as coordinator of late.
    pub(crate) fn is_useless(&self, peer: &PeerId) -> bool {
        lock(&self.useless).get(peer).is_some_and(|lie| lie.at.elapsed() < SUSPECT)
    }

    /// Notes that a coordinator did not answer in time, or, where it was waited for at length, not at all: other blobs need not wait for it, too.
    pub(crate) fn unanswered(&self, peer: PeerId, at_length: bool) {
        let mut silent = lock(&self.silent);
        let before = silent.get(&peer).map_or(0, |silence| silence.at_length);
        silent.insert(peer, Silence { at: Instant::now(), at_length: before + u32::from(at_length) });
    }

    /// Notes that a coordinator answers.
    pub(crate) fn answered(&self, peer: &PeerId) {
        if let Some(silence) = lock(&self.silent).get_mut(peer) {
            silence.at_length = 0;
        }
    }

    /// Whether the peer did not answer as a coordinator a moment ago.
    pub(crate) fn is_silent(&self, peer: &PeerId) -> bool {
        lock(&self.silent).get(peer).is_some_and(|silence| silence.at.elapsed() < SILENT)
    }

    /// Whether the peer was waited for at length, in vain, and is best left alone.
    pub(crate) fn is_mute(&self, peer: &PeerId) -> bool {
        lock(&self.silent).get(peer).is_some_and(Silence::is_mute)
    }

    /// Whether the peer is to be avoided now.
    pub(crate) fn is_avoided(&self, peer: &PeerId) -> bool {
        lock(&self.liars).get(peer).is_some_and(Lie::counts)
            || lock(&self.suspects).get(peer).is_some_and(Suspicion::counts)
    }

    /// The peers that are avoided now, each with what it did.
    pub(crate) fn avoided(&self) -> Vec<(PeerId, String)> {
        let useless = lock(&self.useless);
        let useless = useless.iter().filter(|(_, lie)| lie.at.elapsed() < SUSPECT);
        let mut avoided: BTreeMap<PeerId, String> = useless.map(|(peer, lie)| (*peer, lie.what.clone())).collect();
        let silent = lock(&self.silent);
        let mute = silent.iter().filter(|(_, silence)| silence.is_mute());
        avoided.extend(mute.map(|(peer, _)| (*peer, "it does not answer as coordinator".to_owned())));
        let suspects = lock(&self.suspects);
        let suspects = suspects.iter().filter(|(_, suspicion)| suspicion.counts());
        avoided.extend(suspects.map(|(peer, one)| (*peer, one.what.clone())));
        let liars = lock(&self.liars);
        avoided.extend(liars.iter().filter(|(_, lie)| lie.counts()).map(|(peer, lie)| (*peer, lie.what.clone())));
        avoided.into_iter().collect()
    }
}

impl Silence {
    fn is_mute(&self) -> bool {
        self.at_length >= MUTE && self.at.elapsed() < SUSPECT
    }
}

impl Lie {
    fn counts(&self) -> bool {
        self.at.elapsed() < AVOID
    }
}

impl Suspicion {
    fn counts(&self) -> bool {
        !self.is_cleared && self.at.elapsed() < SUSPECT
    }
}

impl BoundedMap<PeerId, Suspicion> {
    fn clear(&mut self, peer: &PeerId) {
        if let Some(suspicion) = self.get_mut(peer) {
            suspicion.is_cleared = true;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_that_contradict_each_other_who_does_so_again_is_the_liar() {
        let reputation = Reputation::new();
        let (liar, first, second) = (PeerId::random(), PeerId::random(), PeerId::random());
        reputation.suspect(first, liar, "a leaf");
        assert!(reputation.is_avoided(&first) && reputation.is_avoided(&liar));
        reputation.suspect(first, liar, "the same again");
        assert_eq!(reputation.avoided().len(), 2, "nothing new is known");
        reputation.suspect(liar, second, "another leaf");
        assert!(reputation.is_avoided(&liar));
        assert!(!reputation.is_avoided(&first) && !reputation.is_avoided(&second));
    }
}
