//! What peers want of us, and what is sent next: a state machine without I/O, clock or randomness.
//!
//! A want is looked up ([`Action::Look`]), then waits for its turn, is read ([`Action::Read`]) and handed to the
//! stream ([`Sending`]). Between peers the choice is start-time fair queueing by bytes: each peer has a virtual time
//! that advances with what it is sent, and the lowest is next; one that was away does not come back with credit.
//! A peer is sent more only while the bytes that its stream has not accepted are within its window, so the rate of
//! each peer is its own. All windows share a budget that is kept small, because what has been handed out can no longer
//! be chosen. A peer that takes longer than [`SLOW_AFTER`] for a block does not hold a part of it: it gets one block at
//! a time, beside the budget.

mod sent;
mod wants;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use libp2p::PeerId;
use shoal_content::{Cid, LEAF_SIZE};

use self::{
    sent::SentCounts,
    wants::{State, Want, Wants},
};
use crate::{
    Config, Ledger,
    ledger::Tally,
    wire::{Entry, Presence, WantType},
};

/// CIDs looked up by one job: enough to spread the cost of the hop to another thread, few enough that peers take turns.
const LOOK_BATCH: usize = 128;

/// What a block costs its peer at least, in bytes of virtual time: a tiny block too takes a message.
const MIN_COST: u64 = 1 << 10;

/// A window that a peer starts with, in bytes: one leaf.
const FIRST_WINDOW: usize = LEAF_SIZE as usize;

/// A peer whose stream accepts nothing for so long is slow, until it accepts a block sooner than that. Four blocks in
/// flight are 13 MiB/s at this: below that, being slow costs nothing.
const SLOW_AFTER: Duration = Duration::from_millis(300);

/// A table of so many places for each entry gives memory back.
const SPARSE: usize = 4;

/// Names a block that is being read or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u64);

/// Blocking work that the server asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Ask the store for the sizes, answer by [`Server::looked`].
    Look { peer: PeerId, cids: Vec<Cid> },
    /// Read the block, answer by [`Server::read`].
    Read { job: JobId, cid: Cid },
}

/// A block to be handed to the stream; ends by [`Server::sent`] or [`Server::failed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sending {
    pub(crate) job: JobId,
    pub(crate) peer: PeerId,
    pub(crate) cid: Cid,
    pub(crate) data: Bytes,
}

#[derive(Debug)]
struct Job {
    peer: PeerId,
    cid: Cid,
    /// Bytes charged to the budgets.
    size: usize,
    /// Read, and with the stream.
    handed: bool,
}

#[derive(Debug)]
struct Peer {
    wants: Wants,
    /// Wants in [`State::Unknown`], in order. May hold CIDs that were cancelled since.
    unknown: VecDeque<Cid>,
    looking: bool,
    presences: Vec<Presence>,
    /// Bytes served, in virtual time.
    served: u64,
    /// Bytes in jobs.
    outstanding: usize,
    /// What `outstanding` may grow to.
    window: usize,
    /// When the stream last accepted a block, or the first of `outstanding` was begun.
    moved: Instant,
    slow: bool,
    bytes_sent: u64,
    blocks_sent: u64,
}

/// The server's state.
pub(crate) struct Server {
    config: Arc<Config>,
    tally: Arc<Tally>,
    peers: HashMap<PeerId, Peer>,
    /// Who wants a CID, in whatever state.
    wanted: HashMap<Cid, Vec<PeerId>>,
    jobs: HashMap<JobId, Job>,
    /// Peers with something to look up; each at most once.
    look_turn: VecDeque<PeerId>,
    sent: SentCounts,
    next_job: u64,
    next_sequence: u64,
    outstanding: usize,
    /// Calls of the store that are under way; those for peers that left included.
    in_flight: usize,
    looked_last: bool,
    /// When a peer that holds a part of the full budget will have become slow, if somebody waits for it.
    blocked_until: Option<Instant>,
    /// Virtual time of the peer served last.
    clock: u64,
}

