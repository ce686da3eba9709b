//! Which leaf is asked of whom: the deciding part of a session, without I/O, clock or randomness of its own.
//!
//! A session tells the plan what happened (a holder was found, a leaf landed, upstream failed) and asks it for the [`Action`]s that
//! follow. Times are durations since the session began.
//!
//! - Leaves that a reader waits for come first, in order; each is asked of one source at a time.
//! - The blob is striped over its holders by leaves in flight; each holder has a window of [`Limits::window`] leaves.
//! - A holder that gives nothing for [`Limits::stall`] loses its leaves to the others: they are asked again elsewhere, while the old
//!   want stands, and whichever comes first counts. After [`Limits::give_up`] it is let go.
//! - When nothing is left to ask for, an idle holder doubles what has been under way for [`Limits::tail`] elsewhere.
//! - Upstream is read where no holder can serve: from the budget on while the swarm has not answered, when all holders are gone or
//!   stalled. It is one plain stream over a run of missing leaves, and stops when holders deliver.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use shoal_content::LeafSet;

/// The numbers a plan works by.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Leaves in flight at one holder. A LAN's bandwidth × delay is one to three leaves (see docs/swarming).
    pub window: usize,
    /// Leaves in flight at a sole holder.
    pub sole_window: usize,
    /// How long the swarm may take to name a holder before upstream is asked.
    pub budget: Duration,
    /// How long a holder may give nothing before its leaves are asked elsewhere.
    pub stall: Duration,
    /// How long a holder may give nothing before it is let go.
    pub give_up: Duration,
    /// How long a leaf is under way before an idle holder doubles it.
    pub tail: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: 4,
            sole_window: 8,
            budget: Duration::from_millis(50),
            stall: Duration::from_millis(900),
            give_up: Duration::from_secs(5),
            tail: Duration::from_millis(300),
        }
    }
}

/// Where a leaf came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source<P> {
    /// A peer.
    Peer(P),
    /// The registry.
    Upstream,
}

/// What a session is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action<P> {
    /// Ask a holder for a leaf. Lower positions are more urgent.
    Ask {
        /// The holder.
        peer: P,
        /// The leaf's index.
        leaf: u64,
    },
    /// Take back what a holder was asked for.
    Cancel {
        /// The holder.
        peer: P,
        /// The leaf's index.
        leaf: u64,
    },
    /// Read these leaves from upstream, in order. At most one read is under way.
    Read(Range<u64>),
    /// Stop reading from upstream.
    StopReading,
    /// No source is left.
    Fail,
}

/// What has been asked for and what has come, for one blob.
#[derive(Debug)]
pub(crate) struct Plan<P> {
    limits: Limits,
    done: LeafSet,
    wanted: Vec<Range<u64>>,
    asks: BTreeMap<u64, Vec<(P, Duration)>>,
    holders: BTreeMap<P, Holder>,
    outline_known: bool,
    searching: bool,
    upstream: Upstream,
}

#[derive(Debug, Default)]
struct Holder {
    in_flight: usize,
    last_progress: Duration,
    delivered: u64,
    stalled: bool,
    refused: Vec<u64>,
}

/// Leaves that a holder may refuse before it is taken for one that has not got the blob.
const MAX_REFUSED: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Upstream {
    Idle,
    Reading(Range<u64>),
    Failed,
}

impl<P: Copy + Ord> Plan<P> {
    /// A plan for a blob of which `done` is there already. Nothing is wanted yet.
    pub(crate) fn new(done: LeafSet, limits: Limits) -> Self {
        Self {
            limits,
            done,
            wanted: Vec::new(),
            asks: BTreeMap::new(),
            holders: BTreeMap::new(),
            outline_known: false,
            searching: true,
            upstream: Upstream::Idle,
        }
    }

    /// The leaves that are there.
    pub(crate) fn done(&self) -> &LeafSet {
        &self.done
    }

    /// Whether every leaf of the blob is there.
    pub(crate) fn is_complete(&self) -> bool {
        self.done.is_full()
    }

    /// Number of holders that are not stalled.
    pub(crate) fn live_holders(&self) -> usize {
        self.holders.values().filter(|holder| !holder.stalled).count()
    }

    /// Sets what readers wait for: ranges of leaves, the most urgent first.
    pub(crate) fn want(&mut self, wanted: Vec<Range<u64>>) {
        self.wanted = wanted;
    }

    /// The CIDs of the leaves are known, so that holders can be asked.
    pub(crate) fn outline_known(&mut self) {
        self.outline_known = true;
    }

    /// A peer says that it holds the blob.
    pub(crate) fn holder_found(&mut self, peer: P, now: Duration) {
        self.holders.entry(peer).or_insert_with(|| Holder { last_progress: now, ..Holder::default() });
    }

    /// A peer is not to be asked any more. What it was asked for is free.
    pub(crate) fn holder_gone(&mut self, peer: P) {
        self.holders.remove(&peer);
        self.asks.retain(|_, asks| {
            asks.retain(|(asked, _)| *asked != peer);
            !asks.is_empty()
        });
    }

