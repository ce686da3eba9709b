//! Reading whole blobs.

use std::{
    fmt,
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use shoal_content::{Cid, Digest, Outline, buffer::Buffer};

use crate::{
    error::{Error, Result},
    hash::hash_file,
    layout::Layout,
    shared::Shared,
};

/// A whole, verified blob. Keeps its file open: eviction does not take it away under a reader. Cheap to clone.
#[derive(Clone)]
pub struct Blob {
    shared: Arc<Shared>,
    digest: Digest,
    size: u64,
    file: Arc<File>,
    outline: OnceLock<Arc<Outline>>,
}

impl Blob {
    pub(crate) fn new(
        shared: Arc<Shared>,
        digest: Digest,
        size: u64,
        file: Arc<File>,
        outline: Option<Arc<Outline>>,
    ) -> Self {
        let outline = outline.map_or_else(OnceLock::new, OnceLock::from);
        Self { shared, digest, size, file, outline }
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Root of its DAG.
    pub fn root(&self) -> Result<Cid> {
        match self.shared.index.record(&self.digest) {
            Ok(Some(record)) => Ok(record.root),
            Ok(None) | Err(_) => self.outline()?.root().ok_or(Error::Damaged(self.digest)),
        }
    }

    /// Its outline, complete. Read from the index; where the index has lost it, from the file, all of which is hashed then.
    pub fn outline(&self) -> Result<Arc<Outline>> {
        if let Some(outline) = self.outline.get() {
            return Ok(Arc::clone(outline));
        }
        let leaves = match self.shared.index.leaves(&self.digest) {
            Ok(Some(leaves)) => leaves,
            Ok(None) | Err(_) => {
                let hashed = hash_file(&self.file, self.digest.algorithm(), &|| false);
                let hashed = hashed.map_err(Error::io("read", self.shared.layout.blob(&self.digest), 0))?;
                let (digest, leaves) = hashed.ok_or(Error::Damaged(self.digest))?;
                if digest != self.digest {
                    return Err(Error::Damaged(self.digest));
                }
                leaves
            }
        };
        let outline = Outline::complete(self.size, &leaves).ok_or(Error::Damaged(self.digest))?;
        Ok(Arc::clone(self.outline.get_or_init(|| Arc::new(outline))))
    }

    /// Bytes `range` if they have just come and are in memory still: does not block. `None` otherwise, and where the range is not within one leaf.
    pub fn read_from_memory(&self, range: Range<u64>) -> Option<Bytes> {
        self.shared.recent.read(&self.digest, self.size, &range)
    }

    /// Up to `len` bytes from `offset` on: fewer, or none, where the blob ends before.
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        if let Some(bytes) = self.read_from_memory(offset..offset + len as u64) {
            return Ok(bytes);
        }
        if let Some(leaf) = self.shared.read_leaf(&self.digest, &self.file, offset, len, Layout::blob) {
            return Ok(leaf);
        }
        let mut buffer = Buffer::of(len);
        match self.file.read_exact_at(&mut buffer, offset) {
            Ok(()) => Ok(buffer.freeze(len)),
            Err(error) => Err(Error::io("read", self.shared.layout.blob(&self.digest), 0)(error)),
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("digest", &self.digest).field("size", &self.size).finish_non_exhaustive()
    }
}
