//! The coordinator of one blob.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use shoal_content::{LeafHash, LeafSet, Outline, leaf::leaf_count, outline::MAX_BLOB_SIZE};

use crate::{
    limits::Limits,
    message::{Ask, Failure, Full, Grant, Reply, Source},
    pace::{self, Pace},
};

/// Hands out the leaves of one blob. Times are durations since some moment of the caller's.
#[derive(Debug)]
pub struct Coordinator<P> {
    limits: Limits,
    size: u64,
    leaves: Vec<Leaf<P>>,
    parties: BTreeMap<P, Party<P>>,
    began: Duration,
    /// Whether holders are still being looked for.
    searching: bool,
    /// Somebody lacks what nobody has: another search is worth its while.
    stuck: bool,
    searches_left: u32,
    /// Usual time of a leaf from upstream and from a peer.
    usual_upstream: Usual,
    usual_peer: Usual,
}

#[derive(Clone, Debug)]
struct Leaf<P> {
    known: Option<(LeafHash, P)>,
    /// Members that have it.
    copies: u32,
    /// Members that are about to have it.
    in_flight: u32,
    /// Who reads it from upstream.
    reader: Option<P>,
}

/// A peer that has, or wants, leaves.
#[derive(Debug)]
struct Party<P> {
    /// It has the whole blob.
    whole: bool,
    have: LeafSet,
    member: Option<Member<P>>,
    /// Leaves that it is sending.
    uploads: u32,
    /// Leaves that it has been told to send so far.
    sent: u64,
    avoided_until: Duration,
    /// How long its leaves take to whoever gets them, and when it last gave one.
    giving: Pace,
    gave_at: Duration,
}

#[derive(Debug)]
struct Member<P> {
    grants: BTreeMap<u64, (P, Duration)>,
    /// What it reads from upstream, and when it last made progress with it.
    reading: Option<(Range<u64>, Duration)>,
    cut: Option<u64>,
    wanted: Range<u64>,
    /// Since when the first of them is what its reader waits for.
    waits_since: Duration,
    /// How long leaves take to it, and since when it has something under way of which nothing has landed.
    taking: Pace,
    busy_since: Option<Duration>,
    slots: u32,
    upstream: bool,
    upstream_avoided_until: Duration,
    /// Leaves that sources did not give, and until when each is not asked for that leaf again.
    refused: BTreeMap<(u64, P), Duration>,
    /// How often each leaf was granted in vain.
    in_vain: BTreeMap<u64, u32>,
    /// The request that is open, since when, and whether it must be answered at once.
    open: Option<(u64, Duration, bool)>,
    restate: bool,
    heard: Duration,
}

/// Grants of one leaf that may be in vain before it counts as lost where upstream cannot be read.
const MAX_IN_VAIN: u32 = 3;

/// Searches for holders beside the first, when somebody lacks what nobody has.
const SEARCHES_AGAIN: u32 = 2;

/// Refusals remembered of one member. Each is one leaf of one source.
const MAX_REFUSED: usize = 256;

/// The usual time of something: a moving average.
#[derive(Clone, Copy, Debug, Default)]
struct Usual(Option<Duration>);

impl Usual {
    fn learn(&mut self, time: Duration) {
        self.0 = Some(self.0.map_or(time, |usual| (usual * 7 + time) / 8));
    }

    /// The time after which something is late.
    fn late(&self, limits: &Limits) -> Duration {
        self.0.map_or(limits.first, |usual| usual * limits.patience).max(limits.stall)
    }
}

impl<P> Party<P> {
    /// Whether leaves come from it far more slowly than is usual.
    fn is_slow(&self, usual: Option<Duration>) -> bool {
        self.giving.get().is_some_and(|own| pace::is_slow(own, usual))
    }
}

