//! Files of the swarm by CID: any UnixFS file that this node or a peer has, whoever made it.
//!
//! Which blocks come next is decided by [`Walk`], whom they are asked of by `sources`, and who may have them is found by `seek`; here these are
//! carried out. A block comes from this node's store where it is there, else from a peer; either is checked against its CID, so that no byte is
//! given out that does not belong to the file. Nothing is kept: a blob is stored by its digest, and a file's CID does not tell it.
//!
//! A file is read no faster than its reader takes it, and at most twice [`WINDOW`] of it is in memory.

mod seek;
mod sources;

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::{AbortHandle, Abortable, Aborted, BoxFuture},
    stream::FuturesUnordered,
};
use shoal_content::{
    Cid, cid_matches,
    dag::{BadBlock, Span, Walk},
};
use shoal_swarm::{BlockError, PeerId};
use tokio::time::{Instant, sleep_until};

use self::{
    seek::Seek,
    sources::{Refusal, Sources, Step},
};
use crate::{
    face::{Body, Error},
    fetch::Fetch,
    session::{Env, local},
    trace::add,
};

/// Bytes of a file that are fetched ahead of its reader: what keeps several peers busy at the latencies of a data centre.
const WINDOW: u64 = 16 << 20;

/// Blocks of one file that are looked for at once. Sixteen leaves of 1 MiB fill the window; smaller ones need more for the same bytes.
const MAX_BLOCKS: usize = 64;

impl Fetch {
    /// The bytes `span` of the UnixFS file at `root`, as they come: from this node's store and from whoever of the swarm has its blocks.
    ///
    /// Answers once the size of the file is known. Takes every file that Kubo and Helia make: leaves of any size up to 2 MiB, raw or not, and CIDs
    /// of version 0.
    pub async fn file(&self, root: &Cid, span: Span) -> Result<Body, Error> {
        let mut reading = Reading::begin(self.env().clone(), *root, span)?;
        let (size, range) = reading.opened().await?;
        let stream = futures::stream::try_unfold(reading, async |mut reading| {
            let content = reading.next().await?;
            Ok(content.map(|content| (content, reading)))
        });
        Ok(Body { size, range, stream: Box::pin(stream) })
    }
}

type FromPeer = (PeerId, Cid, Result<Result<Bytes, BlockError>, Aborted>);
type FromStore = (Cid, Result<Option<Bytes>, Error>);

/// One reader of one file.
struct Reading {
    env: Arc<Env>,
    root: Cid,
    walk: Walk,
    sources: Sources,
    /// Who is looked for now.
    seek: Option<Seek>,
    stored: FuturesUnordered<BoxFuture<'static, FromStore>>,
    asked: FuturesUnordered<BoxFuture<'static, FromPeer>>,
    /// Ends what is asked of peers for a block.
    cancels: HashMap<Cid, Vec<AbortHandle>>,
    /// Blocks that are looked for, here or at peers.
    missing: usize,
}

impl Reading {
    fn begin(env: Arc<Env>, root: Cid, span: Span) -> Result<Self, Error> {
        let walk = Walk::new(root, span, WINDOW).map_err(|bad| malformed(&root, &bad))?;
        let sources = Sources::new(env.config.limits.stall);
        Ok(Self {
            env,
            root,
            walk,
            sources,
            seek: None,
            stored: FuturesUnordered::new(),
            asked: FuturesUnordered::new(),
            cancels: HashMap::new(),
            missing: 0,
        })
    }

    /// Size of the file, and which bytes of it are read.
    async fn opened(&mut self) -> Result<(u64, std::ops::Range<u64>), Error> {
        loop {
            if let (Some(size), Some(range)) = (self.walk.size(), self.walk.range()) {
                return Ok((size, range));
            }
            self.step().await?;
        }
    }

