//! Outlines: a blob's size and the hashes of its leaves, as far as they are known.
//!
//! Wire form, all integers big-endian: version (1 byte, 1), size (8 bytes), flags (1 byte: 0 complete, 1 growing); for a growing
//! outline a bit map of the known leaves, most significant bit first, padded to whole bytes; then the hash of each known leaf (32 bytes), in order.
//! An outline is a hint from whoever sent it until the blob's whole digest has been seen to match.

use cid::Cid;

use crate::{
    dag,
    leaf::{LeafHash, leaf_count, leaf_range},
};

/// The largest blob that Shoal cuts into leaves, in bytes. Larger ones are refused before anything is allocated for them.
pub const MAX_BLOB_SIZE: u64 = 1 << 40;

const VERSION: u8 = 1;
const HEADER: usize = 10;

/// A blob's size and the hashes of its leaves in order; it may still be growing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    size: u64,
    leaves: Vec<Option<LeafHash>>,
    known: u64,
}

/// Why bytes are not an outline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutlineError {
    /// Ends before all that it announces.
    #[error("outline is {have} bytes, {need} are needed")]
    Short {
        /// Bytes given.
        have: usize,
        /// Bytes that the header asks for.
        need: usize,
    },
    /// Bytes are left over.
    #[error("outline has {0} bytes after its end")]
    Trailing(usize),
    /// Of a version that this program does not speak.
    #[error("outline has version {0}, not {VERSION}")]
    Version(u8),
    /// An undefined flag is set.
    #[error("outline has unknown flags {0:#04x}")]
    Flags(u8),
    /// The blob is larger than [`MAX_BLOB_SIZE`].
    #[error("outline is of a blob of {0} bytes, more than {MAX_BLOB_SIZE}")]
    TooLarge(u64),
}

impl Outline {
    /// An outline of a blob of `size` bytes of which no leaf is known; `None` when it is larger than [`MAX_BLOB_SIZE`].
    pub fn growing(size: u64) -> Option<Self> {
        if size > MAX_BLOB_SIZE {
            return None;
        }
        let count = usize::try_from(leaf_count(size)).ok()?;
        Some(Self { size, leaves: vec![None; count], known: 0 })
    }

    /// A complete outline; `None` when the number of hashes is not that of the blob's leaves.
    pub fn complete(size: u64, leaves: &[LeafHash]) -> Option<Self> {
        let mut outline = Self::growing(size)?;
        if leaves.len() != outline.leaves.len() {
            return None;
        }
        outline.known = leaf_count(size);
        outline.leaves = leaves.iter().copied().map(Some).collect();
        Some(outline)
    }

    /// The blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of leaves of the blob.
    pub fn leaf_count(&self) -> u64 {
        self.leaves.len() as u64
    }

    /// Number of leaves whose hash is known.
    pub fn known(&self) -> u64 {
        self.known
    }

    /// Whether every leaf's hash is known.
    pub fn is_complete(&self) -> bool {
        self.known == self.leaf_count()
    }

    /// The hash of leaf `index`, if it is known.
    pub fn leaf(&self, index: u64) -> Option<LeafHash> {
        *self.leaves.get(usize::try_from(index).ok()?)?
    }

    /// Makes known, or corrects, the hash of a leaf; false when there is no such leaf.
    pub fn set(&mut self, index: u64, hash: LeafHash) -> bool {
        let Some(slot) = usize::try_from(index).ok().and_then(|index| self.leaves.get_mut(index)) else {
            return false;
        };
        self.known += u64::from(slot.is_none());
        *slot = Some(hash);
        true
    }

    /// The hashes of all leaves in order; `None` while the outline is growing.
    pub fn hashes(&self) -> Option<Vec<LeafHash>> {
        self.leaves.iter().copied().collect()
    }

    /// The root of the blob's UnixFS DAG; `None` while the outline is growing.
    pub fn root(&self) -> Option<Cid> {
        let hashes = self.hashes()?;
        let mut builder = dag::Builder::new();
        for (hash, index) in hashes.iter().zip(0..) {
            let range = leaf_range(self.size, index);
            builder.leaf(*hash, range.end - range.start);
            // Only the root is asked for: the nodes below it need not pile up.
            builder.take_nodes();
        }
        Some(builder.finish().root)
    }

