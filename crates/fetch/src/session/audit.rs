//! Whose word on which leaf is believed once the whole has turned out not to match, and who is to read which leaf again. Pure.
//!
//! A peer's *word* on a leaf is the hash that it has read from upstream by itself, as it says when it is asked directly. Every node
//! that doubts the same blob reckons for itself, from the words that it has heard, who is to read a leaf next; as all reckon alike, each
//! leaf is read again by one of them, whose word then serves all. A leaf is settled when two peers agree on it, or when this node has read it.
//! Where all is settled and the whole still does not match, liars agree with one another: one more word is asked for each leaf.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use shoal_content::LeafHash;

/// Leaves that one reader takes in a row while others read too: short enough that a liar shows itself soon.
const RUN: u64 = 4;

/// Words that have to agree on a leaf at first. Where the witness and another contradict each other, the other's alone will do: if that
/// is wrong, the whole does not match, and more are asked for.
const FIRST_QUORUM: usize = 2;

/// The doubtful leaves of a blob and what is said of them.
#[derive(Debug)]
pub(super) struct Audit<P> {
    me: P,
    /// Those who may read, with a number of each that all nodes reckon alike.
    readers: BTreeMap<P, u64>,
    leaves: BTreeMap<u64, Doubted<P>>,
    /// Readers that were to read and showed nothing in time.
    silent: BTreeSet<P>,
    progress: BTreeMap<P, Duration>,
    /// Words that have to agree on a leaf.
    quorum: usize,
    upstream: bool,
}

#[derive(Debug)]
struct Doubted<P> {
    /// The hash of what is here, and of what was here when doubt began.
    here: LeafHash,
    claimed: LeafHash,
    /// Who is said to have vouched for that.
    witness: Option<P>,
    own: Option<LeafHash>,
    words: BTreeMap<P, LeafHash>,
}

impl<P: Copy + Ord> Doubted<P> {
    /// The hash that most peers give; of as many, one that the witness does not give.
    fn believed(&self) -> LeafHash {
        if let Some(own) = self.own {
            return own;
        }
        let others =
            |hash: &LeafHash| self.words.iter().any(|(peer, word)| word == hash && Some(*peer) != self.witness);
        let best = self.words.values().max_by_key(|hash| (self.agreeing(hash), others(hash), **hash == self.here));
        best.copied().unwrap_or(self.here)
    }

    fn agreeing(&self, hash: &LeafHash) -> usize {
        self.words.values().filter(|word| *word == hash).count()
    }

    /// Somebody else says otherwise than the witness, or than what is said in its name where it says nothing.
    fn is_contested(&self) -> bool {
        let Some(witness) = self.witness else { return false };
        *self.words.get(&witness).unwrap_or(&self.claimed) != self.believed()
    }

    fn is_settled(&self, quorum: usize) -> bool {
        self.own.is_some()
            || self.agreeing(&self.believed()) >= quorum
            || (quorum == FIRST_QUORUM && self.is_contested())
    }
}

/// A leaf of which another hash is believed than that of what is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change<P> {
    pub(super) leaf: u64,
    pub(super) hash: LeafHash,
    /// Who says so, and should have it.
    pub(super) from: Vec<P>,
}

impl<P: Copy + Ord> Audit<P> {
    /// Doubts `leaves`, each with its hash and who is said to have vouched for it.
    pub(super) fn new(
        me: P,
        readers: BTreeMap<P, u64>,
        leaves: impl IntoIterator<Item = (u64, LeafHash, Option<P>)>,
        now: Duration,
    ) -> Self {
        let progress = readers.keys().map(|reader| (*reader, now)).collect();
        let doubted =
            |(leaf, here, witness)| (leaf, Doubted { here, claimed: here, witness, own: None, words: BTreeMap::new() });
        Self {
            me,
            readers,
            leaves: leaves.into_iter().map(doubted).collect(),
            silent: BTreeSet::new(),
            progress,
            quorum: FIRST_QUORUM,
            upstream: true,
        }
    }

    /// The doubtful leaves.
    pub(super) fn leaves(&self) -> impl Iterator<Item = u64> {
        self.leaves.keys().copied()
    }

    /// Those whose words are worth asking for.
    pub(super) fn readers(&self) -> impl Iterator<Item = P> {
        self.readers.keys().copied().filter(|reader| *reader != self.me)
    }

    /// What a peer says, asked directly. Only the first word on a leaf counts.
    pub(super) fn word(&mut self, peer: P, said: impl Fn(u64) -> Option<LeafHash>, now: Duration) {
        if peer == self.me || !self.readers.contains_key(&peer) {
            return;
        }
        let mut is_new = false;
        for (leaf, doubted) in &mut self.leaves {
            if let Some(hash) = said(*leaf)
                && !doubted.words.contains_key(&peer)
            {
                doubted.words.insert(peer, hash);
                is_new = true;
            }
        }
        if is_new {
            self.progress.insert(peer, now);
            self.silent.remove(&peer);
        }
    }

