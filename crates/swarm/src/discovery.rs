//! Which addresses are dialled, and when.
//!
//! Addresses come from the configuration, from names (each answer replaces the one before), from mDNS, and from peers that were connected and
//! are no longer. Who is behind an address is mostly not known: an address is done with when a connected peer says that it listens there.
//! Refused dials come again after a pause that doubles up to seconds, never minutes: a node that restarts is found again at once.
//!
//! A plain state machine: `now` is the time since it was made, `jitter` comes from a seed.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use libp2p::PeerId;
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Pause after the first dial that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause between two dials of an address.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long an address is tried that nothing but memory vouches for.
const MEMORY: Duration = Duration::from_secs(120);

/// Addresses remembered beyond those that are configured.
const MAX_REMEMBERED: usize = 1024;

/// Addresses taken from one name. A headless Service of the largest cluster that one swarm is meant for.
const MAX_PER_NAME: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting(Duration),
    Dialling,
    /// Our own, or a connected peer's.
    Settled,
}

#[derive(Debug)]
struct Candidate {
    /// Seeds that name this address.
    seeds: Vec<usize>,
    /// Until when it is tried although no seed names it.
    until: Duration,
    /// Who must be there, where that is known.
    expected: Option<PeerId>,
    state: State,
    failures: u32,
}

/// An address to dial now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dial {
    pub address: SocketAddr,
    pub expected: Option<PeerId>,
}

/// Decides what is dialled when.
#[derive(Debug)]
pub(crate) struct Discovery {
    candidates: HashMap<SocketAddr, Candidate>,
    own: HashSet<SocketAddr>,
    /// Where connected peers say that they listen.
    peers: HashMap<SocketAddr, PeerId>,
    jitter: SmallRng,
}