impl<P> Member<P> {
    /// Whether leaves come to it far more slowly than is usual.
    fn is_slow(&self, usual: Option<Duration>, now: Duration) -> bool {
        // Of one to which nothing has come yet, so much is known: a leaf takes longer than the time since.
        let own = self
            .taking
            .get()
            .or_else(|| self.busy_since.map(|since| now.saturating_sub(since) / self.under_way().max(1)));
        own.is_some_and(|own| pace::is_slow(own, usual))
    }

    /// Leaves under way to it.
    fn under_way(&self) -> u32 {
        u32::try_from(self.grants.len()).unwrap_or(u32::MAX).saturating_add(u32::from(self.reading.is_some()))
    }

    /// Something is under way to it.
    fn busy(&mut self, now: Duration) {
        self.busy_since.get_or_insert(now);
    }
}

impl<P: Copy + Ord> Coordinator<P> {
    /// The coordinator of a blob of `size` bytes that nobody has asked for yet; `None` when it is larger than any blob may be.
    pub fn new(size: u64, limits: Limits, now: Duration) -> Option<Self> {
        if size > MAX_BLOB_SIZE {
            return None;
        }
        let count = usize::try_from(leaf_count(size)).ok()?;
        Some(Self {
            limits,
            size,
            leaves: vec![Leaf { known: None, copies: 0, in_flight: 0, reader: None }; count],
            parties: BTreeMap::new(),
            began: now,
            searching: true,
            stuck: false,
            searches_left: SEARCHES_AGAIN,
            usual_upstream: Usual::default(),
            usual_peer: Usual::default(),
        })
    }

