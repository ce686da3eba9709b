//! A member: one node's side of a blob's coordination.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use shoal_content::{LeafHash, LeafSet, Outline};

use crate::{
    clock::Clock,
    limits::Limits,
    message::{Ask, Failure, Full, Grant, Ranges, Reply, Source},
    window::Window,
};

/// What a member is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<P> {
    /// Get a leaf from a peer.
    Fetch(Grant<P>),
    /// Give up getting a leaf from a peer.
    Cancel {
        /// The leaf.
        leaf: u64,
        /// The peer.
        from: P,
    },
    /// Read these leaves from upstream, in order, `first..end`.
    Read {
        /// The first leaf.
        first: u64,
        /// One past the last leaf.
        end: u64,
    },
    /// End the read under way before this leaf; at or before its position: stop it.
    Cut(u64),
}

/// What one node has of a blob, is getting, and has to tell the coordinator.
#[derive(Debug)]
pub struct Member<P> {
    limits: Limits,
    outline: Outline,
    clock: Option<Clock>,
    have: LeafSet,
    /// Leaves that were read from upstream here: nobody else may know their hashes.
    own: LeafSet,
    wanted: Range<u64>,
    fetching: BTreeMap<u64, Fetching<P>>,
    reading: Option<Range<u64>>,
    upstream: bool,
    ranges: Ranges,
    ranges_told: Ranges,
    landed: Vec<(u64, Option<LeafHash>)>,
    failed: Vec<(u64, Source<P>, Failure)>,
    restate: bool,
    sequence: u64,
    answered: u64,
    hopeless: bool,
    /// A coordinator has said that others want the blob too.
    crowd: bool,
    /// When each source last gave something.
    progress: BTreeMap<P, Duration>,
    usual: Option<Duration>,
    /// Leaves that it takes at once now.
    window: Window,
    /// Blobs that this node is getting, which share its links.
    blobs: u32,
    slots_told: Option<u32>,
    wanted_told: Option<Range<u64>>,
}

#[derive(Clone, Copy, Debug)]
struct Fetching<P> {
    from: P,
    since: Duration,
}

/// Requests open at the coordinator at once: one that waits for leaves, and one that brings news.
const MAX_OPEN: u64 = 2;

/// Hashes that a coordinator is told at once beside those of what has landed.
const MAX_TOLD: usize = 1024;

impl<P: Copy + Ord> Member<P> {
    /// A member that has the leaves of `outline` that are known there. `None` of them is wanted yet.
    pub fn new(outline: Outline, limits: Limits) -> Self {
        let mut have = LeafSet::empty(outline.leaf_count());
        for leaf in 0..outline.leaf_count() {
            if outline.leaf(leaf).is_some() {
                have.insert(leaf);
            }
        }
        Self {
            clock: None,
            own: LeafSet::empty(outline.leaf_count()),
            outline,
            have,
            wanted: 0..0,
            fetching: BTreeMap::new(),
            reading: None,
            upstream: true,
            ranges: Ranges::Unknown,
            ranges_told: Ranges::Unknown,
            landed: Vec::new(),
            failed: Vec::new(),
            restate: true,
            sequence: 0,
            answered: 0,
            hopeless: false,
            crowd: false,
            progress: BTreeMap::new(),
            usual: None,
            window: Window::new(limits.downloads),
            blobs: 1,
            slots_told: None,
            wanted_told: None,
            limits,
        }
    }

    /// The leaves that are here.
    pub fn have(&self) -> &LeafSet {
        &self.have
    }

    /// Whether all leaves are here.
    pub fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    /// What is being read from upstream.
    pub fn reading(&self) -> Option<&Range<u64>> {
        self.reading.as_ref()
    }

    /// Whether anything is under way.
    pub fn is_busy(&self) -> bool {
        self.reading.is_some() || !self.fetching.is_empty()
    }

    /// Whether nobody can give what is lacking here, as far as the coordinator knows.
    pub fn is_hopeless(&self) -> bool {
        self.hopeless
    }

    /// Whether a coordinator has ever said that others want the blob too: it is worth looking for them when that one falls silent.
    pub fn is_in_company(&self) -> bool {
        self.crowd
    }

    /// A request to a peer that did not answer, to see whether it does now. It wants nothing and is answered at once. A peer that has taken
    /// this one for a member till then counts it as gone.
    pub fn probe(&self) -> Ask<P> {
        Ask {
            sequence: 0,
            size: Some(self.outline.size()),
            full: None,
            landed: Vec::new(),
            failed: Vec::new(),
            slots: 0,
            blobs: self.blobs,
            upstream: false,
            ranges: Ranges::Unknown,
            wanted: (0, 0),
            crowd: None,
        }
    }

    /// How long a leaf from a peer takes, where one has come.
    pub fn usual(&self) -> Option<Duration> {
        self.usual
    }

    /// The leaves that are wanted.
    pub fn wanted(&self) -> &Range<u64> {
        &self.wanted
    }