impl Server {
    pub(crate) fn new(config: Arc<Config>, tally: Arc<Tally>) -> Self {
        let sent = SentCounts::new(config.max_sent_counts);
        Self {
            config,
            tally,
            peers: HashMap::new(),
            wanted: HashMap::new(),
            jobs: HashMap::new(),
            look_turn: VecDeque::new(),
            sent,
            next_job: 0,
            next_sequence: 0,
            outstanding: 0,
            in_flight: 0,
            looked_last: false,
            blocked_until: None,
            clock: 0,
        }
    }

    pub(crate) fn connected(&mut self, peer: PeerId, now: Instant) {
        let served = self.clock;
        self.peers.entry(peer).or_insert_with(|| Peer {
            wants: Wants::default(),
            unknown: VecDeque::new(),
            looking: false,
            presences: Vec::new(),
            served,
            outstanding: 0,
            window: FIRST_WINDOW,
            moved: now,
            slow: false,
            bytes_sent: 0,
            blocks_sent: 0,
        });
    }

    /// Frees all that the peer made us keep.
    pub(crate) fn disconnected(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.remove(peer) else { return };
        for cid in state.wants.cids() {
            unlist(&mut self.wanted, cid, peer);
        }
        self.look_turn.retain(|other| other != peer);
        self.jobs.retain(|_, job| job.peer != *peer);
        self.outstanding -= state.outstanding;
        // A crowd that has gone would else leave tables as large as itself.
        if self.wanted.capacity() > SPARSE * self.wanted.len().max(self.config.max_wants) {
            self.wanted.shrink_to_fit();
        }
    }

