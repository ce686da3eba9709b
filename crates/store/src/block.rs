//! Blocks of whole blobs: leaves, inner nodes, and blobs that are small enough to be one block.

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use shoal_content::{
    Cid, Digest,
    leaf::{RAW, leaf_range},
};

use crate::{
    error::{Error, Result},
    index::{BlockKey, dag_of},
    shared::Shared,
};

/// The largest block that bitswap moves, in bytes.
pub const MAX_BLOCK_SIZE: u64 = 2 << 20;

/// A block that is held. Nothing is read before [`Block::read`]; what has been evicted by then is [`Error::Gone`].
#[derive(Clone)]
pub struct Block {
    shared: Arc<Shared>,
    digest: Digest,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// Bytes of the blob's file.
    Range(Range<u64>),
    /// An inner node of its DAG: position, size and CID.
    Inner(usize, u64, Cid),
}

impl Block {
    /// Where a block is held, if it is.
    pub(crate) fn find(shared: &Arc<Shared>, cid: &Cid) -> Result<Option<Self>> {
        let size_of = |digest: &Digest| shared.table().blobs.get(digest).map(|held| held.size);
        let block = |digest, source| Self { shared: Arc::clone(shared), digest, source };

        // A blob that is one block is named by its own digest: no need to ask the index.
        if cid.codec() == RAW
            && let Some(digest) = Digest::from_multihash(cid.hash())
            && let Some(size) = size_of(&digest)
            && size <= MAX_BLOCK_SIZE
        {
            return Ok(Some(block(digest, Source::Range(0..size))));
        }

        let Some(key) = BlockKey::of(cid) else { return Ok(None) };
        for place in shared.index.find(&key)? {
            let Some(size) = size_of(&place.digest) else { continue };
            let source = match key {
                BlockKey::Leaf(_) => Source::Range(leaf_range(size, place.position)),
                BlockKey::Inner(hash) => {
                    let Some(record) = shared.index.record(&place.digest)? else { continue };
                    let Ok(position) = usize::try_from(place.position) else { continue };
                    match record.nodes.get(position) {
                        Some(node) if node.hash == hash => Source::Inner(position, u64::from(node.size), *cid),
                        _ => continue,
                    }
                }
            };
            return Ok(Some(block(place.digest, source)));
        }
        Ok(None)
    }

    /// The blob that it is read from.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        match &self.source {
            Source::Range(range) => range.end - range.start,
            Source::Inner(_, size, _) => *size,
        }
    }

    /// Its bytes, as they are on disk: whoever gets them from us checks them against the CID. Counts as a use of the blob.
    pub fn read(&self) -> Result<Bytes> {
        match &self.source {
            Source::Range(range) => {
                let blob = self.shared.open_blob(&self.digest)?.ok_or(Error::Gone(self.digest))?;
                blob.read_at(range.start, usize::try_from(range.end - range.start).unwrap_or(usize::MAX))
            }
            Source::Inner(position, _, cid) => {
                let size = self.shared.table().touch(&self.digest).ok_or(Error::Gone(self.digest))?;
                let leaves = self.shared.index.leaves(&self.digest)?.ok_or(Error::Gone(self.digest))?;
                let mut dag = dag_of(size, &leaves);
                if dag.nodes.get(*position).is_none_or(|(found, _)| found != cid) {
                    return Err(Error::Index {
                        what: "build an inner node",
                        reason: format!("{cid} is not in {}", self.digest),
                    });
                }
                Ok(dag.nodes.swap_remove(*position).1)
            }
        }
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("digest", &self.digest).field("source", &self.source).finish_non_exhaustive()
    }
}
