//! When each of this node's keys is announced, and announced again.
//!
//! A record lives for its TTL at those who hold it, so each key must be renewed in time; ten thousand of them must not be renewed at once.
//! Renewals are spread over the middle of the TTL, new keys go before renewals, and only so many announcements are under way together.
//! Two things bring a renewal forward: nobody was there when the key was announced, or the swarm has doubled since, for then those
//! nearest to the key may be others than those who were told.
//!
//! A plain state machine: `now` is the time since it was made, `jitter` comes from a seed.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use libp2p::core::multihash::Multihash;
use rand::{Rng, SeedableRng, rngs::SmallRng};

pub(crate) type Key = Multihash<64>;

/// The part of the TTL after which a key is renewed: early enough that one lost renewal can be made good, spread so that keys part.
const RENEW_FROM: f64 = 0.4;
const RENEW_TO: f64 = 0.6;

/// How long until an announcement that reached nobody is tried again, unless a peer comes first.
const RETRY: Duration = Duration::from_secs(15);

/// Over how long all keys are announced again when the swarm has doubled.
const GROWTH_SPREAD: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In `fresh`.
    Fresh,
    /// In `renewals`, due then.
    Waiting(Duration),
    UnderWay,
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// Blobs that give this key: a raw block is both a digest and a root.
    users: usize,
    /// Whether the last announcement reached a peer.
    reached: bool,
}

/// Decides what is announced when.
#[derive(Debug)]
pub(crate) struct Announcer {
    ttl: Duration,
    max_under_way: usize,
    keys: HashMap<Key, Entry>,
    fresh: VecDeque<Key>,
    renewals: BTreeSet<(Duration, Key)>,
    under_way: usize,
    peers: usize,
    /// Peers when all keys were last due.
    peers_served: usize,
    jitter: SmallRng,
}

impl Announcer {
    pub(crate) fn new(ttl: Duration, max_under_way: usize, seed: u64) -> Self {
        Self {
            ttl,
            max_under_way,
            keys: HashMap::new(),
            fresh: VecDeque::new(),
            renewals: BTreeSet::new(),
            under_way: 0,
            peers: 0,
            peers_served: 0,
            jitter: SmallRng::seed_from_u64(seed),
        }
    }

    /// Number of keys kept announced.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Number of keys that have never been announced to a peer.
    pub(crate) fn unannounced(&self) -> usize {
        self.keys.values().filter(|entry| !entry.reached).count()
    }

    /// Whether this key is still to be kept announced.
    pub(crate) fn wants(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }

    /// Keeps a key announced from now on.
    pub(crate) fn announce(&mut self, key: Key) {
        let entry = self.keys.entry(key).or_insert_with(|| {
            self.fresh.push_back(key);
            Entry { state: State::Fresh, users: 0, reached: false }
        });
        entry.users += 1;
    }

    /// Undoes one [`Self::announce`]; true when the key is announced no longer.
    pub(crate) fn withdraw(&mut self, key: &Key) -> bool {
        let Some(entry) = self.keys.get_mut(key) else { return false };
        entry.users -= 1;
        if entry.users > 0 {
            return false;
        }
        if let State::Waiting(due) = entry.state {
            self.renewals.remove(&(due, *key));
        }
        if entry.state == State::UnderWay {
            self.under_way -= 1;
        }
        // A fresh key stays in its queue and is passed over there.
        self.keys.remove(key);
        true
    }

