//! Which leaf goes from whom to whom.

use std::time::Duration;

use super::{
    Coordinator,
    parties::{Granted, Member, Slot},
    sources::Load,
};
use crate::{
    bits::{mask, ones},
    message::Grant,
};

/// Leaves that a member lacks and that no free source has: so many are looked at before another way is tried.
const MAX_MISSES: usize = 128;

/// Members that wait, of which one may take what a source can give: so many are looked at.
const MAX_TAKERS: usize = 64;

/// Free sources that are gone through one by one where looking leaf by leaf was in vain.
const MAX_SOURCES: usize = 8;

impl<P: Copy + Ord> Coordinator<P> {
    /// Gives sources that can send more than before to those that wait, least first; then, to who asks, what it can take besides.
    pub(super) fn hand_out(&mut self, asker: Option<Slot>) {
        while let Some(source) = self.freed.pop() {
            while self.is_free(source)
                && let Some((taker, leaf)) = self.taker(source)
            {
                // Others may be as free and have sent less: who has just sent something is not asked again for being the last one heard of.
                let from = self.from(leaf, taker).unwrap_or(source);
                self.grant(taker, leaf, from);
            }
        }
        if let Some(taker) = asker {
            while let Some((leaf, source)) = self.choose(taker) {
                self.grant(taker, leaf, source);
            }
        }
    }

    fn is_free(&self, source: Slot) -> bool {
        self.parties.get(source).is_some_and(|party| {
            let most = if party.is_slow { 1 } else { self.uploads() };
            party.uploads < most && party.avoided_until.is_none()
        })
    }

    /// Leaves of this blob that a source sends at once. Its link is shared by as many blobs as members are getting at a time.
    pub(super) fn uploads(&self) -> u32 {
        self.limits.uploads.div_ceil(self.blobs_at_once())
    }

    /// How many blobs members are getting at a time: the median, which no few of them move by what they say.
    pub(super) fn blobs_at_once(&self) -> u32 {
        let up_to = self.blobs.iter().scan(0, |sum, members| {
            *sum += members;
            Some(*sum)
        });
        (1..).zip(up_to).find(|(_, members)| 2 * members >= self.members).map_or(1, |(blobs, _)| blobs)
    }

    /// Whether a member waits and can take one more.
    fn can_take(&self, member: &Member) -> bool {
        // Who let things lapse is given less, until something lands there.
        let most = (self.limits.downloads >> member.lapses.min(31)).max(1) as usize;
        let under_way = member.grants.len() - member.ending();
        member.open.is_some() && under_way < most.min(member.slots as usize)
    }

    /// The member that has least of those that lack something that a source has, and what it should get.
    fn taker(&self, source: Slot) -> Option<(Slot, usize)> {
        let party = &self.parties[source];
        let wait = self.waiting.iter().map(|(_, slot)| *slot).filter(|slot| *slot != source);
        let able = wait.filter(|slot| self.parties.member(*slot).is_some_and(|member| self.can_take(member)));
        able.take(MAX_TAKERS).find_map(|taker| {
            let lacks_it = party.whole || party.have.has_beyond(&self.parties[taker].have);
            let member = self.parties.member(taker).filter(|_| lacks_it)?;
            let fits = |leaf| self.can_give(source, leaf) && member.accepts(leaf, source);
            Some((taker, self.rarest(taker, fits)?))
        })
    }

    /// Looks through some of those that wait, others each time: what was refused, or was on its way, may be had by now.
    pub(super) fn sweep(&mut self) {
        let next = self.waiting.range(self.swept..).map(|(_, slot)| *slot).take(MAX_TAKERS);
        let next: Vec<Slot> = next.collect();
        self.swept =
            match next.last().and_then(|slot| self.parties.member(*slot).map(|member| (member.place, *slot + 1))) {
                Some(after) if next.len() == MAX_TAKERS => after,
                _ => (0, 0),
            };
        for taker in next {
            self.hand_out(Some(taker));
        }
    }

    fn can_give(&self, source: Slot, leaf: usize) -> bool {
        let party = &self.parties[source];
        let is_on_its_way = party.is_slow && self.leaves.at(leaf).in_flight > 0;
        (party.whole || party.have.contains(leaf)) && !is_on_its_way
    }