    /// The next content; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(content) = self.walk.next_content() {
                return Ok(Some(content));
            }
            if self.walk.is_done() {
                return Ok(None);
            }
            self.step().await?;
        }
    }

    /// Begins what can be begun, and waits for one thing to happen.
    async fn step(&mut self) -> Result<(), Error> {
        self.want();
        self.ask().await?;
        let stalled = self.sources.next_look(now()).map(Instant::from_std);
        tokio::select! {
            Some((cid, block)) = self.stored.next() => self.on_stored(cid, block),
            Some((peer, cid, block)) = self.asked.next() => self.on_answer(peer, cid, block),
            found = next_found(&mut self.seek), if self.seek.is_some() => {
                match found {
                    Some(peer) if !self.env.reputation.is_avoided(&peer) => self.sources.found(peer, now()),
                    Some(_) => {}
                    None => {
                        self.seek = None;
                        self.sources.search_over();
                    }
                }
                Ok(())
            }
            () = sleep_until(stalled.unwrap_or_else(|| Instant::now() + IDLE)) => Ok(()),
        }
    }

    /// Takes up wants of the walk; each is looked for in the store first.
    fn want(&mut self) {
        while self.missing < MAX_BLOCKS
            && let Some(cid) = self.walk.next_want()
        {
            self.missing += 1;
            let store = self.env.store.clone();
            self.stored.push(Box::pin(async move {
                let read = tokio::task::spawn_blocking(move || {
                    let bytes = store.block(&cid)?.map(|block| block.read()).transpose()?;
                    // What does not match is a file that was damaged: another copy will do.
                    Ok::<_, shoal_store::Error>(bytes.filter(|bytes| cid_matches(&cid, bytes)))
                });
                let block = match read.await {
                    Ok(Ok(block)) => Ok(block),
                    Ok(Err(error)) => {
                        tracing::debug!(%cid, %error, "a stored block cannot be read: it is asked of peers");
                        Ok(None)
                    }
                    Err(error) => Err(local(format!("reading block {cid}"), &error)),
                };
                (cid, block)
            }));
        }
    }

    /// Carries out what the sources decide.
    async fn ask(&mut self) -> Result<(), Error> {
        while let Some(step) = self.sources.next(now()) {
            match step {
                Step::Ask { peer, cid, priority } => {
                    let (cancel, registration) = AbortHandle::new_pair();
                    self.cancels.entry(cid).or_default().push(cancel);
                    let swarm = self.env.swarm.clone();
                    self.asked.push(Box::pin(async move {
                        let block = Abortable::new(swarm.block(peer, cid, priority), registration).await;
                        (peer, cid, block)
                    }));
                }
                Step::Search(cid) => self.seek = Some(Seek::begin(&self.env.swarm, cid).await),
                Step::Lost { cid, refusals } => return Err(self.lost(&cid, &refusals)),
            }
        }
        Ok(())
    }

    fn on_stored(&mut self, cid: Cid, block: Result<Option<Bytes>, Error>) -> Result<(), Error> {
        match block? {
            Some(block) => {
                add(&self.env.counters.from_disk, block.len() as u64);
                self.feed(&cid, &block)
            }
            None => {
                self.sources.wanted(cid);
                Ok(())
            }
        }
    }

    fn on_answer(
        &mut self,
        peer: PeerId,
        cid: Cid,
        block: Result<Result<Bytes, BlockError>, Aborted>,
    ) -> Result<(), Error> {
        match block {
            Ok(Ok(block)) => {
                self.sources.came(&cid, peer, now());
                // Others who were asked for it need not send it.
                self.cancels.remove(&cid).into_iter().flatten().for_each(|cancel| cancel.abort());
                if !self.sources.forget(&cid) {
                    return Ok(());
                }
                add(&self.env.counters.from_peers, block.len() as u64);
                self.feed(&cid, &block)
            }
            Ok(Err(error)) => {
                let refusal = match error {
                    BlockError::DontHave => Refusal::DoesNotHave,
                    BlockError::Stopped => return Err(local(format!("fetching {}", self.root), &error)),
                    other => Refusal::Failed(other.to_string()),
                };
                self.sources.refused(&cid, peer, &refusal);
                Ok(())
            }
            Err(Aborted) => Ok(()),
        }
    }

    fn feed(&mut self, cid: &Cid, block: &Bytes) -> Result<(), Error> {
        self.missing -= 1;
        self.walk.feed(cid, block).map_err(|bad| malformed(&self.root, &bad))
    }

    fn lost(&self, cid: &Cid, refusals: &[String]) -> Error {
        let of = if *cid == self.root { String::new() } else { format!("block {cid} of ") };
        let reason = match refusals {
            [] => "no peer announces it, and none that is connected has it".to_owned(),
            some => some.join("; "),
        };
        Error::Unavailable { what: format!("{of}{}", self.root), reason }
    }
}

async fn next_found(seek: &mut Option<Seek>) -> Option<PeerId> {
    seek.as_mut()?.next().await
}

/// Nothing to look after: what happens wakes the reader.
const IDLE: Duration = Duration::from_secs(60);

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// The DAG itself is no file: no other copy of it is better.
fn malformed(root: &Cid, bad: &BadBlock) -> Error {
    Error::Corrupt { what: format!("{root} as a file"), reason: bad.to_string() }
}
