//! What we want of whom: a state machine without I/O, clock or randomness.
//!
//! A want is *unsent* until a message takes it, then outstanding until the peer answers, it is cancelled, or it fails.
//! Wants and cancels collect until the behaviour asks for the next message, so any number of calls makes one message.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::PeerId;
use shoal_content::Cid;

use crate::{
    Config, Failure, Ledger, verify,
    wire::{Entry, Presence, WantType},
};

/// Withdrawn or answered wants that are remembered of each peer, so that a block that crossed the cancel is told from
/// one that nobody asked for.
const RECENT: usize = 256;

/// Entries of one message: what a peer with the default limits takes.
const MAX_ENTRIES: usize = 1024;

/// How a want is answered when the block is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The block; DONT_HAVE ends it.
    Block,
    /// The block, now or when the peer gets it.
    Await,
    /// HAVE or DONT_HAVE; a tiny block is sent at once.
    Have,
}

impl Ask {
    fn want(self) -> WantType {
        if self == Ask::Have { WantType::Have } else { WantType::Block }
    }
}

/// What a received block was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Asked of this peer; the want is done.
    Wanted,
    /// Asked of this peer once, but not now.
    Late,
    /// Never asked of this peer, as far as remembered.
    Unasked,
}

/// What a received HAVE or DONT_HAVE was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Have,
    DontHave,
    Unasked,
}

#[derive(Debug)]
struct Want {
    ask: Ask,
    priority: i32,
    since: Instant,
    /// It stands in a message as it is now.
    sent: bool,
    /// The peer may know of it, in this form or an earlier one.
    told: bool,
}

#[derive(Debug)]
struct Peer {
    wants: HashMap<Cid, Want>,
    /// Wants of [`WantType::Block`] among them.
    blocks: usize,
    /// In the order asked. May hold CIDs that were cancelled since.
    unsent: VecDeque<Cid>,
    cancels: HashSet<Cid>,
    /// The next message replaces what the peer knows of our wants.
    full: bool,
    /// The peer may keep wants of ours that have failed: the next message, if there is one, is to be full.
    stale: bool,
    recent: Recent,
    /// When the peer last sent anything.
    heard: Instant,
    /// The peer speaks no version that has WANT-HAVE.
    old: bool,
    bytes_received: u64,
    blocks_received: u64,
    late_blocks: u64,
    bad_blocks: u64,
}

/// Our wants at all peers.
pub(crate) struct Client {
    config: Arc<Config>,
    peers: HashMap<PeerId, Peer>,
}

