//! Leaves of blobs that are still coming in: at once there for others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::Bytes;
use shoal_content::{LeafHash, leaf::leaf_range};
use shoal_store::Partial;

/// Leaves shown at once: a hundred blobs of 10 GiB under way.
const CAPACITY: usize = 1 << 20;

/// Where a leaf is: a blob's file, and which leaf of it.
type Leaves = HashMap<LeafHash, (Weak<Partial>, u64)>;

/// The verified leaves of partial blobs, by hash.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live(Arc<Mutex<Leaves>>);

impl Live {
    /// A leaf is verified and in the file.
    pub(crate) fn add(&self, hash: LeafHash, partial: &Arc<Partial>, leaf: u64) {
        let mut leaves = self.leaves();
        if leaves.len() < CAPACITY {
            leaves.insert(hash, (Arc::downgrade(partial), leaf));
        }
    }

    /// These leaves are no longer shown from here.
    pub(crate) fn remove(&self, hashes: impl IntoIterator<Item = LeafHash>) {
        let mut leaves = self.leaves();
        for hash in hashes {
            leaves.remove(&hash);
        }
    }

    /// Size of a leaf, if it is here.
    pub(crate) fn size(&self, hash: &LeafHash) -> Option<u64> {
        let (partial, leaf) = self.find(hash)?;
        let range = leaf_range(partial.size(), leaf);
        Some(range.end - range.start)
    }

    /// A leaf's bytes, if it is here.
    pub(crate) fn read(&self, hash: &LeafHash) -> Option<Result<Bytes, shoal_store::Error>> {
        let (partial, leaf) = self.find(hash)?;
        let range = leaf_range(partial.size(), leaf);
        let len = usize::try_from(range.end - range.start).ok()?;
        Some(partial.read_at(range.start, len))
    }

    fn find(&self, hash: &LeafHash) -> Option<(Arc<Partial>, u64)> {
        let leaves = self.leaves();
        let (partial, leaf) = leaves.get(hash)?;
        Some((partial.upgrade()?, *leaf))
    }

    fn leaves(&self) -> MutexGuard<'_, Leaves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
