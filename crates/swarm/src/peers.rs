//! The peers that this node is connected to.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, kad::KBucketKey};
use shoal_bitswap::Ledger;

/// Addresses kept of a peer.
const MAX_ADDRESSES: usize = 8;

/// Longest agent name kept, in characters; peers choose them freely.
const MAX_AGENT: usize = 64;

/// A connected peer.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its name.
    pub id: PeerId,
    /// Where it says that it listens, and where it was reached.
    pub addresses: Vec<Multiaddr>,
    /// Its program and version, once it has said so.
    pub agent: Option<String>,
    /// The last measured round trip.
    pub rtt: Option<Duration>,
    /// Since when it has been connected.
    pub connected_since: Instant,
    /// Blocks exchanged with it.
    pub ledger: Ledger,
}

/// A connected peer, as the event loop knows it.
#[derive(Debug)]
pub(crate) struct Peer {
    key: KBucketKey<PeerId>,
    pub(crate) addresses: Vec<Multiaddr>,
    pub(crate) agent: Option<String>,
    pub(crate) rtt: Option<Duration>,
    pub(crate) since: Instant,
    /// When it last showed any sign of life.
    pub(crate) heard: Instant,
    /// When it was last of use.
    pub(crate) used: Instant,
    /// Bytes of blocks exchanged when that was last looked at.
    moved: u64,
    /// Whether it takes part in Kademlia.
    pub(crate) serves_records: bool,
    /// Whether it coordinates: it is Shoal.
    coordinates: bool,
    /// Whether it can be connected to from here at a loopback address.
    pub(crate) is_local: bool,
}

/// All connected peers.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: HashMap<PeerId, Peer>,
}

impl Peers {
    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    /// Number of peers that take part in Kademlia.
    pub(crate) fn serving(&self) -> usize {
        self.peers.values().filter(|peer| peer.serves_records).count()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.peers.iter()
    }

    /// A connection was made; true when it is the peer's first.
    pub(crate) fn connected(&mut self, id: PeerId, remote: Option<SocketAddr>, now: Instant) -> bool {
        let is_local = remote.is_some_and(|address| address.ip().is_loopback());
        let is_new = !self.peers.contains_key(&id);
        let peer = self.peers.entry(id).or_insert_with(|| Peer {
            key: id.into(),
            addresses: Vec::new(),
            agent: None,
            rtt: None,
            since: now,
            heard: now,
            used: now,
            moved: 0,
            serves_records: false,
            coordinates: false,
            is_local,
        });
        peer.heard = now;
        peer.is_local |= is_local;
        is_new
    }

    /// The peer was reached at this address.
    pub(crate) fn reached_at(&mut self, id: &PeerId, address: &Multiaddr) {
        if let Some(peer) = self.peers.get_mut(id)
            && peer.addresses.len() < MAX_ADDRESSES
            && !peer.addresses.contains(address)
        {
            peer.addresses.push(address.clone());
        }
    }

    /// The peer has told of itself. Returns the addresses among those that may be dialled from here.
    pub(crate) fn identified(
        &mut self,
        id: &PeerId,
        agent: &str,
        listens: &[Multiaddr],
        serves_records: bool,
    ) -> Vec<Multiaddr> {
        let Some(peer) = self.peers.get_mut(id) else { return Vec::new() };
        peer.agent = Some(agent.chars().filter(|letter| !letter.is_control()).take(MAX_AGENT).collect());
        peer.serves_records = serves_records;
        for address in listens {
            let Some(socket) = crate::seed::socket_address(address) else { continue };
            // Another host's loopback is not ours.
            let usable = !socket.ip().is_unspecified() && (!socket.ip().is_loopback() || peer.is_local);
            let plain = crate::seed::multiaddress(socket);
            if usable && peer.addresses.len() < MAX_ADDRESSES && !peer.addresses.contains(&plain) {
                peer.addresses.push(plain);
            }
        }
        peer.addresses.clone()
    }

