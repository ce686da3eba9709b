//! Who provides what: the provider records that peers have entrusted to this node.
//!
//! A plain table without clock; [`crate::record_store`] puts it under Kademlia. Every record costs eight bytes: peers are kept once, by number,
//! with their addresses, and moments are seconds since the table began, so that a wall clock that jumps expires nothing.
//!
//! All is bounded: keys in all, keys of one peer, providers of a key (the freshest stay: who announced last is likeliest to live),
//! peers, and addresses of a peer. Records of a peer that is known to be down are hidden until it is back or they expire.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};

/// Addresses kept of one peer. A node has one or two; a host with many bridges has more, and the rest help nobody.
const MAX_ADDRESSES: usize = 8;

/// Bounds of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Keys in all.
    pub keys: usize,
    /// Providers of one key.
    pub providers_per_key: usize,
    /// Peers whose records are kept.
    pub peers: usize,
    /// Life of a record since it was last announced.
    pub ttl: Duration,
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The table has all the keys that it may.
    Full,
    /// This peer has announced more than its share.
    Share,
}

/// A provider of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provider {
    pub peer: PeerId,
    pub addresses: Vec<Multiaddr>,
    /// How much longer the record lives.
    pub remaining: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    peer: u32,
    /// Seconds since the table began.
    announced: u32,
}

#[derive(Debug)]
struct Peer {
    id: PeerId,
    addresses: Vec<Multiaddr>,
    records: usize,
}

/// The table. `now` is always the time since it was made.
#[derive(Debug)]
pub(crate) struct Records {
    limits: Limits,
    keys: HashMap<Box<[u8]>, Vec<Record>>,
    peers: Vec<Option<Peer>>,
    numbers: HashMap<PeerId, u32>,
    free: Vec<u32>,
    down: HashSet<PeerId>,
}

