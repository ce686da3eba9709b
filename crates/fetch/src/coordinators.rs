//! This node as the coordinator of blobs: one task for each, which feeds a [`Coordinator`] and carries its answers.
//!
//! A task begins with the first request for a blob and ends when it has had no member for a while. It looks for holders, in this node's store
//! and in the swarm, and hears of peers that go. Nothing of it is kept: when this node dies, the members tell the next one.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream::FuturesUnordered};
use shoal_content::{Algorithm, Digest, Outline, leaf::leaf_count};
use shoal_coordination::{Ask, Coordinator, Limits, Reply};
use shoal_store::Store;
use shoal_swarm::{PeerId, Swarm};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::{
    heard::Heard,
    reputation::Reputation,
    search::{Found, Search},
};

/// Blobs coordinated at once.
const MAX_TASKS: usize = 1024;

/// Leaves of all blobs coordinated at once, some hundred bytes each: a peer names a blob's size before anybody has seen the blob.
const MAX_LEAVES: u64 = 1 << 20;

/// Requests that wait for one task. Each member has two at the most.
const QUEUE: usize = 1024;

/// How often time passes for a coordinator.
const TICK: Duration = Duration::from_millis(20);

/// How long a task outlives its last member.
const LINGER: Duration = Duration::from_secs(10);

/// Peers asked.
pub(crate) const NEIGHBOURS: usize = 16;

/// The least time between two searches.
const SEARCH_AGAIN: Duration = Duration::from_millis(200);

/// The blobs that this node coordinates.
#[derive(Clone)]
pub(crate) struct Coordinators(Arc<Inner>);

struct Inner {
    store: Store,
    context: OnceLock<Context>,
    tasks: Mutex<HashMap<(Digest, u64), mpsc::Sender<Request>>>,
}

struct Context {
    swarm: Swarm,
    limits: Limits,
    reputation: Arc<Reputation>,
    heard: Arc<Heard>,
    runtime: tokio::runtime::Handle,
}

struct Request {
    peer: PeerId,
    ask: Ask<PeerId>,
    reply: oneshot::Sender<Reply<PeerId>>,
}

impl Coordinators {
    pub(crate) fn new(store: Store) -> Self {
        Self(Arc::new(Inner { store, context: OnceLock::new(), tasks: Mutex::default() }))
    }

    /// From now on requests are answered.
    pub(crate) fn begin(&self, swarm: &Swarm, limits: &Limits, reputation: &Arc<Reputation>, heard: &Arc<Heard>) {
        let context = Context {
            swarm: swarm.clone(),
            limits: limits.clone(),
            reputation: reputation.clone(),
            heard: heard.clone(),
            runtime: tokio::runtime::Handle::current(),
        };
        // Only the first counts: a node has one swarm.
        let _ = self.0.context.set(context);
    }

    /// A peer's request in its wire form; `None` when it is not one, or is not to be answered.
    pub(crate) fn asked(&self, peer: PeerId, request: &[u8]) -> Option<oneshot::Receiver<Vec<u8>>> {
        let context = self.0.context.get()?;
        if context.reputation.is_avoided(&peer) {
            return None;
        }
        let (digest, ask) = match decode(request) {
            Ok(decoded) => decoded,
            Err(reason) => {
                tracing::debug!(%peer, reason, "a request to this node as coordinator makes no sense");
                return None;
            }
        };
        context.heard.gave(Instant::now());
        let reply = self.ask(peer, digest, ask)?;
        let (answer, answered) = oneshot::channel();
        context.runtime.spawn(async move {
            if let Ok(reply) = reply.await {
                let _ = answer.send(reply.encode(|peer| peer.to_bytes()));
            }
        });
        Some(answered)
    }

