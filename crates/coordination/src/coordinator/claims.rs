//! What a party says that it has, and whose word on a hash counts.
//!
//! The first to name a leaf's hash is believed until somebody who reads the leaf from upstream says otherwise. Where nobody has ever got a
//! leaf of the first hash, the reader is right. Where somebody says that it has, others read it too, until two say the same. Who was wrong
//! is passed over.

use shoal_content::LeafHash;

use super::{Coordinator, leaves::Known, parties::Slot};
use crate::{bits::Bits, message::Full};

/// Leaves whose hashes a member is asked for at once.
const MAX_TOLD: usize = 1024;

/// Readers of one leaf that say other than what is believed. More liars than that can keep a leaf from being passed on, not from being read.
const MAX_RIVALS: usize = 8;

/// Runs of leaves in one such question.
const MAX_RUNS: usize = 256;

impl<P: Copy + Ord> Coordinator<P> {
    /// A member says all that it has.
    pub(super) fn restated(&mut self, slot: Slot, full: &Full<P>) {
        let Some(member) = self.parties.member(slot) else { return };
        for leaf in member.grants.keys().copied().collect::<Vec<_>>() {
            self.release(slot, leaf);
        }
        let count = self.leaves.len();
        let mut stated = Bits::default();
        for leaf in full.leaves.iter().filter_map(|leaf| usize::try_from(leaf).ok()).filter(|leaf| *leaf < count) {
            stated.insert(leaf);
        }
        if self.parties[slot].whole && stated.len() < count as u64 {
            // What an earlier session had may be gone.
            self.withdraw(slot);
            self.parties[slot].whole = false;
            self.place(slot);
            self.lendable = true;
        }
        for leaf in self.parties[slot].have.iter().filter(|leaf| !stated.contains(*leaf)).collect::<Vec<_>>() {
            self.loses(slot, leaf);
        }
        for (leaf, hash) in &full.hashes {
            if let Some(leaf) = self.inside(*leaf).filter(|leaf| stated.contains(*leaf)) {
                self.told(slot, leaf, *hash);
            }
        }
        for leaf in stated.iter() {
            self.gains(slot, leaf);
        }
        let most = 2 * self.limits.downloads as usize;
        for (leaf, from) in full.fetching.iter().take(most) {
            if let Some(leaf) = self.inside(*leaf)
                && *from != self.parties[slot].name
            {
                self.continued(slot, leaf, *from);
            }
        }
        let end = usize::try_from(full.reading.1).unwrap_or(count).min(count);
        self.reads(slot, usize::try_from(full.reading.0).unwrap_or(count).min(end)..end);
        if let Some(member) = self.parties.member_mut(slot) {
            member.restate = false;
            member.telling = None;
        }
        self.queue(slot);
    }

    fn inside(&self, leaf: u64) -> Option<usize> {
        usize::try_from(leaf).ok().filter(|leaf| *leaf < self.leaves.len())
    }

    /// A leaf has landed at a member, or it tells the hash of one that it has.
    pub(super) fn landed(&mut self, slot: Slot, leaf: u64, hash: Option<LeafHash>) {
        let Some(leaf) = self.inside(leaf) else { return };
        let now = self.clock.passed();
        let at_once = self.parties.member(slot).map_or(0, |member| member.under_way());
        if let Some((source, since)) = self.release(slot, leaf) {
            let took = now - since;
            let tells_pace = self.tells_pace(leaf);
            self.gave(source, tells_pace.then_some(took));
            if let Some(member) = self.parties.member_mut(slot) {
                member.took(now);
                member.in_vain.remove(&leaf);
                if tells_pace {
                    member.taking.learn(took, at_once);
                }
            }
            if tells_pace {
                self.usual_peer.learn(took);
                self.judge_if_few();
            }
            self.leaves.change(leaf, |at| {
                if let Some(known) = &mut at.known {
                    known.proven = true;
                }
            });
        }
        let was_read = self.returned(slot, leaf);
        let is_believed = match hash {
            Some(hash) if was_read => self.read(slot, leaf, hash),
            Some(hash) => self.told(slot, leaf, hash),
            None => true,
        };
        if is_believed {
            self.gains(slot, leaf);
        }
        self.queue(slot);
    }