    /// The next key to announce now, if one is due and there is room. [`Self::done`] must follow.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Key> {
        if self.under_way >= self.max_under_way {
            return None;
        }
        let key = self.next_fresh().or_else(|| self.next_renewal(now))?;
        self.keys.get_mut(&key)?.state = State::UnderWay;
        self.under_way += 1;
        Some(key)
    }

    /// An announcement has ended and reached that many peers.
    pub(crate) fn done(&mut self, key: &Key, reached: usize, now: Duration) {
        let part = self.jitter.random_range(RENEW_FROM..RENEW_TO);
        let Some(entry) = self.keys.get_mut(key) else { return };
        if entry.state != State::UnderWay {
            return;
        }
        self.under_way -= 1;
        entry.reached = reached > 0;
        let due = now + if reached > 0 { self.ttl.mul_f64(part) } else { RETRY.min(self.ttl.mul_f64(part)) };
        entry.state = State::Waiting(due);
        self.renewals.insert((due, *key));
    }

    /// So many peers are connected now.
    pub(crate) fn peers(&mut self, count: usize, now: Duration) {
        let before = std::mem::replace(&mut self.peers, count);
        if before == 0 && count > 0 {
            self.hasten(|_, entry| !entry.reached, |_| now);
        }
        if count >= 2 * self.peers_served.max(1) {
            let first = self.peers_served == 0;
            self.peers_served = count;
            // Nobody has to hear again of what nobody has heard yet.
            if !first {
                let mut jitter = self.jitter.clone();
                self.hasten(|_, entry| entry.reached, |_| now + GROWTH_SPREAD.mul_f64(jitter.random()));
                self.jitter = jitter;
            }
        } else if count < self.peers_served / 2 {
            self.peers_served = count;
        }
    }

    fn hasten(&mut self, which: impl Fn(&Key, &Entry) -> bool, mut when: impl FnMut(&Key) -> Duration) {
        let mut moved = Vec::new();
        for (key, entry) in &mut self.keys {
            let State::Waiting(due) = entry.state else { continue };
            let sooner = when(key);
            if which(key, entry) && sooner < due {
                entry.state = State::Waiting(sooner);
                moved.push((due, sooner, *key));
            }
        }
        for (due, sooner, key) in moved {
            self.renewals.remove(&(due, key));
            self.renewals.insert((sooner, key));
        }
    }

    fn next_fresh(&mut self) -> Option<Key> {
        while let Some(key) = self.fresh.pop_front() {
            if self.keys.get(&key).is_some_and(|entry| entry.state == State::Fresh) {
                return Some(key);
            }
        }
        None
    }

    fn next_renewal(&mut self, now: Duration) -> Option<Key> {
        let &(due, key) = self.renewals.first()?;
        if due > now {
            return None;
        }
        self.renewals.pop_first();
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(600);

    fn key(number: u32) -> Key {
        Multihash::wrap(0x12, &number.to_be_bytes()).unwrap()
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn drain(announcer: &mut Announcer, now: Duration) -> Vec<Key> {
        let mut announced = Vec::new();
        while let Some(key) = announcer.next(now) {
            announcer.done(&key, 1, now);
            announced.push(key);
        }
        announced
    }

    #[test]
    fn only_so_many_announcements_are_under_way() {
        let mut announcer = Announcer::new(TTL, 3, 0);
        for number in 0..10 {
            announcer.announce(key(number));
        }
        let first: Vec<Key> = std::iter::from_fn(|| announcer.next(at(0))).collect();
        assert_eq!(first, [key(0), key(1), key(2)]);
        announcer.done(&key(1), 1, at(0));
        assert_eq!(announcer.next(at(0)), Some(key(3)));
        assert!(announcer.withdraw(&key(0)));
        assert_eq!(announcer.next(at(0)), Some(key(4)), "a withdrawn key gives its place back");
        announcer.done(&key(0), 1, at(0));
        assert_eq!(announcer.next(at(0)), None);
    }

    #[test]
    fn a_new_key_goes_before_renewals_that_are_due() {
        let mut announcer = Announcer::new(TTL, 1, 0);
        announcer.announce(key(0));
        drain(&mut announcer, at(0));
        announcer.announce(key(1));
        assert_eq!(drain(&mut announcer, at(599)), [key(1), key(0)]);
    }

    #[test]
    fn a_key_that_reached_nobody_is_announced_as_soon_as_a_peer_comes() {
        let mut announcer = Announcer::new(TTL, 1, 0);
        announcer.announce(key(0));
        let first = announcer.next(at(0)).unwrap();
        announcer.done(&first, 0, at(0));
        assert_eq!(announcer.unannounced(), 1);
        assert_eq!(announcer.next(at(1)), None);
        announcer.peers(1, at(2));
        assert_eq!(drain(&mut announcer, at(2)), [key(0)]);
        assert_eq!(announcer.unannounced(), 0);
    }

    #[test]
    fn a_swarm_that_doubles_hears_of_every_key_again_within_seconds() {
        let mut announcer = Announcer::new(TTL, 1, 0);
        announcer.peers(5, at(0));
        for number in 0..100 {
            announcer.announce(key(number));
        }
        drain(&mut announcer, at(0));
        announcer.peers(9, at(1));
        assert!(drain(&mut announcer, at(30)).is_empty());
        announcer.peers(10, at(31));
        assert!(drain(&mut announcer, at(31)).len() < 20, "not all at once");
        assert!(drain(&mut announcer, at(52)).len() > 80);
    }

    #[test]
    fn a_key_of_two_blobs_is_announced_until_both_are_gone() {
        let mut announcer = Announcer::new(TTL, 1, 0);
        announcer.announce(key(0));
        announcer.announce(key(0));
        assert_eq!(drain(&mut announcer, at(0)), [key(0)]);
        assert!(!announcer.withdraw(&key(0)));
        assert!(announcer.withdraw(&key(0)));
        assert!(!announcer.withdraw(&key(0)));
        assert!(drain(&mut announcer, at(10_000)).is_empty());
    }

    #[test]
    fn ten_thousand_keys_are_renewed_evenly() {
        let mut announcer = Announcer::new(TTL, 100, 7);
        for number in 0..10_000 {
            announcer.announce(key(number));
        }
        drain(&mut announcer, at(0));
        let busiest = (1..1200).map(|second| drain(&mut announcer, at(second)).len()).max().unwrap();
        assert!(busiest < 150, "{busiest} in one second");
    }

    proptest! {
        #[test]
        fn no_key_is_forgotten_and_none_outlives_its_withdrawal(
            seed in any::<u64>(),
            steps in proptest::collection::vec((0u8..5, 0u32..8, 1u64..90), 1..300)
        ) {
            let mut announcer = Announcer::new(TTL, 3, seed);
            let mut wanted: HashMap<Key, usize> = HashMap::new();
            let mut last: HashMap<Key, Duration> = HashMap::new();
            let mut under_way: Vec<Key> = Vec::new();
            let mut now = at(0);
            announcer.peers(1, now);
            for (step, number, pause) in steps {
                let key = key(number);
                match step {
                    0 => {
                        announcer.announce(key);
                        *wanted.entry(key).or_default() += 1;
                    }
                    1 => {
                        let left = wanted.get(&key).copied().unwrap_or(0);
                        prop_assert_eq!(announcer.withdraw(&key), left == 1);
                        if left <= 1 {
                            wanted.remove(&key);
                            last.remove(&key);
                            under_way.retain(|other| *other != key);
                        } else {
                            wanted.insert(key, left - 1);
                        }
                    }
                    2 => announcer.peers(number as usize + 1, now),
                    _ => now += at(pause),
                }
                for key in under_way.drain(..) {
                    announcer.done(&key, 1, now);
                }
                loop {
                    while let Some(key) = announcer.next(now) {
                        prop_assert!(wanted.contains_key(&key));
                        under_way.push(key);
                    }
                    prop_assert!(under_way.len() <= 3);
                    if under_way.is_empty() {
                        break;
                    }
                    for key in under_way.drain(..) {
                        last.insert(key, now);
                        announcer.done(&key, 1, now);
                    }
                }
                prop_assert_eq!(announcer.len(), wanted.len());
                for key in wanted.keys() {
                    prop_assert!(last.get(key).is_some_and(|last| now < *last + TTL));
                }
            }
        }
    }
}
