//! The index: which blob a block is in, and what else is known of a blob. Never the only place of anything that matters:
//! the files are the truth, and what is lost here is found out again from them. Only pins, media types and tags are not in the files.

mod memory;
mod record;
mod sled;

#[cfg(test)]
mod conformance;

use shoal_content::{Cid, Digest, LeafHash, leaf::RAW};

pub use self::record::TagRecord;
pub(crate) use self::{
    memory::MemoryIndex,
    record::{InnerNode, Record, dag_of},
    sled::SledIndex,
};
use crate::error::Result;

/// Multicodec of an inner node.
pub(crate) const DAG_PB: u64 = 0x70;

/// Blobs that one block is looked up in at most: equal leaves (such as zeros) may be in very many.
const MAX_PLACES: usize = 16;

/// What a block is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKey {
    /// A raw block: a leaf.
    Leaf(LeafHash),
    /// A dag-pb block: an inner node, by its SHA-256.
    Inner([u8; 32]),
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) digest: Digest,
    /// Leaf index, or position among the inner nodes of the blob's DAG, children before parents.
    pub(crate) position: u64,
}

/// What an index does. Every implementation passes the suite in `conformance`.
///
/// An insertion or removal that is interrupted may leave blocks that are found in a blob without a record: the caller asks for what it holds itself.
pub(crate) trait Index: Send + Sync {
    /// Lists a blob, in place of what was listed of it. `leaves` are all its leaves in order.
    fn insert(&self, record: &Record, leaves: &[LeafHash]) -> Result<()>;

    /// Takes a blob and its blocks out, and gives its record; equal blocks of other blobs stay.
    fn remove(&self, digest: &Digest) -> Result<Option<Record>>;

    /// What is known of a blob.
    fn record(&self, digest: &Digest) -> Result<Option<Record>>;

    /// Every record, by ascending digest.
    fn records(&self, each: &mut dyn FnMut(Record)) -> Result<()>;

    /// A blob's leaves in order; `None` when it is not listed, or not all of them are known.
    fn leaves(&self, digest: &Digest) -> Result<Option<Vec<LeafHash>>>;

    /// Blobs that the block is in, at most [`MAX_PLACES`].
    fn find(&self, key: &BlockKey) -> Result<Vec<Place>>;

    /// Notes last uses; blobs that are not listed are passed over.
    fn touch(&self, uses: &[(Digest, u64)]) -> Result<()>;

    /// Changes what is known of a listed blob, all but its size and blocks; false when it is not listed.
    fn update(&self, digest: &Digest, change: &mut dyn FnMut(&mut Record)) -> Result<bool>;

    /// What was last set for a key.
    fn tag(&self, key: &str) -> Result<Option<TagRecord>>;

    /// Sets a key; true when it is new.
    fn set_tag(&self, key: &str, tag: &TagRecord) -> Result<bool>;

    /// Every tag, by ascending key.
    fn tags(&self, each: &mut dyn FnMut(&str, TagRecord)) -> Result<()>;

    /// Forgets a key; false when it was not set.
    fn remove_tag(&self, key: &str) -> Result<bool>;

    /// Makes durable all that was changed before.
    fn flush(&self) -> Result<()>;

    /// A call failed, so that others may fail until it is opened again.
    fn is_failing(&self) -> bool {
        false
    }

    /// Opens it again. Changes that were not durable may be lost.
    fn reopen(&self) -> Result<()> {
        Ok(())
    }
}

impl BlockKey {
    /// The key of a block that an index may hold; `None` for other codecs and hash functions.
    pub(crate) fn of(cid: &Cid) -> Option<Self> {
        if let Some(leaf) = LeafHash::from_cid(cid) {
            return Some(BlockKey::Leaf(leaf));
        }
        if cid.codec() != DAG_PB || cid.hash().code() != 0x12 {
            return None;
        }
        Some(BlockKey::Inner(cid.hash().digest().try_into().ok()?))
    }
}

/// The root's CID from its codec and hash.
pub(crate) fn cid(codec: u64, hash: &[u8; 32]) -> Cid {
    // A raw SHA-256 CID and a dag-pb one differ in nothing but the codec.
    let raw = LeafHash(*hash).cid();
    if codec == RAW { raw } else { Cid::new_v1(codec, *raw.hash()) }
}