    /// The swarm has named all holders that it knows.
    pub(crate) fn search_over(&mut self) {
        self.searching = false;
    }

    /// A leaf has been verified and stored. Returns the asks that are now needless.
    pub(crate) fn landed(&mut self, leaf: u64, source: Source<P>, now: Duration) -> Vec<Action<P>> {
        self.done.insert(leaf);
        if let Source::Peer(peer) = source
            && let Some(holder) = self.holders.get_mut(&peer)
        {
            holder.last_progress = now;
            holder.delivered += 1;
            holder.stalled = false;
        }
        if let Upstream::Reading(range) = &mut self.upstream
            && range.start == leaf
        {
            range.start += 1;
            if range.is_empty() {
                self.upstream = Upstream::Idle;
            }
        }
        let mut needless = Vec::new();
        for (peer, _) in self.asks.remove(&leaf).unwrap_or_default() {
            self.released(peer);
            if source != Source::Peer(peer) {
                needless.push(Action::Cancel { peer, leaf });
            }
        }
        needless
    }

    /// A holder's block is here and being stored: it is not slow, and its slot is free for another.
    pub(crate) fn arrived(&mut self, peer: P, now: Duration) {
        if let Some(holder) = self.holders.get_mut(&peer) {
            holder.last_progress = now;
            holder.stalled = false;
        }
    }

    /// A holder has not got a leaf that it was asked for.
    pub(crate) fn refused(&mut self, peer: P, leaf: u64) {
        let Some(asks) = self.asks.get_mut(&leaf) else { return };
        let before = asks.len();
        asks.retain(|(asked, _)| *asked != peer);
        let was_asked = asks.len() < before;
        if asks.is_empty() {
            self.asks.remove(&leaf);
        }
        if !was_asked {
            return;
        }
        self.released(peer);
        let refusals = self.holders.get_mut(&peer).map_or(0, |holder| {
            holder.refused.push(leaf);
            holder.refused.len()
        });
        if refusals > MAX_REFUSED {
            self.holder_gone(peer);
        }
    }

    /// The swarm is being searched again.
    pub(crate) fn search_begun(&mut self) {
        self.searching = true;
    }

    /// The read that is under way ended without covering its range. It may be tried again.
    pub(crate) fn read_ended(&mut self) {
        if self.upstream != Upstream::Failed {
            self.upstream = Upstream::Idle;
        }
    }

    /// Upstream cannot give this blob.
    pub(crate) fn upstream_failed(&mut self) {
        self.upstream = Upstream::Failed;
    }

    /// A leaf turned out to be wrong: it is missing again.
    pub(crate) fn forget(&mut self, leaf: u64) {
        self.done.remove(leaf);
    }

    /// What is to be done now.
    pub(crate) fn next(&mut self, now: Duration) -> Vec<Action<P>> {
        let mut actions = Vec::new();
        self.mark_stalled(now, &mut actions);
        if self.outline_known {
            self.ask_missing(now, &mut actions);
            self.double_the_tail(now, &mut actions);
        }
        self.read_upstream(now, &mut actions);
        actions
    }

