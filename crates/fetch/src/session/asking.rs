//! What passes between a session and its coordinator: who is asked, what it is told and when, and how long it may take.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture, stream::FuturesUnordered};
use shoal_coordination::{Ask, Reply};
use shoal_swarm::PeerId;

use super::{
    away::Unanswered,
    drive::{Coordinator, Driver, MAX_BARREN_READS},
    run::Env,
};
use crate::{coordinators, face::Error};

/// News for the coordinator is gathered for so long: what lands together is told together.
const GATHER: Duration = Duration::from_millis(2);

/// And for no more than this part of the time that a leaf takes.
const GATHER_SHARE: u32 = 32;

/// How long a node waits before it asks the right coordinator again: at first, and at last, doubled in between.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(100);
pub(super) const ASK_AGAIN_AT_LAST: Duration = Duration::from_secs(2);

/// How long a coordinator may take for its first answer where it, or others of the swarm, gave something a moment ago, or where this node
/// has begun without it; and where something is under way here meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
const PATIENCE_WHEN_BUSY: Duration = Duration::from_secs(2);

/// How long an answer may come late, at the most, while its sender's blocks are coming: over a slow link it waits behind them.
const BEHIND_BLOCKS: Duration = Duration::from_secs(5);

/// How long a coordinator may keep a request beyond what it is allowed to before it is asked once more; it has [`PATIENCE`] then.
const GRACE: Duration = Duration::from_millis(500);

impl Driver<'_> {
    pub(super) async fn choose_coordinator(&mut self) {
        // Where nobody is there, the nearest is not asked in vain for each blob anew.
        self.env.roll_call.is_nobody_there(&self.session.digest).await;
        match self.candidate(false).await {
            Some(peer) => self.ask_from_now_on(Coordinator::Peer(peer)),
            None => {
                self.ask_from_now_on(Coordinator::Itself);
                if self.candidate(true).await.is_some() {
                    // The right one is silent for the moment.
                    self.was_alone = true;
                } else {
                    // This node is the right one: there is nobody to go back to.
                    self.asked_since = None;
                }
            }
        }
    }

    pub(super) fn ask_from_now_on(&mut self, coordinator: Coordinator) {
        match coordinator {
            Coordinator::Itself => self.note("this node coordinates".to_owned()),
            Coordinator::Peer(peer) => self.note(format!("{peer} coordinates")),
        }
        self.asked_again = coordinator == self.coordinator && self.has_answered;
        self.coordinator = coordinator;
        self.term += 1;
        self.has_answered = false;
        self.asked_since = Some(Instant::now());
        self.answers = FuturesUnordered::new();
        self.member.new_coordinator();
        self.ask_due = None;
        self.tell();
    }

    /// Asks now if there is something to say and nothing is being gathered.
    pub(super) fn tell_when_due(&mut self) {
        if !self.member.has_news() {
            return;
        }
        if !self.has_answered {
            self.tell();
            return;
        }
        // Where leaves come quickly a slot must not lie idle for as long as one takes.
        let gather = self.member.usual().map_or(GATHER, |usual| GATHER.min(usual / GATHER_SHARE));
        let due = *self.ask_due.get_or_insert_with(|| Instant::now() + gather);
        if due <= Instant::now() {
            self.tell();
        }
    }

    pub(super) fn tell(&mut self) {
        self.ask_due = None;
        if self.member.wanted().is_empty() {
            return;
        }
        let Some(ask) = self.member.ask() else { return };
        let term = self.term;
        let answer = self.send(ask);
        self.answers.push(async move { (term, answer.await) }.boxed());
    }

    /// Sends a request. It is on its way when this returns, whether its answer is waited for or not.
    fn send(&self, ask: Ask<PeerId>) -> BoxFuture<'static, Result<Reply<PeerId>, Unanswered>> {
        let (env, digest) = (self.env.clone(), self.session.digest);
        match self.coordinator {
            Coordinator::Itself => {
                let answer = env.shown.coordinators.ask(env.swarm.local_peer(), digest, ask);
                async move {
                    let answer = answer.ok_or_else(|| Unanswered::failed("it coordinates too many blobs"))?;
                    answer.await.map_err(|_| Unanswered::failed("it has stopped"))
                }
                .boxed()
            }
            Coordinator::Peer(peer) => {
                let limit = if self.has_answered {
                    env.config.limits.hold + GRACE
                } else if self.was_alone && self.member.is_busy() {
                    // What is under way goes on meanwhile: nothing is lost by waiting.
                    PATIENCE_WHEN_BUSY
                } else if self.was_alone || env.heard.may_be_late(&peer, Instant::now()) {
                    PATIENCE
                } else {
                    env.config.limits.budget
                };
                let answer = tokio::spawn(ask_peer(env, peer, digest, ask, limit));
                async move { answer.await.map_err(Unanswered::failed)? }.boxed()
            }
        }
    }

    pub(super) async fn answered(&mut self, answer: Result<Reply<PeerId>, Unanswered>) -> Result<(), Error> {
        match answer {
            Ok(reply) => {
                if let (Coordinator::Peer(peer), false) = (self.coordinator, self.has_answered) {
                    self.env.reputation.answered(&peer);
                }
                self.has_answered = true;
                self.away.answered();
                if let Coordinator::Peer(peer) = self.coordinator {
                    self.env.heard.answered(peer, Instant::now());
                }
                let now = self.began.elapsed();
                for action in self.member.reply(reply, now) {
                    self.act(action);
                }
                if self.member.is_hopeless() && !self.has_work() {
                    if let Coordinator::Peer(peer) = self.coordinator {
                        self.is_left_hopeless(peer);
                        return Ok(());
                    }
                    return Err(self.no_source());
                }
            }
            Err(reason) => match self.coordinator {
                Coordinator::Peer(peer) if self.has_answered && matches!(reason, Unanswered::Late(_)) => {
                    self.note(format!("coordinator {peer}: {reason}; it is asked once more"));
                    self.ask_from_now_on(Coordinator::Peer(peer));
                }
                Coordinator::Peer(peer) => {
                    self.trouble(format!("coordinator {peer}: {reason}"));
                    self.env.reputation.unanswered(peer, self.was_alone && !self.has_answered);
                    self.fell_silent(peer).await;
                }
                Coordinator::Itself => {
                    self.trouble(format!("this node as coordinator: {reason}"));
                    return Err(self.no_source());
                }
            },
        }
        Ok(())
    }

    /// The coordinator says that nobody can give what is lacking. Where this node reads upstream itself, that is nonsense; otherwise it looks
    /// for itself.
    fn is_left_hopeless(&mut self, peer: PeerId) {
        self.note(format!("{peer} says that nobody can give what is lacking"));
        if self.upstream_error.is_none() && self.barren_reads < MAX_BARREN_READS {
            self.watch.nonsense();
        } else {
            self.ask_from_now_on(Coordinator::Itself);
            self.asked_since = None;
        }
    }

    /// Tells the coordinator that this node has all, or has given up. Nothing is waited for.
    pub(super) fn tell_last(&mut self) {
        if let Some(ask) = self.member.ask() {
            drop(self.send(ask));
        }
    }
}

