//! Serving a blob that cannot be stored: a full disk never fails a pull.
//!
//! The bytes go through memory, leaf by leaf, from upstream, or from peers where upstream cannot give them. The digest of the whole is
//! computed on the way, and the last leaf is held back until it matches.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use futures::Stream;
use shoal_content::{
    Digest, Hasher, LeafHash, Origin, Outline,
    leaf::{leaf_at, leaf_count, leaf_range},
};
use shoal_swarm::PeerId;

use crate::{
    face::Error,
    reading::{Read, Reading},
    search::{Found, Search},
    session::{Env, chunks},
    trace::add,
    upstream_error,
};

/// Bytes `range` of a blob of `size` bytes, without the store.
///
/// A range that begins at 0 and reaches the end is verified as a whole; of any other, leaves from peers are checked against their CIDs,
/// and what upstream sends is upstream's word.
pub(crate) fn stream(
    env: Arc<Env>,
    origin: Origin,
    digest: Digest,
    size: u64,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let whole = range == (0..size);
    let through = Through {
        env,
        origin,
        digest,
        size,
        leaf: leaf_at(range.start),
        range,
        hasher: whole.then(|| Hasher::new(digest.algorithm())),
        source: Source::Unopened,
        tried: Vec::new(),
    };
    futures::stream::try_unfold(through, |mut through| async move {
        Ok(through.next().await?.map(|bytes| (bytes, through)))
    })
}

struct Through {
    env: Arc<Env>,
    origin: Origin,
    digest: Digest,
    size: u64,
    range: Range<u64>,
    leaf: u64,
    hasher: Option<Hasher>,
    source: Source,
    tried: Vec<String>,
}

enum Source {
    Unopened,
    Upstream(Box<Reading>),
    Peers(Arc<Outline>, Vec<PeerId>),
    Exhausted,
}

impl Through {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let last = leaf_count(self.size);
        let at = leaf_range(self.size, self.leaf);
        if self.leaf >= last || at.start >= self.range.end && self.size > 0 {
            return Ok(None);
        }
        let bytes = self.fetch().await?;
        if let Some(mut hasher) = self.hasher.take() {
            let digest = self.digest;
            let hashed = bytes.clone();
            hasher = tokio::task::spawn_blocking(move || {
                hasher.update(&hashed);
                hasher
            })
            .await
            .map_err(|error| Error::Local {
                what: format!("hashing blob {digest}"),
                reason: error.to_string().into(),
            })?;
            if self.leaf + 1 == last {
                if hasher.finish() != digest {
                    return Err(Error::Corrupt {
                        what: format!("blob {digest}"),
                        reason: "the whole hashes to something else; its last leaf was held back".into(),
                    });
                }
            } else {
                self.hasher = Some(hasher);
            }
            self.leaf += 1;
            return Ok(Some(bytes));
        }
        self.leaf += 1;
        let from = usize::try_from(self.range.start.saturating_sub(at.start)).unwrap_or(usize::MAX).min(bytes.len());
        let to = usize::try_from(self.range.end.min(at.end) - at.start).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Some(bytes.slice(from..to)))
    }

    async fn fetch(&mut self) -> Result<Bytes, Error> {
        loop {
            match &mut self.source {
                Source::Unopened => self.open().await?,
                Source::Upstream(reading) => match reading.next().await {
                    Read::Leaf(_, bytes) => {
                        add(&self.env.counters.from_upstream, bytes.len() as u64);
                        return Ok(bytes);
                    }
                    Read::End => self.source = Source::Exhausted,
                    Read::Broken(reason) => {
                        self.tried.push(format!("upstream: {reason}"));
                        self.find_peers().await;
                    }
                },
                Source::Peers(outline, holders) => {
                    let Some(peer) = holders.last().copied() else {
                        self.source = Source::Exhausted;
                        continue;
                    };
                    let hash = outline.leaf(self.leaf).unwrap_or(LeafHash([0; 32]));
                    match self.env.swarm.block(peer, hash.cid(), 1).await {
                        Ok(bytes) => {
                            add(&self.env.counters.from_peers, bytes.len() as u64);
                            return Ok(bytes);
                        }
                        Err(error) => {
                            self.tried.push(format!("{peer}: {error}"));
                            holders.pop();
                        }
                    }
                }
                Source::Exhausted => {
                    return Err(Error::Unavailable {
                        what: format!("blob {} of {}", self.digest, self.origin),
                        reason: self.tried.join("; "),
                    });
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        let from = leaf_range(self.size, self.leaf).start;
        match self.env.upstream.blob(&self.origin, &self.digest, from).await {
            Ok(blob) => {
                let offset = blob.offset();
                let leaves = self.leaf..leaf_count(self.size);
                self.source = Source::Upstream(Box::new(Reading::new(chunks(blob), offset, leaves, self.size)));
            }
            Err(error) => {
                self.tried.push(upstream_error(format!("blob {}", self.digest), &error).to_string());
                self.find_peers().await;
            }
        }
        Ok(())
    }

    async fn find_peers(&mut self) {
        let mut search = Search::begin(&self.env.swarm, self.digest, Some(self.size));
        let mut adopted: Option<Arc<Outline>> = None;
        let mut holders = Vec::new();
        loop {
            match search.next(&self.env.reputation).await {
                Found::Holder(peer, outline) if outline.size() == self.size => {
                    let adopted = adopted.get_or_insert_with(|| outline.clone());
                    if **adopted == *outline {
                        holders.push(peer);
                    }
                }
                Found::Holder(..) | Found::Useless(..) => {}
                Found::Over => break,
            }
        }
        self.source = match adopted {
            Some(outline) => Source::Peers(outline, holders),
            None => Source::Exhausted,
        };
    }
}
