//! Leaves of blobs that are still coming in: at once there for others.
//!
//! Beside whatever block comes, the whole digest of one of these blobs is moved on: see [`Live::hash`].

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

/// Partial blobs whose digests may be moved on, at most: more are not looked through for each block that comes.
const MOST_PARTIALS: usize = 64;

/// The verified leaves of partial blobs, by hash; and these blobs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    leaves: Arc<Mutex<Leaves>>,
    partials: Arc<Mutex<Vec<Weak<Partial>>>>,
}

impl Live {
    /// A leaf is verified and in the file.
    pub(crate) fn add(&self, hash: LeafHash, partial: &Arc<Partial>, leaf: u64) {
        self.move_on(partial);
        let mut leaves = self.leaves();
        if leaves.len() < CAPACITY {
            leaves.insert(hash, (Arc::downgrade(partial), leaf));
        }
    }

    /// This blob's digest may be moved on beside blocks that come.
    pub(crate) fn move_on(&self, partial: &Arc<Partial>) {
        let partial = Arc::downgrade(partial);
        let mut partials = self.partials();
        partials.retain(|other| other.strong_count() > 0);
        if partials.len() < MOST_PARTIALS && !partials.iter().any(|other| other.ptr_eq(&partial)) {
            partials.push(partial);
        }
    }

    /// The hash of a block that has come. Beside it the whole digest of the first blob that waits for that is moved on, which costs
    /// next to nothing then.
    pub(crate) fn hash(&self, block: &[u8]) -> LeafHash {
        let partials = self.partials().clone();
        let beside = partials.iter().filter_map(Weak::upgrade).find_map(|partial| partial.hash_beside(block));
        beside.unwrap_or_else(|| LeafHash::of(block))
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
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn partials(&self) -> MutexGuard<'_, Vec<Weak<Partial>>> {
        self.partials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use shoal_content::{Algorithm, Digest, LEAF_SIZE};
    use shoal_store::{Options, Store};

    use super::*;

    #[test]
    fn whole_digests_move_on_beside_blocks_that_come_and_both_are_right() {
        let leaf = |number: u8| Bytes::from(vec![number; LEAF_SIZE as usize]);
        let blob: Vec<u8> = (0..6).flat_map(leaf).collect();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(folder.path())).unwrap();
        let partial = store.partial(&Digest::of(Algorithm::Sha256, &blob), blob.len() as u64).unwrap();
        let partial = Arc::new(partial);
        let live = Live::default();
        for number in 0..6 {
            let hash = live.hash(&leaf(number));
            assert_eq!(hash, LeafHash::of(&leaf(number)));
            partial.write_leaf(u64::from(number), &leaf(number), hash).unwrap();
            live.add(hash, &partial, u64::from(number));
        }
        assert_eq!(live.partials().len(), 1);
        // The whole digest waits for one leaf only: beside the next block that comes it is moved on, beside another it is not.
        assert!(partial.hash_beside(&leaf(9)).is_some());
        assert_eq!(partial.hash_beside(&leaf(9)), None);
        partial.commit().unwrap();
        drop(partial);
        assert_eq!(live.hash(b"block"), LeafHash::of(b"block"));
    }
}
