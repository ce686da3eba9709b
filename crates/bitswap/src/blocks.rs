//! What the server serves, and how what comes is hashed.

use std::io;

use bytes::Bytes;
use shoal_content::{Algorithm, Cid, Digest};

/// The blocks that this node gives to peers.
///
/// All calls may block (on a disk, on a lock): the engine makes them on tokio's blocking pool, never on the network task; those that
/// look and read at most [`Config::max_reads`](crate::Config::max_reads) at once.
pub trait Blocks: Send + Sync + 'static {
    /// Size of the block in bytes; `None` when it is not here.
    fn size(&self, cid: &Cid) -> Option<u64>;

    /// The block's bytes; `None` when it is not here (any more). Bytes are sent as they are: the asker checks them.
    fn read(&self, cid: &Cid) -> io::Result<Option<Bytes>>;

    /// The digest of a block that has come, at most [`Config::max_hashes`](crate::Config::max_hashes) at once. What it gives is what
    /// [`Digest::of`] gives; whoever has other bytes to hash can do so beside it, for two hashes at once cost hardly more than one.
    fn hash(&self, algorithm: Algorithm, block: &[u8]) -> Digest {
        Digest::of(algorithm, block)
    }
}
