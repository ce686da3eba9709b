//! What has not come in time, and when nothing will come any more.

use std::time::Duration;

use shoal_content::LEAF_SIZE;

use super::{Coordinator, parties::Slot};
use crate::{
    bits::{mask, ones},
    limits::Limits,
    pace,
};

/// Grants of one leaf that may be in vain before it counts as lost where upstream cannot be read.
const MAX_IN_VAIN: u32 = 3;

/// Where there are no more members, who is slow is judged whenever a leaf lands; otherwise when time passes.
const FEW: usize = 32;

/// Leaves without a hash that are looked at at once.
const MAX_ORPHANS: usize = 256;

/// A leaf from upstream is late no earlier than after so many times what it takes where all that read have an equal share of its link.
const SHARED: u32 = 3;

/// A lapse doubles the time for which a member is lent nothing, and the time after which the next who reads that leaf is late, so many
/// times.
const MAX_LAPSES: u32 = 4;

/// The usual time of something: a moving average.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usual(Option<Duration>);

impl Usual {
    pub(super) fn learn(&mut self, time: Duration) {
        self.0 = Some(self.0.map_or(time, |usual| (usual * 7 + time) / 8));
    }

    /// The time after which something that takes as long as usual should be there before news of it could be.
    pub(super) fn soon(&self) -> Option<Duration> {
        self.0.map(|usual| usual * 2 / 3)
    }