    /// What a peer said of a leaf.
    pub(super) fn said(&self, peer: &P, leaf: u64) -> Option<LeafHash> {
        self.leaves.get(&leaf)?.words.get(peer).copied()
    }

    /// This node has read a leaf from upstream.
    pub(super) fn read(&mut self, leaf: u64, hash: LeafHash) {
        if let Some(doubted) = self.leaves.get_mut(&leaf) {
            doubted.own = Some(hash);
        }
    }

    /// Upstream cannot be read from here.
    pub(super) fn no_upstream(&mut self) {
        self.upstream = false;
    }

    /// What is here of a leaf is something else now.
    pub(super) fn is_here(&mut self, leaf: u64, hash: LeafHash) {
        if let Some(doubted) = self.leaves.get_mut(&leaf) {
            doubted.here = hash;
        }
    }

    /// Leaves that should be had anew, from those who say so.
    pub(super) fn changes(&self) -> Vec<Change<P>> {
        let changed = self.leaves.iter().filter(|(_, doubted)| doubted.believed() != doubted.here);
        changed
            .map(|(leaf, doubted)| {
                let hash = doubted.believed();
                let from = doubted.words.iter().filter(|(_, word)| **word == hash).map(|(peer, _)| *peer);
                Change { leaf: *leaf, hash, from: from.collect() }
            })
            .collect()
    }

    /// Who is to read a leaf next; nobody when it is settled.
    fn reader(&self, leaf: u64, doubted: &Doubted<P>) -> Option<P> {
        if doubted.is_settled(self.quorum) {
            return None;
        }
        let has_said = |peer: &P| doubted.words.contains_key(peer) || doubted.witness == Some(*peer);
        let may_read = |peer: &P| !has_said(peer) && !self.silent.contains(peer) && (*peer != self.me || self.upstream);
        let first =
            self.readers.iter().filter(|(peer, _)| may_read(peer)).min_by_key(|(_, number)| mix(**number, leaf));
        match first {
            Some((peer, _)) => Some(*peer),
            // Nobody else is left: it is settled here, or not at all.
            None => self.upstream.then_some(self.me),
        }
    }

    /// Leaves that this node is to read now. While some are left for which a peer vouched that was wrong elsewhere, only those are read, by
    /// whom it may be; otherwise one of each peer after the other.
    pub(super) fn next_run(&self) -> Option<Range<u64>> {
        let contested = self.leaves.values().filter(|doubted| doubted.is_contested());
        let suspects: BTreeSet<P> = contested.filter_map(|doubted| doubted.witness).collect();
        let due: Vec<(u64, &Doubted<P>, P)> = self
            .leaves
            .iter()
            .filter_map(|(leaf, doubted)| Some((*leaf, doubted, self.reader(*leaf, doubted)?)))
            .collect();
        let is_suspect = |doubted: &Doubted<P>| doubted.witness.is_some_and(|witness| suspects.contains(&witness));
        let has_suspects = due.iter().any(|(_, doubted, _)| is_suspect(doubted));
        let mine: BTreeMap<u64, Option<P>> = due
            .iter()
            .filter(|(_, doubted, reader)| *reader == self.me && (!has_suspects || is_suspect(doubted)))
            .map(|(leaf, doubted, _)| (*leaf, doubted.witness))
            .collect();
        let mut turns: BTreeMap<Option<P>, u64> = BTreeMap::new();
        let in_turn = mine.iter().map(|(leaf, witness)| {
            let turn = turns.entry(*witness).or_default();
            *turn += 1;
            (*turn, *leaf)
        });
        let (_, first) = in_turn.min()?;
        let is_alone = self.readers().all(|reader| self.silent.contains(&reader));
        let longest = if is_alone { u64::MAX } else { first + RUN };
        let end = (first..longest).take_while(|leaf| mine.contains_key(leaf)).last()? + 1;
        Some(first..end)
    }

    /// Readers that were to read something and have shown nothing for so long are passed over.
    pub(super) fn pass_over(&mut self, patience: Duration, now: Duration) -> Vec<P> {
        let due: BTreeSet<P> = self.leaves.iter().filter_map(|(leaf, doubted)| self.reader(*leaf, doubted)).collect();
        let is_late = |peer: &P| {
            let since = self.progress.get(peer).copied().unwrap_or_default();
            *peer != self.me && now.saturating_sub(since) > patience
        };
        let late: Vec<P> = due.into_iter().filter(is_late).collect();
        self.silent.extend(&late);
        late
    }

    /// Nothing is left to be read or to be waited for at this quorum: one more word is asked for each leaf. False when every leaf has been read
    /// here, or cannot be.
    pub(super) fn ask_more(&mut self) -> bool {
        let is_waiting = self.leaves.iter().any(|(leaf, doubted)| self.reader(*leaf, doubted).is_some());
        if is_waiting {
            return true;
        }
        let is_over = !self.upstream || self.leaves.values().all(|doubted| doubted.own.is_some());
        self.quorum += 1;
        !is_over
    }
}

/// SplitMix64: who reads what must be spread evenly, and alike everywhere.
fn mix(number: u64, leaf: u64) -> u64 {
    let mut z = number ^ leaf.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