    /// Whether there is something to tell or to ask for, and no request that waits for it already.
    pub fn has_news(&self) -> bool {
        let open = self.sequence - self.answered;
        // That it has all, or gives up, is told whatever is open: nothing will be told after that.
        let is_last = self.have.is_full() || self.wanted.is_empty();
        (open < MAX_OPEN || is_last) && (open == 0 || self.news())
    }

    fn news(&self) -> bool {
        self.restate
            || !self.landed.is_empty()
            || !self.failed.is_empty()
            || self.slots_told != Some(self.slots())
            || (self.ranges == Ranges::Ignored && self.ranges_told != Ranges::Ignored)
            || self
                .wanted_told
                .as_ref()
                .is_none_or(|told| told.end != self.wanted.end || told.start > self.wanted.start)
    }

    /// Sets the leaves that are wanted.
    pub fn want(&mut self, wanted: Range<u64>) {
        self.wanted = wanted;
    }

    /// Says how many blobs this node is getting, this one among them: so many share what it can take at once.
    pub fn share(&mut self, blobs: u32) {
        self.blobs = blobs.max(1);
    }

    /// Whether upstream can be read from here.
    pub fn upstream(&mut self, usable: bool) {
        self.upstream = usable;
    }

    /// What upstream does with ranges, as far as this node has seen.
    pub fn ranges(&mut self, ranges: Ranges) {
        self.ranges = ranges;
    }

    /// The read under way turns out to be of the whole blob from its beginning, though a part was asked for. All that is lacking here is
    /// taken from it as it passes, until the coordinator says that another reads.
    pub fn whole_body(&mut self) {
        self.ranges = Ranges::Ignored;
        if let Some(range) = &mut self.reading {
            *range = self.have.first_missing(0).unwrap_or(range.start)..self.have.capacity();
        }
    }

    /// Another coordinator is asked from now on: it is told everything. What is under way goes on.
    pub fn new_coordinator(&mut self) {
        self.restate = true;
        self.answered = self.sequence;
        self.landed.clear();
        self.failed.clear();
        self.slots_told = None;
    }

    /// Takes up what this node reads from upstream by itself, before a coordinator has said so.
    pub fn read_alone(&mut self, range: Range<u64>) {
        self.reading = Some(range);
    }

    /// A leaf is here, verified.
    pub fn landed(&mut self, leaf: u64, hash: LeafHash, from: Source<P>, now: Duration) -> Option<Action<P>> {
        let now = self.look(now);
        let mut needless = None;
        let mut is_granted = false;
        if let Some(fetching) = self.fetching.remove(&leaf) {
            match from {
                Source::Peer(peer) if peer == fetching.from => {
                    is_granted = true;
                    let took = now.saturating_sub(fetching.since);
                    self.usual = Some(self.usual.map_or(took, |usual| (usual * 7 + took) / 8));
                    self.window.learn(took);
                }
                _ => needless = Some(Action::Cancel { leaf, from: fetching.from }),
            }
        }
        if let Source::Peer(peer) = from {
            self.progress.insert(peer, now);
        }
        self.outline.set(leaf, hash);
        if from == Source::Upstream {
            self.own.insert(leaf);
        }
        if self.have.insert(leaf) {
            self.landed.push((leaf, (!is_granted).then_some(hash)));
        }
        if let Some(range) = &mut self.reading {
            // Leaves may land out of order.
            range.start = self.have.first_missing(range.start).unwrap_or(range.end).min(range.end);
            if range.is_empty() {
                self.reading = None;
            }
        }
        needless
    }

    /// A leaf turned out to be wrong: it is missing again.
    pub fn forget(&mut self, leaf: u64) {
        self.have.remove(leaf);
        self.own.remove(leaf);
        self.restate = true;
    }

    /// What was granted did not come.
    pub fn failed(&mut self, leaf: u64, from: Source<P>, why: Failure) {
        match from {
            Source::Upstream => self.reading = None,
            Source::Peer(peer) => match self.fetching.get(&leaf) {
                Some(fetching) if fetching.from == peer => {
                    self.fetching.remove(&leaf);
                }
                _ => return,
            },
        }
        self.failed.push((leaf, from, why));
    }

    /// The read from upstream ended before its end without fault of upstream's: it was cut.
    pub fn read_cut(&mut self) {
        self.reading = None;
    }

