//! Who reads what from upstream: each leaf is lent to one, and leaves upstream once.

use std::ops::Range;

use super::{
    Coordinator,
    parties::{Member, Slot},
};
use crate::bits::{mask, ones};

/// Leaves that a member lacks of which it is asked whether anybody can give them to it, where it has misgivings.
const MAX_LOOKED_AT: usize = 256;

impl<P: Copy + Ord> Coordinator<P> {
    /// Lends to who asks; where something can be lent that could not before, to all who wait.
    pub(super) fn lend_out(&mut self, asker: Option<Slot>) {
        if std::mem::take(&mut self.lendable) {
            for slot in self.waiting.iter().map(|(_, slot)| *slot).collect::<Vec<_>>() {
                if self.reading >= self.readers() || self.leaves.unread().is_empty() {
                    break;
                }
                self.lend(slot);
            }
        }
        if let Some(slot) = asker {
            self.lend(slot);
        }
    }

    /// A run of leaves for a member to read from upstream, where it is its turn.
    fn lend(&mut self, slot: Slot) {
        let now = self.clock.passed();
        let Some(member) = self.parties.member(slot) else { return };
        let may_read = member.open.is_some()
            && member.upstream
            && member.reading.is_none()
            && member.upstream_avoided_until <= now
            && self.reading < self.readers();
        let may_come_from_swarm = self.searching && now < self.limits.budget;
        if !may_read || may_come_from_swarm {
            return;
        }
        let Some(first) = self.first_to_read(slot) else { return };
        if self.reads_badly(slot) > 0 && self.has_better_reader(slot, first, false) {
            return;
        }
        let range = if self.bodies.are_whole() {
            self.lend_body(slot, first)
        } else {
            let longest = if self.members == 1 { member.wanted.end } else { first + self.lease(member) };
            let end = longest.min(member.wanted.end);
            first..(first + 1..end).find(|leaf| !self.is_to_read(slot, *leaf)).unwrap_or(end.max(first + 1))
        };
        for leaf in range.clone().filter(|leaf| *leaf == first || self.is_to_read(slot, *leaf)).collect::<Vec<_>>() {
            self.lend_leaf(slot, leaf);
        }
        if let Some(reply) = self.reply(slot) {
            reply.read = Some((range.start as u64, range.end as u64));
        }
        if let Some(member) = self.parties.member_mut(slot) {
            member.reading = Some((range, now));
            member.is_fresh = true;
            member.busy_since.get_or_insert(now);
            self.reading += 1;
        }
    }

    /// Members that read this blob from upstream at once. Its link is shared by as many blobs as members are getting at a time.
    fn readers(&self) -> usize {
        if self.bodies.are_whole() {
            return 1;
        }
        self.readers.at_once(self.limits.readers.div_ceil(self.blobs_at_once() as usize))
    }

    /// Leaves that a member is lent at once while others read too. One where it is slow, or may be: they would be late.
    fn lease(&self, member: &Member) -> usize {
        let is_quick = member.taking.get().is_some() && !member.is_slow(self.usual_taking, self.clock.passed());
        if is_quick { self.readers.run(self.limits.lease) } else { 1 }
    }

    pub(super) fn lend_leaf(&mut self, slot: Slot, leaf: usize) {
        self.leaves.change(leaf, |at| {
            at.reader = Some(slot);
            at.in_flight += 1;
        });
    }

    /// How little others gain by what a member reads: 0 when they get it soon, 1 when its link is slow, more when they do not get it from
    /// there.
    fn reads_badly(&self, slot: Slot) -> u32 {
        let Some((party, member)) = self.parties.get(slot).and_then(|party| Some((party, party.member.as_ref()?)))
        else {
            return u32::MAX;
        };
        let is_slow = member.is_slow(self.usual_taking, self.clock.passed());
        2 * u32::from(party.avoided_until.is_some()) + u32::from(is_slow)
    }

    /// Whether another member, by which others gain more or as much as they can, wants a leaf and will read it from upstream in its turn;
    /// or, `at_once`, could now.
    pub(super) fn has_better_reader(&self, slot: Slot, leaf: usize, at_once: bool) -> bool {
        let now = self.clock.passed();
        let own = self.reads_badly(slot).max(1);
        self.parties.iter().any(|(other, party)| {
            let Some(member) = &party.member else { return false };
            let will_read = member.upstream && member.upstream_avoided_until <= now;
            let is_free = !at_once || member.reading.is_none();
            // Who has said what it is reads it no more, and is not waited for.
            let wants_it = member.wanted.contains(&leaf) && !party.have.contains(leaf) && !self.has_said(other, leaf);
            other != slot && will_read && is_free && wants_it && self.reads_badly(other) < own
        })
    }

    fn first_to_read(&self, slot: Slot) -> Option<usize> {
        let party = &self.parties[slot];
        let member = party.member.as_ref()?;
        let words = member.wanted.start / 64..member.wanted.end.div_ceil(64);
        if !self.sources.any_whole() {
            let unread = self.leaves.unread();
            let first_of = |range: &Range<usize>| {
                (range.start / 64..range.end.div_ceil(64)).find_map(|at| {
                    let word = unread.word(at) & !party.have.word(at) & mask(at, range);
                    ones(word).map(|bit| at * 64 + bit).find(|leaf| !self.has_said(slot, *leaf))
                })
            };
            // Those who are out of reach read too: each begins elsewhere.
            let is_alone = self.members == 1 && !self.bodies.are_whole();
            let begin = member.crowd.filter(|begin| is_alone && member.wanted.contains(begin));
            let first = begin.and_then(|begin| first_of(&(begin..member.wanted.end)));
            if let Some(first) = first.or_else(|| first_of(&member.wanted)) {
                return Some(first);
            }
        }
        if !member.is_picky() {
            return None;
        }
        let lacking = words.flat_map(|at| {
            let word = !party.have.word(at) & mask(at, &member.wanted);
            ones(word).map(move |bit| at * 64 + bit)
        });
        lacking.take(MAX_LOOKED_AT).find(|leaf| self.is_to_read(slot, *leaf))
    }