    /// A request, of this node or of another; `None` when the node coordinates too much already.
    pub(crate) fn ask(
        &self,
        peer: PeerId,
        digest: Digest,
        ask: Ask<PeerId>,
    ) -> Option<oneshot::Receiver<Reply<PeerId>>> {
        let context = self.0.context.get()?;
        let size = ask.size?;
        let (reply, answered) = oneshot::channel();
        let mut request = Request { peer, ask, reply };
        let mut tasks = self.tasks();
        if let Some(task) = tasks.get(&(digest, size)) {
            match task.try_send(request) {
                Ok(()) => return Some(answered),
                Err(mpsc::error::TrySendError::Full(_)) => return None,
                Err(mpsc::error::TrySendError::Closed(returned)) => request = returned,
            }
        }
        let leaves = |tasks: &HashMap<(Digest, u64), mpsc::Sender<Request>>| {
            tasks.keys().fold(leaf_count(size), |sum, (_, size)| sum.saturating_add(leaf_count(*size)))
        };
        if tasks.len() >= MAX_TASKS || leaves(&tasks) > MAX_LEAVES {
            tasks.retain(|_, task| !task.is_closed());
            if tasks.len() >= MAX_TASKS || leaves(&tasks) > MAX_LEAVES {
                tracing::warn!(%digest, blobs = tasks.len(), "this node coordinates as much as it may: a member goes on by itself");
                return None;
            }
        }
        // Where all peers are silent, none of them is going to name a holder.
        let is_alone = context.heard.are_all_silent(Instant::now());
        let budget = if is_alone { Duration::ZERO } else { context.limits.budget };
        let core = Coordinator::new(size, Limits { budget, ..context.limits.clone() }, Duration::ZERO)?;
        let (requests, taken) = mpsc::channel(QUEUE);
        requests.try_send(request).ok()?;
        tasks.insert((digest, size), requests);
        let task = Task {
            digest,
            store: self.0.store.clone(),
            swarm: context.swarm.clone(),
            reputation: context.reputation.clone(),
            core,
            began: Instant::now(),
            open: HashMap::new(),
            passed_over: HashSet::new(),
        };
        context.runtime.spawn(task.run(taken));
        Some(answered)
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<(Digest, u64), mpsc::Sender<Request>>> {
        self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Task {
    digest: Digest,
    store: Store,
    swarm: Swarm,
    reputation: Arc<Reputation>,
    core: Coordinator<PeerId>,
    began: Instant,
    open: HashMap<(PeerId, u64), oneshot::Sender<Reply<PeerId>>>,
    /// Peers that lied, and are let go of.
    passed_over: HashSet<PeerId>,
}

impl Task {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut departures = self.swarm.departures();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut search = Search::begin(&self.swarm, self.digest, Some(self.core.size()));
        let mut searched = Instant::now();
        let mut alone_since = Instant::now();
        self.look_here().await;
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request { peer, ask, reply }) => {
                        self.open.insert((peer, ask.sequence), reply);
                        let now = self.began.elapsed();
                        let replies = self.core.ask(peer, ask, now);
                        self.deliver(replies);
                    }
                    None => return,
                },
                found = search.next(&self.reputation), if !search.is_over() => {
                    let now = self.began.elapsed();
                    let replies = match found {
                        Found::Holder(peer, outline) => self.core.holder(peer, &outline, now),
                        Found::Useless(peer, reason) => {
                            tracing::debug!(digest = %self.digest, %peer, reason, "named as a holder, it is of no use");
                            Vec::new()
                        }
                        Found::Over => self.core.search_over(now),
                    };
                    self.deliver(replies);
                }
                gone = departures.recv() => {
                    if let Ok(peer) = gone {
                        let replies = self.core.gone(peer, self.began.elapsed());
                        self.deliver(replies);
                        self.open.retain(|(member, _), _| *member != peer);
                    } else if matches!(gone, Err(broadcast::error::RecvError::Closed)) {
                        return;
                    }
                }
                _ = tick.tick() => {
                    let replies = self.core.tick(self.began.elapsed());
                    self.deliver(replies);
                    self.pass_over();
                    self.open.retain(|_, reply| !reply.is_closed());
                }
            }
            if self.core.is_stuck() && search.is_over() && searched.elapsed() >= SEARCH_AGAIN {
                searched = Instant::now();
                search = Search::begin(&self.swarm, self.digest, Some(self.core.size()));
                self.core.search_begun();
                self.look_here().await;
            }
            if self.core.members() > 0 {
                alone_since = Instant::now();
            } else if alone_since.elapsed() > LINGER {
                // Whoever asks from now on finds the channel closed and begins anew.
                requests.close();
                if requests.is_empty() {
                    return;
                }
            }
        }
    }

    /// Lets go of all that lied: what they say that they have is asked of nobody any more.
    fn pass_over(&mut self) {
        for (peer, _) in self.reputation.avoided() {
            if self.reputation.is_avoided(&peer) && self.passed_over.insert(peer) {
                tracing::debug!(digest = %self.digest, %peer, "a peer that is avoided takes part no longer");
                let replies = self.core.gone(peer, self.began.elapsed());
                self.deliver(replies);
                self.open.retain(|(member, _), _| *member != peer);
            }
        }
    }

    /// This node may be a holder itself.
    async fn look_here(&mut self) {
        let (store, digest) = (self.store.clone(), self.digest);
        let outline = tokio::task::spawn_blocking(move || store.outline(&digest)).await;
        if let Ok(Ok(Some(outline))) = outline {
            let replies = self.core.holder(self.swarm.local_peer(), &outline, self.began.elapsed());
            self.deliver(replies);
        }
    }

    fn deliver(&mut self, replies: Vec<(PeerId, Reply<PeerId>)>) {
        for (peer, reply) in replies {
            if let Some(open) = self.open.remove(&(peer, reply.sequence)) {
                // An error means that the member no longer waits; its silence will tell.
                let _ = open.send(reply);
            }
        }
    }
}

