//! Blobs on disk: one file a blob, an index, a quota, crash safety.
//!
//! A blob is one file named by its digest; leaves and blocks are ranges of it, so bitswap, ranged reads and streaming
//! read the same bytes. Everything here blocks, so callers sit on blocking threads; everything is `Send + Sync`.
//!
//! ```text
//! <directory>/lock                              held while the store is open: one process at a time
//!             blobs/<algorithm>/<hex>           whole blobs
//!             partial/<algorithm>-<hex>.part    a blob in progress, sparse
//!             partial/<algorithm>-<hex>.map     log of its verified leaves
//!             index/                            sled; holds nothing that the files do not tell, but pins, tags and media types
//!             quarantine/                       files that did not match their name, never served
//! ```
//!
//! **What is trusted.** The order is: leaves written, whole digest matched, `fsync(file)`, `rename`, `fsync(directory)`, then
//! the index is told. So what the index lists was verified and is durable, and is served after a restart without being read again;
//! only its length is looked at. A file that the index does not list is hashed whole before it is served, in the
//! background or when it is first asked for; a mismatch goes to `quarantine/`. Hence the index may be lost, damaged or some commits old at any moment.
//!
//! **What a crash loses.** Of a blob in progress, the leaves whose bytes or map records had not reached the disk: resuming
//! hashes each leaf that the map names and keeps those that match. Nothing committed is lost; last uses of the last minute may be.
//!
//! **What a failing index costs.** Blobs are found and served without it; only blocks are not found then. It is opened again
//! as soon as it will, and what it lost is listed again. Where it cannot be opened at all, the store goes on with one in memory.
//!
//! **Room.** A partial reserves its whole size against the quota when it begins. Stale partials go first, then whole blobs,
//! least recently used first, down to the low watermark; a blob that is being read stays readable through its open file.
//! The file system's own free space is respected in the same way.
//!
//! | module | what it holds |
//! |---|---|
//! | `options`, `error` | how a store is opened, what may fail |
//! | `store`, `tags` | the face: [`Store`] |
//! | `shared` | what all handles of a store share, and how it is closed |
//! | `blob`, `block` | reading whole blobs and blocks of them |
//! | `recent`, `first_reads` | leaves that are read from memory, or past the page cache |
//! | `partial`, `map` | a blob in progress, and the log of its verified leaves |
//! | `pace` | which way the next leaf is written, past the page cache or through it: pure |
//! | `publish` | the one way in which a file becomes a blob |
//! | `recovery` | what is done about files that the index does not list, and the other way round |
//! | `room`, `eviction` | making room: carrying out, and the pure policy |
//! | `table` | what is held and who works on it, in memory |
//! | `index` | the `Index` trait, sled, the conformance suite |
//! | `layout`, `disk` | paths and the lock; the calls that a full or failing disk fails |

mod blob;
mod block;
mod disk;
mod error;
mod eviction;
mod first_reads;
mod hash;
mod index;
mod layout;
mod map;
mod options;
mod pace;
mod partial;
mod publish;
mod recent;
mod recovery;
mod room;
mod shared;
mod store;
mod table;
mod tags;

pub use blob::Blob;
pub use block::{Block, MAX_BLOCK_SIZE};
pub use disk::{Disk, SystemDisk};
pub use error::{Error, Result};
pub use index::TagRecord;
pub use options::{Change, Direct, Indexing, OnChange, Options};
pub use partial::Partial;
pub use store::{BlobInfo, Store, Usage};
