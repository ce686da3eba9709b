//! Leaves that have just landed, kept in memory for a moment.
//!
//! A leaf is wanted most right after it came: by the whole digest, by the runtime that waits for it, by the peers that it is passed on to. Each
//! would read it back from its file, into memory of its own.

use std::{
    collections::VecDeque,
    ops::Range,
    sync::{Mutex, MutexGuard},
};

use bytes::Bytes;
use shoal_content::{
    Digest, LEAF_SIZE,
    leaf::{leaf_at, leaf_range},
};

use crate::table::lock;

/// Bytes kept at most: what a node at 10 Gbit/s gets in 13 ms.
const MOST_BYTES: usize = 16 * LEAF_SIZE as usize;

/// Leaves kept at most; those of small blobs are short.
const MOST_LEAVES: usize = 64;

/// The youngest leaves of all blobs.
#[derive(Default)]
pub(crate) struct Recent(Mutex<Leaves>);

#[derive(Default)]
struct Leaves {
    /// The oldest first.
    queue: VecDeque<Leaf>,
    bytes: usize,
    /// How many of them, the oldest ones, were there at the last trim.
    old: usize,
}

struct Leaf {
    digest: Digest,
    index: u64,
    bytes: Bytes,
}

impl Recent {
    /// Keeps a leaf whose bytes are in its file.
    pub(crate) fn add(&self, digest: Digest, index: u64, bytes: &Bytes) {
        if bytes.len() > MOST_BYTES {
            return;
        }
        let mut leaves = self.leaves();
        leaves.bytes += bytes.len();
        leaves.queue.push_back(Leaf { digest, index, bytes: bytes.clone() });
        while leaves.bytes > MOST_BYTES || leaves.queue.len() > MOST_LEAVES {
            leaves.drop_oldest();
        }
    }

    /// The bytes of a range of a blob of `size` bytes, if all of it lies in one leaf that is kept.
    pub(crate) fn read(&self, digest: &Digest, size: u64, range: &Range<u64>) -> Option<Bytes> {
        let index = leaf_at(range.start);
        let within = leaf_range(size, index);
        if range.end > within.end {
            return None;
        }
        let leaves = self.leaves();
        let leaf = leaves.queue.iter().rev().find(|leaf| leaf.index == index && leaf.digest == *digest)?;
        let at = |offset: u64| usize::try_from(offset - within.start).ok();
        leaf.bytes.get(at(range.start)?..at(range.end)?).map(|part| leaf.bytes.slice_ref(part))
    }

    /// A leaf is not what it was held for.
    pub(crate) fn forget(&self, digest: &Digest, index: u64) {
        self.retain(|leaf| leaf.index != index || leaf.digest != *digest);
    }

    /// A blob is given up.
    pub(crate) fn forget_all(&self, digest: &Digest) {
        self.retain(|leaf| leaf.digest != *digest);
    }

    /// Drops what was there at the last call.
    pub(crate) fn trim(&self) {
        let mut leaves = self.leaves();
        for _ in 0..leaves.old {
            leaves.drop_oldest();
        }
        leaves.old = leaves.queue.len();
    }

    fn retain(&self, keep: impl Fn(&Leaf) -> bool) {
        let leaves = &mut *self.leaves();
        leaves.queue.retain(keep);
        leaves.bytes = leaves.queue.iter().map(|leaf| leaf.bytes.len()).sum();
        leaves.old = leaves.old.min(leaves.queue.len());
    }

    fn leaves(&self) -> MutexGuard<'_, Leaves> {
        lock(&self.0)
    }
}

impl Leaves {
    fn drop_oldest(&mut self) {
        if let Some(leaf) = self.queue.pop_front() {
            self.bytes -= leaf.bytes.len();
            self.old = self.old.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_content::Algorithm;

    use super::*;

    const LEAF: u64 = LEAF_SIZE;

    fn digest(number: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[number])
    }

    fn leaf(number: u8) -> Bytes {
        vec![number; LEAF as usize].into()
    }

    #[test]
    fn what_lies_in_a_kept_leaf_is_read_from_it_and_nothing_else_is() {
        let recent = Recent::default();
        let size = 2 * LEAF + 10;
        recent.add(digest(1), 1, &leaf(7));
        recent.add(digest(1), 2, &Bytes::from_static(b"0123456789"));
        let read = |number, range: Range<u64>| recent.read(&digest(number), size, &range);
        assert_eq!(read(1, LEAF..2 * LEAF), Some(leaf(7)));
        assert_eq!(read(1, LEAF + 5..LEAF + 8).as_deref(), Some(&[7; 3][..]));
        assert_eq!(read(1, 2 * LEAF + 1..size).as_deref(), Some(&b"123456789"[..]));
        assert_eq!(read(1, 2 * LEAF - 1..2 * LEAF + 1), None);
        assert_eq!(read(1, 0..5), None);
        assert_eq!(read(2, LEAF..2 * LEAF), None);
    }

    #[test]
    fn the_oldest_go_first_and_no_more_is_kept_than_the_most() {
        let recent = Recent::default();
        for index in 0..20 {
            recent.add(digest(1), index, &leaf(1));
        }
        let kept: Vec<u64> = (0..20)
            .filter(|index| recent.read(&digest(1), 20 * LEAF, &leaf_range(20 * LEAF, *index)).is_some())
            .collect();
        assert_eq!(kept, (4..20).collect::<Vec<_>>());
        for index in 0..1000 {
            recent.add(digest(2), index, &Bytes::from_static(b"x"));
        }
        assert_eq!(recent.leaves().queue.len(), MOST_LEAVES);
        assert_eq!(recent.leaves().bytes, MOST_LEAVES);
    }

    #[test]
    fn forgotten_and_idle_leaves_are_gone() {
        let recent = Recent::default();
        let held = |number, index: u64| recent.read(&digest(number), 4 * LEAF, &leaf_range(4 * LEAF, index)).is_some();
        for index in 0..4 {
            recent.add(digest(1), index, &leaf(1));
            recent.add(digest(2), index, &leaf(2));
        }
        recent.forget(&digest(1), 2);
        assert!(!held(1, 2) && held(2, 2) && held(1, 1));
        recent.forget_all(&digest(2));
        assert!((0..4).all(|index| !held(2, index)) && held(1, 3));
        recent.trim();
        recent.add(digest(2), 0, &leaf(3));
        assert!(held(1, 3) && held(2, 0));
        recent.trim();
        assert!(!held(1, 3) && held(2, 0));
        recent.trim();
        assert_eq!(recent.leaves().bytes, 0);
    }
}