    /// A peer's wantlist, or changes of it.
    pub(crate) fn receive(&mut self, peer: &PeerId, entries: Vec<Entry>, full: bool) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        if full {
            let stay: HashSet<&Cid> = entries.iter().filter(|entry| !entry.cancel).map(|entry| &entry.cid).collect();
            let gone: Vec<Cid> = state.wants.cids().filter(|cid| !stay.contains(cid)).copied().collect();
            for cid in gone {
                self.cancel(peer, &cid);
            }
        }
        for entry in entries {
            if entry.cancel {
                self.cancel(peer, &entry.cid);
            } else {
                self.want(peer, &entry);
            }
        }
        self.queue_look(peer);
    }

    fn cancel(&mut self, peer: &PeerId, cid: &Cid) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        if state.wants.remove(cid).is_some() {
            unlist(&mut self.wanted, cid, peer);
        }
    }

    fn want(&mut self, peer: &PeerId, entry: &Entry) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        if let Some(want) = state.wants.get_mut(&entry.cid) {
            want.priority = entry.priority;
            want.send_dont_have |= entry.send_dont_have;
            // A WANT-HAVE does not take back a WANT-BLOCK.
            if entry.want == WantType::Block {
                want.want = WantType::Block;
            }
            if want.state == State::Missing {
                // Asked again: the answer is due again, and the block may be here by now.
                state.wants.set_state(&entry.cid, State::Unknown);
                state.unknown.push_back(entry.cid);
            }
            return;
        }
        if state.wants.len() >= self.config.max_wants {
            self.tally.refused_wants.add(1);
            if entry.send_dont_have {
                push_presence(state, &self.config, &self.tally, Presence { cid: entry.cid, have: false });
            }
            return;
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let want = Want {
            want: entry.want,
            priority: entry.priority,
            send_dont_have: entry.send_dont_have,
            sequence,
            state: State::Unknown,
        };
        state.wants.insert(entry.cid, want);
        state.unknown.push_back(entry.cid);
        self.wanted.entry(entry.cid).or_default().push(*peer);
    }

    fn queue_look(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        // Wants that come and go leave their CIDs here; they must not pile up.
        if state.unknown.len() > 2 * self.config.max_wants {
            let mut seen = HashSet::new();
            let wants = &state.wants;
            state
                .unknown
                .retain(|cid| wants.get(cid).is_some_and(|want| want.state == State::Unknown) && seen.insert(*cid));
        }
        if !state.unknown.is_empty() && !state.looking {
            state.looking = true;
            self.look_turn.push_back(*peer);
        }
    }

    /// A block has arrived in the store: those who wait for it get their answer.
    pub(crate) fn arrived(&mut self, cid: &Cid) {
        let Some(peers) = self.wanted.get(cid).cloned() else { return };
        for peer in peers {
            let Some(state) = self.peers.get_mut(&peer) else { continue };
            match state.wants.get(cid).map(|want| want.state) {
                Some(State::Missing) => {
                    state.wants.set_state(cid, State::Unknown);
                    state.unknown.push_back(*cid);
                    self.queue_look(&peer);
                }
                Some(State::Looking { .. }) => state.wants.set_state(cid, State::Looking { arrived: true }),
                _ => {}
            }
        }
    }

    /// The next blocking work, while fewer than [`Config::max_reads`] are under way.
    pub(crate) fn next_action(&mut self, now: Instant) -> Option<Action> {
        self.blocked_until = None;
        if self.in_flight >= self.config.max_reads {
            return None;
        }
        // In turns: lookups that never end must not keep blocks from being read, nor the other way round.
        let action = if self.looked_last {
            self.next_read(now).or_else(|| self.next_look())
        } else {
            self.next_look().or_else(|| self.next_read(now))
        }?;
        self.looked_last = matches!(action, Action::Look { .. });
        self.in_flight += 1;
        Some(action)
    }

    fn next_look(&mut self) -> Option<Action> {
        while let Some(peer) = self.look_turn.pop_front() {
            let Some(state) = self.peers.get_mut(&peer) else { continue };
            let mut cids = Vec::new();
            while cids.len() < LOOK_BATCH
                && let Some(cid) = state.unknown.pop_front()
            {
                if state.wants.get(&cid).is_some_and(|want| want.state == State::Unknown) {
                    state.wants.set_state(&cid, State::Looking { arrived: false });
                    cids.push(cid);
                }
            }
            if !cids.is_empty() {
                return Some(Action::Look { peer, cids });
            }
            state.looking = false;
        }
        None
    }

    /// When [`Server::next_action`] may have something though nothing has happened.
    pub(crate) fn blocked_until(&self) -> Option<Instant> {
        self.blocked_until
    }

    fn next_read(&mut self, now: Instant) -> Option<Action> {
        let mut prompt = 0;
        for state in self.peers.values_mut().filter(|state| state.outstanding > 0) {
            if now.saturating_duration_since(state.moved) >= SLOW_AFTER {
                state.slow = true;
                state.window = FIRST_WINDOW;
            }
            if !state.slow {
                prompt += state.outstanding;
            }
        }
        let (peer, cid, size) = self
            .least_served(false)
            .filter(|(peer, _, size)| {
                let slow = self.peers.get(peer).is_some_and(|state| state.slow);
                slow || prompt == 0 || prompt + size <= self.config.upload_budget
            })
            .or_else(|| {
                let slow = self.least_served(true);
                if slow.is_none() {
                    let holders = self.peers.values().filter(|state| state.outstanding > 0 && !state.slow);
                    self.blocked_until = holders.map(|state| state.moved + SLOW_AFTER).min();
                }
                slow
            })?;
        if self.outstanding > 0 && self.outstanding + size > self.config.send_budget {
            return None;
        }
        let state = self.peers.get_mut(&peer)?;
        if state.outstanding == 0 {
            state.moved = now;
        }
        let job = JobId(self.next_job);
        self.next_job += 1;
        state.wants.set_state(&cid, State::Sending(job));
        state.outstanding += size;
        self.outstanding += size;
        self.clock = self.clock.max(state.served);
        state.served += (size as u64).max(MIN_COST);
        self.sent.add(&cid);
        self.jobs.insert(job, Job { peer, cid, size, handed: false });
        Some(Action::Read { job, cid })
    }

    /// The peer that has been served least of those whose window is open, or of the slow ones among them, with its next
    /// block and the size of that.
    fn least_served(&self, only_slow: bool) -> Option<(PeerId, Cid, usize)> {
        let is_open = |state: &Peer| state.outstanding == 0 || (!state.slow && state.outstanding < state.window);
        // Few peers are active at a time; those that are not cost a comparison each.
        let (peer, state) = self
            .peers
            .iter()
            .filter(|(_, state)| state.wants.ready() > 0 && is_open(state) && (state.slow || !only_slow))
            .min_by_key(|(peer, state)| (state.served, **peer))?;
        let (cid, size) = state.wants.next(|cid| self.sent.get(cid))?;
        Some((*peer, cid, size))
    }

    /// The answer to [`Action::Look`]: the sizes, in the order asked.
    pub(crate) fn looked(&mut self, peer: &PeerId, sizes: &[(Cid, Option<u64>)]) {
        self.in_flight -= 1;
        let Some(state) = self.peers.get_mut(peer) else { return };
        for (cid, size) in sizes {
            let Some(want) = state.wants.get_mut(cid) else { continue };
            let State::Looking { arrived } = want.state else { continue };
            let size =
                size.and_then(|size| usize::try_from(size).ok()).filter(|&size| size <= self.config.max_block_len);
            match size {
                Some(size) if want.want == WantType::Block || size <= self.config.have_replace_len => {
                    if state.wants.ready() == 0 && state.outstanding == 0 {
                        state.served = state.served.max(self.clock);
                    }
                    state.wants.set_state(cid, State::Ready { size });
                }
                Some(_) => {
                    state.wants.remove(cid);
                    unlist(&mut self.wanted, cid, peer);
                    push_presence(state, &self.config, &self.tally, Presence { cid: *cid, have: true });
                }
                None if arrived => {
                    state.wants.set_state(cid, State::Unknown);
                    state.unknown.push_back(*cid);
                }
                None => missing(state, cid, &self.config, &self.tally),
            }
        }
        state.looking = false;
        self.queue_look(peer);
    }

    /// The answer to [`Action::Read`]: the block, or `None` when it is gone or cannot be read.
    pub(crate) fn read(&mut self, job: JobId, data: Option<Bytes>) -> Option<Sending> {
        self.in_flight -= 1;
        let entry = self.jobs.get_mut(&job)?;
        entry.handed = true;
        let Job { peer, cid, .. } = *entry;
        let state = self.peers.get_mut(&peer)?;
        let wanted = state.wants.get(&cid).is_some_and(|want| want.state == State::Sending(job));
        match data {
            Some(data) if wanted && data.len() <= self.config.max_block_len => Some(Sending { job, peer, cid, data }),
            data => {
                self.release(job);
                self.sent.take_back(&cid);
                if data.is_none()
                    && wanted
                    && let Some(state) = self.peers.get_mut(&peer)
                {
                    missing(state, &cid, &self.config, &self.tally);
                } else if wanted {
                    self.cancel(&peer, &cid);
                }
                None
            }
        }
    }

    /// The stream has accepted the block.
    pub(crate) fn sent(&mut self, job: JobId, bytes: usize, now: Instant) {
        let Some(Job { peer, cid, .. }) = self.release(job) else { return };
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.slow = now.saturating_duration_since(state.moved) >= SLOW_AFTER;
        state.moved = now;
        state.window = match state.slow {
            true => FIRST_WINDOW,
            false => (state.window * 2).min(self.config.peer_send_budget.max(FIRST_WINDOW)),
        };
        state.bytes_sent += bytes as u64;
        state.blocks_sent += 1;
        self.tally.blocks_sent.add(1);
        self.tally.bytes_sent.add(bytes as u64);
        if state.wants.get(&cid).is_some_and(|want| want.state == State::Sending(job)) {
            self.cancel(&peer, &cid);
        }
    }

    /// The block could not be sent. The want is dropped: its asker sees the stream fail, and asks again if it lives.
    pub(crate) fn failed(&mut self, job: JobId) {
        let Some(Job { peer, cid, .. }) = self.release(job) else { return };
        self.sent.take_back(&cid);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        state.window = FIRST_WINDOW;
        if state.wants.get(&cid).is_some_and(|want| want.state == State::Sending(job)) {
            self.cancel(&peer, &cid);
        }
    }

    /// The connection is gone, but not the peer: what was to be sent over it is sent again.
    pub(crate) fn requeue(&mut self, peer: &PeerId) {
        let handed = self.jobs.iter().filter(|(_, job)| job.peer == *peer && job.handed);
        let handed: Vec<JobId> = handed.map(|(&id, _)| id).collect();
        for id in handed {
            let Some(Job { cid, size, .. }) = self.release(id) else { continue };
            self.sent.take_back(&cid);
            let Some(state) = self.peers.get_mut(peer) else { continue };
            if state.wants.get(&cid).is_some_and(|want| want.state == State::Sending(id)) {
                state.wants.set_state(&cid, State::Ready { size });
            }
        }
    }

    /// Whom the block is for, while it is wanted.
    pub(crate) fn peer_of(&self, job: JobId) -> Option<PeerId> {
        self.jobs.get(&job).map(|job| job.peer)
    }

    fn release(&mut self, job: JobId) -> Option<Job> {
        let job = self.jobs.remove(&job)?;
        self.outstanding -= job.size;
        if let Some(state) = self.peers.get_mut(&job.peer) {
            state.outstanding -= job.size;
        }
        Some(job)
    }

    pub(crate) fn has_presences(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| !state.presences.is_empty())
    }

    /// The HAVEs and DONT_HAVEs that are due to the peer.
    pub(crate) fn take_presences(&mut self, peer: &PeerId) -> Vec<Presence> {
        self.peers.get_mut(peer).map(|state| std::mem::take(&mut state.presences)).unwrap_or_default()
    }

    /// Whether the peer is to be answered still; it may wait for blocks that are not here, too.
    pub(crate) fn is_busy(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| state.outstanding > 0 || state.wants.len() > 0)
    }

    /// Fills in the server's part.
    pub(crate) fn fill(&self, peer: &PeerId, ledger: &mut Ledger) {
        if let Some(state) = self.peers.get(peer) {
            ledger.bytes_sent = state.bytes_sent;
            ledger.blocks_sent = state.blocks_sent;
            ledger.wants_received = state.wants.len();
            ledger.queue_depth = state.wants.ready();
            ledger.bytes_outstanding = state.outstanding;
        }
    }
}

/// The block is not here: says so if it was asked to, and keeps the want.
fn missing(state: &mut Peer, cid: &Cid, config: &Config, tally: &Tally) {
    state.wants.set_state(cid, State::Missing);
    let Some(want) = state.wants.get_mut(cid) else { return };
    if std::mem::take(&mut want.send_dont_have) {
        push_presence(state, config, tally, Presence { cid: *cid, have: false });
    }
}

fn push_presence(state: &mut Peer, config: &Config, tally: &Tally, presence: Presence) {
    if state.presences.len() < config.max_wants {
        state.presences.push(presence);
    } else {
        tally.dropped_presences.add(1);
    }
}

fn unlist(wanted: &mut HashMap<Cid, Vec<PeerId>>, cid: &Cid, peer: &PeerId) {
    if let Some(peers) = wanted.get_mut(cid) {
        peers.retain(|other| other != peer);
        if peers.is_empty() {
            wanted.remove(cid);
        }
    }
}