    /// The peer has told whether it coordinates.
    pub(crate) fn coordinates(&mut self, id: &PeerId, coordinates: bool) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.coordinates = coordinates;
        }
    }

    /// The `count` nearest to a key of those that coordinate, nearest first; `local`, which is one of them, as `None`.
    pub(crate) fn coordinators(&self, key: &[u8], local: PeerId, count: usize) -> Vec<Option<PeerId>> {
        let target = KBucketKey::new(key.to_vec());
        let others = self.peers.iter().filter(|(_, peer)| peer.coordinates);
        let mut near: Vec<_> = others.map(|(id, peer)| (peer.key.distance(&target), Some(*id))).collect();
        near.push((KBucketKey::from(local).distance(&target), None));
        near.sort();
        near.into_iter().take(count).map(|(_, id)| id).collect()
    }

    pub(crate) fn heard(&mut self, id: &PeerId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.heard = now;
        }
    }

    pub(crate) fn used(&mut self, id: &PeerId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.heard = now;
            peer.used = now;
        }
    }

    pub(crate) fn measured(&mut self, id: &PeerId, rtt: Duration, now: Instant) {
        if let Some(peer) = self.peers.get_mut(id) {
            peer.heard = now;
            peer.rtt = Some(rtt);
        }
    }

    pub(crate) fn gone(&mut self, id: &PeerId) {
        self.peers.remove(id);
    }

    /// Peers that have been silent for longer than `limit`.
    pub(crate) fn silent(&self, limit: Duration, now: Instant) -> Vec<PeerId> {
        let is_silent = |peer: &Peer| now.saturating_duration_since(peer.heard) > limit;
        self.peers.iter().filter(|(_, peer)| is_silent(peer)).map(|(id, _)| *id).collect()
    }

    /// So many bytes of blocks have been exchanged with the peer; more than before is a sign of life.
    pub(crate) fn moved(&mut self, id: &PeerId, bytes: u64, now: Instant) {
        if let Some(peer) = self.peers.get_mut(id)
            && peer.moved != bytes
        {
            peer.moved = bytes;
            peer.heard = now;
            peer.used = now;
        }
    }

    /// The peer to let go for `newcomer`: who has been of use least lately, of those with whom nothing is under way.
    pub(crate) fn least_used(&self, newcomer: &PeerId, is_busy: impl Fn(&PeerId) -> bool) -> Option<PeerId> {
        let others = self.peers.iter().filter(|(id, _)| *id != newcomer);
        others.min_by_key(|(id, peer)| (is_busy(id), peer.used)).map(|(id, _)| *id)
    }

    /// The `count` peers nearest to a key, of those that keep records.
    pub(crate) fn nearest(&self, key: &[u8], count: usize) -> Vec<PeerId> {
        let target = KBucketKey::new(key.to_vec());
        let mut near: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.serves_records)
            .map(|(id, peer)| (peer.key.distance(&target), *id))
            .collect();
        if near.len() > count {
            near.select_nth_unstable(count);
            near.truncate(count);
        }
        near.into_iter().map(|(_, id)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_peers_are_those_of_the_least_distance() {
        let mut peers = Peers::default();
        let ids: Vec<PeerId> = (0..50).map(|_| PeerId::random()).collect();
        for id in &ids {
            peers.connected(*id, None, Instant::now());
            peers.identified(id, "", &[], true);
        }
        let target = KBucketKey::new(b"key".to_vec());
        let mut by_distance = ids.clone();
        by_distance.sort_by_key(|id| KBucketKey::from(*id).distance(&target));
        let mut nearest = peers.nearest(b"key", 20);
        nearest.sort_by_key(|id| KBucketKey::from(*id).distance(&target));
        assert_eq!(nearest, by_distance[..20]);
    }

    #[test]
    fn addresses_of_a_peer_are_bounded_and_its_loopback_is_not_ours() {
        let mut peers = Peers::default();
        let id = PeerId::random();
        peers.connected(id, Some(([10, 0, 0, 1], 9).into()), Instant::now());
        let mut listens: Vec<Multiaddr> = vec!["/ip4/127.0.0.1/tcp/1".parse().unwrap()];
        listens.extend((1..100).map(|port| format!("/ip4/10.0.0.1/tcp/{port}").parse().unwrap()));
        let usable = peers.identified(&id, &"x\n".repeat(1000), &listens, true);
        assert_eq!(usable.len(), MAX_ADDRESSES);
        assert!(!usable.contains(&listens[0]));
        assert_eq!(peers.peers[&id].agent.as_deref(), Some("x".repeat(MAX_AGENT).as_str()));
    }

    #[test]
    fn the_least_used_peer_makes_room_and_the_silent_are_named() {
        let mut peers = Peers::default();
        let (old, new) = (PeerId::random(), PeerId::random());
        let start = Instant::now();
        peers.connected(old, None, start);
        peers.connected(new, None, start + Duration::from_secs(1));
        assert_eq!(peers.least_used(&new, |_| false), Some(old));
        assert_eq!(peers.least_used(&PeerId::random(), |id| *id == old), Some(new));
        peers.used(&old, start + Duration::from_secs(5));
        assert_eq!(peers.least_used(&PeerId::random(), |_| false), Some(new));
        assert_eq!(peers.silent(Duration::from_secs(6), start + Duration::from_secs(8)), [new]);
        peers.moved(&new, 1, start + Duration::from_secs(8));
        peers.moved(&old, 0, start + Duration::from_secs(20));
        assert_eq!(peers.silent(Duration::from_secs(6), start + Duration::from_secs(13)), [old]);
    }
}
