//! A node's session for one blob: what drives a member, as `crates/fetch` does it.

use std::{collections::BTreeMap, time::Duration};

use shoal_content::Outline;

use super::{
    Peer,
    events::Event,
    links::Moment,
    swarm::{Swarm, at, nanos},
    transfers::{Fetch, Read},
};
use crate::{Failure, Member, Reply, Source};

const TICK: Duration = Duration::from_millis(20);
const GATHER: Duration = Duration::from_millis(2);
const ASK_AGAIN: Duration = Duration::from_millis(100);
pub(super) const ASK_AGAIN_AT_LAST: Duration = Duration::from_secs(2);
pub(super) const PATIENCE: Duration = Duration::from_millis(500);
/// Where something is under way meanwhile, and this node has begun by itself.
const PATIENCE_WHEN_BUSY: Duration = Duration::from_secs(2);
const RESTATE: Duration = Duration::from_secs(3);
/// How late an answer may be before the coordinator is asked once more; it has [`PATIENCE`] then.
const GRACE: Duration = Duration::from_millis(500);
/// Coordinators in a row that may be silent before this node goes on by itself.
const MAX_SILENT: usize = 3;
/// Terms from here on are those of probes, and tell who was probed.
const PROBES: u64 = 1 << 40;
/// How long it counts that a node has answered, or given something: others may be late then.
const LATELY: Duration = Duration::from_secs(5);
/// How long a coordinator that did not answer is not waited for.
const SILENT: Duration = Duration::from_secs(5);

pub(super) struct Session {
    pub member: Member<Peer>,
    pub is_done: bool,
    coordinator: Peer,
    /// Counts coordinators: answers of an earlier one are no longer listened to.
    term: u64,
    has_answered: bool,
    was_alone: bool,
    /// It did not answer in time, and was asked once more.
    asked_again: bool,
    /// Coordinators in a row that did not answer.
    silent: usize,
    /// Since when this coordinator is asked, or when a nearer one was asked last.
    asked_since: Moment,
    ask_again: Duration,
    ask_due: Option<Moment>,
    /// Requests of this term without an answer.
    open: Vec<u64>,
    pub fetches: BTreeMap<(Peer, u64), Fetch>,
    pub read: Option<Read>,
    pub reads: u64,
    pub progress_at: Moment,
}

