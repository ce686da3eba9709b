//! What is known of each leaf, and the orders in which leaves are looked through.

use shoal_content::LeafHash;

use super::parties::Slot;
use crate::bits::Bits;

/// A leaf's hash, by somebody's word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<P> {
    pub hash: LeafHash,
    pub witness: P,
    /// Somebody got a leaf of this hash from a peer: there is such a leaf, whether it is the right one or not.
    pub proven: bool,
    /// Two have read it from upstream and say the same.
    pub confirmed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Leaf<P> {
    pub known: Option<Known<P>>,
    /// Other hashes, each by the word of somebody who read it from upstream: whom another agrees with is right.
    pub rivals: Vec<(LeafHash, P)>,
    /// Parties that can be asked for it, those with the whole blob aside.
    pub copies: u32,
    /// Members that are about to have it.
    pub in_flight: u32,
    /// Who reads it from upstream.
    pub reader: Option<Slot>,
    /// How often it was lent in vain.
    pub lapses: u32,
}

#[derive(Debug)]
pub(super) struct Leaves<P> {
    all: Vec<Leaf<P>>,
    /// Leaves whose hash is known, by how many have them or are about to.
    ranks: Vec<Bits>,
    /// Leaves that nobody reads and nobody has, or of which it is open what is right.
    unread: Bits,
    /// Leaves that somebody has and whose hash nobody has told.
    untold: Bits,
}

/// Ranks: each number of copies up to 31 has its own, and each half power of two above.
const RANKS: usize = 64;

fn rank(copies: u32) -> usize {
    if copies < 32 {
        return copies as usize;
    }
    let power = copies.ilog2();
    let half = (copies >> (power - 1)) & 1;
    (32 + 2 * (power as usize - 5) + half as usize).min(RANKS - 1)
}

impl<P: Copy + Ord> Leaves<P> {
    pub(super) fn new(count: usize) -> Self {
        let mut unread = Bits::default();
        for leaf in 0..count {
            unread.insert(leaf);
        }
        Self {
            all: vec![
                Leaf { known: None, rivals: Vec::new(), copies: 0, in_flight: 0, reader: None, lapses: 0 };
                count
            ],
            ranks: vec![Bits::default(); RANKS],
            unread,
            untold: Bits::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The leaf; none of those who ask name one beyond the last.
    pub(super) fn at(&self, leaf: usize) -> &Leaf<P> {
        &self.all[leaf]
    }

    /// Changes a leaf, and its place in all orders.
    pub(super) fn change(&mut self, leaf: usize, change: impl FnOnce(&mut Leaf<P>)) {
        let before = &self.all[leaf];
        let old = before.known.is_some().then(|| rank(before.copies + before.in_flight));
        change(&mut self.all[leaf]);
        let after = &self.all[leaf];
        let new = after.known.is_some().then(|| rank(after.copies + after.in_flight));
        let is_unread = after.reader.is_none() && (after.copies == 0 || !after.rivals.is_empty());
        let is_untold = after.known.is_none() && after.copies > 0;
        if old != new {
            if let Some(old) = old {
                self.ranks[old].remove(leaf);
            }
            if let Some(new) = new {
                self.ranks[new].insert(leaf);
            }
        }
        self.unread.set(leaf, is_unread);
        self.untold.set(leaf, is_untold);
    }

    /// Leaves that may be granted, in sets: first those that the fewest have or are about to have.
    pub(super) fn by_rarity(&self) -> impl Iterator<Item = &Bits> {
        self.ranks.iter().filter(|rank| !rank.is_empty())
    }

    /// Leaves to be read from upstream, where nobody has the whole blob.
    pub(super) fn unread(&self) -> &Bits {
        &self.unread
    }

    /// Leaves whose holders are to tell their hashes.
    pub(super) fn untold(&self) -> &Bits {
        &self.untold
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Leaf<P>> {
        self.all.iter()
    }

    /// Bytes that it takes, about.
    pub(super) fn memory(&self) -> usize {
        self.all.capacity() * size_of::<Leaf<P>>()
            + self.ranks.iter().map(Bits::memory).sum::<usize>()
            + self.unread.memory()
            + self.untold.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_copies_never_rank_before_fewer() {
        let ranks: Vec<usize> = (0..100_000).map(rank).collect();
        assert!(ranks.is_sorted());
        assert!(ranks.iter().all(|rank| *rank < RANKS));
        assert!(rank(32) > rank(31) && rank(48) > rank(47) && rank(4096) > rank(2000));
    }
}