    /// Somebody names a leaf's hash; false when it is another than what is believed.
    fn told(&mut self, slot: Slot, leaf: usize, hash: LeafHash) -> bool {
        let witness = self.parties[slot].name;
        match self.leaves.at(leaf).known {
            Some(known) => known.hash == hash,
            None => {
                self.leaves.change(leaf, |at| {
                    at.known = Some(Known { hash, witness, proven: false, confirmed: false });
                });
                // Whoever has it can now be asked for it.
                self.freed.extend(self.sources.of(leaf));
                true
            }
        }
    }

    /// Somebody names the hash of a leaf that it was lent; false when it is another than what is believed.
    fn read(&mut self, slot: Slot, leaf: usize, hash: LeafHash) -> bool {
        let name = self.parties[slot].name;
        let at = self.leaves.at(leaf);
        let Some(known) = at.known else { return self.told(slot, leaf, hash) };
        if known.hash == hash {
            // Who doubted the first witness may believe the second.
            let confirmed = known.confirmed || known.witness != name;
            self.settle(leaf, Known { witness: name, confirmed, ..known });
            return true;
        }
        if known.confirmed {
            return false;
        }
        let is_seconded = at.rivals.iter().any(|(other, witness)| *other == hash && *witness != name);
        if known.proven && !is_seconded {
            let is_said = at.rivals.iter().any(|(_, witness)| *witness == name);
            if !is_said && at.rivals.len() < MAX_RIVALS {
                self.leaves.change(leaf, |at| at.rivals.push((hash, name)));
                self.lendable = true;
            }
            return false;
        }
        for party in self.parties.iter().map(|(slot, _)| slot).collect::<Vec<_>>() {
            self.loses(party, leaf);
        }
        self.settle(leaf, Known { hash, witness: name, proven: false, confirmed: is_seconded });
        self.distrust(known.witness);
        true
    }

    /// A leaf's hash is believed from now on, and nobody who named another.
    fn settle(&mut self, leaf: usize, known: Known<P>) {
        let mut rivals = Vec::new();
        self.leaves.change(leaf, |at| {
            at.known = Some(known);
            rivals = std::mem::take(&mut at.rivals);
        });
        self.no_longer_doubted(leaf);
        for (hash, reader) in rivals {
            match self.parties.slot(reader) {
                // It has what it read, and was not believed until now.
                Some(slot) if hash == known.hash => self.gains(slot, leaf),
                _ if hash == known.hash => {}
                _ => self.distrust(reader),
            }
        }
    }

    fn no_longer_doubted(&mut self, leaf: usize) {
        for (_, member) in self.parties.members_mut() {
            member.doubted.remove(&leaf);
        }
    }

    pub(super) fn gains(&mut self, slot: Slot, leaf: usize) {
        let party = &mut self.parties[slot];
        if party.have.insert(leaf) && !party.whole && party.avoided_until.is_none() {
            self.shown(slot, leaf, true);
            self.freed.push(slot);
        }
    }

    pub(super) fn loses(&mut self, slot: Slot, leaf: usize) {
        let party = &mut self.parties[slot];
        if party.have.remove(leaf) && !party.whole && party.avoided_until.is_none() {
            self.shown(slot, leaf, false);
        }
    }

    /// Asks a member for hashes that nobody has told, of leaves that it has.
    pub(super) fn ask_for_hashes(&mut self, slot: Slot) {
        let now = self.clock.passed();
        let Some(party) = self.parties.get(slot) else { return };
        let Some(member) = party.member.as_ref() else { return };
        let is_idle = member.telling.is_none() && member.open.is_some();
        if !is_idle || self.leaves.untold().is_empty() {
            return;
        }
        let asked = self.parties.members().filter_map(|(_, member)| member.telling.as_ref());
        let mut asked_of_others = Bits::default();
        for leaf in asked.flat_map(|(leaves, _)| leaves.iter()) {
            asked_of_others.insert(leaf);
        }
        let open = self.leaves.untold().iter().filter(|leaf| party.have.contains(*leaf));
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let mut leaves = Bits::default();
        for leaf in open.filter(|leaf| !asked_of_others.contains(*leaf)).take(MAX_TOLD) {
            let number = leaf as u64;
            let is_full = runs.len() == MAX_RUNS;
            match runs.last_mut() {
                Some((_, end)) if *end == number => *end += 1,
                _ if is_full => break,
                _ => runs.push((number, number + 1)),
            }
            leaves.insert(leaf);
        }
        if runs.is_empty() {
            return;
        }
        if let Some(member) = self.parties.member_mut(slot) {
            member.telling = Some((leaves, now));
        }
        if let Some(reply) = self.reply(slot) {
            reply.tell = runs;
        }
    }
}
