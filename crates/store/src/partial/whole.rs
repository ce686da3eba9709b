//! The whole digest of a blob in progress, computed as the frontier moves.
//!
//! It is moved on by whichever writer finds that nobody else is at it, from the bytes in its hands when its leaf is next, otherwise
//! from the file, which is in the page cache then. A writer catches up with a few leaves at most, so that none is kept for long;
//! `verify` does the rest.

use shoal_content::{
    Algorithm, Hasher,
    leaf::{leaf_count, leaf_range},
};

use super::Partial;
use crate::{
    error::{Error, Result},
    table::lock,
};

/// Leaves that one writer hashes at most when it finds the whole digest behind: some milliseconds.
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
    /// Moves the whole digest on, if nobody else is at it. `bytes` are those of leaf `index`, written before the `forgotten`th leaf was forgotten.
    pub(super) fn hash_ahead(&self, index: u64, bytes: &[u8], forgotten: u64) {
        let mut left = CATCH_UP;
        loop {
            {
                let Ok(mut whole) = self.whole.try_lock() else { return };
                while left > 0 && self.is_next(&whole, None) {
                    let hashed = if whole.leaves == index && self.is_next(&whole, Some(forgotten)) {
                        whole.hasher.update(bytes);
                        Ok(())
                    } else {
                        self.read(leaf_range(self.size, whole.leaves)).map(|leaf| whole.hasher.update(&leaf))
                    };
                    if let Err(error) = hashed {
                        // `verify` comes upon it again, and says so.
                        tracing::debug!(digest = %self.digest, %error, "cannot read a leaf back to hash it");
                        return;
                    }
                    whole.leaves += 1;
                    left -= 1;
                }
                // Unlocked here: whoever landed the next leaf meanwhile, and found this locked, relies on the look below.
            }
            let next = self.whole.try_lock().is_ok_and(|whole| self.is_next(&whole, None));
            if left == 0 || !next {
                return;
            }
        }
    }

    /// Whether the leaf that the whole digest needs next is there, and, if asked, no leaf has been forgotten since.
    fn is_next(&self, whole: &Whole, forgotten: Option<u64>) -> bool {
        let progress = lock(&self.progress);
        progress.have.contains(whole.leaves) && forgotten.is_none_or(|forgotten| forgotten == progress.forgotten)
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
            whole.leaves += 1;
        }
        let actual = whole.hasher.clone().finish();
        if actual != digest {
            return Err(Error::DigestMismatch { expected: digest, actual: Box::new(actual) });
        }
        Ok(())
    }
}
