//! Whether anybody is there: all that may be waited for are asked at once, so that a node whose peers are dead waits for them once for a whole
//! image, and not for each of its manifests and blobs.
//!
//! The first that an image needs begins it, which is its tag: by the time when a peer could be of use it is mostly known who is there. Who
//! answers late counts from then on. While all are silent they are asked again now and then, and nobody waits for that.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use shoal_content::Digest;
use shoal_swarm::{Error, PeerId, Swarm};
use tokio::sync::watch;

use crate::{coordinators::NEIGHBOURS, heard::Heard};

/// What peers are asked for to see whether they answer: a tag that nobody has, which is looked up in no time.
const NOBODYS: &str = "";

/// How often one is asked that is silent, a second each time: it may be too busy to answer at once.
const TIMES: usize = 2;

/// Asks the peers near a blob whether they are there, where that is not known. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RollCall {
    swarm: Swarm,
    heard: Arc<Heard>,
    /// How long an answer is waited for.
    budget: Duration,
    is_open: Arc<watch::Sender<bool>>,
}

impl RollCall {
    pub(crate) fn new(swarm: Swarm, heard: Arc<Heard>, budget: Duration) -> Self {
        Self { swarm, heard, budget, is_open: Arc::new(watch::Sender::new(false)) }
    }

    /// Finds out who is there, unless that is known. Returns at once.
    pub(crate) fn begin(&self, near: &Digest) {
        if self.heard.begin_call(Instant::now()) {
            self.is_open.send_replace(true);
            let (roll_call, near) = (self.clone(), *near);
            tokio::spawn(async move { roll_call.call(near).await });
        }
    }

    /// Whether it is known that nobody is there. Takes no longer than the budget, or twice that where this node is too busy to say so in time,
    /// and no time where it is known already.
    pub(crate) async fn is_nobody_there(&self, near: &Digest) -> bool {
        self.begin(near);
        if !self.heard.are_all_silent(Instant::now()) {
            let mut is_open = self.is_open.subscribe();
            // Whichever way it ends, what is known by then counts.
            let _ = tokio::time::timeout(self.budget * 2, is_open.wait_for(|is_open| !is_open)).await;
        }
        self.heard.are_all_silent(Instant::now())
    }

    async fn call(self, near: Digest) {
        let peers = self.swarm.nearest(&near, NEIGHBOURS + 1).await.unwrap_or_default();
        let mut asked = FuturesUnordered::new();
        for peer in peers.into_iter().flatten() {
            self.heard.asked(peer, Instant::now());
            asked.push(is_there(self.swarm.clone(), peer));
        }
        let has_peers = !asked.is_empty();
        let budget = tokio::time::sleep(self.budget);
        tokio::pin!(budget);
        let mut is_waited_for = true;
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some(Some(peer)) => {
                        self.heard.answered(peer, Instant::now());
                        if std::mem::take(&mut is_waited_for) {
                            self.is_open.send_replace(false);
                        }
                    }
                    Some(None) => {}
                    None => break,
                },
                () = &mut budget, if is_waited_for => {
                    is_waited_for = false;
                    self.nobody();
                }
            }
        }
        if is_waited_for && has_peers {
            // None of them can be reached at all.
            self.nobody();
        } else if is_waited_for {
            self.is_open.send_replace(false);
        }
    }

    fn nobody(&self) {
        tracing::debug!(budget = ?self.budget, "no peer has answered: this node goes on by itself");
        self.heard.nobody_answered(Instant::now());
        self.is_open.send_replace(false);
    }
}

/// The peer, if it answers at all.
async fn is_there(swarm: Swarm, peer: PeerId) -> Option<PeerId> {
    for _ in 0..TIMES {
        match swarm.tag(peer, NOBODYS).await {
            Ok(_) | Err(Error::Busy(_) | Error::Unsupported(_) | Error::BadAnswer { .. }) => return Some(peer),
            Err(Error::Timeout(_)) => {}
            Err(_) => return None,
        }
    }
    None
}