    /// From whom a member should get a leaf.
    fn from(&self, leaf: usize, taker: Slot) -> Option<Slot> {
        let on_its_way = self.leaves.at(leaf).in_flight > 0;
        self.sources.pick(leaf, taker, self.parties.member(taker)?, &self.parties, on_its_way)
    }

    /// What a member should get next, and from whom: what its reader has waited for too long, else what the fewest have or are about to
    /// have.
    fn choose(&self, taker: Slot) -> Option<(usize, Slot)> {
        let member = self.parties.member(taker)?;
        if !self.can_take(member) || !self.sources.any_free() {
            return None;
        }
        let pick = |leaf: usize| Some((leaf, self.from(leaf, taker)?));
        let now = self.clock.passed();
        if now - member.waits_since >= self.limits.urgent
            && self.lacks(taker, member.wanted.start)
            && let Some(urgent) = pick(member.wanted.start)
        {
            return Some(urgent);
        }
        // A slow member passes nothing on in time: it gets what its reader waits for, in order.
        if member.is_slow(self.usual_taking, now) {
            return member.wanted.clone().filter(|leaf| self.lacks(taker, *leaf)).take(MAX_MISSES).find_map(pick);
        }
        let mut misses = 0;
        for leaf in self.lacking(taker) {
            if let Some(chosen) = pick(leaf) {
                return Some(chosen);
            }
            misses += 1;
            if misses == MAX_MISSES {
                // Few are free, and they have little of what is rare.
                return self.sources.free().filter(|source| *source != taker).take(MAX_SOURCES).find_map(|source| {
                    Some((
                        self.rarest(taker, |leaf| self.can_give(source, leaf) && member.accepts(leaf, source))?,
                        source,
                    ))
                });
            }
        }
        None
    }

    fn rarest(&self, taker: Slot, fits: impl Fn(usize) -> bool) -> Option<usize> {
        self.lacking(taker).find(|leaf| fits(*leaf))
    }

