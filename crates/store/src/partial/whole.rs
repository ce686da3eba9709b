//! The whole digest of a blob in progress, computed as the frontier moves.
//!
//! It is one chain of steps from the first byte to the last, which leaves half of a core's SHA unit idle; a leaf's hash is another such chain. So it is moved on
//! beside them: whoever hashes a leaf that has just come takes with it the leaf that the whole needs next, at hardly any cost
//! (`docs/performance.md`). Where several hash leaves that came together, they do so one after the other, each with one leaf of the whole. What so falls behind, because leaves come out of order, is caught up with by their writers, a few leaves
//! at a time, so that none is kept for long; `verify` does the rest.

use std::sync::MutexGuard;

use shoal_content::{
    Algorithm, Hasher, LEAF_SIZE, LeafHash,
    leaf::{leaf_count, leaf_range},
};

use super::Partial;
use crate::{
    error::{Error, Result},
    table::lock,
};

/// Leaves that the whole digest may be behind without a writer's catching up: what it costs `verify` at the end, 5 ms, and half of the youngest leaves
/// that are in memory still.
const MAY_BE_BEHIND: u64 = 8;

/// Leaves that one writer hashes at most when it catches up: some milliseconds.
const CATCH_UP: u64 = 4;

/// The whole digest, as far as it has been computed.
pub(super) struct Whole {
    pub(super) hasher: Hasher,
    /// Leaves in it: the first ones, without a gap.
    pub(super) leaves: u64,
}

impl Whole {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        Self { hasher: Hasher::new(algorithm), leaves: 0 }
    }
}

impl Partial {
    /// The hash of a leaf's bytes, whosever they are: what [`LeafHash::of`] gives. If it can, it moves the whole digest on beside it.
    pub fn hash_leaf(&self, bytes: &[u8]) -> LeafHash {
        self.hash_beside(bytes).unwrap_or_else(|| LeafHash::of(bytes))
    }

    /// As [`Partial::hash_leaf`], but `None`, and nothing is done, when the whole digest is not to be moved on now.
    pub fn hash_beside(&self, bytes: &[u8]) -> Option<LeafHash> {
        if self.digest.algorithm() != Algorithm::Sha256 {
            return None;
        }
        let mut whole = self.whole_for(bytes)?;
        let next = leaf_range(self.size, whole.leaves);
        // The rest of a longer one would be hashed alone, and who asked would wait for it.
        let is_as_long = next.end - next.start <= bytes.len() as u64;
        if !is_as_long || !self.is_next(&whole) {
            return None;
        }
        // An error is come upon again, and told, by `verify`.
        let leaf = self.read(next).ok()?;
        let hash = whole.hasher.update_beside(&leaf, bytes);
        self.advance(&mut whole);
        Some(hash)
    }