    /// What a coordinator answered.
    pub fn reply(&mut self, reply: Reply<P>, now: Duration) -> Vec<Action<P>> {
        let now = self.look(now);
        self.tell(&reply.tell);
        self.answered = self.answered.max(reply.sequence);
        self.restate |= reply.restate;
        self.hopeless = reply.hopeless;
        self.crowd |= reply.crowd;
        let mut actions = Vec::new();
        if let Some(end) = reply.cut
            && let Some(range) = &mut self.reading
            && range.end > end
        {
            range.end = end.max(range.start);
            if range.is_empty() {
                // What comes before may still be passing, where upstream sends all from the beginning.
                actions.push(Action::Cut(0));
                self.reading = None;
            } else {
                actions.push(Action::Cut(range.end));
            }
        }
        if let Some((first, end)) = reply.read {
            let end = end.min(self.have.capacity());
            if self.reading.is_none() && self.upstream && first < end {
                self.reading = Some(first..end);
                actions.push(Action::Read { first, end });
            } else if first < end {
                self.failed.push((first, Source::Upstream, Failure::Stalled));
            }
        }
        for grant in reply.grants {
            let is_useful = grant.leaf < self.have.capacity()
                && !self.have.contains(grant.leaf)
                && !self.fetching.contains_key(&grant.leaf)
                && self.fetching.len() < 2 * self.limits.downloads as usize;
            if !is_useful {
                self.failed.push((grant.leaf, Source::Peer(grant.from), Failure::Needless));
                continue;
            }
            self.fetching.insert(grant.leaf, Fetching { from: grant.from, since: now });
            actions.push(Action::Fetch(grant));
        }
        actions
    }

    /// The request to send now, if there is anything to say or to ask for.
    pub fn ask(&mut self) -> Option<Ask<P>> {
        if !self.has_news() {
            return None;
        }
        let slots = self.slots();
        self.sequence += 1;
        self.slots_told = Some(slots);
        self.wanted_told = Some(self.wanted.clone());
        self.ranges_told = self.ranges;
        let full = std::mem::take(&mut self.restate).then(|| {
            let reading = self.reading.clone().unwrap_or(0..0);
            // Nothing can be asked of a member that says that it has all: it asks no more.
            let told = if self.have.is_full() { &self.have } else { &self.own };
            let hashes = told.iter().filter_map(|leaf| Some((leaf, self.outline.leaf(leaf)?))).collect();
            // What has landed is in it.
            self.landed.clear();
            let fetching = self.fetching.iter().map(|(leaf, fetching)| (*leaf, fetching.from)).collect();
            Full { leaves: self.have.clone(), hashes, fetching, reading: (reading.start, reading.end) }
        });
        Some(Ask {
            sequence: self.sequence,
            size: Some(self.outline.size()),
            landed: std::mem::take(&mut self.landed),
            full,
            failed: std::mem::take(&mut self.failed),
            slots,
            blobs: self.blobs,
            upstream: self.upstream,
            ranges: self.ranges,
            wanted: (self.wanted.start, self.wanted.end),
            // When things happen here to the nanosecond is chance, and another for each member.
            crowd: self.crowd.then(|| self.clock.as_ref().map_or(0, Clock::chance)),
        })
    }

    /// Time has passed: what stalls is given up.
    pub fn tick(&mut self, now: Duration) -> Vec<Action<P>> {
        let now = self.look(now);
        let patience = self.usual.map_or(self.limits.stall * 2, |usual| usual * self.limits.patience);
        let patience = patience.max(self.limits.stall);
        let stalled: Vec<(u64, P)> = self
            .fetching
            .iter()
            .filter(|(_, fetching)| {
                let progress = self.progress.get(&fetching.from).copied().unwrap_or_default();
                now.saturating_sub(fetching.since.max(progress)) > patience
            })
            .map(|(leaf, fetching)| (*leaf, fetching.from))
            .collect();
        for (leaf, from) in &stalled {
            self.failed(*leaf, Source::Peer(*from), Failure::Stalled);
        }
        stalled.into_iter().map(|(leaf, from)| Action::Cancel { leaf, from }).collect()
    }

    /// Bytes are arriving from a peer, though not a whole leaf yet.
    pub fn arrived(&mut self, peer: P, now: Duration) {
        let now = self.look(now);
        self.progress.insert(peer, now);
    }

    /// The peers from which leaves are under way.
    pub fn sources(&self) -> impl Iterator<Item = P> {
        let sources: std::collections::BTreeSet<P> = self.fetching.values().map(|fetching| fetching.from).collect();
        sources.into_iter()
    }

    /// The coordinator does not know the hashes of these.
    fn tell(&mut self, runs: &[(u64, u64)]) {
        let count = self.have.capacity();
        let asked = runs.iter().flat_map(|(first, end)| *first..(*end).min(count)).take(MAX_TOLD);
        let told = asked.filter(|leaf| self.have.contains(*leaf));
        self.landed.extend(told.filter_map(|leaf| Some((leaf, Some(self.outline.leaf(leaf)?)))));
    }

    /// What has passed by the node's clock, which may jump.
    fn look(&mut self, now: Duration) -> Duration {
        self.clock.get_or_insert_with(|| Clock::new(now, self.limits.leap())).look(now)
    }

    /// Leaves that it takes at once.
    fn slots(&self) -> u32 {
        self.window.get().div_ceil(self.blobs)
    }
}
