//! What follows when something was not given, or is not believed.
//!
//! A member's word counts only on what it was granted, and one member's word alone takes nothing from the others: a source is passed over
//! by all when it has failed two and given nothing in between.

use std::time::Duration;

use super::{
    Coordinator,
    parties::{Granted, Slot},
};
use crate::message::{Failure, Source};

/// Refusals remembered of one member. Each is one leaf of one source. A source that fails beyond is shunned.
const MAX_REFUSED: usize = 256;

/// Leaves that one member may doubt at once.
const MAX_DOUBTED: usize = 256;

/// How many times longer a party is passed over that named a wrong hash.
const DISTRUST: u32 = 64;

/// A party is passed over twice as long each time, so many times.
const MAX_DOUBLINGS: u32 = 4;

impl<P: Copy + Ord> Coordinator<P> {
    pub(super) fn failed(&mut self, slot: Slot, leaf: u64, from: Source<P>, why: Failure) {
        let now = self.clock.passed();
        match from {
            Source::Upstream => {
                self.stop_reading(slot);
                if let Some(member) = self.parties.member_mut(slot) {
                    member.upstream_avoided_until = now + self.limits.stall;
                }
            }
            Source::Peer(source) => {
                let (Ok(leaf), Some(source)) = (usize::try_from(leaf), self.parties.slot(source)) else { return };
                let granted = self.parties.member(slot).and_then(|member| member.grants.get(&leaf)).copied();
                let Some(Granted { since, .. }) = granted.filter(|granted| granted.from == source) else { return };
                self.release(slot, leaf);
                match why {
                    Failure::Missing => self.not_given(slot, leaf, source, since, false),
                    Failure::Stalled => self.not_given(slot, leaf, source, since, true),
                    Failure::Wrong => self.doubted(slot, leaf, source),
                    Failure::Needless => self.refused(slot, leaf, source),
                }
            }
        }
    }

    /// A source did not give a leaf to a member, which was granted it at `since`.
    pub(super) fn not_given(&mut self, slot: Slot, leaf: usize, source: Slot, since: Duration, is_silent: bool) {
        let until = self.clock.passed() + self.limits.avoid;
        if let Some(member) = self.parties.member_mut(slot) {
            *member.in_vain.entry(leaf).or_default() += 1;
            if is_silent || member.refused.len() >= MAX_REFUSED {
                member.shunned.insert(source, until);
            } else {
                member.refused.insert((leaf, source), until);
            }
        }
        let Some(party) = self.parties.get(source) else { return };
        if party.gave_at > since {
            // It has given something since: it is well, and this member's link, or the way between, is slow.
            return;
        }
        match self.parties[source].failed {
            None => self.parties[source].failed = Some(slot),
            Some(other) if other == slot => {}
            Some(_) => {
                let doublings = self.parties[source].avoided_before.min(MAX_DOUBLINGS);
                self.parties[source].avoided_before += 1;
                self.avoid(source, self.limits.avoid * (1 << doublings));
            }
        }
    }

    /// A member does not believe a leaf's hash. It reads the leaf itself, and the others go on as before until it has.
    fn doubted(&mut self, slot: Slot, leaf: usize, source: Slot) {
        let Some(member) = self.parties.member_mut(slot) else { return };
        if member.upstream && member.doubted.len() < MAX_DOUBTED {
            member.doubted.insert(leaf);
        } else {
            *member.in_vain.entry(leaf).or_default() += 1;
            self.refused(slot, leaf, source);
        }
    }

    /// A member is not sent to a source for a leaf again for a while.
    fn refused(&mut self, slot: Slot, leaf: usize, source: Slot) {
        let until = self.clock.passed() + self.limits.avoid;
        if let Some(member) = self.parties.member_mut(slot)
            && member.refused.len() < MAX_REFUSED
        {
            member.refused.insert((leaf, source), until);
        }
    }

    /// A source has given something, which took so long where that tells how fast it is.
    pub(super) fn gave(&mut self, source: Slot, took: Option<Duration>) {
        if self.parties.get(source).is_some() {
            let now = self.clock.passed();
            let party = &mut self.parties[source];
            party.failed = None;
            party.avoided_before = 0;
            party.gave_at = now;
            if let Some(took) = took {
                // It was one of its uploads until a moment ago.
                party.giving.learn(took, party.uploads + 1);
            }
        }
    }

    /// A party named a wrong hash.
    pub(super) fn distrust(&mut self, liar: P) {
        if let Some(liar) = self.parties.slot(liar) {
            self.avoid(liar, self.limits.avoid * DISTRUST);
        }
    }

    fn avoid(&mut self, slot: Slot, time: Duration) {
        let until = self.clock.passed() + time;
        if self.parties[slot].avoided_until.is_none() {
            self.withdraw(slot);
        }
        let party = &mut self.parties[slot];
        party.failed = None;
        party.avoided_until = party.avoided_until.max(Some(until));
        self.lendable = true;
    }

    /// What was held against sources and members long enough ago is forgotten.
    pub(super) fn forgive(&mut self) {
        let now = self.clock.passed();
        let is_over = |until: Option<Duration>| until.is_some_and(|until| until <= now);
        let forgiven: Vec<Slot> =
            self.parties.iter().filter(|(_, party)| is_over(party.avoided_until)).map(|(slot, _)| slot).collect();
        for slot in forgiven {
            self.parties[slot].avoided_until = None;
            self.offer(slot);
        }
        for (_, member) in self.parties.members_mut() {
            member.refused.retain(|_, until| *until > now);
            member.shunned.retain(|_, until| *until > now);
        }
    }
}
