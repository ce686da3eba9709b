//! Signs of life: bytes on their way of leaves that are not whole yet.
//!
//! A leaf of 1 MiB takes seconds over a slow link. Nothing has landed by then, and still nobody has stalled: sources that send are not given
//! up, and readers are told that it goes on, so that the gateway does not cut a body that is coming.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use shoal_swarm::PeerId;

/// How often it is looked whether bytes have come.
const LOOK: Duration = Duration::from_millis(200);

/// Readers are told no more often than this.
const TELL: Duration = Duration::from_secs(1);

/// What has come so far, and what had when it was last looked.
#[derive(Debug)]
pub(super) struct Signs {
    looked: Instant,
    told: Instant,
    seen: bool,
    of_peers: HashMap<PeerId, u64>,
    upstream: Arc<AtomicU64>,
    of_upstream: u64,
}

impl Signs {
    pub(super) fn new(now: Instant) -> Self {
        Self { looked: now, told: now, seen: false, of_peers: HashMap::new(), upstream: Arc::default(), of_upstream: 0 }
    }

    /// Whether it is time to look again.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now.saturating_duration_since(self.looked) >= LOOK;
        if is_due {
            self.looked = now;
        }
        is_due
    }

    /// Counts what upstream sends as it comes.
    pub(super) fn of_upstream(&self) -> Arc<AtomicU64> {
        self.upstream.clone()
    }

    /// The peers from which bytes have come since the last look, of those from which so many have come in all.
    pub(super) fn looked(&mut self, arrived: Vec<(PeerId, u64)>) -> Vec<PeerId> {
        let before = std::mem::take(&mut self.of_peers);
        let grown = |(peer, count): &(PeerId, u64)| before.get(peer).is_some_and(|before| before != count);
        let alive: Vec<PeerId> = arrived.iter().filter(|one| grown(one)).map(|(peer, _)| *peer).collect();
        self.of_peers = arrived.into_iter().collect();
        self.seen |= !alive.is_empty();
        alive
    }

    /// A leaf has landed.
    pub(super) fn landed(&mut self) {
        self.seen = true;
    }

    /// Whether readers are to be told now that bytes are coming.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let of_upstream = self.upstream.load(Ordering::Relaxed);
        self.seen |= std::mem::replace(&mut self.of_upstream, of_upstream) != of_upstream;
        let is_due = self.seen && now.saturating_duration_since(self.told) >= TELL;
        if is_due {
            self.told = now;
            self.seen = false;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_is_alive_and_readers_are_told_once_a_second() {
        let begin = Instant::now();
        let (one, other) = (PeerId::random(), PeerId::random());
        let mut signs = Signs::new(begin);
        assert!(!signs.is_due(begin) && signs.is_due(begin + LOOK) && !signs.is_due(begin + LOOK));
        assert!(signs.looked(vec![(one, 5), (other, 7)]).is_empty(), "nothing is known of before");
        assert!(!signs.take(begin + TELL));
        assert_eq!(signs.looked(vec![(one, 6), (other, 7)]), [one]);
        assert!(!signs.take(begin), "not so often");
        assert!(signs.take(begin + TELL) && !signs.take(begin + 3 * TELL), "once for what has come");
        signs.of_upstream().fetch_add(1, Ordering::Relaxed);
        assert!(signs.take(begin + 3 * TELL));
        signs.landed();
        assert!(signs.take(begin + 4 * TELL));
    }
}