async fn ask_peer(
    env: Arc<Env>,
    peer: PeerId,
    digest: shoal_content::Digest,
    ask: Ask<PeerId>,
    limit: Duration,
) -> Result<Reply<PeerId>, Unanswered> {
    let request = coordinators::encode(&digest, &ask);
    let began = Instant::now();
    let answer = env.swarm.coordinate(peer, request);
    tokio::pin!(answer);
    // Asked beside the request, so that this costs no time.
    let (mut arrived, first) = tokio::join!(arrived_from(&env, peer), tokio::time::timeout(limit, &mut answer));
    let mut waited = first.ok();
    let answer = loop {
        if let Some(answer) = waited {
            break answer;
        }
        let before = std::mem::replace(&mut arrived, arrived_from(&env, peer).await);
        if before == arrived || began.elapsed() >= BEHIND_BLOCKS {
            return Err(Unanswered::Late(began.elapsed()));
        }
        waited = tokio::time::timeout(limit, &mut answer).await.ok();
    };
    let answer = answer.map_err(Unanswered::failed)?;
    Reply::decode(&answer, coordinators::read_peer).map_err(Unanswered::failed)
}

/// Bytes of blocks that have come from a peer.
async fn arrived_from(env: &Env, peer: PeerId) -> u64 {
    let arrived = env.swarm.arrived(vec![peer]).await;
    arrived.ok().and_then(|arrived| arrived.first().copied()).unwrap_or(0)
}
