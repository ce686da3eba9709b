//! Sizes of blobs, as manifests name them: with it a session needs to ask nobody how large its blob is.

use std::sync::{Mutex, PoisonError};

use shoal_content::{Digest, Origin};

use crate::{bounded::BoundedMap, descriptors::Parsed};

/// Blobs whose size is remembered: a thousand images of sixteen layers.
const CAPACITY: usize = 16 * 1024;

/// What manifests that passed through this node said of sizes.
#[derive(Debug)]
pub(crate) struct Sizes(Mutex<BoundedMap<(Origin, Digest), u64>>);

impl Sizes {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(BoundedMap::new(CAPACITY)))
    }

    /// Remembers the sizes that a verified manifest of a repository names. They are believed for that repository alone: who may
    /// push to one must not spoil the blobs of another.
    pub(crate) fn learn(&self, origin: &Origin, manifest: &Parsed) {
        let mut sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for descriptor in manifest.all() {
            sizes.insert((origin.clone(), descriptor.digest), descriptor.size);
        }
    }

    pub(crate) fn get(&self, origin: &Origin, digest: &Digest) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(origin.clone(), *digest)).copied()
    }
}