    /// The whole digest, to be moved on beside these bytes. Who has it is at one leaf, mostly: where the one after that is there too, to wait costs no more than
    /// to hash these bytes alone, and saves the whole's being hashed alone later.
    fn whole_for(&self, bytes: &[u8]) -> Option<MutexGuard<'_, Whole>> {
        if let Ok(whole) = self.whole.try_lock() {
            return Some(whole);
        }
        let is_worth_it = bytes.len() as u64 == LEAF_SIZE && {
            let progress = lock(&self.progress);
            progress.have.contains(progress.hashed + 1)
        };
        is_worth_it.then(|| lock(&self.whole))
    }

    /// One more leaf is in the whole digest.
    fn advance(&self, whole: &mut Whole) {
        whole.leaves += 1;
        lock(&self.progress).hashed = whole.leaves;
    }

    /// Takes a leaf that an earlier attempt wrote if its bytes have this hash still; false when they have not. Into the whole digest too, in the same pass,
    /// if it is next.
    pub(super) fn take_back(&self, index: u64, bytes: &[u8], hash: LeafHash) -> bool {
        let mut whole = lock(&self.whole);
        if whole.leaves != index {
            return LeafHash::of(bytes) == hash;
        }
        let mut hasher = whole.hasher.clone();
        let is_right = hasher.update_with_leaf(bytes) == hash;
        if is_right {
            whole.hasher = hasher;
            self.advance(&mut whole);
        }
        is_right
    }

    /// Moves the whole digest on if it is far behind and nobody else is at it.
    pub(super) fn catch_up(&self) {
        let Ok(mut whole) = self.whole.try_lock() else { return };
        for _ in 0..CATCH_UP {
            if self.behind(&whole) <= MAY_BE_BEHIND || !self.is_next(&whole) {
                return;
            }
            match self.read(leaf_range(self.size, whole.leaves)) {
                Ok(leaf) => whole.hasher.update(&leaf),
                Err(error) => {
                    // `verify` comes upon it again, and says so.
                    tracing::debug!(digest = %self.digest, %error, "cannot read a leaf back to hash it");
                    return;
                }
            }
            self.advance(&mut whole);
        }
    }

    /// Leaves that are there and not in the whole digest.
    fn behind(&self, whole: &Whole) -> u64 {
        lock(&self.progress).have.len().saturating_sub(whole.leaves)
    }

    /// Whether the leaf that the whole digest needs next is there. It stays so while `whole` is locked: nothing is forgotten meanwhile.
    fn is_next(&self, whole: &Whole) -> bool {
        lock(&self.progress).have.contains(whole.leaves)
    }

    pub(super) fn verify_whole(&self, whole: &mut Whole) -> Result<()> {
        let digest = self.digest;
        {
            let progress = lock(&self.progress);
            self.check_open(&progress)?;
            if !progress.have.is_full() {
                return Err(Error::Incomplete { digest, missing: progress.have.capacity() - progress.have.len() });
            }
        }
        while whole.leaves < leaf_count(self.size) {
            let leaf = self.read(leaf_range(self.size, whole.leaves))?;
            whole.hasher.update(&leaf);
            self.advance(whole);
        }
        let actual = whole.hasher.clone().finish();
        if actual != digest {
            return Err(Error::DigestMismatch { expected: digest, actual: Box::new(actual) });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use shoal_content::Digest;

    use super::*;
    use crate::{options::Options, store::Store};

    const LEAVES: u64 = 13;

    fn blob() -> Vec<u8> {
        let size = (LEAVES - 1) * LEAF_SIZE + 77;
        (0..size).map(|at| (at / 3 % 251) as u8).collect()
    }

    fn leaf(blob: &[u8], index: u64) -> Bytes {
        let range = leaf_range(blob.len() as u64, index);
        Bytes::copy_from_slice(&blob[range.start as usize..range.end as usize])
    }

    fn begin(algorithm: Algorithm, blob: &[u8]) -> (tempfile::TempDir, Partial) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(folder.path())).unwrap();
        let partial = store.partial(&Digest::of(algorithm, blob), blob.len() as u64).unwrap();
        (folder, partial)
    }

    fn land(partial: &Partial, blob: &[u8], index: u64) {
        let bytes = leaf(blob, index);
        let hash = partial.hash_leaf(&bytes);
        assert_eq!(hash, LeafHash::of(&bytes));
        partial.write_leaf(index, &bytes, hash).unwrap();
    }

    #[test]
    fn leaves_that_come_in_order_leave_only_the_last_to_be_hashed_at_the_end() {
        let blob = blob();
        let (_folder, partial) = begin(Algorithm::Sha256, &blob);
        for index in 0..LEAVES {
            land(&partial, &blob, index);
        }
        // The last leaf is short: the one before it would have been hashed alone beside it.
        assert_eq!(lock(&partial.whole).leaves, LEAVES - 2);
        partial.verify().unwrap();
        assert_eq!(lock(&partial.whole).leaves, LEAVES);
        partial.commit().unwrap();
    }

    #[test]
    fn what_a_late_leaf_has_held_up_is_caught_up_with() {
        let blob = blob();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let (_folder, partial) = begin(algorithm, &blob);
            for index in (1..LEAVES).chain([0]) {
                assert_eq!(lock(&partial.whole).leaves, 0);
                land(&partial, &blob, index);
            }
            assert_eq!(lock(&partial.whole).leaves, CATCH_UP);
            partial.verify().unwrap();
        }
    }

    #[test]
    fn a_leaf_that_is_forgotten_leaves_nothing_in_the_whole_digest() {
        let blob = blob();
        let (_folder, partial) = begin(Algorithm::Sha256, &blob);
        let lie = Bytes::from(vec![1; LEAF_SIZE as usize]);
        partial.write_leaf(0, &lie, LeafHash::of(&lie)).unwrap();
        for index in 1..LEAVES {
            land(&partial, &blob, index);
        }
        assert!(lock(&partial.whole).leaves > 0);
        assert!(matches!(partial.verify(), Err(Error::DigestMismatch { .. })));
        partial.forget_leaf(0).unwrap();
        land(&partial, &blob, 0);
        partial.verify().unwrap();
    }

    #[test]
    fn who_hashes_while_another_does_waits_if_there_is_a_leaf_to_take_along_and_else_does_not() {
        let blob = blob();
        let (_folder, partial) = begin(Algorithm::Sha256, &blob);
        land(&partial, &blob, 0);
        let coming = leaf(&blob, 3);
        let whole = lock(&partial.whole);
        assert_eq!(partial.hash_beside(&coming), None, "only the leaf that the other is at is there");
        for index in [1, 2] {
            let bytes = leaf(&blob, index);
            partial.write_leaf(index, &bytes, LeafHash::of(&bytes)).unwrap();
        }
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| partial.hash_beside(&coming));
            assert_eq!(partial.hash_beside(b"short"), None);
            drop(whole);
            assert_eq!(waiting.join().unwrap(), Some(LeafHash::of(&coming)));
        });
        assert_eq!(lock(&partial.whole).leaves, 1);
    }

    #[test]
    fn a_short_leaf_does_not_wait_for_a_long_one() {
        let blob = blob();
        let (_folder, partial) = begin(Algorithm::Sha256, &blob);
        land(&partial, &blob, 0);
        assert_eq!(partial.hash_beside(b"short"), None);
        assert_eq!(partial.hash_leaf(b"short"), LeafHash::of(b"short"));
        assert_eq!(lock(&partial.whole).leaves, 0);
    }
}
