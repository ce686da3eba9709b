//! What the server serves.

use std::io;

use bytes::Bytes;
use shoal_content::Cid;

/// The blocks that this node gives to peers.
///
/// Both calls may block (on a disk, on a lock): the engine makes them on tokio's blocking pool, at most
/// [`Config::max_reads`](crate::Config::max_reads) at once, never on the network task.
pub trait Blocks: Send + Sync + 'static {
    /// Size of the block in bytes; `None` when it is not here.
    fn size(&self, cid: &Cid) -> Option<u64>;

    /// The block's bytes; `None` when it is not here (any more). Bytes are sent as they are: the asker checks them.
    fn read(&self, cid: &Cid) -> io::Result<Option<Bytes>>;
}
