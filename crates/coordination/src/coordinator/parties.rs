//! Who takes part: peers that have leaves, and those of them that want some.
//!
//! Each has a slot, a small number, so that sets of parties are sets of bits.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Index, IndexMut, Range},
    time::Duration,
};

use crate::{
    bits::Bits,
    message::Ranges,
    pace::{self, Pace},
};

/// A party's number, free for another once it is gone.
pub(super) type Slot = usize;

/// A peer that has, or wants, leaves.
#[derive(Debug)]
pub(super) struct Party<P> {
    pub name: P,
    /// It has the whole blob.
    pub whole: bool,
    pub have: Bits,
    pub member: Option<Member>,
    /// Leaves that it is sending, those aside that should be there soon.
    pub uploads: u32,
    /// Leaves that it is sending and that should be there soon.
    pub ending: u32,
    /// Leaves that it has been told to send so far.
    pub sent: u64,
    /// It is passed over until then.
    pub avoided_until: Option<Duration>,
    /// How often it has been avoided since it last gave something.
    pub avoided_before: u32,
    /// Whom it failed to give what it has, since it last gave something.
    pub failed: Option<Slot>,
    /// How long its leaves take to whoever gets them, and when it last gave one.
    pub giving: Pace,
    pub gave_at: Duration,
    /// Leaves come from it far more slowly than is usual.
    pub is_slow: bool,
}

/// A leaf that a member is getting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub from: Slot,
    pub since: Duration,
    /// It should be there soon: another may be granted in its place.
    pub is_ending: bool,
}

/// A party that wants leaves.
#[derive(Debug)]
pub(super) struct Member {
    /// What it is getting.
    pub grants: BTreeMap<usize, Granted>,
    /// What it reads from upstream, and when it last made progress with it.
    pub reading: Option<(Range<usize>, Duration)>,
    /// Nothing of what it was lent last has come yet.
    pub is_fresh: bool,
    /// The read under way ends before this leaf; it has not been told yet.
    pub cut: Option<u64>,
    pub wanted: Range<usize>,
    /// Since when the first of them is what its reader waits for.
    pub waits_since: Duration,
    /// How long leaves take to it, and since when it has something under way of which nothing has landed.
    pub taking: Pace,
    pub busy_since: Option<Duration>,
    /// Leaves that it takes at once.
    pub slots: u32,
    /// Blobs that its node is getting, as it says: 1 to 16.
    pub blobs: Option<usize>,
    pub upstream: bool,
    pub ranges: Ranges,
    /// Others want the blob too, as it was told by another coordinator: where it begins to read while they are out of reach.
    pub crowd: Option<usize>,
    pub upstream_avoided_until: Duration,
    /// Leaves that sources did not give, and until when each is not asked for that leaf again.
    pub refused: BTreeMap<(usize, Slot), Duration>,
    /// Sources that did not send it anything in time, and until when it is not sent to them.
    pub shunned: BTreeMap<Slot, Duration>,
    /// Leaves whose hashes it does not believe: it reads them from upstream.
    pub doubted: BTreeSet<usize>,
    /// How often each leaf was granted in vain.
    pub in_vain: BTreeMap<usize, u32>,
    /// Grants and leases in a row that ran out without a word of it.
    pub lapses: u32,
    /// The request that is open.
    pub open: Option<Open>,
    /// It is to say all that it has.
    pub restate: bool,
    /// Leaves whose hashes it was asked for, and when.
    pub telling: Option<(Bits, Duration)>,
    pub heard: Duration,
    /// Where it stands in the order of those that wait.
    pub place: u64,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub sequence: u64,
    pub since: Duration,
    /// It is not kept until there is something to hand out.
    pub at_once: bool,
}

#[derive(Debug)]
pub(super) struct Parties<P> {
    slots: Vec<Option<Party<P>>>,
    names: BTreeMap<P, Slot>,
    free: Vec<Slot>,
}

impl<P> Default for Parties<P> {
    fn default() -> Self {
        Self { slots: Vec::new(), names: BTreeMap::new(), free: Vec::new() }
    }
}

impl<P: Copy + Ord> Parties<P> {
    pub(super) fn slot(&self, name: P) -> Option<Slot> {
        self.names.get(&name).copied()
    }

