//! Who may have a block: whom provider records name, and those connected who say that they have it, as Kubo asks too.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use shoal_content::Cid;
use shoal_swarm::{PeerId, Swarm};
use tokio::{sync::mpsc, time::timeout};

/// Connected peers that are asked although no record names them.
const MAX_ASKED: usize = 64;

/// Peers asked at once.
const AT_ONCE: usize = 16;

/// A peer that has not said by then whether it has a block is passed by.
const ANSWER: Duration = Duration::from_secs(3);

/// A search under way.
pub(super) struct Seek {
    swarm: Swarm,
    cid: Cid,
    records: Option<mpsc::Receiver<PeerId>>,
    given: HashSet<PeerId>,
    waiting: VecDeque<PeerId>,
    asking: FuturesUnordered<BoxFuture<'static, (PeerId, bool)>>,
}

impl Seek {
    /// Begins to look for who has a block.
    pub(super) async fn begin(swarm: &Swarm, cid: Cid) -> Self {
        let records = Some(swarm.providers_of_cid(&cid));
        let connected = swarm.peers().await.unwrap_or_default();
        let waiting = connected.into_iter().map(|peer| peer.id).take(MAX_ASKED).collect();
        Self { swarm: swarm.clone(), cid, records, given: HashSet::new(), waiting, asking: FuturesUnordered::new() }
    }

    /// The next who has it or is said to, each once; `None` when all have been asked. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Option<PeerId> {
        loop {
            while self.asking.len() < AT_ONCE
                && let Some(peer) = self.waiting.pop_front()
            {
                let (swarm, cid) = (self.swarm.clone(), self.cid);
                self.asking.push(Box::pin(async move {
                    (peer, matches!(timeout(ANSWER, swarm.have(peer, cid)).await, Ok(Ok(true))))
                }));
            }
            tokio::select! {
                named = next_named(&mut self.records), if self.records.is_some() => match named {
                    Some(peer) if self.given.insert(peer) => return Some(peer),
                    Some(_) => {}
                    None => self.records = None,
                },
                Some((peer, has)) = self.asking.next() => {
                    if has && self.given.insert(peer) {
                        return Some(peer);
                    }
                }
                else => return None,
            }
        }
    }
}

async fn next_named(records: &mut Option<mpsc::Receiver<PeerId>>) -> Option<PeerId> {
    records.as_mut()?.recv().await
}
