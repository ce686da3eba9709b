//! The driver of a session: carries out what the coordinator grants.
//!
//! ```text
//! coordinator (this node, or a peer) ◄── what landed, what failed, how many at once
//!        └──► grants ──► blocks from peers (bitswap) ─┐
//!        └──► leases ──► leaves from upstream ────────┴─► writes (store) ──► readers, peers
//! ```
//!
//! What is said to the coordinator is in `asking`, what is read from upstream in `reads`. A coordinator that does not answer within the
//! budget is passed by: this node then coordinates for itself, which is the same code without the network, and looks for the other again
//! later; where others want the blob too, the next nearest coordinates meanwhile (`away`). Memory is bounded by the slots of a member, the
//! leaf that upstream is sending, and [`MAX_WRITES`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::{AbortHandle, Aborted, BoxFuture, abortable},
    stream::FuturesUnordered,
};
use shoal_content::{
    LeafHash,
    leaf::{leaf_count, leaf_range},
};
use shoal_coordination::{Action, Failure, Grant, Member, Reply, Source};
use shoal_store::{Blob, Partial};
use shoal_swarm::{BlockError, PeerId};

use super::{
    Session,
    asking::{ASK_AGAIN, ASK_AGAIN_AT_LAST},
    away::{Away, Unanswered},
    coordination::Watch,
    local,
    locate::Located,
    reads::{ReadState, next_read},
    run::Env,
    sharing::Share,
    signs::Signs,
};
use crate::{face::Error, reading::Chunks, small, trace::add};

/// Leaves being hashed and written at once. Upstream is not read while there are as many.
const MAX_WRITES: usize = 4;

/// How often the clock is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(20);

/// A blob of at most so many bytes, as images' configurations are, is asked of its holders beside the coordinator.
const SMALL: u64 = 16 << 10;

/// Times that upstream is read anew without one leaf of progress before it counts as failed. Each read has retried by itself.
pub(super) const MAX_BARREN_READS: u32 = 2;

/// How long nothing may be under way here before the coordinator is told everything anew: what it knows of this node may be wrong.
const RESTATE: Duration = Duration::from_secs(3);

/// Troubles that an error may list.
const MAX_TROUBLES: usize = 6;

pub(super) enum Outcome {
    Whole(Blob),
    Unread,
    Unstored(String),
}

type Fetched = Result<(Grant<PeerId>, Result<Bytes, BlockError>), Aborted>;
type Answered = (u64, Result<Reply<PeerId>, Unanswered>);
type Written = (u64, Source<PeerId>, LeafHash, Result<(), WriteError>);

enum WriteError {
    NoSpace(String),
    Failed(String),
}

/// Whom this session asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coordinator {
    Itself,
    Peer(PeerId),
}

/// By whose word a leaf is what it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    /// Who is said to have vouched for it.
    pub(super) witness: PeerId,
    /// Who sent it.
    pub(super) from: PeerId,
    /// Who said so: a peer as coordinator, or this node as its own.
    pub(super) coordinator: Option<PeerId>,
}

pub(super) struct Driver<'a> {
    pub(super) session: &'a Arc<Session>,
    pub(super) env: &'a Arc<Env>,
    pub(super) began: Instant,
    pub(super) size: u64,
    pub(super) partial: Arc<Partial>,
    pub(super) member: Member<PeerId>,
    /// Who said what each leaf's hash is, where it is a peer's word.
    pub(super) said: BTreeMap<u64, Said>,

    pub(super) coordinator: Coordinator,
    pub(super) watch: Watch,
    /// Counts coordinators: answers of an earlier one are no longer listened to.
    pub(super) term: u64,
    pub(super) answers: FuturesUnordered<BoxFuture<'static, Answered>>,
    pub(super) has_answered: bool,
    /// The coordinator did not answer in time, and was asked once more.
    pub(super) asked_again: bool,
    pub(super) away: Away,
    /// Since when it is asked, or when those nearer were asked last; `None` where there is nobody to go back to.
    pub(super) asked_since: Option<Instant>,
    pub(super) ask_again: Duration,
    /// A coordinator was silent, and this node went on without it.
    pub(super) was_alone: bool,
    pub(super) ask_due: Option<Instant>,

    fetches: FuturesUnordered<BoxFuture<'static, Fetched>>,
    handles: HashMap<(PeerId, u64), AbortHandle>,
    writes: FuturesUnordered<BoxFuture<'static, Written>>,
    pub(super) read: ReadState,
    pub(super) opened: Option<(u64, Chunks)>,
    pub(super) barren_reads: u32,
    pub(super) signs: Signs,
    share: Share,
    looking: Option<BoxFuture<'static, Vec<(PeerId, u64)>>>,
    /// When a leaf landed last, or the coordinator was told everything because none did.
    pub(super) progress_at: Instant,
    pub(super) upstream_error: Option<shoal_upstream::Error>,
    troubles: Vec<String>,
}

