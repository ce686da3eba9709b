//! Finding who holds a blob: the swarm names peers, and each is asked for the blob's outline.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use shoal_content::{Algorithm, Digest, LEAF_SIZE, LeafHash, Outline};
use shoal_swarm::{PeerId, Swarm};
use tokio::sync::mpsc;

use crate::reputation::Reputation;

/// Outlines asked for at once.
const MAX_ASKING: usize = 4;

/// Holders that one session takes into account. More than a session can keep busy.
const MAX_HOLDERS: usize = 32;

/// What the search found.
#[derive(Debug)]
pub(crate) enum Found {
    /// A peer with the whole blob, and the outline that it reports.
    Holder(PeerId, Arc<Outline>),
    /// A peer that was named as a holder and gave no outline.
    Useless(PeerId, String),
    /// Nobody else.
    Over,
}

type Answered = (PeerId, Result<Option<Outline>, String>);

/// A search under way.
pub(crate) struct Search {
    swarm: Swarm,
    digest: Digest,
    size: Option<u64>,
    providers: Option<mpsc::Receiver<PeerId>>,
    named: HashSet<PeerId>,
    waiting: VecDeque<PeerId>,
    asking: FuturesUnordered<BoxFuture<'static, Answered>>,
    over: bool,
}

impl Search {
    /// Begins to search for holders of a blob, of `size` bytes where that is known.
    pub(crate) fn begin(swarm: &Swarm, digest: Digest, size: Option<u64>) -> Self {
        Self {
            swarm: swarm.clone(),
            digest,
            size,
            providers: Some(swarm.providers(&digest)),
            named: HashSet::new(),
            waiting: VecDeque::new(),
            asking: FuturesUnordered::new(),
            over: false,
        }
    }

    /// Whether [`Found::Over`] has been given out.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// The next that is found. May be dropped and called again.
    pub(crate) async fn next(&mut self, reputation: &Reputation) -> Found {
        loop {
            while self.asking.len() < MAX_ASKING
                && let Some(peer) = self.waiting.pop_front()
            {
                if let Some(outline) = self.size.and_then(|size| outline_of_small(&self.digest, size)) {
                    return Found::Holder(peer, Arc::new(outline));
                }
                let (swarm, digest) = (self.swarm.clone(), self.digest);
                self.asking.push(Box::pin(async move {
                    (peer, swarm.outline(peer, &digest).await.map_err(|error| error.to_string()))
                }));
            }
            tokio::select! {
                named = next_named(&mut self.providers), if self.providers.is_some() => match named {
                    Some(peer) if self.named.len() < MAX_HOLDERS && !reputation.is_avoided(&peer) => {
                        if self.named.insert(peer) {
                            self.waiting.push_back(peer);
                        }
                    }
                    Some(_) => {}
                    None => self.providers = None,
                },
                Some((peer, answer)) = self.asking.next() => return match answer {
                    Ok(Some(outline)) if outline.is_complete() => Found::Holder(peer, Arc::new(outline)),
                    Ok(_) => Found::Useless(peer, "does not hold it".into()),
                    Err(error) => Found::Useless(peer, error),
                },
                else => {
                    self.over = true;
                    return Found::Over;
                }
            }
        }
    }
}

async fn next_named(providers: &mut Option<mpsc::Receiver<PeerId>>) -> Option<PeerId> {
    providers.as_mut()?.recv().await
}

/// The outline of a blob of one leaf: it needs nobody's word, since the leaf's hash is the blob's.
pub(crate) fn outline_of_small(digest: &Digest, size: u64) -> Option<Outline> {
    if size > LEAF_SIZE || digest.algorithm() != Algorithm::Sha256 {
        return None;
    }
    Outline::complete(size, &[LeafHash(digest.hash().try_into().ok()?)])
}
