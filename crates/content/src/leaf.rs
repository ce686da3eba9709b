//! The division of a blob into leaves, and sets of leaves.

use std::{fmt, ops::Range};

use cid::{Cid, multihash::Multihash};

use crate::sha256::Sha256;

/// Size of every leaf of a blob but the last, in bytes (profile `unixfs-v1-2025`, IPIP-499).
pub const LEAF_SIZE: u64 = 1 << 20;

/// Multicodec of a raw block.
pub const RAW: u64 = 0x55;

/// The SHA-256 of a leaf; with the raw codec it is the leaf's CID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeafHash(pub [u8; 32]);

impl LeafHash {
    /// Hashes a leaf's bytes.
    pub fn of(leaf: &[u8]) -> Self {
        Self(Sha256::of(leaf))
    }

    /// The leaf's CID: version 1, raw, SHA-256.
    pub fn cid(&self) -> Cid {
        Cid::new_v1(RAW, Multihash::wrap(0x12, &self.0).expect("32 bytes fit a 64 byte multihash"))
    }

    /// The leaf hash of a raw SHA-256 CID; `None` for any other CID.
    pub fn from_cid(cid: &Cid) -> Option<Self> {
        if cid.codec() != RAW || cid.hash().code() != 0x12 {
            return None;
        }
        Some(Self(cid.hash().digest().try_into().ok()?))
    }
}

impl fmt::Debug for LeafHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Number of leaves of a blob of `size` bytes. An empty blob has one, empty, leaf.
pub const fn leaf_count(size: u64) -> u64 {
    if size == 0 { 1 } else { size.div_ceil(LEAF_SIZE) }
}

/// The bytes of the blob that leaf `index` covers; empty when there is no such leaf.
pub const fn leaf_range(size: u64, index: u64) -> Range<u64> {
    let start = index.saturating_mul(LEAF_SIZE);
    let start = if start > size { size } else { start };
    let end = start.saturating_add(LEAF_SIZE);
    start..if end > size { size } else { end }
}

/// The leaf that holds byte `offset`.
pub const fn leaf_at(offset: u64) -> u64 {
    offset / LEAF_SIZE
}

/// A set of leaf indices of one blob. Its size is fixed by the blob's, so it is bounded by construction.
#[derive(Clone, PartialEq, Eq)]
pub struct LeafSet {
    words: Vec<u64>,
    count: u64,
    len: u64,
}

impl LeafSet {
    /// An empty set for a blob of `count` leaves.
    pub fn empty(count: u64) -> Self {
        let words = usize::try_from(count.div_ceil(64)).expect("leaves of a blob fit in memory");
        Self { words: vec![0; words], count, len: 0 }
    }

    /// A set of all leaves of a blob of `count` leaves.
    pub fn full(count: u64) -> Self {
        let mut set = Self::empty(count);
        for index in 0..count {
            set.insert(index);
        }
        set
    }

    /// Number of leaves that the blob has.
    pub fn capacity(&self) -> u64 {
        self.count
    }

    /// Number of leaves in the set.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no leaf is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every leaf of the blob is in the set.
    pub fn is_full(&self) -> bool {
        self.len == self.count
    }

    /// Adds a leaf; false when it was there already or is outside the blob.
    pub fn insert(&mut self, index: u64) -> bool {
        let Some((word, bit)) = self.place(index) else { return false };
        let added = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += u64::from(added);
        added
    }

    /// Takes a leaf out; false when it was not there.
    pub fn remove(&mut self, index: u64) -> bool {
        let Some((word, bit)) = self.place(index) else { return false };
        let removed = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        self.len -= u64::from(removed);
        removed
    }

    /// Whether the leaf is in the set.
    pub fn contains(&self, index: u64) -> bool {
        self.place(index).is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }

    /// The first leaf at or after `from` that is not in the set.
    pub fn first_missing(&self, from: u64) -> Option<u64> {
        let (first, bit) = self.place(from)?;
        // What lies before `from` counts as there; so does what lies behind the last leaf, by the filter at the end.
        let before = bit - 1;
        let words = self.words[first..].iter().zip(first as u64..);
        let mut missing = words.enumerate().filter_map(|(at, (&word, position))| {
            let filled = if at == 0 { word | before } else { word };
            (filled != u64::MAX).then(|| position * 64 + u64::from(filled.trailing_ones()))
        });
        missing.next().filter(|&index| index < self.count)
    }

    /// The leaves in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().zip(0u64..).flat_map(|(&word, position)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| position * 64 + bit)
        })
    }

    fn place(&self, index: u64) -> Option<(usize, u64)> {
        if index >= self.count {
            return None;
        }
        Some((usize::try_from(index / 64).ok()?, 1 << (index % 64)))
    }
}

impl fmt::Debug for LeafSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeafSet({} of {})", self.len, self.count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn leaves_cover_a_blob_without_gap_or_overlap() {
        for size in [0, 1, LEAF_SIZE - 1, LEAF_SIZE, LEAF_SIZE + 1, 5 * LEAF_SIZE, 5 * LEAF_SIZE + 7] {
            let mut next = 0;
            for index in 0..leaf_count(size) {
                let range = leaf_range(size, index);
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, size);
            assert!(leaf_range(size, leaf_count(size)).is_empty());
        }
        assert!(leaf_range(10, u64::MAX).is_empty());
    }

    proptest! {
        #[test]
        fn the_first_missing_leaf_is_the_first_that_is_not_contained(count in 0u64..300, holes in prop::collection::vec(0u64..300, 0..4), from in 0u64..310) {
            let mut set = LeafSet::full(count);
            for hole in holes {
                set.remove(hole);
            }
            let expected = (from..count).find(|&index| !set.contains(index));
            prop_assert_eq!(set.first_missing(from), expected);
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), (0..count).filter(|&index| set.contains(index)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_set_counts_what_it_holds() {
        let mut set = LeafSet::empty(130);
        assert!(set.insert(0) && set.insert(129) && set.insert(64));
        assert!(!set.insert(64) && !set.insert(130));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 64, 129]);
        assert_eq!(set.first_missing(0), Some(1));
        assert!(set.remove(64) && !set.remove(64));
        assert_eq!(set.len(), 2);
        assert!(LeafSet::full(130).is_full());
        assert_eq!(LeafSet::full(130).first_missing(0), None);
    }
}
