//! The driver of a session: carries out what the plan decides.
//!
//! ```text
//! search (swarm) ──► holders, outlines ─┐
//! asks (bitswap) ──► blocks ────────────┼─► plan ──► ask, cancel, read, stop
//! read (upstream) ─► leaves ────────────┘      └──► writes (store) ──► readers
//! ```
//!
//! Memory is bounded by the plan's windows, the read ahead of one leaf from upstream and [`MAX_WRITES`].

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::{AbortHandle, Aborted, BoxFuture, abortable},
    stream::FuturesUnordered,
};
use shoal_content::{LeafHash, Outline, leaf::leaf_range};
use shoal_store::{Blob, Partial, Store};
use shoal_swarm::{BlockError, PeerId, Swarm};
use shoal_upstream::Upstream;

use super::{End, Session, local};
use crate::{
    config::Config,
    face::Error,
    plan::{Action, Plan, Source},
    reading::{Chunks, Read, Reading},
    reputation::Reputation,
    search::{Found, Search},
    sizes::Sizes,
    trace::{Counters, Traces, add},
};

/// Leaves being hashed and written at once. Upstream is not read while there are as many.
const MAX_WRITES: usize = 4;

/// How often the plan looks at the clock when nothing happens.
const TICK: Duration = Duration::from_millis(50);

/// Times that upstream is read anew without one leaf of progress before it counts as failed. Each read has retried by itself.
const MAX_BARREN_READS: u32 = 2;

/// Searches of the swarm by one session.
const MAX_SEARCHES: u32 = 2;

/// What all sessions of a node share.
pub(crate) struct Env {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) swarm: Swarm,
    pub(crate) upstream: Upstream,
    pub(crate) reputation: Reputation,
    pub(crate) counters: Counters,
    pub(crate) sizes: Sizes,
    pub(crate) traces: Traces,
}

/// Gets a blob, until it is whole, nobody reads it, or no source is left.
pub(crate) async fn drive(session: Arc<Session>, env: Arc<Env>) {
    add(&env.counters.sessions, 1);
    let began = Instant::now();
    let outcome = match run(&session, &env, began).await {
        Ok(Outcome::Whole(blob)) => {
            session.ended_with(End::Whole(blob));
            "whole".to_owned()
        }
        Ok(Outcome::Unread) => "stopped: nobody reads it".to_owned(),
        Ok(Outcome::Unstored(reason)) => {
            tracing::warn!(digest = %session.digest, reason, "serving a blob through without storing it");
            add(&env.counters.unstored, 1);
            session.ended_with(End::Unstored);
            format!("served without being stored: {reason}")
        }
        Err(error) => {
            tracing::warn!(digest = %session.digest, origin = %session.origin, %error, "a blob cannot be had");
            add(&env.counters.failed, 1);
            let outcome = error.to_string();
            session.ended_with(End::Failed(error));
            outcome
        }
    };
    let trace = {
        let mut state = session.state();
        // Readers that are still at it hold what they read from; nothing else keeps the partial blob open.
        state.partial = state.partial.take().filter(|_| matches!(state.end, Some(End::Unstored)));
        state.trace.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        state.trace.outcome = outcome;
        state.trace.clone()
    };
    tracing::debug!(digest = %session.digest, size = trace.size, took_ms = trace.took_ms, outcome = trace.outcome, "session over");
    env.traces.push(trace);
    session.ended.send_replace(true);
}

enum Outcome {
    Whole(Blob),
    Unread,
    Unstored(String),
}

async fn run(session: &Arc<Session>, env: &Arc<Env>, began: Instant) -> Result<Outcome, Error> {
    let size = env.sizes.get(&session.origin, &session.digest);
    let mut search = Search::begin(&env.swarm, session.digest, size);
    let mut located = Located { size, outline: None, upstream: None };
    if located.size.is_none() {
        located = match locate(session, env, &mut search, began).await? {
            Some(located) => located,
            None => return Ok(Outcome::Unread),
        };
    }
    let Some(size) = located.size else {
        return Err(unavailable(session, "nobody says how large it is"));
    };

    let (store, digest) = (env.store.clone(), session.digest);
    let partial = match tokio::task::spawn_blocking(move || store.partial(&digest, size)).await {
        Ok(Ok(partial)) => Arc::new(partial),
        Ok(Err(shoal_store::Error::Held(_))) => return held(env, &digest).await.map(Outcome::Whole),
        Ok(Err(error)) if error.is_no_space() || matches!(error, shoal_store::Error::Busy(_)) => {
            session.state().size = Some(size);
            return Ok(Outcome::Unstored(error.to_string()));
        }
        Ok(Err(error)) => return Err(local(format!("storing blob {digest}"), &error)),
        Err(error) => return Err(local(format!("storing blob {digest}"), &error)),
    };
    Driver::new(session, env, search, partial, size, began).run(located).await
}