    /// The time of so many; none where it is not known.
    pub(super) fn times(&self, count: usize) -> Duration {
        self.0.map_or(Duration::ZERO, |usual| usual * u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// The time after which something is late.
    pub(super) fn late(&self, limits: &Limits) -> Duration {
        self.0.map_or(limits.first, |usual| usual * limits.patience).max(limits.stall)
    }
}

impl<P: Copy + Ord> Coordinator<P> {
    /// Takes back what has not landed in time.
    pub(super) fn take_back_late(&mut self) {
        let now = self.clock.passed();
        let late_peer = self.usual_peer.late(&self.limits) * 2;
        // When many begin to read at once, what a leaf took a moment ago tells little of what it takes now.
        let readers = u32::try_from(self.reading).unwrap_or(u32::MAX);
        let shared = self.usual_share.0.map_or(Duration::ZERO, |share| share * readers.saturating_mul(SHARED));
        let late_upstream = self.usual_upstream.late(&self.limits).max(shared);
        // Nobody else reads beside who says that upstream ignores ranges: it has less time to show that it reads.
        let is_to_show = self.bodies.are_whole() && self.usual_upstream.0.is_none();
        let late_upstream = if is_to_show { late_upstream.min(self.limits.silence) } else { late_upstream };
        let late: Vec<(Slot, usize, Slot, Duration)> = self
            .parties
            .members()
            .flat_map(|(slot, member)| {
                let late = member.grants.iter().filter(move |(_, granted)| now - granted.since > late_peer);
                late.map(move |(leaf, granted)| (slot, *leaf, granted.from, granted.since))
            })
            .collect();
        for (slot, leaf, source, since) in late {
            self.release(slot, leaf);
            self.not_given(slot, leaf, source, since, true);
            self.lapsed(slot);
        }
        let late: Vec<(Slot, usize, Duration)> = self
            .parties
            .members()
            .filter_map(|(slot, member)| {
                let (range, since) = member.reading.as_ref()?;
                // It may be the time that is wrong, not the reader: who lies about leaves that it was lent makes others seem late.
                let lapses = self.leaves.at(range.start).lapses.min(MAX_LAPSES);
                let late = (late_upstream * (1 << lapses)).min(late_upstream.max(self.limits.first));
                let late = late + self.usual_upstream.times(self.bodies.to_pass(slot, range.start));
                (now - *since > late).then_some((slot, range.start, *since))
            })
            .collect();
        for (slot, first, since) in late {
            // Where nobody else could read it sooner, and nobody has it, it stays.
            let is_had = self.sources.of(first).any(|source| source != slot);
            if !is_had && !self.has_better_reader(slot, first, true) {
                continue;
            }
            self.stop_reading(slot);
            self.leaves.change(first, |at| at.lapses = at.lapses.saturating_add(1));
            let lapses = self.lapsed(slot);
            let wait = self.limits.stall * (1 << lapses.min(MAX_LAPSES));
            if let Some(member) = self.parties.member_mut(slot) {
                member.upstream_avoided_until = now + wait;
                member.taking.learn(now - since, 1);
                // What others read now it need not read on.
                member.cut = Some(first as u64);
            }
            self.reply(slot);
        }
        self.take_back_questions();
    }

    /// A member let something run out without a word; gives how many times in a row.
    fn lapsed(&mut self, slot: Slot) -> u32 {
        let Some(member) = self.parties.member_mut(slot) else { return 0 };
        member.lapses = member.lapses.saturating_add(1);
        let lapses = member.lapses;
        self.queue(slot);
        lapses
    }

    /// Who does not tell the hashes of what it says it has, has not got it.
    fn take_back_questions(&mut self) {
        let now = self.clock.passed();
        let patience = self.limits.hold + self.limits.stall;
        let mut mute = Vec::new();
        let mut done = Vec::new();
        for (slot, member) in self.parties.members() {
            let Some((leaves, since)) = &member.telling else { continue };
            if !leaves.iter().any(|leaf| self.leaves.untold().contains(leaf)) {
                done.push(slot);
            } else if now - *since > patience {
                done.push(slot);
                mute.extend(leaves.iter().map(|leaf| (slot, leaf)));
            }
        }
        // Who has finished asks no more, so it cannot be asked either: such a leaf is read anew.
        let member_has = |leaf: usize| self.sources.of(leaf).any(|slot| self.parties.member(slot).is_some());
        let orphans = self.leaves.untold().iter().take(MAX_ORPHANS).filter(|leaf| !member_has(*leaf));
        mute.extend(orphans.flat_map(|leaf| self.sources.of(leaf).map(move |slot| (slot, leaf))));
        for (slot, leaf) in mute {
            if self.leaves.at(leaf).known.is_none() {
                self.loses(slot, leaf);
            }
        }
        for slot in done {
            if let Some(member) = self.parties.member_mut(slot) {
                member.telling = None;
            }
        }
    }

    /// Whether a leaf's time tells what others will take: the last is shorter.
    pub(super) fn tells_pace(&self, leaf: usize) -> bool {
        leaf + 1 < self.leaves.len() || self.size.is_multiple_of(LEAF_SIZE)
    }

    /// Judges anew who is slow, where that takes no time.
    pub(super) fn judge_if_few(&mut self) {
        if self.members <= FEW {
            self.judge();
        }
    }

    /// Judges anew who is slow.
    pub(super) fn judge(&mut self) {
        self.usual_taking = pace::usual(self.parties.members().filter_map(|(_, member)| member.taking.get()));
        let usual = pace::usual(self.parties.iter().filter_map(|(_, party)| party.giving.get()));
        let changed: Vec<Slot> = self
            .parties
            .iter()
            .filter(|(_, party)| party.giving.get().is_some_and(|own| pace::is_slow(own, usual)) != party.is_slow)
            .map(|(slot, _)| slot)
            .collect();
        for slot in changed {
            let party = &mut self.parties[slot];
            party.is_slow = !party.is_slow;
            self.place(slot);
            self.freed.push(slot);
        }
    }

    /// Tells members for whom nothing is left to be hoped, or has holders searched for again.
    pub(super) fn despair(&mut self) {
        if self.searching || self.can_read > 0 {
            return;
        }
        let hopeless: Vec<Slot> = self
            .waiting
            .iter()
            .map(|(_, slot)| *slot)
            .filter(|slot| !self.given.contains_key(slot) && self.is_hopeless(*slot))
            .collect();
        if hopeless.is_empty() {
            return;
        }
        // Somebody may have got it since: it is given up only after another search.
        if self.searches_left > 0 {
            self.stuck = true;
            return;
        }
        for slot in hopeless {
            if let Some(reply) = self.reply(slot) {
                reply.hopeless = true;
            }
        }
    }

    /// Whether a member has nothing under way, and what it lacks nobody has.
    fn is_hopeless(&self, slot: Slot) -> bool {
        let party = &self.parties[slot];
        let Some(member) = &party.member else { return false };
        if member.reading.is_some() || !member.grants.is_empty() {
            return false;
        }
        // Refusals pass, and who is passed over now may give later.
        let may_come_later = |leaf: usize| {
            let others = self.parties.iter().filter(|(source, other)| *source != slot && other.avoided_until.is_some());
            others.into_iter().any(|(_, other)| other.whole || other.have.contains(leaf))
        };
        let is_nowhere = !self.sources.any_whole()
            && (member.wanted.start / 64..member.wanted.end.div_ceil(64)).any(|at| {
                let lost = self.leaves.unread().word(at) & !party.have.word(at) & mask(at, &member.wanted);
                ones(lost).any(|bit| !may_come_later(at * 64 + bit))
            });
        let is_given_up = |(leaf, times): (&usize, &u32)| {
            *times >= MAX_IN_VAIN && member.wanted.contains(leaf) && !party.have.contains(*leaf)
        };
        is_nowhere || member.in_vain.iter().any(is_given_up)
    }
}
