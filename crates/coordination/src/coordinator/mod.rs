//! The coordinator of one blob.
//!
//! | room | what it decides |
//! |---|---|
//! | `parties` | who takes part, each with a slot |
//! | `leaves` | what is known of each leaf; the order of rarity |
//! | `sources` | who can be asked for which leaf, and how busy each is |
//! | `grants` | which leaf goes from whom to whom |
//! | `leases` | who reads what from upstream |
//! | `readers` | how many read at once, and how long a run each is lent |
//! | `bodies` | who reads where upstream sends only whole bodies |
//! | `claims` | what a party says that it has, and whose word on a hash counts |
//! | `failures` | what follows when something was not given, or is not believed |
//! | `lateness` | what has not come in time; when nothing will come any more |
//!
//! Every event costs about the same however many nodes and leaves there are: an asker is looked at, and of those that wait only as many
//! as there are sources that can send more than before. A leaf is found by rarity, in sets of bits; only what comes to a party or leaves
//! with it is counted leaf by leaf.

mod bodies;
mod claims;
mod failures;
mod grants;
mod lateness;
mod leases;
mod leaves;
mod parties;
mod readers;
mod sources;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use shoal_content::{Outline, leaf::leaf_count, outline::MAX_BLOB_SIZE};

use self::{
    bodies::Bodies,
    lateness::Usual,
    leaves::{Known, Leaves},
    parties::{Member, Open, Parties, Slot},
    readers::Readers,
    sources::Sources,
};
use crate::{
    clock::Clock,
    limits::Limits,
    message::{Ask, Ranges, Reply},
};

/// Searches for holders beside the first, when somebody lacks what nobody has.
const SEARCHES_AGAIN: u32 = 2;

/// Blobs that a member's node is believed to get at a time.
const MAX_BLOBS: usize = 16;

/// Hands out the leaves of one blob. Times are what the node's clock shows; it may jump.
#[derive(Debug)]
pub struct Coordinator<P> {
    limits: Limits,
    size: u64,
    clock: Clock,
    leaves: Leaves<P>,
    parties: Parties<P>,
    sources: Sources,
    /// Members with an open request, those that have least first.
    waiting: BTreeSet<(u64, Slot)>,
    members: usize,
    /// How many members are getting one blob, two blobs … at a time.
    blobs: [usize; MAX_BLOBS],
    /// Members that can read from upstream, and those that do.
    can_read: usize,
    reading: usize,
    readers: Readers,
    /// What is known of how upstream sends the blob.
    bodies: Bodies,
    /// Whether holders are still being looked for.
    searching: bool,
    /// Somebody lacks what nobody has: another search is worth its while.
    stuck: bool,
    searches_left: u32,
    /// Usual time of a leaf from upstream and from a peer.
    usual_upstream: Usual,
    /// The time of a leaf from upstream ÷ those that read at once.
    usual_share: Usual,
    usual_peer: Usual,
    /// What a leaf usually takes to a member.
    usual_taking: Option<Duration>,
    /// Sources that can send more than before.
    freed: Vec<Slot>,
    /// Somebody who waits may now be lent something.
    lendable: bool,
    /// Up to where those that wait have been looked through.
    swept: (u64, Slot),
    /// Answers being put together.
    given: BTreeMap<Slot, Reply<P>>,
}

impl<P: Copy + Ord> Coordinator<P> {
    /// The coordinator of a blob of `size` bytes that nobody has asked for yet; `None` when it is larger than any blob may be.
    pub fn new(size: u64, limits: Limits, now: Duration) -> Option<Self> {
        if size > MAX_BLOB_SIZE {
            return None;
        }
        let count = usize::try_from(leaf_count(size)).ok()?;
        Some(Self {
            clock: Clock::new(now, limits.leap()),
            sources: Sources::new(count, limits.uploads),
            limits,
            size,
            leaves: Leaves::new(count),
            parties: Parties::default(),
            waiting: BTreeSet::new(),
            members: 0,
            blobs: [0; MAX_BLOBS],
            can_read: 0,
            reading: 0,
            readers: Readers::default(),
            bodies: Bodies::default(),
            searching: true,
            stuck: false,
            searches_left: SEARCHES_AGAIN,
            usual_upstream: Usual::default(),
            usual_share: Usual::default(),
            usual_peer: Usual::default(),
            usual_taking: None,
            freed: Vec::new(),
            lendable: false,
            swept: (0, 0),
            given: BTreeMap::new(),
        })
    }