impl Swarm<'_> {
    pub(super) fn session(&mut self, peer: Peer, blob: usize) -> Option<&mut Session> {
        self.nodes[at(peer)].sessions[blob].as_mut()
    }

    pub(super) fn begin(&mut self, peer: Peer, blob: usize) {
        let size = self.world.blobs[blob];
        let mut member = Member::new(Outline::growing(size).expect("a small blob"), self.world.limits.clone());
        member.want(0..member.have().capacity());
        member.ranges(self.nodes[at(peer)].ranges);
        self.nodes[at(peer)].sessions[blob] = Some(Session {
            member,
            is_done: false,
            coordinator: peer,
            term: 0,
            has_answered: false,
            was_alone: false,
            asked_again: false,
            silent: 0,
            asked_since: self.now,
            ask_again: ASK_AGAIN,
            ask_due: None,
            open: Vec::new(),
            fetches: BTreeMap::new(),
            read: None,
            reads: 0,
            progress_at: self.now,
        });
        match self.nearest(blob, 0) {
            Some(nearest) if nearest != peer && self.is_silent(peer, nearest) => {
                if let Some(session) = self.session(peer, blob) {
                    session.was_alone = true;
                }
                self.ask_from_now_on(peer, blob, peer);
            }
            Some(nearest) => {
                self.ask_from_now_on(peer, blob, nearest);
            }
            None => self.ask_from_now_on(peer, blob, peer),
        }
        self.after(TICK, Event::Tick { node: peer, blob });
    }

    fn is_silent(&self, peer: Peer, coordinator: Peer) -> bool {
        self.nodes[at(peer)].silent.get(&coordinator).is_some_and(|since| self.now - since < nanos(SILENT))
    }

    /// Whether an answer may be late: something was heard of others a moment ago, and none of them was silent since.
    fn may_be_late(&self, peer: Peer) -> bool {
        let node = &self.nodes[at(peer)];
        node.heard.is_some_and(|heard| self.now - heard < nanos(LATELY)) && node.unheard <= node.heard
    }

    /// The session ends without the whole.
    pub(super) fn give_up(&mut self, peer: Peer, blob: usize) {
        let Some(session) = self.session(peer, blob) else { return };
        if session.is_done {
            return;
        }
        session.member.want(0..0);
        self.tell(peer, blob, true);
    }

    fn ask_from_now_on(&mut self, peer: Peer, blob: usize, coordinator: Peer) {
        let now = self.now;
        let Some(session) = self.session(peer, blob) else { return };
        session.asked_again = coordinator == session.coordinator && session.has_answered;
        session.coordinator = coordinator;
        session.term += 1;
        session.has_answered = false;
        session.asked_since = now;
        session.open.clear();
        session.member.new_coordinator();
        session.ask_due = None;
        self.note(|| format!("{peer} asks {coordinator} for blob {blob} from now on"));
        self.tell(peer, blob, false);
    }

    /// Whatever has happened: what is done is told, and news is gathered and told.
    pub(super) fn turn(&mut self, peer: Peer, blob: usize) {
        let now = self.now;
        let blobs = self.nodes[at(peer)].sessions.iter().flatten().filter(|session| !session.is_done).count();
        let Some(session) = self.session(peer, blob) else { return };
        if session.is_done {
            return;
        }
        session.member.share(u32::try_from(blobs).unwrap_or(u32::MAX));
        if session.member.is_complete() {
            session.is_done = true;
            self.tell(peer, blob, true);
            self.finished(peer);
            return;
        }
        if !session.member.has_news() {
            return;
        }
        if !session.has_answered {
            self.tell(peer, blob, false);
            return;
        }
        match session.ask_due {
            Some(due) if due <= now => self.tell(peer, blob, false),
            Some(_) => {}
            None => {
                session.ask_due = Some(now + nanos(GATHER));
                self.after(GATHER, Event::Tell { node: peer, blob });
            }
        }
    }

    fn tell(&mut self, peer: Peer, blob: usize, is_last: bool) {
        let limits = &self.world.limits;
        let (hold, budget) = (limits.hold, limits.budget);
        let may_be_late = self.may_be_late(peer);
        let Some(session) = self.session(peer, blob) else { return };
        session.ask_due = None;
        let Some(ask) = session.member.ask() else { return };
        let (to, term, sequence) = (session.coordinator, session.term, ask.sequence);
        let limit = if to == peer {
            None
        } else if session.has_answered {
            Some(hold + GRACE)
        } else if session.was_alone && session.member.is_busy() {
            Some(PATIENCE_WHEN_BUSY)
        } else if session.was_alone || session.asked_again || may_be_late {
            Some(PATIENCE)
        } else {
            Some(budget)
        };
        if !is_last {
            session.open.push(sequence);
            if let Some(limit) = limit {
                self.after(limit, Event::Timeout { node: peer, blob, term, sequence });
            }
        }
        if self.nodes[at(to)].gone {
            self.after(Duration::from_micros(100), Event::Refused { to: peer, blob, term, sequence });
        } else if let Some(delay) = self.post(peer, to) {
            self.after(delay, Event::Ask { to, from: peer, blob, term, ask: Box::new(ask) });
        }
    }

    pub(super) fn replied(&mut self, peer: Peer, blob: usize, term: u64, reply: Reply<Peer>) {
        let now = self.clock(peer);
        if self.nodes[at(peer)].liars[blob].is_some() {
            self.answered_liar(peer, blob, &reply);
            return;
        }
        if term >= PROBES {
            self.is_back(peer, blob, (term - PROBES) as Peer);
            return;
        }
        let Some(session) = self.session(peer, blob) else { return };
        if session.is_done || session.term != term || !session.open.contains(&reply.sequence) {
            return;
        }
        session.open.retain(|open| *open != reply.sequence);
        session.has_answered = true;
        session.silent = 0;
        let is_other = session.coordinator != peer;
        let actions = session.member.reply(reply, now);
        if is_other {
            self.nodes[at(peer)].heard = Some(self.now);
        }
        for action in actions {
            self.act(peer, blob, action);
        }
        self.turn(peer, blob);
    }

    /// No answer has come: in time, or, `is_refused`, ever will.
    pub(super) fn unanswered(&mut self, peer: Peer, blob: usize, term: u64, sequence: u64, is_refused: bool) {
        let now = self.now;
        let Some(session) = self.session(peer, blob) else { return };
        if session.is_done || session.term != term || !session.open.contains(&sequence) {
            return;
        }
        let silent = session.coordinator;
        if session.has_answered && !is_refused {
            // What it said, or was told, may have been lost.
            self.ask_from_now_on(peer, blob, silent);
            return;
        }
        if session.asked_again || session.has_answered {
            session.ask_again = ASK_AGAIN;
        }
        session.was_alone = true;
        session.silent += 1;
        let seeks = session.member.is_in_company() && session.silent < MAX_SILENT;
        let node = &mut self.nodes[at(peer)];
        node.silent.insert(silent, now);
        node.unheard = Some(now);
        let next = if seeks { self.candidate(peer, blob) } else { peer };
        self.ask_from_now_on(peer, blob, next);
        self.turn(peer, blob);
    }

    /// The nearest that is not silent.
    fn candidate(&self, peer: Peer, blob: usize) -> Peer {
        let living = self.ranks[blob].iter().copied().filter(|other| !self.nodes[at(*other)].gone);
        living.into_iter().find(|other| *other == peer || !self.is_silent(peer, *other)).unwrap_or(peer)
    }

    /// Asks those that are nearer than who is asked now whether they answer again.
    fn probe(&mut self, peer: Peer, blob: usize) {
        let Some(session) = self.session(peer, blob) else { return };
        let (coordinator, ask) = (session.coordinator, session.member.probe());
        let living = self.ranks[blob].iter().copied().filter(|other| !self.nodes[at(*other)].gone);
        let nearer: Vec<Peer> =
            living.take_while(|other| *other != coordinator && *other != peer).take(MAX_SILENT).collect();
        for to in nearer {
            if let Some(delay) = self.post(peer, to) {
                let (term, ask) = (PROBES + u64::from(to), Box::new(ask.clone()));
                self.after(delay, Event::Ask { to, from: peer, blob, term, ask });
            }
        }
    }

    /// A peer that was silent has answered.
    fn is_back(&mut self, peer: Peer, blob: usize, nearer: Peer) {
        let Some(session) = self.session(peer, blob) else { return };
        let coordinator = session.coordinator;
        if session.is_done || nearer == coordinator {
            return;
        }
        self.nodes[at(peer)].silent.remove(&nearer);
        let is_nearer = |other: Peer| self.ranks[blob].iter().position(|ranked| *ranked == other);
        if is_nearer(nearer) < is_nearer(coordinator) {
            self.ask_from_now_on(peer, blob, nearer);
        }
    }

    /// A node is known to be gone: what was asked of it will not come.
    pub(super) fn lost_source(&mut self, peer: Peer, blob: usize, gone: Peer) {
        let Some(session) = self.session(peer, blob) else { return };
        let lost: Vec<u64> =
            session.fetches.keys().filter(|(source, _)| *source == gone).map(|(_, leaf)| *leaf).collect();
        for leaf in &lost {
            session.fetches.remove(&(gone, *leaf));
            session.member.failed(*leaf, Source::Peer(gone), Failure::Stalled);
        }
        let open = if session.coordinator == gone { session.open.clone() } else { Vec::new() };
        let term = session.term;
        for sequence in open {
            self.unanswered(peer, blob, term, sequence, true);
        }
        if !lost.is_empty() {
            self.turn(peer, blob);
        }
    }

    pub(super) fn tick(&mut self, peer: Peer, blob: usize) {
        let (now, clock) = (self.now, self.clock(peer));
        let Some(session) = self.session(peer, blob) else { return };
        if session.is_done {
            return;
        }
        let coming: Vec<(Peer, usize)> = session
            .fetches
            .iter()
            .filter_map(|((source, _), fetch)| match fetch {
                Fetch::Coming(flow) => Some((*source, *flow)),
                _ => None,
            })
            .collect();
        for (source, flow) in coming {
            if self.links.is_moving(flow)
                && let Some(session) = self.session(peer, blob)
            {
                session.member.arrived(source, clock);
            }
        }
        let Some(session) = self.session(peer, blob) else { return };
        for action in session.member.tick(clock) {
            self.act(peer, blob, action);
        }
        let Some(session) = self.session(peer, blob) else { return };
        if !session.member.is_busy() && now - session.progress_at > nanos(RESTATE) {
            session.progress_at = now;
            let coordinator = session.coordinator;
            self.ask_from_now_on(peer, blob, coordinator);
        }
        let nearest = self.nearest(blob, 0).unwrap_or(peer);
        let Some(session) = self.session(peer, blob) else { return };
        let is_away = session.coordinator != nearest;
        if is_away && now - session.asked_since >= nanos(session.ask_again) {
            session.asked_since = now;
            session.ask_again = (session.ask_again * 2).min(ASK_AGAIN_AT_LAST);
            if session.member.is_in_company() {
                self.probe(peer, blob);
            } else {
                self.ask_from_now_on(peer, blob, nearest);
            }
        }
        self.turn(peer, blob);
        self.after(TICK, Event::Tick { node: peer, blob });
    }
}