    /// The blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.parties.values().filter(|party| party.member.is_some()).count()
    }

    /// A peer has the whole blob, and this is its outline.
    pub fn holder(&mut self, peer: P, outline: &Outline, now: Duration) -> Vec<(P, Reply<P>)> {
        if outline.size() != self.size || !outline.is_complete() {
            return Vec::new();
        }
        let conflicts = (0u64..)
            .zip(&self.leaves)
            .any(|(index, leaf)| leaf.known.is_some_and(|(hash, _)| outline.leaf(index) != Some(hash)));
        if conflicts {
            return Vec::new();
        }
        for (leaf, index) in self.leaves.iter_mut().zip(0..) {
            if leaf.known.is_none() {
                leaf.known = outline.leaf(index).map(|hash| (hash, peer));
            }
        }
        let party = self.party(peer);
        party.whole = true;
        self.serve(now)
    }

    /// Whether somebody lacks what nobody here can give, so that holders should be looked for once more.
    pub fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Holders are being looked for again.
    pub fn search_begun(&mut self) {
        self.searching = true;
        self.stuck = false;
        self.searches_left = self.searches_left.saturating_sub(1);
    }

    /// The swarm has named all holders that it knows.
    pub fn search_over(&mut self, now: Duration) -> Vec<(P, Reply<P>)> {
        self.searching = false;
        self.serve(now)
    }

    /// A peer is gone: what it was to get and to give is free.
    pub fn gone(&mut self, peer: P, now: Duration) -> Vec<(P, Reply<P>)> {
        self.drop_member(peer);
        if let Some(party) = self.parties.remove(&peer) {
            for leaf in party.have.iter() {
                if let Some(leaf) = self.leaf_mut(leaf) {
                    leaf.copies = leaf.copies.saturating_sub(1);
                }
            }
        }
        let takers: Vec<P> = self.parties.keys().copied().collect();
        for taker in takers {
            let lost: Vec<u64> = self
                .member(taker)
                .map(|member| {
                    member.grants.iter().filter(|(_, (from, _))| *from == peer).map(|(leaf, _)| *leaf).collect()
                })
                .unwrap_or_default();
            for leaf in lost {
                self.release(taker, leaf);
            }
        }
        self.serve(now)
    }

    /// A member asks. Gives the replies that follow, to it and to others; it may be answered later.
    pub fn ask(&mut self, peer: P, ask: Ask<P>, now: Duration) -> Vec<(P, Reply<P>)> {
        let mut replies = Vec::new();
        let is_new = self.member(peer).is_none();
        if is_new && self.members() >= self.limits.members {
            return vec![(peer, Reply::empty(ask.sequence, Some(self.size)))];
        }
        let count = self.leaves.len() as u64;
        let wanted = ask.wanted.0.min(count)..ask.wanted.1.min(count);
        let size = self.size;
        let party = self.party(peer);
        let member = party.member.get_or_insert_with(|| Member {
            grants: BTreeMap::new(),
            reading: None,
            cut: None,
            wanted: 0..0,
            waits_since: now,
            taking: Pace::default(),
            busy_since: None,
            slots: 0,
            upstream: true,
            upstream_avoided_until: Duration::ZERO,
            refused: BTreeMap::new(),
            in_vain: BTreeMap::new(),
            open: None,
            restate: false,
            heard: now,
        });
        member.heard = now;
        if member.wanted.start != wanted.start {
            member.waits_since = now;
        }
        member.wanted = wanted;
        member.slots = ask.slots;
        member.upstream = ask.upstream;
        if let Some((sequence, ..)) = member.open.take() {
            replies.push((peer, Reply::empty(sequence, Some(size))));
        }
        // The first request is answered at once: the member waits for it no longer than its budget.
        member.open = Some((ask.sequence, now, is_new));
        let has_told_all = ask.full.is_some();
        match ask.full {
            Some(full) => self.restated(peer, &full, now),
            None if is_new => {
                if let Some(member) = self.member_mut(peer) {
                    member.restate = true;
                }
            }
            None => {}
        }
        let has_told = !ask.landed.is_empty();
        for (leaf, hash) in ask.landed {
            self.landed(peer, leaf, hash, now);
        }
        for (leaf, from, why) in ask.failed {
            self.failed(peer, leaf, from, why, now);
        }
        if ask.wanted.0 >= ask.wanted.1 {
            // It has given up; what it has goes with it.
            replies.push((peer, Reply::empty(ask.sequence, Some(size))));
            self.drop_member(peer);
            replies.extend(self.gone(peer, now));
            return replies;
        }
        if self.party(peer).have.is_full() {
            if has_told || has_told_all {
                replies.push((peer, Reply::empty(ask.sequence, Some(size))));
                self.drop_member(peer);
                self.party(peer).whole = true;
            } else if let Some(member) = self.member_mut(peer) {
                // It asks for what it is thought to have: an earlier session of it had that.
                member.restate = true;
            }
        }
        self.divide();
        replies.extend(self.serve(now));
        replies
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Vec<(P, Reply<P>)> {
        let silent: Vec<P> = self
            .parties
            .iter()
            .filter(|(_, party)| {
                party.member.as_ref().is_some_and(|member| now.saturating_sub(member.heard) > self.limits.silence)
            })
            .map(|(peer, _)| *peer)
            .collect();
        let mut replies = Vec::new();
        for peer in silent {
            replies.extend(self.gone(peer, now));
        }
        self.take_back_late(now);
        replies.extend(self.serve(now));
        let (hold, size) = (self.limits.hold, self.size);
        for (peer, party) in &mut self.parties {
            let Some(member) = &mut party.member else { continue };
            if let Some((sequence, since, _)) = member.open
                && now.saturating_sub(since) >= hold
            {
                member.open = None;
                replies.push((*peer, Reply::empty(sequence, Some(size))));
            }
        }
        replies
    }

    fn party(&mut self, peer: P) -> &mut Party<P> {
        let count = self.leaves.len() as u64;
        self.parties.entry(peer).or_insert_with(|| Party {
            whole: false,
            have: LeafSet::empty(count),
            member: None,
            uploads: 0,
            sent: 0,
            avoided_until: Duration::ZERO,
            giving: Pace::default(),
            gave_at: Duration::ZERO,
        })
    }

    fn member(&self, peer: P) -> Option<&Member<P>> {
        self.parties.get(&peer)?.member.as_ref()
    }

    fn member_mut(&mut self, peer: P) -> Option<&mut Member<P>> {
        self.parties.get_mut(&peer)?.member.as_mut()
    }

    fn leaf_mut(&mut self, leaf: u64) -> Option<&mut Leaf<P>> {
        self.leaves.get_mut(usize::try_from(leaf).ok()?)
    }

    fn leaf(&self, leaf: u64) -> Option<&Leaf<P>> {
        self.leaves.get(usize::try_from(leaf).ok()?)
    }

    fn restated(&mut self, peer: P, full: &Full, now: Duration) {
        let granted: Vec<u64> =
            self.member(peer).map(|member| member.grants.keys().copied().collect()).unwrap_or_default();
        for leaf in granted {
            self.release(peer, leaf);
        }
        self.stop_reading(peer);
        // What an earlier session had may be gone.
        let stated = full.set(self.leaves.len() as u64);
        let party = self.party(peer);
        party.whole &= stated.is_full();
        let lost: Vec<u64> = party.have.iter().filter(|leaf| !stated.contains(*leaf)).collect();
        for leaf in lost {
            self.party(peer).have.remove(leaf);
            if let Some(at) = self.leaf_mut(leaf) {
                at.copies = at.copies.saturating_sub(1);
            }
        }
        for (leaf, hash) in &full.leaves {
            self.landed(peer, *leaf, *hash, now);
        }
        let reading = full.reading.0..full.reading.1.min(self.leaves.len() as u64);
        if !reading.is_empty() {
            for leaf in reading.clone() {
                if let Some(leaf) = self.leaf_mut(leaf)
                    && leaf.reader.is_none()
                {
                    leaf.reader = Some(peer);
                    leaf.in_flight += 1;
                }
            }
            if let Some(member) = self.member_mut(peer) {
                member.reading = Some((reading, now));
            }
        }
        if let Some(member) = self.member_mut(peer) {
            member.restate = false;
        }
    }

    fn landed(&mut self, peer: P, leaf: u64, hash: LeafHash, now: Duration) {
        let Some(at) = self.leaf_mut(leaf) else { return };
        if at.known.is_none() {
            at.known = Some((hash, peer));
        }
        let was_reader = at.reader == Some(peer);
        let at_once = self.member(peer).map_or(0, |member| member.under_way());
        if let Some((from, since)) = self.release(peer, leaf) {
            let took = now.saturating_sub(since);
            self.usual_peer.learn(took);
            if let Some(source) = self.parties.get_mut(&from) {
                // It was one of its uploads until a moment ago.
                source.giving.learn(took, source.uploads + 1);
                source.gave_at = now;
            }
            self.took(peer, took, at_once, now);
        }
        let mut upstream_took = None;
        if was_reader {
            if let Some(at) = self.leaf_mut(leaf) {
                at.reader = None;
                at.in_flight = at.in_flight.saturating_sub(1);
            }
            if let Some(member) = self.member_mut(peer)
                && let Some((range, since)) = &mut member.reading
            {
                upstream_took = Some(now.saturating_sub(*since));
                *since = now;
                range.start = range.start.max(leaf + 1);
                if range.is_empty() {
                    member.reading = None;
                }
            }
        }
        if let Some(took) = upstream_took {
            self.usual_upstream.learn(took);
            self.took(peer, took, at_once, now);
        }
        if self.party(peer).have.insert(leaf)
            && let Some(at) = self.leaf_mut(leaf)
        {
            at.copies += 1;
        }
    }

    /// A leaf has come to a member.
    fn took(&mut self, peer: P, took: Duration, at_once: u32, now: Duration) {
        if let Some(member) = self.member_mut(peer) {
            member.taking.learn(took, at_once);
            member.busy_since = (!member.grants.is_empty() || member.reading.is_some()).then_some(now);
        }
    }

    fn failed(&mut self, peer: P, leaf: u64, from: Source<P>, why: Failure, now: Duration) {
        match from {
            Source::Upstream => {
                self.stop_reading(peer);
                let avoid = self.limits.stall;
                if let Some(member) = self.member_mut(peer) {
                    member.upstream_avoided_until = now + avoid;
                }
            }
            Source::Peer(source) => {
                // A member's word counts only on what it was granted: it cannot speak ill of leaves and sources at will.
                let granted = self.member(peer).and_then(|member| member.grants.get(&leaf)).copied();
                let Some((_, since)) = granted.filter(|(from, _)| *from == source) else { return };
                self.release(peer, leaf);
                let until = now + self.limits.avoid;
                if let Some(member) = self.member_mut(peer) {
                    member.refused.retain(|_, until| *until > now);
                    *member.in_vain.entry(leaf).or_default() += 1;
                    if member.refused.len() < MAX_REFUSED {
                        member.refused.insert((leaf, source), until);
                    }
                }
                if why == Failure::Wrong {
                    self.dispute(leaf);
                }
                let avoid = self.limits.avoid;
                // A source that has given something since is well: it is this member's link, or the way between, that is slow.
                if why != Failure::Missing
                    && let Some(party) = self.parties.get_mut(&source)
                    && party.gave_at <= since
                {
                    party.avoided_until = now + avoid;
                }
            }
        }
    }

    /// What is said of a leaf is not believed by somebody: it is had anew from upstream.
    fn dispute(&mut self, leaf: u64) {
        if let Some(at) = self.leaf_mut(leaf) {
            at.known = None;
            at.copies = 0;
        }
        for party in self.parties.values_mut() {
            party.have.remove(leaf);
        }
    }

    /// A grant is over; gives the source and when it was made.
    fn release(&mut self, peer: P, leaf: u64) -> Option<(P, Duration)> {
        let (from, since) = self.member_mut(peer)?.grants.remove(&leaf)?;
        if let Some(source) = self.parties.get_mut(&from) {
            source.uploads = source.uploads.saturating_sub(1);
        }
        if let Some(leaf) = self.leaf_mut(leaf) {
            leaf.in_flight = leaf.in_flight.saturating_sub(1);
        }
        Some((from, since))
    }

    fn stop_reading(&mut self, peer: P) {
        if let Some(member) = self.member_mut(peer) {
            member.reading = None;
        }
        // Leaves land out of order: some before the end of what it was reading may be on their way still.
        self.unread(peer, 0..self.leaves.len() as u64);
    }

    fn unread(&mut self, peer: P, range: Range<u64>) {
        for leaf in range {
            if let Some(leaf) = self.leaf_mut(leaf)
                && leaf.reader == Some(peer)
            {
                leaf.reader = None;
                leaf.in_flight = leaf.in_flight.saturating_sub(1);
            }
        }
    }

    fn drop_member(&mut self, peer: P) {
        let granted: Vec<u64> =
            self.member(peer).map(|member| member.grants.keys().copied().collect()).unwrap_or_default();
        for leaf in granted {
            self.release(peer, leaf);
        }
        self.stop_reading(peer);
        if let Some(party) = self.parties.get_mut(&peer) {
            party.member = None;
        }
    }

    /// Takes back what has not landed in time.
    fn take_back_late(&mut self, now: Duration) {
        let late_peer = self.usual_peer.late(&self.limits) * 2;
        let late_upstream = self.usual_upstream.late(&self.limits);
        for at in 0..self.leaves.len() {
            if let Some(reader) = self.leaves[at].reader
                && self.member(reader).is_none()
            {
                self.leaves[at].reader = None;
                self.leaves[at].in_flight = self.leaves[at].in_flight.saturating_sub(1);
            }
        }
        let peers: Vec<P> = self.parties.keys().copied().collect();
        for peer in peers {
            let Some(member) = self.member(peer) else { continue };
            let late: Vec<(u64, P)> = member
                .grants
                .iter()
                .filter(|(_, (_, since))| now.saturating_sub(*since) > late_peer)
                .map(|(leaf, (from, _))| (*leaf, *from))
                .collect();
            let late_read = member
                .reading
                .as_ref()
                .filter(|(_, since)| now.saturating_sub(*since) > late_upstream)
                .map(|(range, since)| (range.start, *since));
            for (leaf, from) in late {
                self.failed(peer, leaf, Source::Peer(from), Failure::Stalled, now);
            }
            if let Some((first, since)) = late_read
                && self.has_other_reader(peer, first, now)
            {
                self.failed(peer, 0, Source::Upstream, Failure::Stalled, now);
                if let Some(member) = self.member_mut(peer) {
                    member.taking.learn(now.saturating_sub(since), 1);
                    // What others read now it need not read on.
                    member.cut = Some(first);
                }
            }
        }
    }

    /// Whether a member that is not slow wants a leaf and will read it from upstream in its turn.
    fn has_quicker_reader(&self, peer: P, leaf: u64, now: Duration) -> bool {
        let usual = self.usual_taking();
        self.parties.iter().any(|(other, party)| {
            let Some(member) = &party.member else { return false };
            let will_read = member.upstream && member.upstream_avoided_until <= now;
            let wants_it = member.wanted.contains(&leaf) && !party.have.contains(leaf);
            *other != peer && will_read && wants_it && !member.is_slow(usual, now)
        })
    }

    /// Whether another member than this one, and no slow one, could read a leaf from upstream at once and wants it.
    fn has_other_reader(&self, peer: P, leaf: u64, now: Duration) -> bool {
        let usual = self.usual_taking();
        self.parties.iter().any(|(other, party)| {
            let Some(member) = &party.member else { return false };
            let is_free = member.upstream && member.upstream_avoided_until <= now && member.reading.is_none();
            let wants_it = member.wanted.contains(&leaf) && !party.have.contains(leaf);
            *other != peer && is_free && wants_it && !member.is_slow(usual, now)
        })
    }

    /// What a leaf usually takes to a member.
    fn usual_taking(&self) -> Option<Duration> {
        pace::usual(self.parties.values().filter_map(|party| party.member.as_ref()?.taking.get()))
    }

    /// What a leaf usually takes from a peer.
    fn usual_giving(&self) -> Option<Duration> {
        pace::usual(self.parties.values().filter_map(|party| party.giving.get()))
    }

    /// Whether somebody can give a member a leaf: has it, is not passed over, and has not failed to give it of late.
    fn has_source(&self, peer: P, member: &Member<P>, leaf: u64, now: Duration) -> bool {
        let Some(at) = self.leaf(leaf) else { return false };
        if at.known.is_none() {
            return false;
        }
        self.parties.iter().any(|(source, party)| {
            let has_it = party.whole || (at.copies > 0 && party.have.contains(leaf));
            let has_failed = member.refused.get(&(leaf, *source)).is_some_and(|until| *until > now);
            has_it && *source != peer && party.avoided_until <= now && !has_failed
        })
    }

    /// A member that reads a long run alone shares it when others have come.
    fn divide(&mut self) {
        if self.members() < 2 {
            return;
        }
        let lease = self.limits.lease;
        let cuts: Vec<(P, Range<u64>)> = self
            .parties
            .iter()
            .filter_map(|(peer, party)| {
                let (range, _) = party.member.as_ref()?.reading.as_ref()?;
                // Two leaves stay: one is coming in, and the news of the cut takes its time.
                let keep = range.start + lease + 1;
                (range.end > keep).then_some((*peer, keep..range.end))
            })
            .collect();
        for (peer, rest) in cuts {
            self.unread(peer, rest.clone());
            if let Some(member) = self.member_mut(peer) {
                if let Some((range, _)) = &mut member.reading {
                    range.end = rest.start;
                }
                member.cut = Some(rest.start);
            }
        }
    }

    /// Hands out what can be handed out, one leaf a member and round, and answers who got something.
    fn serve(&mut self, now: Duration) -> Vec<(P, Reply<P>)> {
        let mut given: BTreeMap<P, Reply<P>> = BTreeMap::new();
        let mut asking: Vec<P> = self
            .parties
            .iter()
            .filter(|(_, party)| party.member.as_ref().is_some_and(|member| member.open.is_some()))
            .map(|(peer, _)| *peer)
            .collect();
        // Who has least is served first; but first of all those who will have passed it on soonest.
        let usual = self.usual_taking();
        asking.sort_by_key(|peer| {
            let is_slow = self.member(*peer).is_some_and(|member| member.is_slow(usual, now));
            (is_slow, self.parties.get(peer).map_or(0, |party| party.have.len()))
        });

        for &peer in &asking {
            let Some((sequence, ..)) = self.member(peer).and_then(|member| member.open) else { continue };
            let read = self.lend(peer, now);
            let Some(member) = self.member_mut(peer) else { continue };
            let mut reply = Reply::empty(sequence, None);
            reply.read = read.map(|range| (range.start, range.end));
            reply.cut = member.cut.take();
            reply.restate = member.restate;
            given.insert(peer, reply);
        }
        let mut hungry = asking.clone();
        while !hungry.is_empty() {
            hungry.retain(|&peer| {
                let Some(grant) = self.grant(peer, now) else { return false };
                if let Some(reply) = given.get_mut(&peer) {
                    reply.grants.push(grant);
                }
                true
            });
        }

        if !self.searching {
            for (peer, reply) in &mut given {
                let is_hopeless = reply.is_empty() && self.is_hopeless(*peer);
                // Somebody may have got it since: it is given up only after another search.
                reply.hopeless = is_hopeless && self.searches_left == 0;
                self.stuck |= is_hopeless && self.searches_left > 0;
            }
        }
        let size = self.size;
        let mut replies = Vec::new();
        for (peer, mut reply) in given {
            let Some(member) = self.member_mut(peer) else { continue };
            let is_due = member.open.is_some_and(|(_, _, at_once)| at_once);
            if is_due || !reply.is_empty() {
                member.open = None;
                reply.size = Some(size);
                replies.push((peer, reply));
            }
        }
        replies
    }

    /// Whether a member has nothing under way, and what it lacks nobody has or can read.
    fn is_hopeless(&self, peer: P) -> bool {
        let Some(party) = self.parties.get(&peer) else { return false };
        let Some(member) = &party.member else { return false };
        let others_may_read =
            self.parties.values().any(|party| party.member.as_ref().is_some_and(|member| member.upstream));
        if others_may_read || member.reading.is_some() || !member.grants.is_empty() {
            return false;
        }
        let is_lost = |leaf: u64| {
            let in_vain = member.in_vain.get(&leaf).copied().unwrap_or(0);
            in_vain >= MAX_IN_VAIN || !self.has_source(peer, member, leaf, Duration::MAX)
        };
        member.wanted.clone().any(|leaf| !party.have.contains(leaf) && is_lost(leaf))
    }

    /// A run of leaves for a member to read from upstream, where it is its turn.
    fn lend(&mut self, peer: P, now: Duration) -> Option<Range<u64>> {
        let member = self.member(peer)?;
        let may_read = member.upstream && member.reading.is_none() && member.upstream_avoided_until <= now;
        let may_come_from_swarm = self.searching && now.saturating_sub(self.began) < self.limits.budget;
        if !may_read || may_come_from_swarm {
            return None;
        }
        let party = self.parties.get(&peer)?;
        let is_free = |leaf: u64| {
            let is_unread = self.leaf(leaf).is_some_and(|at| at.reader.is_none());
            is_unread && !party.have.contains(leaf) && !self.has_source(peer, member, leaf, now)
        };
        let first = member.wanted.clone().find(|leaf| is_free(*leaf))?;
        if member.is_slow(self.usual_taking(), now) && self.has_quicker_reader(peer, first, now) {
            return None;
        }
        let longest = if self.members() == 1 { member.wanted.end } else { first + self.limits.lease };
        let end = (first..longest.min(member.wanted.end)).take_while(|leaf| is_free(*leaf)).last()? + 1;
        let range = first..end;
        for leaf in range.clone() {
            if let Some(leaf) = self.leaf_mut(leaf) {
                leaf.reader = Some(peer);
                leaf.in_flight += 1;
            }
        }
        let member = self.member_mut(peer)?;
        member.reading = Some((range.clone(), now));
        member.busy(now);
        Some(range)
    }

    /// The leaf that a member should get next from a peer: what the fewest have or are about to have.
    fn grant(&mut self, peer: P, now: Duration) -> Option<Grant<P>> {
        let party = self.parties.get(&peer)?;
        let member = party.member.as_ref()?;
        let taken = u32::try_from(member.grants.len()).unwrap_or(u32::MAX);
        if member.slots == 0 || taken >= self.limits.downloads {
            return None;
        }
        let usual_giving = self.usual_giving();
        let mut sources: Vec<(bool, P, &Party<P>)> = self
            .parties
            .iter()
            .map(|(source, party)| (party.is_slow(usual_giving), *source, party))
            .filter(|(is_slow, source, party)| {
                // Over a slow link one leaf at a time is as fast as several, and each is there sooner.
                let uploads = if *is_slow { 1 } else { self.limits.uploads };
                *source != peer && party.uploads < uploads && party.avoided_until <= now
            })
            .collect();
        if sources.is_empty() {
            return None;
        }
        // A member before a holder: what is scarce is spared. Then who sends least now, and has sent least so far.
        sources.sort_by_key(|(is_slow, _, party)| (*is_slow, party.whole, party.uploads, party.sent));
        // A slow member passes nothing on in time: it gets what its reader waits for, in order. So does any whose reader waits long.
        let in_order = member.is_slow(self.usual_taking(), now);
        let is_urgent = now.saturating_sub(member.waits_since) >= self.limits.urgent;

        let mut best: Option<(u32, u64, P)> = None;
        for leaf in member.wanted.clone() {
            if party.have.contains(leaf) || member.grants.contains_key(&leaf) {
                continue;
            }
            let Some(at) = self.leaf(leaf) else { break };
            if at.known.is_none() || at.reader == Some(peer) {
                continue;
            }
            let is_first = in_order || (is_urgent && leaf == member.wanted.start);
            let rarity = if is_first { 0 } else { at.copies + at.in_flight };
            if best.is_some_and(|(least, ..)| least <= rarity) {
                continue;
            }
            let source = sources.iter().find(|(is_slow, source, party)| {
                // What only a slow peer has leaves it once: who takes it passes it on sooner than it could.
                let is_on_its_way = *is_slow && at.in_flight > 0;
                (party.whole || party.have.contains(leaf))
                    && !is_on_its_way
                    && member.refused.get(&(leaf, *source)).is_none_or(|until| *until <= now)
            });
            if let Some((_, source, _)) = source {
                best = Some((rarity, leaf, *source));
                if rarity == 0 {
                    break;
                }
            }
        }
        let (_, leaf, from) = best?;
        let (hash, witness) = self.leaf(leaf)?.known?;
        let at = self.leaf_mut(leaf)?;
        at.in_flight += 1;
        if let Some(source) = self.parties.get_mut(&from) {
            source.uploads += 1;
            source.sent += 1;
        }
        let member = self.member_mut(peer)?;
        member.slots -= 1;
        member.grants.insert(leaf, (from, now));
        member.busy(now);
        Some(Grant { leaf, hash, from, witness })
    }
}
