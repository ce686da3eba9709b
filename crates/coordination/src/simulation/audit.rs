//! What a coordinator must never do, looked at from outside: it lends no leaf of upstream's to two at once.

use std::{collections::BTreeMap, time::Duration};

use super::{Peer, links::Moment, swarm::nanos};
use crate::{Ask, Failure, Reply, Source};

/// A lease runs out no earlier than that after the last that came of it.
const LEAST_LEASE: Duration = Duration::from_secs(1);

/// Broken rules remembered.
const MAX_BROKEN: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Audit {
    pub broken: Vec<String>,
    /// Upstream ignores ranges: who is not the one to read is cut off, and what it was lent is lent to another before it hears of that.
    cuts_off: bool,
    lives: BTreeMap<u64, Life>,
}

/// One coordinator, from its beginning to its end.
#[derive(Debug, Default)]
struct Life {
    node: Peer,
    /// Who reads each leaf, and since when.
    lent: BTreeMap<u64, (Peer, Moment)>,
    /// Its clock has jumped: leases may have run out early.
    jumped: bool,
}

impl Audit {
    pub(super) fn new(gives_ranges: bool) -> Self {
        Self { cuts_off: !gives_ranges, ..Self::default() }
    }

    pub(super) fn begun(&mut self, life: u64, node: Peer) {
        self.lives.insert(life, Life { node, ..Life::default() });
    }

    pub(super) fn jumped(&mut self, node: Peer, _: Moment) {
        for life in self.lives.values_mut().filter(|life| life.node == node) {
            life.jumped = true;
        }
    }

    pub(super) fn asked(&mut self, life: u64, from: Peer, ask: &Ask<Peer>) {
        let Some(life) = self.lives.get_mut(&life) else { return };
        let failed = ask.failed.iter().any(|(_, source, _): &(u64, Source<Peer>, Failure)| *source == Source::Upstream);
        if ask.full.is_some() || failed || ask.wanted.0 >= ask.wanted.1 {
            life.lent.retain(|_, (reader, _)| *reader != from);
        }
        for (leaf, _) in &ask.landed {
            life.lent.remove(leaf);
        }
    }

    pub(super) fn gone(&mut self, life: u64, peer: Peer) {
        if let Some(life) = self.lives.get_mut(&life) {
            life.lent.retain(|_, (reader, _)| *reader != peer);
        }
    }

    /// Replies that are sent at the same moment. None of them is there before another: whom a leaf is taken from has lost it, whichever of
    /// the two was written first.
    pub(super) fn replied(&mut self, life: u64, node: Peer, blob: usize, replies: &[(Peer, Reply<Peer>)], now: Moment) {
        let Some(life) = self.lives.get_mut(&life) else { return };
        for (to, reply) in replies {
            if let Some(end) = reply.cut {
                life.lent.retain(|leaf, (reader, _)| reader != to || *leaf < end);
            }
        }
        let loans = replies.iter().filter_map(|(to, reply)| Some((*to, reply.read?)));
        for (to, leaf) in loans.flat_map(|(to, (first, end))| (first..end).map(move |leaf| (to, leaf))) {
            if let Some((reader, since)) = life.lent.insert(leaf, (to, now))
                && reader != to
                && now - since < nanos(LEAST_LEASE)
                && !life.jumped
                && !self.cuts_off
                && self.broken.len() < MAX_BROKEN
            {
                self.broken.push(format!(
                    "coordinator {node} lent leaf {leaf} of blob {blob} to {to} at {:?}, and {:?} earlier to {reader}",
                    Duration::from_nanos(now),
                    Duration::from_nanos(now - since)
                ));
            }
        }
    }
}