impl<'a> Driver<'a> {
    pub(super) fn new(
        session: &'a Arc<Session>,
        env: &'a Arc<Env>,
        partial: Arc<Partial>,
        located: Located,
        began: Instant,
    ) -> Self {
        let size = partial.size();
        session.sized(size, partial.clone());
        let outline = partial.outline();
        let mut member = Member::new(outline, env.config.limits.clone());
        member.ranges(env.ranges.of(&session.origin.registry));
        let have = member.have();
        let resumed = have.iter().map(|leaf| leaf_range(size, leaf)).map(|range| range.end - range.start).sum();
        session.state().trace.resumed = resumed;
        Self {
            session,
            env,
            began,
            size,
            partial,
            member,
            said: BTreeMap::new(),
            coordinator: Coordinator::Itself,
            watch: Watch::default(),
            term: 0,
            answers: FuturesUnordered::new(),
            has_answered: false,
            asked_again: false,
            away: Away::default(),
            asked_since: None,
            ask_again: ASK_AGAIN,
            was_alone: false,
            ask_due: None,
            fetches: FuturesUnordered::new(),
            handles: HashMap::new(),
            writes: FuturesUnordered::new(),
            read: ReadState::None,
            opened: located.upstream,
            barren_reads: 0,
            signs: Signs::new(Instant::now()),
            share: env.sharing.begin(),
            looking: None,
            progress_at: Instant::now(),
            upstream_error: None,
            troubles: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<Outcome, Error> {
        let outcome = self.work().await;
        // What is being written belongs to the partial blob, which the next session opens.
        while self.writes.next().await.is_some() {}
        // A blob that is whole is shown by the store; of one that is given up nothing is shown.
        let outline = self.partial.outline();
        self.env.shown.live.remove((0..leaf_count(self.size)).filter_map(|leaf| outline.leaf(leaf)));
        if !self.member.is_complete() {
            self.member.want(0..0);
            self.tell_last();
        }
        outcome
    }

    async fn work(&mut self) -> Result<Outcome, Error> {
        self.ask_holders();
        self.choose_coordinator().await;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.session.close_if_unread() {
                return Ok(Outcome::Unread);
            }
            if self.member.is_complete() && self.writes.is_empty() {
                self.tell_last();
                return self.commit().await;
            }
            let wanted = self.session.wanted(self.member.have());
            self.member.want(wanted);
            self.member.share(self.share.blobs());
            self.tell_when_due();

            let ask_due = self.ask_due;
            tokio::select! {
                Some(written) = self.writes.next(), if !self.writes.is_empty() => {
                    if let Some(outcome) = self.written(written)? {
                        return Ok(outcome);
                    }
                }
                Some(fetched) = self.fetches.next(), if !self.fetches.is_empty() => self.fetched(fetched),
                event = next_read(&mut self.read), if self.writes.len() < MAX_WRITES => self.read_event(event),
                Some((term, answer)) = self.answers.next(), if !self.answers.is_empty() => {
                    if term == self.term {
                        self.answered(answer).await?;
                    }
                }
                arrived = async { match self.looking.as_mut() { Some(looking) => looking.await, None => std::future::pending().await } } => {
                    self.looking = None;
                    let now = self.began.elapsed();
                    for peer in self.signs.looked(arrived) {
                        self.member.arrived(peer, now);
                    }
                }
                () = self.session.demand.notified() => {}
                () = async { match ask_due { Some(due) => tokio::time::sleep_until(due.into()).await, None => std::future::pending().await } } => {}
                _ = tick.tick() => self.time_passed().await,
            }
        }
    }

    // === the coordinator ===

    /// Looks from whom bytes have come.
    fn look(&mut self) {
        let sources: Vec<PeerId> = self.member.sources().collect();
        if !sources.is_empty() {
            let swarm = self.env.swarm.clone();
            let looking = async move {
                let arrived = swarm.arrived(sources.clone()).await.unwrap_or_default();
                sources.into_iter().zip(arrived).collect()
            };
            self.looking = Some(looking.boxed());
        }
    }

    /// Whether anything is under way here.
    pub(super) fn has_work(&self) -> bool {
        self.member.is_busy() || !self.writes.is_empty()
    }

    async fn time_passed(&mut self) {
        self.watch_coordinator().await;
        let now = Instant::now();
        if self.looking.is_none() && self.signs.is_due(now) {
            self.look();
        }
        if self.signs.take(now) {
            self.session.is_alive();
        }
        for action in self.member.tick(self.began.elapsed()) {
            self.act(action);
        }
        if !self.member.is_busy() && !self.member.wanted().is_empty() && self.progress_at.elapsed() > RESTATE {
            self.note("nothing is under way: the coordinator is told everything anew".to_owned());
            self.progress_at = Instant::now();
            self.ask_from_now_on(self.coordinator);
        }
        self.look_who_is_back().await;
        if self.asked_since.is_some_and(|since| since.elapsed() >= self.ask_again) {
            self.asked_since = Some(Instant::now());
            self.ask_again = (self.ask_again * 2).min(ASK_AGAIN_AT_LAST);
            if self.member.is_in_company() {
                self.probe().await;
            } else if self.coordinator == Coordinator::Itself {
                let next = match self.candidate(false).await {
                    None => self.candidate(true).await,
                    next => next,
                };
                if let Some(peer) = next {
                    self.ask_from_now_on(Coordinator::Peer(peer));
                }
            }
        }
    }

    // === what it grants ===

    pub(super) fn act(&mut self, action: Action<PeerId>) {
        match action {
            Action::Fetch(grant) => self.fetch(grant),
            Action::Cancel { leaf, from } => {
                self.note(format!("leaf {leaf} from {from} is given up"));
                if let Some(handle) = self.handles.remove(&(from, leaf)) {
                    handle.abort();
                }
            }
            Action::Read { first, end } => self.open(first..end),
            Action::Cut(end) => {
                self.note(format!("upstream is read to leaf {end} only: others read the rest"));
                let is_over = match &mut self.read {
                    ReadState::None => true,
                    ReadState::Opening(range, _) => {
                        range.end = range.end.min(end);
                        range.is_empty()
                    }
                    ReadState::Open(reading) => reading.cut(end),
                };
                if is_over {
                    self.read = ReadState::None;
                    self.member.read_cut();
                }
            }
        }
    }

    fn fetch(&mut self, grant: Grant<PeerId>) {
        if self.env.reputation.is_avoided(&grant.witness) {
            self.member.failed(grant.leaf, Source::Peer(grant.from), Failure::Wrong);
            return;
        }
        if self.env.reputation.is_avoided(&grant.from) {
            self.member.failed(grant.leaf, Source::Peer(grant.from), Failure::Missing);
            return;
        }
        let swarm = self.env.swarm.clone();
        // Bitswap's priority is higher for the more urgent; leaves are urgent in their order.
        let priority = i32::MAX - i32::try_from(grant.leaf).unwrap_or(i32::MAX);
        let fetched = async move { (grant, swarm.block(grant.from, grant.hash.cid(), priority).await) };
        let (fetched, handle) = abortable(fetched);
        self.handles.insert((grant.from, grant.leaf), handle);
        self.fetches.push(fetched.boxed());
    }

    /// A blob so small is asked of whoever holds it, beside the coordinator, whose answers take longer than its bytes.
    fn ask_holders(&mut self) {
        if self.size > SMALL || self.member.is_complete() {
            return;
        }
        let (env, digest, size) = (self.env.clone(), self.session.digest, self.size);
        let asked = async move {
            let given = small::from_peers(&env, &digest, env.config.limits.budget).await;
            // Of another size than was said: whoever said so lied, not the peer, whose bytes match the digest.
            let (from, bytes) = given.filter(|(_, bytes)| bytes.len() as u64 == size).ok_or(Aborted)?;
            let hash = LeafHash::of(&bytes);
            Ok((Grant { leaf: 0, hash, from, witness: from }, Ok(bytes)))
        };
        self.fetches.push(asked.boxed());
    }

    fn fetched(&mut self, fetched: Fetched) {
        let Ok((grant, answer)) = fetched else { return };
        let (peer, leaf) = (grant.from, grant.leaf);
        self.handles.remove(&(peer, leaf));
        match answer {
            Ok(bytes) => {
                let range = leaf_range(self.size, leaf);
                if bytes.len() as u64 != range.end - range.start {
                    self.member.failed(leaf, Source::Peer(peer), Failure::Wrong);
                    self.lied(grant.witness, format!("leaf {leaf} of {} has not that length", self.session.digest));
                    return;
                }
                add(&self.env.counters.from_peers, bytes.len() as u64);
                *self.session.state().trace.from_peers.entry(peer.to_string()).or_default() += bytes.len() as u64;
                let coordinator = match self.coordinator {
                    Coordinator::Itself => None,
                    Coordinator::Peer(coordinator) => Some(coordinator),
                };
                self.said.insert(leaf, Said { witness: grant.witness, from: peer, coordinator });
                self.write(leaf, bytes, Source::Peer(peer), Some(grant.hash));
            }
            Err(BlockError::DontHave) => {
                self.watch.missed(peer);
                self.member.failed(leaf, Source::Peer(peer), Failure::Missing);
            }
            Err(BlockError::Invalid(reason)) => {
                self.member.failed(leaf, Source::Peer(peer), Failure::Stalled);
                self.lied(peer, format!("asked for leaf {leaf} of {}: {reason}", self.session.digest));
            }
            Err(error) => {
                self.trouble(format!("{peer}: {error}"));
                self.member.failed(leaf, Source::Peer(peer), Failure::Stalled);
            }
        }
    }

    // === the store ===

    pub(super) fn write(&mut self, leaf: u64, bytes: Bytes, source: Source<PeerId>, hash: Option<LeafHash>) {
        let partial = self.partial.clone();
        let written = tokio::task::spawn_blocking(move || {
            let hash = hash.unwrap_or_else(|| partial.hash_leaf(&bytes));
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
        match result {
            Ok(()) => {}
            Err(WriteError::NoSpace(reason)) => return Ok(Some(Outcome::Unstored(reason))),
            Err(WriteError::Failed(reason)) => {
                let what = format!("storing leaf {leaf} of blob {}", self.session.digest);
                return Err(Error::Local { what, reason: reason.into() });
            }
        }
        self.progress_at = Instant::now();
        self.watch.landed();
        self.signs.landed();
        if source == Source::Upstream {
            self.barren_reads = 0;
            self.said.remove(&leaf);
        } else {
            self.env.heard.gave(Instant::now());
        }
        self.env.shown.live.add(hash, &self.partial, leaf);
        self.session.landed(leaf, hash, source != Source::Upstream);
        if let Some(action) = self.member.landed(leaf, hash, source, self.began.elapsed()) {
            self.act(action);
        }
        Ok(None)
    }

    /// All writes that are under way, done.
    pub(super) async fn write_all(&mut self) -> Result<(), Error> {
        while let Some(written) = self.writes.next().await {
            if let Some(Outcome::Unstored(reason)) = self.written(written)? {
                return Err(Error::Local {
                    what: format!("storing blob {}", self.session.digest),
                    reason: reason.into(),
                });
            }
        }
        Ok(())
    }

    async fn commit(&mut self) -> Result<Outcome, Error> {
        if let Some(blob) = self.try_commit().await? {
            return Ok(Outcome::Whole(blob));
        }
        self.recover().await.map(Outcome::Whole)
    }

    /// Makes the blob a whole one; `None` when it does not match its digest.
    pub(super) async fn try_commit(&mut self) -> Result<Option<Blob>, Error> {
        let (partial, digest) = (self.partial.clone(), self.session.digest);
        match tokio::task::spawn_blocking(move || partial.commit()).await {
            Ok(Ok(blob)) => Ok(Some(blob)),
            Ok(Err(shoal_store::Error::DigestMismatch { .. })) => Ok(None),
            Ok(Err(error)) => Err(local(format!("committing blob {digest}"), &error)),
            Err(error) => Err(local(format!("committing blob {digest}"), &error)),
        }
    }

    // === telling ===

    pub(super) fn lied(&mut self, peer: PeerId, what: String) {
        self.note(format!("{peer} lied: {what}"));
        self.env.reputation.lied(peer, what);
    }

    pub(super) fn note(&self, what: String) {
        tracing::debug!(digest = %self.session.digest, what, "session");
        self.session.state().trace.event(self.began.elapsed(), what);
    }

    pub(super) fn trouble(&mut self, what: String) {
        self.note(what.clone());
        if self.troubles.len() < MAX_TROUBLES {
            self.troubles.push(what);
        }
    }

    pub(super) fn no_source(&self) -> Error {
        let peers = if self.troubles.is_empty() { "no peer has it".to_owned() } else { self.troubles.join("; ") };
        let what = format!("blob {} of {}", self.session.digest, self.session.origin);
        match &self.upstream_error {
            Some(error) => match crate::upstream_error(what, error) {
                Error::Unavailable { what, reason } => {
                    Error::Unavailable { what, reason: format!("{reason}; {peers}") }
                }
                refusal => refusal,
            },
            None => Error::Unavailable { what, reason: peers },
        }
    }
}