/// A blob that became whole while the session began.
async fn held(env: &Env, digest: &shoal_content::Digest) -> Result<Blob, Error> {
    let (store, digest) = (env.store.clone(), *digest);
    match tokio::task::spawn_blocking(move || store.get(&digest)).await {
        Ok(Ok(Some(blob))) => Ok(blob),
        Ok(Ok(None)) => {
            Err(Error::Local { what: format!("blob {digest}"), reason: "it was evicted just now: ask again".into() })
        }
        Ok(Err(error)) => Err(local(format!("reading blob {digest}"), &error)),
        Err(error) => Err(local(format!("reading blob {digest}"), &error)),
    }
}

/// What is known before the first byte.
struct Located {
    size: Option<u64>,
    outline: Option<(PeerId, Arc<Outline>)>,
    upstream: Option<(u64, Chunks)>,
}

/// Learns the size of a blob that no manifest has named: from a holder's outline, else from upstream.
async fn locate(session: &Session, env: &Env, search: &mut Search, began: Instant) -> Result<Option<Located>, Error> {
    let budget = tokio::time::sleep(env.config.limits.budget.saturating_sub(began.elapsed()));
    tokio::pin!(budget);
    let mut opening: Option<BoxFuture<'_, Result<_, shoal_upstream::Error>>> = None;
    let mut refusal: Option<shoal_upstream::Error> = None;
    let mut ask_upstream = false;
    loop {
        if session.close_if_unread() {
            return Ok(None);
        }
        if ask_upstream && opening.is_none() && refusal.is_none() {
            opening = Some(env.upstream.blob(&session.origin, &session.digest, 0).boxed());
        }
        if search.is_over()
            && let Some(refusal) = refusal
        {
            return Err(from_upstream(session, &refusal));
        }
        tokio::select! {
            found = search.next(&env.reputation), if !search.is_over() => match found {
                Found::Holder(peer, outline) => {
                    return Ok(Some(Located { size: Some(outline.size()), outline: Some((peer, outline)), upstream: None }));
                }
                Found::Useless(..) => {}
                Found::Over => ask_upstream = true,
            },
            opened = async { match opening.as_mut() { Some(opening) => opening.await, None => std::future::pending().await } } => {
                opening = None;
                match opened {
                    Ok(blob) if blob.size().is_some() => {
                        let size = blob.size();
                        let upstream = Some((blob.offset(), chunks(blob)));
                        return Ok(Some(Located { size, outline: None, upstream }));
                    }
                    Ok(_) => match env.upstream.blob_size(&session.origin, &session.digest).await {
                        Ok(size) => return Ok(Some(Located { size: Some(size), outline: None, upstream: None })),
                        Err(error) => refusal = Some(error),
                    },
                    Err(error) => refusal = Some(error),
                }
            }
            () = &mut budget, if !ask_upstream => ask_upstream = true,
            () = session.demand.notified() => {}
        }
    }
}

type Asked = Result<(PeerId, u64, Result<Bytes, BlockError>), Aborted>;
type Written = (u64, Source<PeerId>, LeafHash, Result<(), WriteError>);

enum WriteError {
    NoSpace(String),
    Failed(String),
}

struct Driver<'a> {
    session: &'a Arc<Session>,
    env: &'a Arc<Env>,
    began: Instant,
    size: u64,
    partial: Arc<Partial>,
    search: Search,
    plan: Plan<PeerId>,
    /// The outline that leaves are asked for by, and who reports the same.
    outline: Option<Arc<Outline>>,
    witnesses: Vec<PeerId>,
    /// What other holders report instead.
    dissent: Vec<(PeerId, Arc<Outline>)>,
    asks: FuturesUnordered<BoxFuture<'static, Asked>>,
    handles: HashMap<(PeerId, u64), AbortHandle>,
    writes: FuturesUnordered<BoxFuture<'static, Written>>,
    writing: BTreeMap<u64, usize>,
    read: ReadState,
    barren_reads: u32,
    upstream_error: Option<shoal_upstream::Error>,
    peer_troubles: Vec<String>,
    resumed: u64,
    searches: u32,
}

