//! Which leaves of a blob in progress are there.

use std::collections::HashSet;

use shoal_content::{LeafHash, LeafSet, Outline, leaf::leaf_count};

pub(super) struct Progress {
    pub(super) have: LeafSet,
    /// Hashes of the leaves that are there.
    pub(super) outline: Outline,
    /// The first leaf that is missing.
    pub(super) frontier: u64,
    /// Leaves in the whole digest, as `Whole` has it, for those who do not wait for that.
    pub(super) hashed: u64,
    /// Leaves that somebody is writing.
    pub(super) writing: HashSet<u64>,
    pub(super) state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Committed,
    Discarded,
}

impl Progress {
    /// Nothing is there; `None` when the blob is too large.
    pub(super) fn new(size: u64) -> Option<Self> {
        // First, because it refuses a size for which nothing must be allocated.
        let outline = Outline::growing(size)?;
        Some(Self {
            have: LeafSet::empty(leaf_count(size)),
            outline,
            frontier: 0,
            hashed: 0,
            writing: HashSet::new(),
            state: State::Open,
        })
    }

    pub(super) fn admit(&mut self, index: u64, hash: LeafHash) {
        self.have.insert(index);
        self.outline.set(index, hash);
        while self.have.contains(self.frontier) {
            self.frontier += 1;
        }
    }

    pub(super) fn forget(&mut self, index: u64) {
        self.have.remove(index);
        self.frontier = self.frontier.min(index);
        let Some(mut outline) = Outline::growing(self.outline.size()) else { return };
        for kept in self.have.iter() {
            if let Some(hash) = self.outline.leaf(kept) {
                outline.set(kept, hash);
            }
        }
        self.outline = outline;
    }
}
