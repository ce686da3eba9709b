//! What this node shows to its peers: the whole, verified blobs of its store, and the tags that it knows.

use std::{io, sync::Arc};

use bytes::Bytes;
use shoal_content::{Cid, Digest, Outline};
use shoal_store::{Change, Store};
use shoal_swarm::{Blocks, KnownTag, Provides, Swarm};

use crate::tags;

/// A store as peers see it.
#[derive(Clone)]
pub struct Shown(Store);

impl Shown {
    /// Shows what is in this store.
    pub fn new(store: Store) -> Self {
        Self(store)
    }

    /// Announces all that is in the store; for the start of a node. Blocks.
    pub fn announce_all(&self, swarm: &Swarm) -> Result<usize, shoal_store::Error> {
        let blobs = self.0.blobs()?;
        for blob in &blobs {
            swarm.announce(&blob.digest, &blob.root);
        }
        Ok(blobs.len())
    }
}

/// Tells the swarm of a change in the store.
pub fn announce(swarm: &Swarm, change: &Change) {
    match change {
        Change::Added { digest, root } => swarm.announce(digest, root),
        Change::Removed { digest, .. } => swarm.withdraw(digest),
    }
}

impl Blocks for Shown {
    fn size(&self, cid: &Cid) -> Option<u64> {
        match self.0.block(cid) {
            Ok(block) => block.map(|block| block.size()),
            Err(error) => {
                tracing::warn!(%cid, %error, "a block cannot be looked up: a peer is told that it is not here");
                None
            }
        }
    }

    fn read(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        let Some(block) = self.0.block(cid).map_err(io::Error::other)? else { return Ok(None) };
        block.read().map(Some).map_err(io::Error::other)
    }
}

impl Provides for Shown {
    fn outline(&self, digest: &Digest) -> Option<Arc<Outline>> {
        match self.0.outline(digest) {
            Ok(outline) => outline,
            Err(error) => {
                tracing::warn!(%digest, %error, "an outline cannot be read: a peer is told that the blob is not here");
                None
            }
        }
    }

    fn tag(&self, name: &str) -> Option<KnownTag> {
        let record = self.0.tag(name).ok()??;
        Some(KnownTag {
            digest: record.digest,
            size: record.size,
            resolved_at: record.resolved_at,
            media_type: record.media_type,
        })
    }
}

/// The DHT key of a tag, for `shoal find`.
pub fn tag_key(name: &str) -> Digest {
    tags::key_of(name)
}
