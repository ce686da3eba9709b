//! Digests, CIDs, leaves, outlines, UnixFS DAGs and names: everything that Shoal knows about content
//! without touching a disk, a network or a clock.
//!
//! An OCI blob is named by its [`Digest`]. Shoal cuts it into leaves of [`LEAF_SIZE`] bytes; each leaf is a raw IPLD
//! block. An [`Outline`] is what one must know to fetch a blob leaf by leaf; [`dag`] builds the UnixFS DAG over the
//! leaves, whose root is the CID under which any IPFS peer can fetch the blob.
//!
//! | module | what it holds |
//! |---|---|
//! | [`digest`] | OCI digests and hashing |
//! | [`leaf`] | the division of a blob into leaves, sets of leaves |
//! | [`outline`] | sizes and leaf hashes of a blob, its wire form |
//! | [`dag`] | building and decoding UnixFS DAGs (profile `unixfs-v1-2025`) |
//! | `verify` | whether a block is the one that a CID names |
//! | [`name`] | registries, repositories, tags, references |
//!
//! Every parser takes bytes from outside, bounds what it allocates and never panics.

pub mod dag;
pub mod digest;
pub mod leaf;
pub mod name;
pub mod outline;
mod verify;

pub use cid::Cid;
pub use digest::{Algorithm, Digest, Hasher};
pub use leaf::{LEAF_SIZE, LeafHash, LeafSet};
pub use name::{Image, Origin, Reference, Registry, Repository, Tag};
pub use outline::Outline;
pub use verify::{cid_matches, is_verifiable};