impl Records {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            keys: HashMap::new(),
            peers: Vec::new(),
            numbers: HashMap::new(),
            free: Vec::new(),
            down: HashSet::new(),
        }
    }

    /// Number of keys that have a record.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Enters or refreshes a record. The provider that announced longest ago makes room when the key has as many as it may.
    pub(crate) fn add(
        &mut self,
        key: &[u8],
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        now: Duration,
    ) -> Result<(), Refused> {
        if !self.keys.contains_key(key) && self.keys.len() >= self.limits.keys {
            self.sweep(now);
            if self.keys.len() >= self.limits.keys {
                return Err(Refused::Full);
            }
        }
        let number = self.number(peer).ok_or(Refused::Full)?;
        let announced = seconds(now);
        let share = self.share();
        let entry = self.peers[number as usize].as_mut().expect("numbers in use have a peer");
        if !addresses.is_empty() {
            entry.addresses = addresses;
            entry.addresses.truncate(MAX_ADDRESSES);
        }

        let records = self.keys.entry(key.into()).or_default();
        if let Some(record) = records.iter_mut().find(|record| record.peer == number) {
            record.announced = announced;
            return Ok(());
        }
        if entry.records >= share {
            if records.is_empty() {
                self.keys.remove(key);
            }
            self.release(number);
            return Err(Refused::Share);
        }
        entry.records += 1;
        let mut replaced = None;
        if records.len() >= self.limits.providers_per_key {
            let stalest = (0..records.len()).min_by_key(|&at| records[at].announced).expect("a full list has a record");
            replaced = Some(records.swap_remove(stalest).peer);
        }
        records.push(Record { peer: number, announced });
        if let Some(number) = replaced {
            self.forget_record(number);
        }
        Ok(())
    }

    /// The live providers of a key, freshest first.
    pub(crate) fn providers(&self, key: &[u8], now: Duration) -> Vec<Provider> {
        let Some(records) = self.keys.get(key) else { return Vec::new() };
        let mut live: Vec<&Record> = records.iter().filter(|record| !self.is_expired(record, now)).collect();
        live.sort_by_key(|record| std::cmp::Reverse(record.announced));
        live.into_iter()
            .filter_map(|record| {
                let peer = self.peers[record.peer as usize].as_ref()?;
                (!self.down.contains(&peer.id)).then(|| Provider {
                    peer: peer.id,
                    addresses: peer.addresses.clone(),
                    remaining: (Duration::from_secs(record.announced.into()) + self.limits.ttl).saturating_sub(now),
                })
            })
            .collect()
    }

    /// Where a peer that has a record was last said to be.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let number = self.numbers.get(peer);
        let peer = number.and_then(|&number| self.peers[number as usize].as_ref());
        peer.map(|peer| peer.addresses.clone()).unwrap_or_default()
    }

    /// Takes a record out.
    pub(crate) fn remove(&mut self, key: &[u8], peer: &PeerId) {
        let Some(&number) = self.numbers.get(peer) else { return };
        let Some(records) = self.keys.get_mut(key) else { return };
        let Some(at) = records.iter().position(|record| record.peer == number) else { return };
        records.swap_remove(at);
        if records.is_empty() {
            self.keys.remove(key);
        }
        self.forget_record(number);
    }

    /// Hides the records of a peer that cannot be reached. A peer without records is not remembered.
    pub(crate) fn peer_down(&mut self, peer: PeerId) {
        if self.numbers.contains_key(&peer) {
            self.down.insert(peer);
        }
    }

    /// Shows the records of a peer again.
    pub(crate) fn peer_up(&mut self, peer: &PeerId) {
        self.down.remove(peer);
    }

    /// Drops what has expired, in one pass over the table.
    pub(crate) fn sweep(&mut self, now: Duration) {
        let (ttl, now) = (self.limits.ttl, now);
        let mut dropped = Vec::new();
        self.keys.retain(|_, records| {
            records.retain(|record| {
                let live = !expired(record, ttl, now);
                if !live {
                    dropped.push(record.peer);
                }
                live
            });
            !records.is_empty()
        });
        for number in dropped {
            self.forget_record(number);
        }
    }

    fn share(&self) -> usize {
        // A quarter leaves room for others beside a peer that announces without end, and is more than an honest node holds.
        self.limits.keys / 4
    }

    fn is_expired(&self, record: &Record, now: Duration) -> bool {
        expired(record, self.limits.ttl, now)
    }

    fn number(&mut self, peer: PeerId) -> Option<u32> {
        if let Some(&number) = self.numbers.get(&peer) {
            return Some(number);
        }
        if self.numbers.len() >= self.limits.peers {
            return None;
        }
        let entry = Some(Peer { id: peer, addresses: Vec::new(), records: 0 });
        let number = match self.free.pop() {
            Some(number) => {
                self.peers[number as usize] = entry;
                number
            }
            None => {
                self.peers.push(entry);
                u32::try_from(self.peers.len() - 1).ok()?
            }
        };
        self.numbers.insert(peer, number);
        Some(number)
    }

    fn forget_record(&mut self, number: u32) {
        if let Some(peer) = self.peers[number as usize].as_mut() {
            peer.records = peer.records.saturating_sub(1);
        }
        self.release(number);
    }

    /// Forgets a peer that has no record left.
    fn release(&mut self, number: u32) {
        let slot = &mut self.peers[number as usize];
        if let Some(peer) = slot.take_if(|peer| peer.records == 0) {
            self.numbers.remove(&peer.id);
            self.down.remove(&peer.id);
            self.free.push(number);
        }
    }
}

