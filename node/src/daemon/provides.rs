//! What peers see of the store: blocks of whole blobs, outlines, and what tags named last.

use std::{io, sync::Arc};

use bytes::Bytes;
use shoal_content::{Cid, Digest, Outline};
use shoal_store::Store;
use shoal_swarm::{Blocks, KnownTag, Provides};

/// The store, as peers see it.
pub(super) struct Shown {
    store: Store,
}

impl Shown {
    pub(super) fn new(store: Store) -> Self {
        Self { store }
    }
}

impl Blocks for Shown {
    fn size(&self, cid: &Cid) -> Option<u64> {
        match self.store.block(cid) {
            Ok(block) => block.map(|block| block.size()),
            Err(error) => {
                tracing::warn!(%cid, %error, "a block cannot be looked up for a peer");
                None
            }
        }
    }

    fn read(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        let block = self.store.block(cid).map_err(io::Error::other)?;
        block.map(|block| block.read()).transpose().map_err(io::Error::other)
    }
}

impl Provides for Shown {
    fn outline(&self, digest: &Digest) -> Option<Arc<Outline>> {
        match self.store.outline(digest) {
            Ok(outline) => outline,
            Err(error) => {
                tracing::warn!(%digest, %error, "an outline cannot be read for a peer");
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
                tracing::warn!(tag = name, %error, "a tag cannot be looked up for a peer");
                None
            }
        }
    }
}
