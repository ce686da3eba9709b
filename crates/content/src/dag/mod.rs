//! UnixFS DAGs: how IPFS makes one file of many blocks.
//!
//! A leaf is a raw block of content. An inner node is a dag-pb block: links to its children, and a UnixFS message that says how many bytes of the file
//! each child covers. [`Builder`] makes the DAG that profile `unixfs-v1-2025` (IPIP-499) prescribes, so that Shoal, Kubo and Helia give a blob
//! the same root. Readers take any file DAG that those write or have written: see [`File::open`].
//!
//! | module | what it holds |
//! |---|---|
//! | [`build`] | leaves in, nodes and root out |
//! | [`node`] | dag-pb: a block's links and its data |
//! | [`unixfs`] | what a block says of a file: inline content, children and their sizes |
//! | [`walk`] | reading a byte range of a DAG: which blocks next, which bytes next |
//! | `wire` | the corner of protobuf that both formats use |
//!
//! What holds a DAG of a stranger within bounds: a block is at most [`MAX_BLOCK`] bytes and has at most [`MAX_LINKS`] links; a node is at most
//! [`MAX_DEPTH`] links below the root; a node's size is what its parts add up to, and what its parent says of it.

pub mod build;
mod error;
pub mod node;
pub mod unixfs;
pub mod walk;
mod wire;

pub use build::{Builder, Dag};
pub use error::{BadBlock, DagError};
pub use node::{Link, Node};
pub use unixfs::{Child, File, Kind};
pub use walk::{Span, Walk};

/// Multicodec of a dag-pb block.
pub const DAG_PB: u64 = 0x70;

/// The largest block that is read, in bytes: what bitswap carries at most.
pub const MAX_BLOCK: usize = 2 << 20;

/// Links of a node that is built: the width of profile `unixfs-v1-2025`.
pub const WIDTH: usize = 1024;

/// Links of a node that is read. Eight times the widest profile in use; the rest of what fits a block would only serve to fill memory.
pub const MAX_LINKS: usize = 8 * WIDTH;

/// Links between the root and a node that is read. Ten thousand times the largest blob has four levels; what is deeper is built to waste time.
pub const MAX_DEPTH: u8 = 32;
