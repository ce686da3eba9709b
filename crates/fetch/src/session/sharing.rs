//! How many blobs share the links of this node.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Counts the blobs that this node is getting.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sharing(Arc<AtomicU32>);

/// One of them, until it is dropped.
pub(super) struct Share(Sharing);

impl Sharing {
    pub(super) fn begin(&self) -> Share {
        self.0.fetch_add(1, Ordering::Relaxed);
        Share(self.clone())
    }
}

impl Share {
    /// The blobs that this node is getting now, this one among them.
    pub(super) fn blobs(&self) -> u32 {
        self.0.0.load(Ordering::Relaxed)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