enum ReadState {
    None,
    Opening(BoxFuture<'static, Result<Reading, shoal_upstream::Error>>),
    Open(Box<Reading>),
}

enum ReadEvent {
    Opened(Box<Reading>),
    Refused(shoal_upstream::Error),
    Leaf(u64, Bytes),
    End,
    Broken(String),
}

/// Troubles with peers that an error may list.
const MAX_TROUBLES: usize = 5;

impl<'a> Driver<'a> {
    fn new(
        session: &'a Arc<Session>,
        env: &'a Arc<Env>,
        search: Search,
        partial: Arc<Partial>,
        size: u64,
        began: Instant,
    ) -> Self {
        session.sized(size, partial.clone());
        let have = partial.have();
        let mut plan = Plan::new(have.clone(), env.config.limits.clone());
        if search.is_over() {
            plan.search_over();
        }
        let resumed = have.iter().map(|leaf| leaf_range(size, leaf)).map(|range| range.end - range.start).sum();
        session.state().trace.resumed = resumed;
        Self {
            session,
            env,
            began,
            size,
            search,
            plan,
            partial,
            outline: None,
            witnesses: Vec::new(),
            dissent: Vec::new(),
            asks: FuturesUnordered::new(),
            handles: HashMap::new(),
            writes: FuturesUnordered::new(),
            writing: BTreeMap::new(),
            read: ReadState::None,
            barren_reads: 0,
            upstream_error: None,
            peer_troubles: Vec::new(),
            resumed,
            searches: 1,
        }
    }

    async fn run(mut self, located: Located) -> Result<Outcome, Error> {
        let outcome = self.work(located).await;
        // What is being written belongs to the partial blob, which the next session opens.
        while self.writes.next().await.is_some() {}
        outcome
    }

    async fn work(&mut self, located: Located) -> Result<Outcome, Error> {
        if let Some((peer, outline)) = located.outline {
            self.holder(peer, outline);
        }
        let mut opened = located.upstream;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.session.close_if_unread() {
                return Ok(Outcome::Unread);
            }
            if self.plan.is_complete() && self.writes.is_empty() {
                match self.commit().await? {
                    Some(blob) => return Ok(Outcome::Whole(blob)),
                    None => continue,
                }
            }
            self.plan.want(self.session.wanted());
            for action in self.plan.next(self.began.elapsed()) {
                self.act(action, &mut opened)?;
            }

            tokio::select! {
                Some(written) = self.writes.next(), if !self.writes.is_empty() => {
                    if let Some(outcome) = self.written(written)? {
                        return Ok(outcome);
                    }
                }
                Some(asked) = self.asks.next(), if !self.asks.is_empty() => self.answered(asked),
                event = next_read(&mut self.read), if self.writes.len() < MAX_WRITES => self.read_event(event),
                found = self.search.next(&self.env.reputation), if !self.search.is_over() => self.found(found),
                () = self.session.demand.notified() => {}
                _ = tick.tick() => {}
            }
        }
    }

    fn act(&mut self, action: Action<PeerId>, opened: &mut Option<(u64, Chunks)>) -> Result<(), Error> {
        match action {
            Action::Ask { peer, leaf } => self.ask(peer, leaf),
            Action::Cancel { peer, leaf } => {
                if let Some(handle) = self.handles.remove(&(peer, leaf)) {
                    handle.abort();
                }
            }
            Action::Read(range) => {
                let size = self.size;
                self.note(format!("reading leaves {}..{} from upstream", range.start, range.end));
                self.read = match opened.take() {
                    Some((offset, chunks)) if offset <= leaf_range(size, range.start).start => {
                        ReadState::Open(Box::new(Reading::new(chunks, offset, range, size)))
                    }
                    _ => ReadState::Opening(self.open(range)),
                };
            }
            Action::StopReading => {
                self.note("upstream is not needed any more".to_owned());
                self.read = ReadState::None;
            }
            Action::Fail if self.searches < MAX_SEARCHES => {
                // Somebody may have got it since: with upstream gone it is worth asking once more.
                self.searches += 1;
                self.note("no source is left: searching once more".to_owned());
                self.search = Search::begin(&self.env.swarm, self.session.digest, Some(self.size));
                self.plan.search_begun();
            }
            Action::Fail => return Err(self.no_source()),
        }
        Ok(())
    }