impl Discovery {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            candidates: HashMap::new(),
            own: HashSet::new(),
            peers: HashMap::new(),
            jitter: SmallRng::seed_from_u64(seed),
        }
    }

    /// All addresses that a seed stands for now. Those that it no longer names are let go.
    pub(crate) fn listed(&mut self, seed: usize, addresses: &[SocketAddr], expected: Option<PeerId>, now: Duration) {
        let addresses = &addresses[..addresses.len().min(MAX_PER_NAME)];
        let listed: HashSet<&SocketAddr> = addresses.iter().collect();
        for (address, candidate) in &mut self.candidates {
            if !listed.contains(address) {
                candidate.seeds.retain(|&other| other != seed);
            }
        }
        self.candidates.retain(|_, candidate| !candidate.seeds.is_empty() || candidate.until > now);
        for &address in addresses {
            let candidate = self.candidate(address, now);
            candidate.expected = expected.or(candidate.expected);
            if !candidate.seeds.contains(&seed) {
                candidate.seeds.push(seed);
            }
        }
    }

    /// An address where a peer was seen, or is said to be.
    pub(crate) fn remember(&mut self, address: SocketAddr, now: Duration) {
        let remembered = self.candidates.values().filter(|candidate| candidate.seeds.is_empty()).count();
        if self.candidates.contains_key(&address) || remembered < MAX_REMEMBERED {
            self.candidate(address, now).until = now + MEMORY;
        }
    }

    /// An address turned out to be this node's.
    pub(crate) fn is_own(&mut self, address: SocketAddr) {
        self.own.insert(address);
        if let Some(candidate) = self.candidates.get_mut(&address) {
            candidate.state = State::Settled;
        }
    }

    /// This node no longer listens there.
    pub(crate) fn is_not_own(&mut self, address: SocketAddr, now: Duration) {
        if self.own.remove(&address)
            && let Some(candidate) = self.candidates.get_mut(&address)
        {
            candidate.state = State::Waiting(now);
        }
    }

    /// A connected peer is behind this address.
    pub(crate) fn is_peer(&mut self, address: SocketAddr, peer: PeerId) {
        self.peers.insert(address, peer);
        if let Some(candidate) = self.candidates.get_mut(&address) {
            candidate.state = State::Settled;
            candidate.failures = 0;
        }
    }

    /// The last connection to a peer is gone. Where it was is dialled again soon, and for a while even if no seed names it.
    pub(crate) fn peer_gone(&mut self, peer: PeerId, now: Duration) {
        let addresses: Vec<SocketAddr> =
            self.peers.iter().filter(|(_, other)| **other == peer).map(|(address, _)| *address).collect();
        for address in addresses {
            self.peers.remove(&address);
            self.remember(address, now);
            let pause = FIRST_PAUSE.mul_f64(self.jitter.random());
            if let Some(candidate) = self.candidates.get_mut(&address) {
                candidate.state = State::Waiting(now + pause);
                candidate.failures = 0;
            }
        }
    }

    /// A dial has ended without a connection.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Duration) {
        let part = self.jitter.random_range(0.5..1.0);
        let Some(candidate) = self.candidates.get_mut(&address) else { return };
        if candidate.state != State::Dialling {
            return;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << candidate.failures.min(10)).min(LONGEST_PAUSE);
        candidate.failures += 1;
        candidate.state = State::Waiting(now + pause.mul_f64(part));
    }

    /// Up to `room` addresses to dial now. Each is then under way until [`Self::is_peer`], [`Self::is_own`] or [`Self::failed`].
    pub(crate) fn due(&mut self, now: Duration, room: usize) -> Vec<Dial> {
        self.candidates.retain(|_, candidate| {
            !candidate.seeds.is_empty() || candidate.until > now || candidate.state == State::Dialling
        });
        let mut due: Vec<(Duration, SocketAddr)> = self
            .candidates
            .iter()
            .filter_map(|(address, candidate)| match candidate.state {
                State::Waiting(due) if due <= now => Some((due, *address)),
                _ => None,
            })
            .collect();
        due.sort_unstable();
        due.truncate(room);
        due.into_iter()
            .filter_map(|(_, address)| {
                let candidate = self.candidates.get_mut(&address)?;
                candidate.state = State::Dialling;
                Some(Dial { address, expected: candidate.expected })
            })
            .collect()
    }

    fn candidate(&mut self, address: SocketAddr, now: Duration) -> &mut Candidate {
        let is_settled = self.own.contains(&address) || self.peers.contains_key(&address);
        let state = if is_settled { State::Settled } else { State::Waiting(now) };
        self.candidates.entry(address).or_insert_with(|| Candidate {
            seeds: Vec::new(),
            until: now,
            expected: None,
            state,
            failures: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn dialled(discovery: &mut Discovery, now: Duration) -> Vec<u16> {
        let mut ports: Vec<u16> = discovery.due(now, 100).iter().map(|dial| dial.address.port()).collect();
        ports.sort_unstable();
        ports
    }

    #[test]
    fn every_address_of_a_name_is_dialled_but_our_own_and_those_of_connected_peers() {
        let mut discovery = Discovery::new(0);
        discovery.is_own(address(1));
        discovery.is_peer(address(2), PeerId::random());
        discovery.listed(0, &[address(1), address(2), address(3), address(4)], None, at(0));
        assert_eq!(dialled(&mut discovery, at(0)), [3, 4]);
        assert!(dialled(&mut discovery, at(60_000)).is_empty(), "one dial at a time for each address");
    }

    #[test]
    fn a_refused_address_is_dialled_again_within_seconds_for_ever() {
        let mut discovery = Discovery::new(0);
        discovery.listed(0, &[address(1)], None, at(0));
        let mut now = at(0);
        for _ in 0..50 {
            let before = now;
            while dialled(&mut discovery, now).is_empty() {
                now += at(10);
            }
            assert!(now - before <= LONGEST_PAUSE);
            discovery.failed(address(1), now);
        }
        assert!(now > 40 * LONGEST_PAUSE / 2, "pauses grow");
    }

    #[test]
    fn a_peer_that_is_gone_is_dialled_again_at_once_and_forgotten_if_no_seed_names_it() {
        let mut discovery = Discovery::new(0);
        let (seeded, met) = (PeerId::random(), PeerId::random());
        discovery.listed(0, &[address(1)], None, at(0));
        discovery.is_peer(address(1), seeded);
        discovery.is_peer(address(2), met);
        discovery.peer_gone(seeded, at(0));
        discovery.peer_gone(met, at(0));
        assert_eq!(dialled(&mut discovery, at(250)), [1, 2]);
        discovery.failed(address(1), at(250));
        discovery.failed(address(2), at(250));
        assert_eq!(dialled(&mut discovery, at(0) + MEMORY), [1]);
        assert_eq!(discovery.candidates.len(), 1);
    }

    #[test]
    fn a_restarted_peer_with_a_new_name_takes_the_place_of_the_old_one() {
        let mut discovery = Discovery::new(0);
        let (old, new) = (PeerId::random(), PeerId::random());
        discovery.listed(0, &[address(1)], None, at(0));
        discovery.is_peer(address(1), old);
        discovery.is_peer(address(1), new);
        discovery.peer_gone(old, at(5));
        assert!(dialled(&mut discovery, at(10_000)).is_empty());
    }

    #[test]
    fn an_address_that_a_name_no_longer_has_is_let_go() {
        let mut discovery = Discovery::new(0);
        discovery.listed(0, &[address(1), address(2)], None, at(0));
        discovery.listed(1, &[address(2)], None, at(0));
        discovery.listed(0, &[address(3)], None, at(0));
        assert_eq!(dialled(&mut discovery, at(0)), [2, 3]);
    }

    proptest! {
        #[test]
        fn what_a_seed_names_is_settled_under_way_or_due_within_seconds(
            seed in any::<u64>(),
            steps in proptest::collection::vec((0u8..7, 0u16..6, 0u64..4000), 1..200)
        ) {
            let mut discovery = Discovery::new(seed);
            let peers: Vec<PeerId> = (0..6).map(|_| PeerId::random()).collect();
            let mut now = at(0);
            for (step, number, pause) in steps {
                match step {
                    0 => discovery.listed(0, &[address(number), address(number / 2)], None, now),
                    1 => discovery.remember(address(number), now),
                    2 => discovery.is_peer(address(number), peers[usize::from(number)]),
                    3 => discovery.peer_gone(peers[usize::from(number)], now),
                    4 => discovery.failed(address(number), now),
                    5 => drop(discovery.due(now, 2)),
                    _ => now += at(pause),
                }
                for (address, candidate) in &discovery.candidates {
                    match candidate.state {
                        State::Waiting(due) => prop_assert!(due <= now + LONGEST_PAUSE),
                        State::Settled => prop_assert!(discovery.peers.contains_key(address)),
                        State::Dialling => {}
                    }
                }
            }
        }
    }
}
