//! Work for the blocking pool: everything that reads a disk or hashes a block.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use libp2p::PeerId;
use shoal_content::{Cid, Digest};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::{
    Blocks,
    handler::Permit,
    server::{Action, JobId},
    verify,
    wire::{Block, Prefix},
};

/// A block smaller than this part of its frame is copied out of it: it must not keep the frame alive.
const FRAME_SHARE: usize = 2;

/// What a job found.
#[derive(Debug)]
pub(crate) enum Done {
    Looked { peer: PeerId, sizes: Vec<(Cid, Option<u64>)> },
    Read { job: JobId, cid: Cid, data: io::Result<Option<Bytes>> },
    Hashed { peer: PeerId, blocks: Vec<Checked>, permits: Vec<Arc<Permit>> },
}

/// A received block and the CID that it really has.
#[derive(Debug)]
pub(crate) struct Checked {
    /// `None` when the prefix is not one that Shoal can check.
    pub(crate) cid: Option<Cid>,
    /// The block came without a prefix: the codec and version of `cid` are guesses.
    pub(crate) bare: bool,
    pub(crate) data: Bytes,
}

/// A received block, not checked.
pub(crate) struct Unchecked {
    pub(crate) peer: PeerId,
    pub(crate) block: Block,
    /// Length of the message that it is a slice of.
    pub(crate) frame_len: usize,
    pub(crate) permit: Arc<Permit>,
}

/// Starts what the server asked for.
pub(crate) fn store(blocks: Arc<dyn Blocks>, action: Action) -> JoinHandle<Done> {
    spawn_blocking(move || match action {
        Action::Look { peer, cids } => {
            let size = |cid: &Cid| catch_unwind(AssertUnwindSafe(|| blocks.size(cid))).unwrap_or(None);
            Done::Looked { peer, sizes: cids.into_iter().map(|cid| (cid, size(&cid))).collect() }
        }
        Action::Read { job, cid } => {
            let data = catch_unwind(AssertUnwindSafe(|| blocks.read(&cid)));
            let data = data.unwrap_or_else(|_| Err(io::Error::other("reading the block panicked")));
            Done::Read { job, cid, data }
        }
    })
}

/// Hashes blocks of one peer.
pub(crate) fn hash(hasher: Arc<dyn Blocks>, peer: PeerId, batch: Vec<Unchecked>) -> JoinHandle<Done> {
    spawn_blocking(move || {
        let hash = |algorithm, data: &[u8]| {
            let hashed = catch_unwind(AssertUnwindSafe(|| hasher.hash(algorithm, data)));
            hashed.unwrap_or_else(|_| Digest::of(algorithm, data))
        };
        let mut blocks = Vec::with_capacity(batch.len());
        let mut permits = Vec::with_capacity(batch.len());
        for Unchecked { block: Block { prefix, data }, frame_len, permit, .. } in batch {
            let cid = verify::cid_of(&prefix.unwrap_or(Prefix::V0), &data, hash);
            let data = if data.len() < frame_len / FRAME_SHARE { Bytes::copy_from_slice(&data) } else { data };
            blocks.push(Checked { cid, bare: prefix.is_none(), data });
            permits.push(permit);
        }
        Done::Hashed { peer, blocks, permits }
    })
}