    fn ask(&mut self, peer: PeerId, leaf: u64) {
        let Some(hash) = self.outline.as_ref().and_then(|outline| outline.leaf(leaf)) else { return };
        let swarm = self.env.swarm.clone();
        // Bitswap's priority is higher for the more urgent; leaves are urgent in their order.
        let priority = i32::MAX - i32::try_from(leaf).unwrap_or(i32::MAX);
        let asked = async move { (peer, leaf, swarm.block(peer, hash.cid(), priority).await) };
        let (asked, handle) = abortable(asked);
        self.handles.insert((peer, leaf), handle);
        self.asks.push(asked.boxed());
    }

    fn open(&self, range: Range<u64>) -> BoxFuture<'static, Result<Reading, shoal_upstream::Error>> {
        let (env, session, size) = (self.env.clone(), self.session.clone(), self.size);
        async move {
            let from = leaf_range(size, range.start).start;
            let to = leaf_range(size, range.end - 1).end;
            let blob = if to == size {
                env.upstream.blob(&session.origin, &session.digest, from).await?
            } else {
                env.upstream.blob_range(&session.origin, &session.digest, from..to).await?
            };
            let offset = blob.offset();
            Ok(Reading::new(chunks(blob), offset, range, size))
        }
        .boxed()
    }

    fn found(&mut self, found: Found) {
        match found {
            Found::Holder(peer, outline) => self.holder(peer, outline),
            Found::Useless(peer, reason) => self.trouble(format!("{peer}: {reason}")),
            Found::Over => {
                self.note(format!("search over: {} holders", self.witnesses.len()));
                self.plan.search_over();
            }
        }
    }

    fn holder(&mut self, peer: PeerId, outline: Arc<Outline>) {
        if outline.size() != self.size {
            // Which of the two is right is not known yet: a manifest may name a wrong size, too.
            self.trouble(format!("{peer}: reports {} bytes, expected are {}", outline.size(), self.size));
            return;
        }
        match &self.outline {
            None => {
                self.note(format!("{peer} holds it"));
                self.outline = Some(outline);
                self.plan.outline_known();
            }
            Some(adopted) if **adopted == *outline => self.note(format!("{peer} holds it")),
            Some(_) => {
                self.note(format!("{peer} reports other leaves"));
                self.dissent.push((peer, outline));
                return;
            }
        }
        self.witnesses.push(peer);
        self.plan.holder_found(peer, self.began.elapsed());
    }

    fn answered(&mut self, asked: Asked) {
        let Ok((peer, leaf, answer)) = asked else { return };
        self.handles.remove(&(peer, leaf));
        let now = self.began.elapsed();
        match answer {
            Ok(bytes) => {
                self.plan.arrived(peer, now);
                let range = leaf_range(self.size, leaf);
                let hash = self.outline.as_ref().and_then(|outline| outline.leaf(leaf));
                let Some(hash) = hash.filter(|_| bytes.len() as u64 == range.end - range.start) else {
                    self.lied(
                        peer,
                        format!("outline of {}: leaf {leaf} has not the right length", self.session.digest),
                    );
                    return;
                };
                add(&self.env.counters.from_peers, bytes.len() as u64);
                *self.session.state().trace.from_peers.entry(peer.to_string()).or_default() += bytes.len() as u64;
                self.write(leaf, bytes, Source::Peer(peer), Some(hash));
            }
            Err(BlockError::DontHave) => self.plan.refused(peer, leaf),
            Err(BlockError::Invalid(reason)) => {
                self.lied(peer, format!("asked for leaf {leaf} of {}: {reason}", self.session.digest));
            }
            Err(error) => {
                self.trouble(format!("{peer}: {error}"));
                self.plan.holder_gone(peer);
            }
        }
    }

    fn write(&mut self, leaf: u64, bytes: Bytes, source: Source<PeerId>, hash: Option<LeafHash>) {
        if self.plan.done().contains(leaf) {
            return;
        }
        *self.writing.entry(leaf).or_default() += 1;
        let partial = self.partial.clone();
        let written = tokio::task::spawn_blocking(move || {
            let hash = hash.unwrap_or_else(|| LeafHash::of(&bytes));
            let written = partial.write_leaf(leaf, &bytes, hash).map(|_| ()).map_err(|error| match error {
                error if error.is_no_space() => WriteError::NoSpace(error.to_string()),
                error => WriteError::Failed(error.to_string()),
            });
            (leaf, source, hash, written)
        });
        self.writes.push(
            async move {
                match written.await {
                    Ok(written) => written,
                    Err(error) => (leaf, source, LeafHash([0; 32]), Err(WriteError::Failed(error.to_string()))),
                }
            }
            .boxed(),
        );
    }

    fn written(&mut self, (leaf, source, hash, result): Written) -> Result<Option<Outcome>, Error> {
        if let Some(count) = self.writing.get_mut(&leaf) {
            *count -= 1;
            if *count == 0 {
                self.writing.remove(&leaf);
            }
        }
        match result {
            Ok(()) => {}
            Err(WriteError::NoSpace(reason)) => return Ok(Some(Outcome::Unstored(reason))),
            Err(WriteError::Failed(reason)) => {
                let what = format!("storing leaf {leaf} of blob {}", self.session.digest);
                return Err(Error::Local { what, reason: reason.into() });
            }
        }
        if source == Source::Upstream {
            self.barren_reads = 0;
        }
        self.session.landed(leaf, hash, source != Source::Upstream);
        for action in self.plan.landed(leaf, source, self.began.elapsed()) {
            if let Action::Cancel { peer, leaf } = action
                && let Some(handle) = self.handles.remove(&(peer, leaf))
            {
                handle.abort();
            }
        }
        Ok(None)
    }

    fn read_event(&mut self, event: ReadEvent) {
        match event {
            ReadEvent::Opened(reading) => self.read = ReadState::Open(reading),
            ReadEvent::Leaf(leaf, bytes) => {
                add(&self.env.counters.from_upstream, bytes.len() as u64);
                self.session.state().trace.from_upstream += bytes.len() as u64;
                self.write(leaf, bytes, Source::Upstream, None);
            }
            ReadEvent::End => self.read = ReadState::None,
            ReadEvent::Broken(reason) => {
                self.note(format!("upstream broke off: {reason}"));
                self.read = ReadState::None;
                self.barren_reads += 1;
                if self.barren_reads >= MAX_BARREN_READS {
                    self.trouble(format!("upstream: {reason}"));
                    self.plan.upstream_failed();
                } else {
                    self.plan.read_ended();
                }
            }
            ReadEvent::Refused(error) => {
                self.note(format!("upstream: {error}"));
                self.read = ReadState::None;
                self.upstream_error = Some(error);
                self.plan.upstream_failed();
            }
        }
    }

    /// All leaves are there: the blob is committed, or whoever lied is found out and `None` says to go on.
    async fn commit(&mut self) -> Result<Option<Blob>, Error> {
        let partial = self.partial.clone();
        let digest = self.session.digest;
        let committed = tokio::task::spawn_blocking(move || partial.commit()).await;
        match committed {
            Ok(Ok(blob)) => {
                for (peer, _) in std::mem::take(&mut self.dissent) {
                    self.lied(peer, format!("reported wrong leaves for {digest}"));
                }
                Ok(Some(blob))
            }
            Ok(Err(shoal_store::Error::DigestMismatch { .. })) => {
                self.mismatch().await?;
                Ok(None)
            }
            Ok(Err(error)) => Err(local(format!("committing blob {digest}"), &error)),
            Err(error) => Err(local(format!("committing blob {digest}"), &error)),
        }
    }

    /// The whole does not match: leaves for which only peers, or an earlier session, vouch are read anew.
    async fn mismatch(&mut self) -> Result<(), Error> {
        let digest = self.session.digest;
        let doubtful: Vec<u64> = self.session.state().from_peers.iter().collect();
        let adopted = self.outline.take();
        let liars = std::mem::take(&mut self.witnesses);
        if doubtful.is_empty() || (liars.is_empty() && self.resumed == 0) {
            let (session, partial) = (self.session, self.partial.clone());
            // Nothing of it can be trusted; the next attempt begins anew.
            let _ = tokio::task::spawn_blocking(move || partial.discard()).await;
            return Err(Error::Corrupt {
                what: format!("blob {digest}"),
                reason: format!("upstream {} sent bytes that hash to something else", session.origin),
            });
        }
        add(&self.env.counters.lies, 1);
        for liar in liars {
            self.lied(liar, format!("reported wrong leaves for {digest}"));
        }
        self.resumed = 0;

        // Another holder's outline may do: then only the leaves in which they differ are suspect.
        let alternative = self.dissent.first().map(|(_, outline)| outline.clone());
        let is_same = |leaf: u64| match (&adopted, &alternative) {
            (Some(adopted), Some(other)) => adopted.leaf(leaf) == other.leaf(leaf),
            _ => false,
        };
        let suspects: Vec<u64> = doubtful.into_iter().filter(|leaf| !is_same(*leaf)).collect();
        let partial = self.partial.clone();
        let recorded = self.partial.outline();
        let forgotten = suspects.clone();
        tokio::task::spawn_blocking(move || {
            forgotten.into_iter().try_for_each(|leaf| partial.forget_leaf(leaf).map(|_| ()))
        })
        .await
        .map_err(|error| local(format!("forgetting leaves of blob {digest}"), &error))?
        .map_err(|error| local(format!("forgetting leaves of blob {digest}"), &error))?;
        {
            let mut state = self.session.state();
            for leaf in &suspects {
                state.have.remove(*leaf);
                state.from_peers.remove(*leaf);
                if let Some(hash) = recorded.leaf(*leaf) {
                    state.suspects.insert(*leaf, hash);
                }
            }
        }
        for leaf in suspects {
            self.plan.forget(leaf);
        }
        for (peer, outline) in std::mem::take(&mut self.dissent) {
            self.holder(peer, outline);
        }
        Ok(())
    }

    fn lied(&mut self, peer: PeerId, what: String) {
        self.note(format!("{peer} lied: {what}"));
        self.plan.holder_gone(peer);
        self.witnesses.retain(|witness| *witness != peer);
        self.env.reputation.lied(peer, what);
    }

    fn note(&self, what: String) {
        tracing::debug!(digest = %self.session.digest, what, "session");
        self.session.state().trace.event(self.began.elapsed(), what);
    }

    fn trouble(&mut self, what: String) {
        self.note(what.clone());
        if self.peer_troubles.len() < MAX_TROUBLES {
            self.peer_troubles.push(what);
        }
    }

    fn no_source(&self) -> Error {
        let peers = if self.peer_troubles.is_empty() {
            "no peer has it".to_owned()
        } else {
            format!("peers: {}", self.peer_troubles.join("; "))
        };
        match &self.upstream_error {
            Some(error) => match from_upstream(self.session, error) {
                Error::NotFound { what, reason } => Error::NotFound { what, reason },
                Error::Denied { what, reason } => Error::Denied { what, reason },
                other => Error::Unavailable {
                    what: format!("blob {}", self.session.digest),
                    reason: format!("{other}; {peers}"),
                },
            },
            None => unavailable(self.session, &peers),
        }
    }
}

async fn next_read(state: &mut ReadState) -> ReadEvent {
    match state {
        ReadState::None => std::future::pending().await,
        ReadState::Opening(opening) => match opening.await {
            Ok(reading) => ReadEvent::Opened(Box::new(reading)),
            Err(error) => ReadEvent::Refused(error),
        },
        ReadState::Open(reading) => match reading.next().await {
            Read::Leaf(leaf, bytes) => ReadEvent::Leaf(leaf, bytes),
            Read::End => ReadEvent::End,
            Read::Broken(reason) => ReadEvent::Broken(reason),
        },
    }
}

pub(crate) fn chunks(stream: shoal_upstream::BlobStream) -> Chunks {
    Box::pin(stream.map(|chunk| chunk.map_err(|error| error.to_string())))
}

fn unavailable(session: &Session, reason: &str) -> Error {
    Error::Unavailable { what: format!("blob {} of {}", session.digest, session.origin), reason: reason.to_owned() }
}

pub(crate) fn from_upstream(session: &Session, error: &shoal_upstream::Error) -> Error {
    crate::upstream_error(format!("blob {} of {}", session.digest, session.origin), error)
}
