//! Telling peers of our keys.
//!
//! While this node is connected to all peers that it may know, it tells the nearest itself ([`crate::tell`]). In a swarm with more
//! peers than connections the nearest may be others: there Kademlia walks for each key.

use std::collections::HashMap;

use libp2p::{
    PeerId,
    kad::{QueryId, RecordKey},
    request_response::{Event, Message, OutboundRequestId},
};

use super::EventLoop;
use crate::{
    announce::Key,
    behaviour::REPLICATION,
    tell::{self, Told},
};

/// Announcements under way.
#[derive(Debug, Default)]
pub(super) struct Announcing {
    /// Batches on their way to a peer.
    batches: HashMap<OutboundRequestId, Vec<Key>>,
    /// Keys told directly: to how many peers they are on their way, and how many have taken them.
    direct: HashMap<Key, Direct>,
    /// Keys that Kademlia walks for.
    walks: HashMap<QueryId, Key>,
}

#[derive(Debug, Default)]
struct Direct {
    under_way: usize,
    reached: usize,
}

fn record_key(key: &Key) -> RecordKey {
    RecordKey::from(*key)
}

impl EventLoop {
    /// Announces what is due, and stops answering for what was withdrawn.
    pub(super) fn announce_due(&mut self) {
        let now = self.now();
        let knows_all = self.peers.len() < self.max_peers - self.max_peers / 4;
        let mut batches: HashMap<PeerId, Vec<Key>> = HashMap::new();
        let provided = std::sync::Arc::clone(&self.provided);
        let mut inner = provided.lock();
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        for key in inner.take_withdrawn() {
            kademlia.store_mut().withdraw(&record_key(&key));
        }
        while let Some(key) = inner.announcer.next(now) {
            let record = record_key(&key);
            kademlia.store_mut().provide(record.clone());
            if self.announcing.direct.contains_key(&key) {
                // Withdrawn and announced again while it was on its way.
                inner.announcer.done(&key, 1, now);
                continue;
            }
            if knows_all {
                let nearest = self.peers.nearest(record.as_ref(), REPLICATION.get());
                if nearest.is_empty() {
                    inner.announcer.done(&key, 0, now);
                    continue;
                }
                self.announcing.direct.insert(key, Direct { under_way: nearest.len(), reached: 0 });
                for peer in nearest {
                    batches.entry(peer).or_default().push(key);
                }
            } else if let Ok(walk) = kademlia.start_providing(record) {
                self.announcing.walks.insert(walk, key);
            } else {
                inner.announcer.done(&key, 0, now);
            }
        }
        drop(inner);
        for (peer, keys) in batches {
            self.tell(peer, &keys);
        }
    }

    fn tell(&mut self, peer: PeerId, keys: &[Key]) {
        let local = *self.swarm.local_peer_id();
        let addresses = self.addresses.borrow().clone();
        for keys in keys.chunks(tell::MAX_KEYS) {
            let mut told = Told::default();
            for key in keys {
                told.add(record_key(key).as_ref(), &local, &addresses);
            }
            let batch = self.swarm.behaviour_mut().tell.send_request(&peer, told);
            self.announcing.batches.insert(batch, keys.to_vec());
        }
    }

    pub(super) fn on_told(&mut self, event: Event<Told, ()>) {
        match event {
            Event::Message { message: Message::Response { request_id, .. }, .. } => self.batch_done(request_id, 1),
            Event::OutboundFailure { request_id, peer, error, .. } => {
                tracing::debug!(%peer, %error, "peer was not told what this node provides");
                self.batch_done(request_id, 0);
            }
            // The protocol is spoken in one direction only.
            _ => {}
        }
    }

    fn batch_done(&mut self, batch: OutboundRequestId, reached: usize) {
        let now = self.now();
        let provided = std::sync::Arc::clone(&self.provided);
        let mut inner = provided.lock();
        for key in self.announcing.batches.remove(&batch).unwrap_or_default() {
            let Some(direct) = self.announcing.direct.get_mut(&key) else { continue };
            direct.under_way -= 1;
            direct.reached += reached;
            if direct.under_way == 0 {
                let reached = direct.reached;
                self.announcing.direct.remove(&key);
                self.counts.announcements.inc();
                inner.announcer.done(&key, reached, now);
            }
        }
        drop(inner);
        self.announce_due();
    }

    /// A walk of Kademlia's has ended.
    pub(super) fn on_announced(&mut self, walk: QueryId, reached: usize) {
        let Some(key) = self.announcing.walks.remove(&walk) else { return };
        let now = self.now();
        self.counts.announcements.inc();
        self.provided.lock().announcer.done(&key, reached, now);
        self.announce_due();
    }
}
