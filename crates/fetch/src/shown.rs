//! What this node shows to its peers: the whole, verified blobs of its store, the leaves of those that are coming in, the tags that it
//! knows, and itself as the coordinator of blobs.

use std::{io, sync::Arc};

use bytes::Bytes;
use shoal_content::{Algorithm, Cid, Digest, LeafHash, Outline};
use shoal_store::{Change, Partial, Store};
use shoal_swarm::{Blocks, KnownTag, PeerId, Provides, Swarm};
use tokio::sync::oneshot;

use crate::{coordinators::Coordinators, live::Live, tags, words::Words};

/// A node as peers see it. Made before the swarm, which shows it, and before [`crate::Fetch`], which fills it.
#[derive(Clone)]
pub struct Shown {
    pub(crate) store: Store,
    pub(crate) live: Live,
    pub(crate) words: Words,
    pub(crate) coordinators: Coordinators,
}

impl Shown {
    /// Shows what is in this store.
    pub fn new(store: Store) -> Self {
        Self { coordinators: Coordinators::new(store.clone()), live: Live::default(), words: Words::default(), store }
    }

    /// A blob that comes in by other ways than a session: its digest too is moved on beside the blocks that come, see [`Blocks::hash`].
    pub fn move_on(&self, partial: &Arc<Partial>) {
        self.live.move_on(partial);
    }
}

/// Tells the swarm of a change in the store.
pub fn announce(swarm: &Swarm, change: &Change) {
    match change {
        Change::Added { digest, root } => {
            swarm.announce(digest, root);
            swarm.have_now(*root);
        }
        Change::Removed { digest, .. } => swarm.withdraw(digest),
    }
}

impl Blocks for Shown {
    fn size(&self, cid: &Cid) -> Option<u64> {
        if let Some(size) = LeafHash::from_cid(cid).and_then(|hash| self.live.size(&hash)) {
            return Some(size);
        }
        match self.store.block(cid) {
            Ok(block) => block.map(|block| block.size()),
            Err(error) => {
                tracing::warn!(%cid, %error, "a block cannot be looked up: a peer is told that it is not here");
                None
            }
        }
    }

    fn read(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        if let Some(read) = LeafHash::from_cid(cid).and_then(|hash| self.live.read(&hash)) {
            return read.map(Some).map_err(io::Error::other);
        }
        let Some(block) = self.store.block(cid).map_err(io::Error::other)? else { return Ok(None) };
        block.read().map(Some).map_err(io::Error::other)
    }

    fn hash(&self, algorithm: Algorithm, block: &[u8]) -> Digest {
        match algorithm {
            Algorithm::Sha256 => Digest::sha256(self.live.hash(block).0),
            Algorithm::Sha512 => Digest::of(algorithm, block),
        }
    }
}

impl Provides for Shown {
    fn outline(&self, digest: &Digest) -> Option<Arc<Outline>> {
        match self.store.outline(digest) {
            // Of a blob that is coming in, this node vouches for what it has read from upstream by itself.
            Ok(outline) => outline.or_else(|| self.words.of(digest).map(Arc::new)),
            Err(error) => {
                tracing::warn!(%digest, %error, "an outline cannot be read: a peer is told that the blob is not here");
                None
            }
        }
    }

    fn tag(&self, name: &str) -> Option<KnownTag> {
        match self.store.tag(name) {
            Ok(record) => record.map(|record| KnownTag {
                digest: record.digest,
                size: record.size,
                resolved_at: record.resolved_at,
                media_type: record.media_type,
            }),
            Err(error) => {
                tracing::warn!(tag = name, %error, "a tag cannot be looked up: a peer is told that it is not known");
                None
            }
        }
    }

    fn coordinate(&self, peer: PeerId, request: Vec<u8>) -> Option<oneshot::Receiver<Vec<u8>>> {
        self.coordinators.asked(peer, &request)
    }
}

/// The DHT key of a tag, for `shoal find`.
pub fn tag_key(name: &str) -> Digest {
    tags::key_of(name)
}