/// What peers say that they have read of a blob from upstream, each asked directly; of those who read nothing, nothing.
pub(crate) async fn words(swarm: &Swarm, digest: Digest, peers: Vec<PeerId>) -> Vec<(PeerId, Outline)> {
    let asked: FuturesUnordered<_> = peers
        .into_iter()
        .map(|peer| {
            let swarm = swarm.clone();
            async move { Some((peer, swarm.outline(peer, &digest).await.ok()??)) }
        })
        .collect();
    asked.filter_map(futures::future::ready).collect().await
}

/// A request as it is sent: hash function (1 byte: its multicodec code), hash, and what is asked.
pub(crate) fn encode(digest: &Digest, ask: &Ask<PeerId>) -> Vec<u8> {
    let function = match digest.algorithm() {
        Algorithm::Sha256 => 0x12,
        Algorithm::Sha512 => 0x13,
    };
    let mut out = vec![function];
    out.extend_from_slice(digest.hash());
    out.extend_from_slice(&ask.encode(|peer| peer.to_bytes()));
    out
}

fn decode(request: &[u8]) -> Result<(Digest, Ask<PeerId>), String> {
    let (function, rest) = request.split_first().ok_or("it is empty")?;
    let algorithm = match function {
        0x12 => Algorithm::Sha256,
        0x13 => Algorithm::Sha512,
        other => return Err(format!("hash function {other:#x} is unknown")),
    };
    let (hash, rest) = rest.split_at_checked(algorithm.hash_len()).ok_or("its digest is too short")?;
    let digest = Digest::new(algorithm, hash).ok_or("its digest is too short")?;
    let ask = Ask::decode(rest, read_peer).map_err(|error| error.to_string())?;
    Ok((digest, ask))
}

/// A peer's name as it is sent.
pub(crate) fn read_peer(bytes: &[u8]) -> Option<PeerId> {
    PeerId::from_bytes(bytes).ok()
}