    /// The wanted leaves that are not there, most urgent first; a leaf in two ranges comes twice.
    fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        let capacity = self.done.capacity();
        self.wanted
            .iter()
            .flat_map(move |range| range.start..range.end.min(capacity))
            .filter(|&leaf| !self.done.contains(leaf))
    }

    fn released(&mut self, peer: P) {
        if let Some(holder) = self.holders.get_mut(&peer) {
            holder.in_flight = holder.in_flight.saturating_sub(1);
        }
    }

    fn mark_stalled(&mut self, now: Duration, actions: &mut Vec<Action<P>>) {
        let mut gone = Vec::new();
        for (peer, holder) in &mut self.holders {
            let quiet = now.saturating_sub(holder.last_progress);
            if holder.in_flight == 0 {
                // Avoided for a while, then given another chance: it may be the last one there is.
                holder.stalled &= quiet < self.limits.give_up;
                continue;
            }
            holder.stalled = quiet >= self.limits.stall;
            if quiet >= self.limits.give_up {
                gone.push(*peer);
            }
        }
        for peer in gone {
            for (leaf, asks) in &self.asks {
                if asks.iter().any(|(asked, _)| *asked == peer) {
                    actions.push(Action::Cancel { peer, leaf: *leaf });
                }
            }
            self.holder_gone(peer);
        }
    }

    fn ask_missing(&mut self, now: Duration, actions: &mut Vec<Action<P>>) {
        let window = if self.live_holders() == 1 { self.limits.sole_window } else { self.limits.window };
        let free = |holder: &Holder| !holder.stalled && holder.in_flight < window;
        if !self.holders.values().any(free) {
            return;
        }
        let reading = match &self.upstream {
            Upstream::Reading(range) => Some(range.start),
            _ => None,
        };
        // No more leaves are looked at than could be asked for or be passed over.
        let slots =
            self.holders.values().filter(|holder| free(holder)).map(|holder| window - holder.in_flight).sum::<usize>();
        let passed_over = self.asks.len() + self.holders.values().map(|holder| holder.refused.len()).sum::<usize>();
        let candidates: Vec<u64> =
            self.missing().filter(|leaf| Some(*leaf) != reading).take(slots + passed_over).collect();
        for leaf in candidates {
            let asks = self.asks.get(&leaf).map_or(&[][..], Vec::as_slice);
            let is_stalled = |peer: &P| self.holders.get(peer).is_none_or(|holder| holder.stalled);
            if !asks.iter().all(|(peer, _)| is_stalled(peer)) {
                continue;
            }
            let least_busy = self
                .holders
                .iter()
                .filter(|(peer, holder)| {
                    free(holder) && !holder.refused.contains(&leaf) && !asks.iter().any(|(asked, _)| asked == *peer)
                })
                .min_by_key(|(_, holder)| (holder.in_flight, holder.delivered))
                .map(|(peer, _)| *peer);
            let Some(peer) = least_busy else {
                if self.holders.values().any(free) {
                    continue;
                }
                return;
            };
            self.ask(peer, leaf, now, actions);
        }
    }

    fn double_the_tail(&mut self, now: Duration, actions: &mut Vec<Action<P>>) {
        let idle: Vec<P> = self
            .holders
            .iter()
            .filter(|(_, holder)| !holder.stalled && holder.in_flight == 0)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in idle {
            let oldest = self
                .asks
                .iter()
                .filter(|(leaf, asks)| {
                    asks.len() == 1
                        && asks[0].0 != peer
                        && now.saturating_sub(asks[0].1) >= self.limits.tail
                        && !self.holders[&peer].refused.contains(leaf)
                })
                .min_by_key(|(_, asks)| asks[0].1)
                .map(|(leaf, _)| *leaf);
            if let Some(leaf) = oldest {
                self.ask(peer, leaf, now, actions);
            }
        }
    }

    fn ask(&mut self, peer: P, leaf: u64, now: Duration, actions: &mut Vec<Action<P>>) {
        let Some(holder) = self.holders.get_mut(&peer) else { return };
        if holder.in_flight == 0 {
            // It was idle: its silence so far says nothing about it.
            holder.last_progress = now;
        }
        holder.in_flight += 1;
        self.asks.entry(leaf).or_default().push((peer, now));
        actions.push(Action::Ask { peer, leaf });
    }

    fn read_upstream(&mut self, now: Duration, actions: &mut Vec<Action<P>>) {
        let can_ask = self.outline_known && self.live_holders() > 0;
        let unserved = self.missing().find(|leaf| !can_ask || !self.can_be_served(*leaf));
        match (&self.upstream, unserved) {
            (Upstream::Reading(_), _) if can_ask && self.delivering(now) => {
                self.upstream = Upstream::Idle;
                actions.push(Action::StopReading);
            }
            (Upstream::Reading(range), _) if !self.missing().any(|leaf| range.contains(&leaf)) => {
                self.upstream = Upstream::Idle;
                actions.push(Action::StopReading);
            }
            (Upstream::Idle, Some(leaf)) => {
                let swarm_may_answer = self.searching && !can_ask && now < self.limits.budget;
                if swarm_may_answer {
                    return;
                }
                let end = self.end_of_run(leaf);
                self.upstream = Upstream::Reading(leaf..end);
                actions.push(Action::Read(leaf..end));
            }
            (Upstream::Failed, Some(_)) if self.holders.is_empty() && !self.searching => actions.push(Action::Fail),
            (Upstream::Failed, Some(_)) if !self.searching && !self.outline_known => actions.push(Action::Fail),
            (Upstream::Failed, Some(leaf)) if !self.searching && !self.may_yet_come(leaf) => actions.push(Action::Fail),
            _ => {}
        }
    }

    /// Whether a live holder has been, or can be, asked for the leaf.
    fn can_be_served(&self, leaf: u64) -> bool {
        self.holders.values().any(|holder| !holder.stalled && !holder.refused.contains(&leaf))
    }

    /// Whether a holder, even a stalled one, has not refused the leaf.
    fn may_yet_come(&self, leaf: u64) -> bool {
        self.holders.values().any(|holder| !holder.refused.contains(&leaf))
    }

    /// Whether some holder has given a leaf of late.
    fn delivering(&self, now: Duration) -> bool {
        let is_recent = |holder: &Holder| now.saturating_sub(holder.last_progress) < self.limits.stall;
        self.holders.values().any(|holder| holder.delivered > 0 && !holder.stalled && is_recent(holder))
    }

    /// The end of the run of wanted, missing leaves that begins at `leaf`.
    fn end_of_run(&self, leaf: u64) -> u64 {
        let is_wanted = |leaf: &u64| self.wanted.iter().any(|range| range.contains(leaf));
        (leaf..self.done.capacity())
            .take_while(|leaf| is_wanted(leaf) && !self.done.contains(*leaf))
            .last()
            .map_or(leaf, |last| last + 1)
    }
}

#[cfg(test)]
mod tests;