    /// Leaves that a member wants, lacks and is not getting, whose hash is known: the rarest first, and of those the first.
    fn lacking(&self, taker: Slot) -> impl Iterator<Item = usize> + '_ {
        let party = &self.parties[taker];
        party.member.iter().flat_map(move |member| {
            self.leaves.by_rarity().flat_map(move |leaves| {
                let words = member.wanted.start / 64..leaves.words().min(member.wanted.end.div_ceil(64));
                let open = words.flat_map(move |at| {
                    let word = leaves.word(at) & !party.have.word(at) & mask(at, &member.wanted);
                    ones(word).map(move |bit| at * 64 + bit)
                });
                open.filter(move |leaf| self.is_open(taker, member, *leaf))
            })
        })
    }

    fn lacks(&self, taker: Slot, leaf: usize) -> bool {
        let party = &self.parties[taker];
        let is_known = leaf < self.leaves.len() && self.leaves.at(leaf).known.is_some();
        is_known
            && !party.have.contains(leaf)
            && party.member.as_ref().is_some_and(|member| self.is_open(taker, member, leaf))
    }

    /// Whether a leaf is not on its way to a member, and is believed by it.
    fn is_open(&self, taker: Slot, member: &Member, leaf: usize) -> bool {
        !member.grants.contains_key(&leaf)
            && !member.doubted.contains(&leaf)
            && self.leaves.at(leaf).reader != Some(taker)
    }

    fn grant(&mut self, taker: Slot, leaf: usize, source: Slot) {
        let now = self.clock.passed();
        let Some(known) = self.leaves.at(leaf).known else { return };
        let from = self.parties[source].name;
        let Some(reply) = self.reply(taker) else { return };
        reply.grants.push(Grant { leaf: leaf as u64, hash: known.hash, from, witness: known.witness });
        self.leaves.change(leaf, |at| at.in_flight += 1);
        let party = &mut self.parties[source];
        party.uploads += 1;
        party.sent += 1;
        self.place(source);
        if let Some(member) = self.parties.member_mut(taker) {
            member.grants.insert(leaf, Granted { from: source, since: now, is_ending: false });
            member.busy_since.get_or_insert(now);
        }
        self.queue(taker);
    }

    /// A member is getting a leaf already, as another coordinator said.
    pub(super) fn continued(&mut self, taker: Slot, leaf: usize, from: P) {
        let now = self.clock.passed();
        let source = self.parties.add(from);
        if self.parties[taker].have.contains(leaf) {
            return;
        }
        let Some(member) = self.parties.member_mut(taker) else { return };
        let granted = Granted { from: source, since: now, is_ending: false };
        if member.grants.insert(leaf, granted).is_none() {
            member.busy_since.get_or_insert(now);
            self.parties[source].uploads += 1;
            self.place(source);
            self.leaves.change(leaf, |at| at.in_flight += 1);
        }
    }

    /// A grant is over; gives from whom it was, and since when.
    pub(super) fn release(&mut self, taker: Slot, leaf: usize) -> Option<(Slot, Duration)> {
        let Granted { from: source, since, is_ending } = self.parties.member_mut(taker)?.grants.remove(&leaf)?;
        if self.parties.get(source).is_some() {
            let party = &mut self.parties[source];
            let sending = if is_ending { &mut party.ending } else { &mut party.uploads };
            *sending = sending.saturating_sub(1);
            if party.uploads + party.ending == 0 && !party.whole && party.have.is_empty() && party.member.is_none() {
                // All that was known of it was that somebody got something from it.
                self.forget(source);
            } else {
                self.place(source);
                self.freed.push(source);
            }
        }
        self.leaves.change(leaf, |at| at.in_flight = at.in_flight.saturating_sub(1));
        self.queue(taker);
        Some((source, since))
    }

    /// What should be there soon makes room for another leaf, at its source and at its taker: by the time that one is granted, asked for and
    /// on its way, which are three messages on links that are full, the place is free. Where leaves come more slowly than they did, each would
    /// seem to be there soon; so there are no more such than half of what is sent at once.
    pub(super) fn foresee(&mut self) {
        let Some(soon) = self.usual_peer.soon() else { return };
        let now = self.clock.passed();
        let most = self.uploads().div_ceil(2);
        let old: Vec<(Slot, usize, Slot)> = self
            .parties
            .members()
            .flat_map(|(taker, member)| {
                let is_old = move |granted: &Granted| !granted.is_ending && now - granted.since >= soon;
                let old = member.grants.iter().filter(move |(_, granted)| is_old(granted));
                old.map(move |(leaf, granted)| (taker, *leaf, granted.from))
            })
            .collect();
        for (taker, leaf, source) in old {
            if self.parties.get(source).is_none_or(|party| party.ending >= most) {
                continue;
            }
            let Some(member) = self.parties.member_mut(taker).filter(|member| member.ending() < most as usize) else {
                continue;
            };
            if let Some(granted) = member.grants.get_mut(&leaf) {
                granted.is_ending = true;
                let party = &mut self.parties[source];
                party.uploads = party.uploads.saturating_sub(1);
                party.ending += 1;
                self.place(source);
                self.freed.push(source);
            }
        }
    }

    /// Puts a party where it belongs among the sources.
    pub(super) fn place(&mut self, slot: Slot) {
        let party = &self.parties[slot];
        let load = Load { uploads: party.uploads, is_whole: party.whole, is_slow: party.is_slow };
        self.sources.place(slot, party.avoided_until.is_none().then_some(load));
    }

    /// What a party has can be had from it.
    pub(super) fn offer(&mut self, slot: Slot) {
        self.show(slot, true);
        self.place(slot);
        self.freed.push(slot);
    }

    /// What a party has is not to be had from it, for now or for good.
    pub(super) fn withdraw(&mut self, slot: Slot) {
        self.show(slot, false);
        self.sources.place(slot, None);
    }

    fn show(&mut self, slot: Slot, is_there: bool) {
        let party = &self.parties[slot];
        if party.avoided_until.is_some() || party.whole {
            return;
        }
        for leaf in party.have.iter().collect::<Vec<_>>() {
            self.shown(slot, leaf, is_there);
        }
    }

    /// One leaf more, or less, can be had from a party.
    pub(super) fn shown(&mut self, slot: Slot, leaf: usize, is_there: bool) {
        self.sources.set(leaf, slot, is_there);
        self.leaves.change(leaf, |at| {
            at.copies = if is_there { at.copies + 1 } else { at.copies.saturating_sub(1) };
        });
        self.lendable |= !is_there;
    }
}