    /// The wire form.
    pub fn encode(&self) -> Vec<u8> {
        let growing = !self.is_complete();
        let known = usize::try_from(self.known).unwrap_or(usize::MAX);
        let mut out = Vec::with_capacity(HEADER + self.leaves.len() / 8 + 1 + known * 32);
        out.push(VERSION);
        out.extend_from_slice(&self.size.to_be_bytes());
        out.push(u8::from(growing));
        if growing {
            for group in self.leaves.chunks(8) {
                let bits =
                    group.iter().zip(0u32..).fold(0, |bits, (leaf, at)| bits | (u8::from(leaf.is_some()) << (7 - at)));
                out.push(bits);
            }
        }
        for hash in self.leaves.iter().flatten() {
            out.extend_from_slice(&hash.0);
        }
        out
    }

    /// Reads the wire form. Allocates 33 bytes for each leaf: no more than `bytes.len()` where all are known, 264 times that where none is.
    pub fn decode(bytes: &[u8]) -> Result<Self, OutlineError> {
        let short = |need| OutlineError::Short { have: bytes.len(), need };
        let header = bytes.get(..HEADER).ok_or(short(HEADER))?;
        if header[0] != VERSION {
            return Err(OutlineError::Version(header[0]));
        }
        let size = u64::from_be_bytes(header[1..9].try_into().expect("eight bytes"));
        if size > MAX_BLOB_SIZE {
            return Err(OutlineError::TooLarge(size));
        }
        let count = usize::try_from(leaf_count(size)).map_err(|_| OutlineError::TooLarge(size))?;
        let growing = match header[9] {
            0 => false,
            1 => true,
            other => return Err(OutlineError::Flags(other)),
        };

        let map_len = if growing { count.div_ceil(8) } else { 0 };
        let map = bytes.get(HEADER..HEADER + map_len).ok_or(short(HEADER + map_len))?;
        let is_known = |index: usize| !growing || map[index / 8] & (0x80 >> (index % 8)) != 0;
        let known = if growing { (0..count).filter(|&index| is_known(index)).count() } else { count };
        let need = HEADER + map_len + known * 32;
        if bytes.len() < need {
            return Err(short(need));
        }
        if bytes.len() > need {
            return Err(OutlineError::Trailing(bytes.len() - need));
        }

        let mut hashes = bytes[HEADER + map_len..].chunks_exact(32);
        let mut leaves = Vec::with_capacity(count);
        for index in 0..count {
            let hash = if is_known(index) { hashes.next() } else { None };
            leaves.push(hash.map(|hash| LeafHash(hash.try_into().expect("chunks of 32"))));
        }
        Ok(Self { size, leaves, known: known as u64 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::LEAF_SIZE;

    #[test]
    fn an_outline_grows_until_it_is_complete() {
        let mut outline = Outline::growing(3 * LEAF_SIZE).unwrap();
        assert!(!outline.is_complete() && outline.root().is_none());
        for index in 0..3 {
            assert!(outline.set(index, LeafHash([index as u8; 32])));
        }
        assert!(!outline.set(3, LeafHash([0; 32])));
        assert!(outline.is_complete() && outline.root().is_some());
    }

    #[test]
    fn an_announced_size_alone_allocates_nothing() {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&MAX_BLOB_SIZE.to_be_bytes());
        bytes.push(1);
        assert!(matches!(Outline::decode(&bytes), Err(OutlineError::Short { .. })));
        bytes[1..9].copy_from_slice(&u64::MAX.to_be_bytes());
        assert_eq!(Outline::decode(&bytes), Err(OutlineError::TooLarge(u64::MAX)));
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same(size in 0..40 * LEAF_SIZE, known in proptest::collection::vec(any::<bool>(), 40)) {
            let mut outline = Outline::growing(size).unwrap();
            for (index, known) in (0..outline.leaf_count()).zip(known) {
                if known {
                    outline.set(index, LeafHash([index as u8; 32]));
                }
            }
            prop_assert_eq!(Outline::decode(&outline.encode()), Ok(outline));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(outline) = Outline::decode(&bytes) {
                prop_assert_eq!(outline.leaf_count(), leaf_count(outline.size()));
            }
        }
    }
}
