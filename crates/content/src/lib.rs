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
//! | `sha256` | SHA-256 of two streams at once |
//! | `verify` | [`cid_matches`]: whether a block is the one that a CID names |
//! | [`buffer`] | memory for leaves, used again |
//! | [`name`] | registries, repositories, tags, references |
//!
//! ```
//! use shoal_content::{Algorithm, Digest, LeafHash, LeafSet, Outline, leaf::leaf_range};
//!
//! let blob = vec![7; 3 << 20];
//! let mut outline = Outline::growing(blob.len() as u64).expect("far below the largest blob");
//! let mut have = LeafSet::empty(outline.leaf_count());
//! for index in 0..outline.leaf_count() {
//!     let range = leaf_range(outline.size(), index);
//!     outline.set(index, LeafHash::of(&blob[range.start as usize..range.end as usize]));
//!     have.insert(index);
//! }
//! assert!(have.is_full());
//! // What peers find it by, and what any IPFS peer can fetch it by.
//! let digest = Digest::of(Algorithm::Sha256, &blob);
//! assert!(digest.to_string().starts_with("sha256:"));
//! assert!(outline.root().expect("every leaf is known").to_string().starts_with("bafy"));
//! ```
//!
//! Every parser takes bytes from outside, bounds what it allocates and never panics.

pub mod buffer;
pub mod dag;
pub mod digest;
pub mod leaf;
pub mod name;
pub mod outline;
mod sha256;
mod verify;

pub use cid::Cid;
pub use digest::{Algorithm, Digest, Hasher};
pub use leaf::{LEAF_SIZE, LeafHash, LeafSet};
pub use name::{Image, Origin, Reference, Registry, Repository, Tag};
pub use outline::Outline;
pub use verify::{cid_matches, is_verifiable};