fn seconds(now: Duration) -> u32 {
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

fn expired(record: &Record, ttl: Duration, now: Duration) -> bool {
    now >= Duration::from_secs(record.announced.into()) + ttl
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { keys: 100, providers_per_key: 20, peers: 64, ttl: Duration::from_secs(600) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn peers(count: usize) -> Vec<PeerId> {
        (0..count).map(|_| PeerId::random()).collect()
    }

    fn ids(records: &Records, key: &[u8], now: Duration) -> Vec<PeerId> {
        records.providers(key, now).into_iter().map(|provider| provider.peer).collect()
    }

    #[test]
    fn the_twenty_first_provider_replaces_the_stalest() {
        let mut records = Records::new(LIMITS);
        let peers = peers(21);
        for (peer, second) in peers[..20].iter().zip(0..) {
            records.add(b"key", *peer, vec![], at(second)).unwrap();
        }
        records.add(b"key", peers[0], vec![], at(50)).unwrap();
        records.add(b"key", peers[20], vec![], at(60)).unwrap();

        let found = ids(&records, b"key", at(60));
        assert_eq!(found.len(), 20);
        assert_eq!(found[..2], [peers[20], peers[0]]);
        assert!(!found.contains(&peers[1]));
    }

    #[test]
    fn a_record_lives_for_its_ttl_after_the_last_announcement() {
        let mut records = Records::new(LIMITS);
        let peer = PeerId::random();
        records.add(b"key", peer, vec!["/ip4/10.0.0.1/tcp/1".parse().unwrap()], at(0)).unwrap();
        records.add(b"key", peer, vec![], at(300)).unwrap();
        let found = records.providers(b"key", at(899));
        assert_eq!(found[0].remaining, at(1));
        assert_eq!(found[0].addresses.len(), 1);
        assert!(records.providers(b"key", at(900)).is_empty());
        records.sweep(at(900));
        assert_eq!((records.len(), records.numbers.len()), (0, 0));
    }

    #[test]
    fn one_peer_cannot_fill_the_table_and_a_full_table_takes_no_new_key() {
        let mut records = Records::new(LIMITS);
        let peers = peers(5);
        let key = |peer: usize, key: u8| [peer as u8, key];
        for (at_peer, peer) in peers[..4].iter().enumerate() {
            for number in 0..25 {
                records.add(&key(at_peer, number), *peer, vec![], at(0)).unwrap();
            }
        }
        assert_eq!(records.add(b"one more", peers[0], vec![], at(1)), Err(Refused::Full));
        assert_eq!(records.add(&key(0, 0), peers[1], vec![], at(1)), Err(Refused::Share));
        assert_eq!(records.add(&key(0, 0), peers[4], vec![], at(1)), Ok(()));
        assert_eq!(records.add(b"one more", peers[4], vec![], at(600)), Ok(()), "the expired make room");
        assert_eq!(records.len(), 2);
    }

    #[test]
    fn a_peer_that_is_down_is_hidden_until_it_is_back() {
        let mut records = Records::new(LIMITS);
        let peers = peers(2);
        records.add(b"key", peers[0], vec![], at(0)).unwrap();
        records.add(b"key", peers[1], vec![], at(1)).unwrap();
        records.peer_down(peers[1]);
        assert_eq!(ids(&records, b"key", at(2)), [peers[0]]);
        records.peer_up(&peers[1]);
        assert_eq!(ids(&records, b"key", at(2)), [peers[1], peers[0]]);
        records.peer_down(PeerId::random());
        assert!(records.down.is_empty());
    }

    #[test]
    fn peers_are_bounded_and_their_places_used_again() {
        let mut records = Records::new(LIMITS);
        let peers = peers(65);
        for peer in &peers[..64] {
            records.add(peer.as_ref().digest(), *peer, vec![], at(0)).unwrap();
        }
        assert_eq!(records.add(b"key", peers[64], vec![], at(0)), Err(Refused::Full));
        records.remove(peers[3].as_ref().digest(), &peers[3]);
        records.add(b"key", peers[64], vec![], at(0)).unwrap();
        assert_eq!(records.peers.len(), 64);
    }

    proptest! {
        #[test]
        fn the_bounds_hold_and_the_counts_are_right_whatever_peers_do(
            steps in proptest::collection::vec((0u8..6, 0u8..12, 0usize..8, 0u64..90), 1..400)
        ) {
            let limits = Limits { keys: 8, providers_per_key: 3, peers: 5, ttl: at(100) };
            let mut records = Records::new(limits);
            let peers = peers(8);
            let mut now = 0;
            for (step, key, peer, pause) in steps {
                match step {
                    0..=2 => drop(records.add(&[key], peers[peer], vec![], at(now))),
                    3 => records.remove(&[key], &peers[peer]),
                    4 => records.peer_down(peers[peer]),
                    _ => {
                        now += pause;
                        records.sweep(at(now));
                    }
                }
                prop_assert!(records.len() <= limits.keys);
                prop_assert!(records.numbers.len() <= limits.peers);
                prop_assert!(records.down.len() <= limits.peers);
                let mut counted = HashMap::new();
                for list in records.keys.values() {
                    prop_assert!(!list.is_empty() && list.len() <= limits.providers_per_key);
                    for record in list {
                        *counted.entry(record.peer).or_insert(0) += 1;
                    }
                }
                for (number, peer) in records.peers.iter().enumerate() {
                    let count = counted.get(&(number as u32)).copied().unwrap_or(0);
                    prop_assert_eq!(peer.as_ref().map_or(0, |peer| peer.records), count);
                    prop_assert!(peer.is_none() || count > 0);
                }
            }
        }
    }
}