impl Client {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        Self { config, peers: HashMap::new() }
    }

    pub(crate) fn connected(&mut self, peer: PeerId, now: Instant) {
        self.peers.entry(peer).or_insert_with(|| Peer {
            wants: HashMap::new(),
            blocks: 0,
            unsent: VecDeque::new(),
            cancels: HashSet::new(),
            full: false,
            stale: false,
            recent: Recent::default(),
            heard: now,
            old: false,
            bytes_received: 0,
            blocks_received: 0,
            late_blocks: 0,
            bad_blocks: 0,
        });
    }

    /// Forgets the peer; its outstanding wants have failed.
    pub(crate) fn disconnected(&mut self, peer: &PeerId) -> Vec<Cid> {
        self.peers.remove(peer).map(|state| state.wants.into_keys().collect()).unwrap_or_default()
    }

    /// Wants something of a peer. Asked again, the stronger ask and the new priority stand.
    pub(crate) fn want(
        &mut self,
        peer: &PeerId,
        cid: Cid,
        ask: Ask,
        priority: i32,
        now: Instant,
    ) -> Result<(), Failure> {
        let state = self.peers.get_mut(peer).ok_or(Failure::Disconnected)?;
        if !verify::supports(&cid) || (state.old && ask == Ask::Have) {
            return Err(Failure::Unsupported);
        }
        if let Some(want) = state.wants.get_mut(&cid) {
            let weaker = ask == Ask::Have && want.ask != Ask::Have;
            if weaker || (want.ask == ask && want.priority == priority) {
                return Ok(());
            }
            state.blocks += usize::from(want.ask == Ask::Have && ask != Ask::Have);
            want.ask = ask;
            want.priority = priority;
            if std::mem::take(&mut want.sent) {
                state.unsent.push_back(cid);
            }
            return Ok(());
        }
        if state.wants.len() >= self.config.max_wants {
            return Err(Failure::TooMany);
        }
        state.blocks += usize::from(ask != Ask::Have);
        let told = state.cancels.remove(&cid);
        state.wants.insert(cid, Want { ask, priority, since: now, sent: false, told });
        state.unsent.push_back(cid);
        if state.unsent.len() > 2 * self.config.max_wants {
            let mut seen = HashSet::new();
            let wants = &state.wants;
            state.unsent.retain(|cid| wants.get(cid).is_some_and(|want| !want.sent) && seen.insert(*cid));
        }
        Ok(())
    }

    /// Withdraws a want. The peer is told only if it knows of it.
    pub(crate) fn cancel(&mut self, peer: &PeerId, cid: &Cid) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        if let Some(want) = state.remove(cid)
            && want.told
        {
            state.cancels.insert(*cid);
        }
    }

    /// Whether [`Client::next_entries`] has something.
    pub(crate) fn has_entries(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| state.full || !state.cancels.is_empty() || !state.unsent.is_empty())
    }

    /// The entries of the next message to the peer, and whether they are the whole wantlist. They count as sent.
    pub(crate) fn next_entries(&mut self, peer: &PeerId) -> Option<(Vec<Entry>, bool)> {
        let state = self.peers.get_mut(peer)?;
        if !state.full && state.cancels.is_empty() && state.unsent.is_empty() {
            return None;
        }
        let full = std::mem::take(&mut state.full) | std::mem::take(&mut state.stale);
        let mut entries = Vec::new();
        if full {
            state.cancels.clear();
        }
        let cancels: Vec<Cid> = state.cancels.iter().take(MAX_ENTRIES).copied().collect();
        for cid in cancels {
            state.cancels.remove(&cid);
            let want = WantType::Block;
            entries.push(Entry { cid, priority: 0, cancel: true, want, send_dont_have: false });
        }
        let mut wants = 0;
        while wants < MAX_ENTRIES
            && let Some(cid) = state.unsent.pop_front()
        {
            let Some(want) = state.wants.get_mut(&cid).filter(|want| !want.sent) else { continue };
            want.sent = true;
            want.told = true;
            wants += 1;
            let send_dont_have = want.ask != Ask::Await && !state.old;
            entries.push(Entry { cid, priority: want.priority, cancel: false, want: want.ask.want(), send_dont_have });
        }
        (full || !entries.is_empty()).then_some((entries, full))
    }

    /// The peer may have lost what we told it: the next message tells it all.
    pub(crate) fn resend(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        state.full = true;
        state.unsent = state.wants.keys().copied().collect();
        for want in state.wants.values_mut() {
            want.sent = false;
        }
    }

    /// Nothing can be sent to the peer: all wants have failed.
    pub(crate) fn fail_all(&mut self, peer: &PeerId) -> Vec<Cid> {
        let Some(state) = self.peers.get_mut(peer) else { return Vec::new() };
        state.unsent.clear();
        state.cancels.clear();
        state.full = false;
        state.stale = true;
        let cids: Vec<Cid> = state.wants.keys().copied().collect();
        for cid in &cids {
            state.remove(cid);
        }
        cids
    }

    /// The peer sent what it was not asked for. Whatever block it owes may be what it has just not sent, so none is waited for any longer:
    /// these wants have failed, and the peer is told that they are withdrawn.
    pub(crate) fn distrust(&mut self, peer: &PeerId) -> Vec<Cid> {
        let Some(state) = self.peers.get_mut(peer) else { return Vec::new() };
        let owed = state.wants.iter().filter(|(_, want)| want.told && want.ask != Ask::Have);
        let cids: Vec<Cid> = owed.map(|(cid, _)| *cid).collect();
        for cid in &cids {
            state.remove(cid);
            state.cancels.insert(*cid);
        }
        cids
    }

    /// The peer turned out to speak a version without WANT-HAVE; the wants that it cannot understand have failed.
    pub(crate) fn is_old(&mut self, peer: &PeerId, old: bool) -> Vec<Cid> {
        let Some(state) = self.peers.get_mut(peer) else { return Vec::new() };
        state.old = old;
        if !old {
            return Vec::new();
        }
        let haves = state.wants.iter().filter(|(_, want)| want.ask == Ask::Have);
        let cids: Vec<Cid> = haves.map(|(cid, _)| *cid).collect();
        for cid in &cids {
            state.remove(cid);
        }
        cids
    }

    /// Whether anything is wanted of the peer: if not, its blocks need not be hashed.
    pub(crate) fn is_busy(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| !state.wants.is_empty())
    }

    /// Whether blocks of any size are wanted of the peer: if not, its long messages need not be stored.
    pub(crate) fn wants_blocks(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|state| state.blocks > 0)
    }

    /// Whether this is wanted of the peer.
    pub(crate) fn wants(&self, peer: &PeerId, cid: &Cid) -> bool {
        self.peers.get(peer).is_some_and(|state| state.wants.contains_key(cid))
    }

    /// A block came while nothing was wanted of the peer, and was dropped unhashed.
    pub(crate) fn unexpected(&mut self, peer: &PeerId) -> Arrival {
        let Some(state) = self.peers.get_mut(peer) else { return Arrival::Late };
        if state.recent.is_empty() {
            state.bad_blocks += 1;
            Arrival::Unasked
        } else {
            state.late_blocks += 1;
            Arrival::Late
        }
    }

    /// A block with this CID came, checked; or bytes that have no CID.
    pub(crate) fn block(&mut self, peer: &PeerId, cid: Option<&Cid>, len: usize, now: Instant) -> Arrival {
        // Wants of a peer that left have been reported as failed.
        let Some(state) = self.peers.get_mut(peer) else { return Arrival::Late };
        if let Some(cid) = cid {
            if state.remove(cid).is_some() {
                state.heard = now;
                state.bytes_received += len as u64;
                state.blocks_received += 1;
                return Arrival::Wanted;
            }
            // It crossed our cancel: there is nothing left to withdraw.
            if state.cancels.remove(cid) || state.recent.contains(cid) {
                state.late_blocks += 1;
                return Arrival::Late;
            }
        }
        state.bad_blocks += 1;
        Arrival::Unasked
    }

    /// A HAVE or DONT_HAVE came.
    pub(crate) fn presence(&mut self, peer: &PeerId, presence: &Presence, now: Instant) -> News {
        let Some(state) = self.peers.get_mut(peer) else { return News::Unasked };
        let Some(want) = state.wants.get(&presence.cid).filter(|want| want.told) else { return News::Unasked };
        match (want.ask, presence.have) {
            (Ask::Have, true) => {
                state.heard = now;
                state.remove(&presence.cid);
                News::Have
            }
            (Ask::Have | Ask::Block, false) => {
                state.heard = now;
                state.remove(&presence.cid);
                // The peer keeps the want, in case the block arrives; we do not wait for it.
                state.cancels.insert(presence.cid);
                News::DontHave
            }
            (Ask::Block | Ask::Await, true) | (Ask::Await, false) => News::Unasked,
        }
    }

    /// Bytes of the peer are arriving, though no message is whole yet.
    pub(crate) fn heard(&mut self, peer: &PeerId, now: Instant) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.heard = now;
        }
    }

    /// How often [`Client::expire`] is worth calling.
    pub(crate) fn expire_interval(&self) -> Duration {
        (self.config.want_timeout / 16).clamp(Duration::from_millis(10), Duration::from_secs(2))
    }

    /// The wants that failed by time. The peer is told that they are withdrawn.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(PeerId, Cid)> {
        let mut expired = Vec::new();
        for (peer, state) in &mut self.peers {
            let is_expired = |want: &Want| {
                let silent = now.saturating_duration_since(want.since.max(state.heard)) >= self.config.want_timeout;
                let old = now.saturating_duration_since(want.since) >= self.config.want_lifetime;
                old || (silent && want.ask != Ask::Await)
            };
            let cids: Vec<Cid> = state.wants.iter().filter(|(_, want)| is_expired(want)).map(|(cid, _)| *cid).collect();
            for cid in cids {
                if state.remove(&cid).is_some_and(|want| want.told) {
                    state.cancels.insert(cid);
                }
                expired.push((*peer, cid));
            }
        }
        expired
    }

    /// Whether any want is outstanding anywhere.
    pub(crate) fn has_wants(&self) -> bool {
        self.peers.values().any(|state| !state.wants.is_empty())
    }

    /// Fills in the client's part.
    pub(crate) fn fill(&self, peer: &PeerId, ledger: &mut Ledger) {
        if let Some(state) = self.peers.get(peer) {
            ledger.bytes_received = state.bytes_received;
            ledger.blocks_received = state.blocks_received;
            ledger.late_blocks = state.late_blocks;
            ledger.bad_blocks = state.bad_blocks;
            ledger.wants_sent = state.wants.len();
        }
    }
}

impl Peer {
    fn remove(&mut self, cid: &Cid) -> Option<Want> {
        let want = self.wants.remove(cid)?;
        self.blocks -= usize::from(want.ask != Ask::Have);
        if want.told {
            self.recent.push(*cid);
        }
        Some(want)
    }
}

/// The last [`RECENT`] CIDs.
#[derive(Debug, Default)]
struct Recent {
    order: VecDeque<Cid>,
    count: HashMap<Cid, u32>,
}

impl Recent {
    fn push(&mut self, cid: Cid) {
        if self.order.len() >= RECENT
            && let Some(oldest) = self.order.pop_front()
            && let Some(count) = self.count.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.count.remove(&oldest);
            }
        }
        self.order.push_back(cid);
        *self.count.entry(cid).or_default() += 1;
    }

    fn contains(&self, cid: &Cid) -> bool {
        self.count.contains_key(cid)
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[cfg(test)]
mod tests;
