//! Why a block is not part of a file.

use cid::Cid;

use super::{Kind, MAX_BLOCK, MAX_DEPTH, MAX_LINKS};

/// Why a block cannot be read as part of a file.
///
/// A block is only looked at after its hash was seen to match, so none of these passes by asking another peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DagError {
    /// Larger than [`MAX_BLOCK`].
    #[error("block is {0} bytes, more than {MAX_BLOCK}")]
    TooLarge(usize),
    /// Not protobuf.
    #[error("block is not protobuf: {0}")]
    Protobuf(&'static str),
    /// Protobuf, but not a dag-pb node.
    #[error("block is not a dag-pb node: {0}")]
    Node(&'static str),
    /// More than [`MAX_LINKS`] links.
    #[error("node has more than {MAX_LINKS} links")]
    TooManyLinks,
    /// Something of UnixFS, but no file.
    #[error("node is a {0}, not a file")]
    NotAFile(Kind),
    /// The number of sizes is not that of the links.
    #[error("node has {links} links and {sizes} block sizes")]
    Sizes {
        /// Links of the node.
        links: usize,
        /// Sizes in its UnixFS message.
        sizes: usize,
    },
    /// Not of the size that the node itself or its parent gives.
    #[error("node covers {actual} bytes where {stated} are stated")]
    Size {
        /// What the file size or the parent's block size says.
        stated: u64,
        /// What its parts add up to.
        actual: u64,
    },
    /// Its parts add up to more than 2^64 bytes.
    #[error("node covers more than 2^64 bytes")]
    Overflow,
    /// A CID of a codec that files are not made of.
    #[error("codec {0:#x} is neither raw nor dag-pb")]
    Codec(u64),
    /// A CID whose hash Shoal cannot check.
    #[error("hash function {0:#x} is not sha2-256, sha2-512 or identity")]
    Hash(u64),
    /// More than [`MAX_DEPTH`] links below the root.
    #[error("node is more than {MAX_DEPTH} links below the root")]
    TooDeep,
    /// The nodes on the way to the next byte have more links together than a reader keeps.
    #[error("nodes have too many links to be read in order")]
    TooWide,
}

/// A block that cannot be read as part of a file, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {cid}: {reason}")]
pub struct BadBlock {
    /// The block.
    pub cid: Cid,
    /// What is wrong with it.
    pub reason: DagError,
}