    /// Whether a party has read a leaf on whose hash readers do not agree: it is another's turn.
    fn has_said(&self, slot: Slot, leaf: usize) -> bool {
        let at = self.leaves.at(leaf);
        let mut said = at.rivals.iter().map(|(_, witness)| *witness).chain(at.known.map(|known| known.witness));
        !at.rivals.is_empty() && said.any(|witness| witness == self.parties[slot].name)
    }

    /// Whether a member that lacks a leaf can get it only from upstream, and nobody reads it.
    pub(super) fn is_to_read(&self, slot: Slot, leaf: usize) -> bool {
        let party = &self.parties[slot];
        let at = self.leaves.at(leaf);
        let Some(member) = party.member.as_ref().filter(|_| at.reader.is_none() && !party.have.contains(leaf)) else {
            return false;
        };
        if member.grants.contains_key(&leaf) || self.has_said(slot, leaf) {
            return false;
        }
        member.doubted.contains(&leaf)
            || !at.rivals.is_empty()
            || !self.sources.of(leaf).any(|source| source != slot && member.accepts(leaf, source))
    }

    /// A leaf that was lent to a member has landed there; false when it was lent to nobody, or to another.
    pub(super) fn returned(&mut self, slot: Slot, leaf: usize) -> bool {
        if self.leaves.at(leaf).reader != Some(slot) {
            return false;
        }
        let now = self.clock.passed();
        self.leaves.change(leaf, |at| {
            at.reader = None;
            at.in_flight = at.in_flight.saturating_sub(1);
        });
        let Some(member) = self.parties.member_mut(slot) else { return true };
        let at_once = member.under_way();
        let readers = u32::try_from(self.reading).unwrap_or(u32::MAX).max(1);
        let Some((range, since)) = &mut member.reading else { return true };
        let took = now - *since;
        *since = now;
        // Leaves land out of order: some before this one may be on their way still.
        let left = range.clone().find(|leaf| self.leaves.at(*leaf).reader == Some(slot));
        self.bodies.passed(slot, leaf);
        range.start = left.unwrap_or(range.end);
        if left.is_none() {
            member.reading = None;
            self.bodies.stopped(slot);
            self.reading -= 1;
        }
        member.took(now);
        self.readers.landed();
        if std::mem::take(&mut member.is_fresh) {
            self.readers.began(took);
        }
        // One more may read.
        self.lendable = true;
        if self.tells_pace(leaf) {
            if let Some(member) = self.parties.member_mut(slot) {
                member.taking.learn(took, at_once);
            }
            self.usual_upstream.learn(took);
            self.usual_share.learn(took / readers);
            self.judge_if_few();
        }
        true
    }

    pub(super) fn stop_reading(&mut self, slot: Slot) {
        if let Some(member) = self.parties.member_mut(slot)
            && member.reading.take().is_some()
        {
            member.is_fresh = false;
            self.reading -= 1;
            self.bodies.stopped(slot);
            self.unread(slot, 0..self.leaves.len());
        }
    }

    fn unread(&mut self, slot: Slot, range: Range<usize>) {
        for leaf in range {
            if self.leaves.at(leaf).reader == Some(slot) {
                self.leaves.change(leaf, |at| {
                    at.reader = None;
                    at.in_flight = at.in_flight.saturating_sub(1);
                });
            }
        }
        self.lendable = true;
    }

    /// A member reads by itself what it says. It goes on up to what another reads or has.
    pub(super) fn reads(&mut self, slot: Slot, range: Range<usize>) {
        let now = self.clock.passed();
        self.stop_reading(slot);
        if range.is_empty() || self.bodies.are_whole() {
            self.reads_body(slot, range);
            return;
        }
        let is_others = |leaf: &usize| self.leaves.at(*leaf).reader.is_some() || self.leaves.at(*leaf).copies > 0;
        let end = range.clone().find(is_others).unwrap_or(range.end);
        if end < range.end
            && let Some(member) = self.parties.member_mut(slot)
        {
            member.cut = Some(end as u64);
        }
        let range = range.start..end;
        if range.is_empty() {
            return;
        }
        for leaf in range.clone() {
            self.lend_leaf(slot, leaf);
        }
        if let Some(member) = self.parties.member_mut(slot) {
            member.reading = Some((range, now));
            self.reading += 1;
        }
    }

    /// A member that reads a long run alone shares it when others have come. It is told at once, or when it asks next, and until then the
    /// run is its own.
    pub(super) fn divide(&mut self) {
        if self.members < 2 || self.reading == 0 {
            return;
        }
        let cuts: Vec<(Slot, Range<usize>)> = self
            .waiting
            .iter()
            .filter_map(|(_, slot)| {
                let member = self.parties.member(*slot)?;
                let (range, _) = member.reading.as_ref()?;
                // Two leaves stay: one is coming in, and the news of the cut takes its time.
                let keep = range.start + self.lease(member) + 1;
                (range.end > keep).then_some((*slot, keep..range.end))
            })
            .collect();
        for (slot, rest) in cuts {
            if let Some(reply) = self.reply(slot) {
                reply.cut = Some(rest.start as u64);
            }
            if let Some((range, _)) = self.parties.member_mut(slot).and_then(|member| member.reading.as_mut()) {
                range.end = rest.start;
            }
            self.unread(slot, rest);
        }
    }
}
