//! Members that lie.

use std::time::Duration;

use shoal_content::{LeafHash, LeafSet};

use super::{
    Habit, Peer,
    events::Event,
    swarm::{Swarm, at, hash},
};
use crate::{Ask, Failure, Full, Ranges, Reply, Source};

/// How often a liar asks, answered or not.
const ASKS: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Liar {
    habit: Habit,
    sequence: u64,
    landed: Vec<(u64, Option<LeafHash>)>,
    failed: Vec<(u64, Source<Peer>, Failure)>,
}

/// A hash that is nothing's.
fn bogus(peer: Peer, leaf: u64) -> LeafHash {
    let mut bytes = [0xff; 32];
    bytes[..8].copy_from_slice(&leaf.to_be_bytes());
    bytes[8..12].copy_from_slice(&peer.to_be_bytes());
    LeafHash(bytes)
}

impl Swarm<'_> {
    pub(super) fn begin_lying(&mut self, peer: Peer, blob: usize, habit: Habit) {
        self.nodes[at(peer)].liars[blob] = Some(Liar { habit, sequence: 0, landed: Vec::new(), failed: Vec::new() });
        self.after(Duration::ZERO, Event::Lie { node: peer, blob });
    }

    pub(super) fn lie(&mut self, peer: Peer, blob: usize) {
        let Some(to) = self.nearest(blob, 0) else { return };
        let count = self.outlines[blob].leaf_count();
        let size = self.world.blobs[blob];
        let Some(liar) = &mut self.nodes[at(peer)].liars[blob] else { return };
        liar.sequence += 1;
        // It boasts of half of the leaves, with hashes that nobody has ever seen for half of those.
        let boasts = |part: u64| 0..if liar.habit == Habit::Boasts { count / part } else { 0 };
        let mut leaves = LeafSet::empty(count);
        for leaf in boasts(2) {
            leaves.insert(leaf);
        }
        let hashes = boasts(4).map(|leaf| (leaf, bogus(peer, leaf))).collect();
        let full = (liar.sequence == 1).then_some(Full { leaves, hashes, fetching: Vec::new(), reading: (0, 0) });
        let ask = Ask {
            sequence: liar.sequence,
            size: Some(size),
            full,
            landed: std::mem::take(&mut liar.landed),
            failed: std::mem::take(&mut liar.failed),
            slots: 4,
            blobs: 1,
            upstream: true,
            ranges: Ranges::Unknown,
            wanted: (0, count),
            crowd: None,
        };
        if let Some(delay) = self.post(peer, to) {
            self.after(delay, Event::Ask { to, from: peer, blob, term: 0, ask: Box::new(ask) });
        }
        self.after(ASKS, Event::Lie { node: peer, blob });
    }

    pub(super) fn answered_liar(&mut self, peer: Peer, blob: usize, reply: &Reply<Peer>) {
        let Some(liar) = &mut self.nodes[at(peer)].liars[blob] else { return };
        match liar.habit {
            Habit::Honest | Habit::Hoards => {}
            Habit::Boasts => {
                liar.landed.extend(reply.grants.iter().map(|grant| (grant.leaf, Some(hash(blob, grant.leaf)))));
                let (first, end) = reply.read.unwrap_or((0, 0));
                liar.landed.extend((first..end).map(|leaf| (leaf, Some(bogus(peer, leaf)))));
            }
            Habit::Disputes => {
                let wrong = reply.grants.iter().map(|grant| (grant.leaf, Source::Peer(grant.from), Failure::Wrong));
                liar.failed.extend(wrong);
            }
        }
    }
}