    /// The blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Bytes that it holds, about. At most some 200 for each leaf, a kilobyte for each party, and two bits for each leaf of each party.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.leaves.memory()
            + self.parties.memory()
            + self.sources.memory()
            + self.waiting.len() * 32
            + self.freed.capacity() * 8
    }

    /// A peer has the whole blob, and this is its outline.
    pub fn holder(&mut self, peer: P, outline: &Outline, now: Duration) -> Vec<(P, Reply<P>)> {
        self.clock.look(now);
        if outline.size() != self.size || !outline.is_complete() {
            return Vec::new();
        }
        let conflicts = (0u64..)
            .zip(self.leaves.iter())
            .any(|(index, leaf)| leaf.known.is_some_and(|known| outline.leaf(index) != Some(known.hash)));
        if conflicts {
            return Vec::new();
        }
        for leaf in 0..self.leaves.len() {
            if self.leaves.at(leaf).known.is_none()
                && let Some(hash) = outline.leaf(leaf as u64)
            {
                let known = Known { hash, witness: peer, proven: false, confirmed: false };
                self.leaves.change(leaf, |at| at.known = Some(known));
            }
        }
        let slot = self.parties.add(peer);
        self.withdraw(slot);
        self.parties[slot].whole = true;
        self.offer(slot);
        self.serve(None)
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
        self.clock.look(now);
        self.searching = false;
        self.lendable = true;
        self.serve(None)
    }

    /// A peer is gone: what it was to get and to give is free.
    pub fn gone(&mut self, peer: P, now: Duration) -> Vec<(P, Reply<P>)> {
        self.clock.look(now);
        if let Some(slot) = self.parties.slot(peer) {
            self.remove(slot);
        }
        self.serve(None)
    }

    /// A member asks. Gives the replies that follow, to it and to others; it may be answered later.
    pub fn ask(&mut self, peer: P, ask: Ask<P>, now: Duration) -> Vec<(P, Reply<P>)> {
        let now = self.clock.look(now);
        let is_new = self.parties.slot(peer).is_none_or(|slot| self.parties.member(slot).is_none());
        if is_new && self.members >= self.limits.members {
            return vec![(peer, Reply::empty(ask.sequence, Some(self.size)))];
        }
        let slot = self.join(peer, &ask, now);
        let mut replies = Vec::new();
        // The first request is answered at once: the member waits for it no longer than its budget. So is one that states all anew, which
        // may be the first after a coordinator was thought to be gone.
        let open = Open { sequence: ask.sequence, since: now, at_once: is_new || ask.full.is_some() };
        if let Some(earlier) = self.parties.member_mut(slot).and_then(|member| member.open.replace(open)) {
            replies.push((peer, Reply::empty(earlier.sequence, Some(self.size))));
        }
        let has_told = ask.full.is_some() || !ask.landed.is_empty();
        match ask.full {
            Some(full) => self.restated(slot, &full),
            None if is_new => {
                if let Some(member) = self.parties.member_mut(slot) {
                    member.restate = true;
                }
            }
            None => {}
        }
        for (leaf, hash) in ask.landed {
            self.landed(slot, leaf, hash);
        }
        for (leaf, from, why) in ask.failed {
            self.failed(slot, leaf, from, why);
        }
        if ask.wanted.0 >= ask.wanted.1 {
            // It has given up; what it has goes with it.
            replies.push((peer, Reply::empty(ask.sequence, Some(self.size))));
            self.remove(slot);
            replies.extend(self.serve(None));
            return replies;
        }
        if self.parties[slot].have.len() == self.leaves.len() as u64 {
            if has_told {
                replies.push((peer, Reply::empty(ask.sequence, Some(self.size))));
                self.drop_member(slot);
            } else if let Some(member) = self.parties.member_mut(slot) {
                // It asks for what it is thought to have: an earlier session of it had that.
                member.restate = true;
            }
        }
        self.queue(slot);
        if self.bodies.are_whole() {
            self.one_reads(slot);
        } else {
            self.divide();
        }
        replies.extend(self.serve(Some(slot)));
        replies
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) -> Vec<(P, Reply<P>)> {
        let now = self.clock.look(now);
        let is_silent = |member: &Member| now - member.heard > self.limits.silence;
        let silent: Vec<Slot> =
            self.parties.members().filter(|(_, member)| is_silent(member)).map(|(slot, _)| slot).collect();
        for slot in silent {
            self.remove(slot);
        }
        self.take_back_late();
        self.forgive();
        self.judge();
        self.foresee();
        self.lendable = true;
        let mut replies = self.serve(None);
        self.sweep();
        self.despair();
        replies.extend(self.answer());
        let hold = self.limits.hold;
        let held: Vec<Slot> = self
            .parties
            .members()
            .filter(|(_, member)| member.open.is_some_and(|open| now - open.since >= hold))
            .map(|(slot, _)| slot)
            .collect();
        for slot in held {
            self.reply(slot);
        }
        replies.extend(self.answer());
        replies
    }

    /// A member as its request says it to be.
    fn join(&mut self, peer: P, ask: &Ask<P>, now: Duration) -> Slot {
        let count = self.leaves.len();
        let bound = |leaf: u64| usize::try_from(leaf).unwrap_or(count).min(count);
        let slot = self.parties.add(peer);
        self.place(slot);
        let party = &mut self.parties[slot];
        if party.member.is_none() {
            party.member = Some(Member::new(now));
            // Who comes now has not searched in vain: since the last search somebody may have got it, or have come back.
            self.searches_left = SEARCHES_AGAIN;
            self.members += 1;
            self.can_read += 1;
        }
        if let Some(member) = &mut party.member {
            member.heard = now;
            let wanted = bound(ask.wanted.0)..bound(ask.wanted.1);
            if member.wanted.start != wanted.start {
                member.waits_since = now;
            }
            member.wanted = wanted;
            member.slots = ask.slots;
            let blobs = usize::try_from(ask.blobs).unwrap_or(MAX_BLOBS).clamp(1, MAX_BLOBS);
            if let Some(before) = member.blobs.replace(blobs) {
                self.blobs[before - 1] -= 1;
            }
            self.blobs[blobs - 1] += 1;
            self.can_read = self.can_read + usize::from(ask.upstream) - usize::from(member.upstream);
            member.upstream = ask.upstream;
            self.bodies.said(std::mem::replace(&mut member.ranges, ask.ranges), ask.ranges);
            member.crowd = ask.crowd.map(|chance| (chance % count as u64) as usize);
        }
        slot
    }

    /// A party is no longer a member; what it has can still be had from it.
    fn drop_member(&mut self, slot: Slot) {
        let Some(member) = self.parties.member(slot) else { return };
        for leaf in member.grants.keys().copied().collect::<Vec<_>>() {
            self.release(slot, leaf);
        }
        self.stop_reading(slot);
        self.given.remove(&slot);
        if let Some(member) = self.parties[slot].member.take() {
            self.waiting.remove(&(member.place, slot));
            self.members -= 1;
            if let Some(blobs) = member.blobs {
                self.blobs[blobs - 1] -= 1;
            }
            self.can_read -= usize::from(member.upstream);
            self.bodies.said(member.ranges, Ranges::Unknown);
        }
    }

    /// A party is gone, and with it what it has and what it was sending.
    fn remove(&mut self, slot: Slot) {
        self.drop_member(slot);
        let lost: Vec<(Slot, usize)> = self
            .parties
            .members()
            .flat_map(|(taker, member)| {
                let from_it = member.grants.iter().filter(|(_, granted)| granted.from == slot);
                from_it.map(move |(leaf, _)| (taker, *leaf))
            })
            .collect();
        for (taker, leaf) in lost {
            self.release(taker, leaf);
        }
        if self.parties.get(slot).is_some() {
            self.withdraw(slot);
            self.forget(slot);
        }
    }

    /// A party that neither has nor wants anything leaves all tables.
    fn forget(&mut self, slot: Slot) {
        self.sources.place(slot, None);
        for (_, member) in self.parties.members_mut() {
            member.refused.retain(|(_, source), _| *source != slot);
            member.shunned.remove(&slot);
        }
        self.parties.remove(slot);
        self.freed.retain(|freed| *freed != slot);
    }

    /// Puts a member where it belongs among those that wait.
    fn queue(&mut self, slot: Slot) {
        let Some(party) = self.parties.get(slot) else { return };
        let Some(member) = &party.member else { return };
        self.waiting.remove(&(member.place, slot));
        // First of all those who will have passed it on soonest.
        let slowness = u64::from(member.is_slow(self.usual_taking, self.clock.passed())) << 48;
        // And last who let something run out without a word, until something lands there.
        let lapses = u64::from(member.lapses.min(255)) << 40;
        let place = slowness + lapses + party.have.len() + member.grants.len() as u64;
        if member.open.is_some() {
            self.waiting.insert((place, slot));
        }
        if let Some(member) = self.parties.member_mut(slot) {
            member.place = place;
        }
    }

    /// Hands out what can be handed out, and answers who got something.
    fn serve(&mut self, asker: Option<Slot>) -> Vec<(P, Reply<P>)> {
        self.sources.limit(self.uploads());
        self.lend_out(asker);
        self.hand_out(asker);
        if let Some(slot) = asker {
            self.ask_for_hashes(slot);
            let member = self.parties.member(slot);
            if member.is_some_and(|member| {
                member.restate || member.cut.is_some() || member.open.is_some_and(|open| open.at_once)
            }) {
                self.reply(slot);
            }
        }
        self.answer()
    }

    /// The answer that is being put together for a member; `None` when it has no open request.
    fn reply(&mut self, slot: Slot) -> Option<&mut Reply<P>> {
        let (size, crowd) = (self.size, self.members > 1);
        let member = self.parties.member_mut(slot)?;
        let (sequence, restate) = (member.open?.sequence, member.restate);
        Some(self.given.entry(slot).or_insert_with(|| {
            let cut = member.cut.take();
            Reply { restate, cut, crowd, ..Reply::empty(sequence, Some(size)) }
        }))
    }

    /// The answers that have been put together, each to whom it is for.
    fn answer(&mut self) -> Vec<(P, Reply<P>)> {
        let given = std::mem::take(&mut self.given);
        let answers = given.into_iter().filter_map(|(slot, reply)| {
            let name = self.parties.get(slot)?.name;
            let member = self.parties.member_mut(slot)?;
            member.open = None;
            self.waiting.remove(&(member.place, slot));
            Some((name, reply))
        });
        answers.collect()
    }
}