    pub(super) fn add(&mut self, name: P) -> Slot {
        if let Some(slot) = self.slot(name) {
            return slot;
        }
        let slot = self.free.pop().unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(None);
        }
        self.slots[slot] = Some(Party {
            name,
            whole: false,
            have: Bits::default(),
            member: None,
            uploads: 0,
            ending: 0,
            sent: 0,
            avoided_until: None,
            avoided_before: 0,
            failed: None,
            giving: Pace::default(),
            gave_at: Duration::ZERO,
            is_slow: false,
        });
        self.names.insert(name, slot);
        slot
    }

    pub(super) fn remove(&mut self, slot: Slot) {
        if let Some(party) = self.slots.get_mut(slot).and_then(Option::take) {
            self.names.remove(&party.name);
            self.free.push(slot);
        }
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&Party<P>> {
        self.slots.get(slot)?.as_ref()
    }

    pub(super) fn member(&self, slot: Slot) -> Option<&Member> {
        self.get(slot)?.member.as_ref()
    }

    pub(super) fn member_mut(&mut self, slot: Slot) -> Option<&mut Member> {
        self.slots.get_mut(slot)?.as_mut()?.member.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Party<P>)> {
        self.slots.iter().enumerate().filter_map(|(slot, party)| Some((slot, party.as_ref()?)))
    }

    pub(super) fn members(&self) -> impl Iterator<Item = (Slot, &Member)> {
        self.iter().filter_map(|(slot, party)| Some((slot, party.member.as_ref()?)))
    }

    pub(super) fn members_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Member)> {
        let slots = self.slots.iter_mut().enumerate();
        slots.filter_map(|(slot, party)| Some((slot, party.as_mut()?.member.as_mut()?)))
    }

    /// Bytes that it takes, about.
    pub(super) fn memory(&self) -> usize {
        let of_member = |member: &Member| {
            let entries = member.grants.len()
                + member.refused.len()
                + member.shunned.len()
                + member.doubted.len()
                + member.in_vain.len();
            entries * 48 + member.telling.as_ref().map_or(0, |(leaves, _)| leaves.memory())
        };
        let of_party = |party: &Party<P>| party.have.memory() + party.member.as_ref().map_or(0, of_member);
        self.slots.capacity() * size_of::<Option<Party<P>>>()
            + self.names.len() * (size_of::<P>() + 16)
            + self.iter().map(|(_, party)| of_party(party)).sum::<usize>()
    }
}

/// A slot that is known to be taken: grants, readers and orders name only such.
impl<P> Index<Slot> for Parties<P> {
    type Output = Party<P>;

    fn index(&self, slot: Slot) -> &Party<P> {
        self.slots[slot].as_ref().expect("a party leaves all tables when its slot is freed")
    }
}

impl<P> IndexMut<Slot> for Parties<P> {
    fn index_mut(&mut self, slot: Slot) -> &mut Party<P> {
        self.slots[slot].as_mut().expect("a party leaves all tables when its slot is freed")
    }
}

impl Member {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            grants: BTreeMap::new(),
            reading: None,
            is_fresh: false,
            cut: None,
            wanted: 0..0,
            waits_since: now,
            taking: Pace::default(),
            busy_since: None,
            slots: 0,
            blobs: None,
            upstream: true,
            ranges: Ranges::Unknown,
            crowd: None,
            upstream_avoided_until: Duration::ZERO,
            refused: BTreeMap::new(),
            shunned: BTreeMap::new(),
            doubted: BTreeSet::new(),
            in_vain: BTreeMap::new(),
            lapses: 0,
            open: None,
            restate: false,
            telling: None,
            heard: now,
            place: 0,
        }
    }

    /// Whether leaves come to it far more slowly than is usual.
    pub(super) fn is_slow(&self, usual: Option<Duration>, now: Duration) -> bool {
        // Of one to which nothing has come yet, so much is known: a leaf takes longer than the time since.
        let own = self.taking.get().or_else(|| self.busy_since.map(|since| (now - since) / self.under_way().max(1)));
        own.is_some_and(|own| pace::is_slow(own, usual))
    }

    /// Leaves under way to it.
    pub(super) fn under_way(&self) -> u32 {
        u32::try_from(self.grants.len()).unwrap_or(u32::MAX).saturating_add(u32::from(self.reading.is_some()))
    }

    /// Leaves under way from peers that should be there soon.
    pub(super) fn ending(&self) -> usize {
        self.grants.values().filter(|granted| granted.is_ending).count()
    }

    /// A leaf has come.
    pub(super) fn took(&mut self, now: Duration) {
        self.busy_since = (self.under_way() > 0).then_some(now);
        self.lapses = 0;
    }

    /// Whether it may be sent to `source` for `leaf`.
    pub(super) fn accepts(&self, leaf: usize, source: Slot) -> bool {
        !self.refused.contains_key(&(leaf, source)) && !self.shunned.contains_key(&source)
    }

    /// Whether it has misgivings about any leaf or source.
    pub(super) fn is_picky(&self) -> bool {
        !(self.refused.is_empty() && self.shunned.is_empty() && self.doubted.is_empty())
    }
}
