//! Who can be asked for which leaf, and how busy each is.

use super::parties::{Member, Parties, Slot};
use crate::bits::{Bits, ones};

/// Of equally busy sources so many are looked at for the one that has sent least.
const COMPARED: usize = 8;

/// Parties that are not passed over, by what they have and by how many leaves they are sending.
#[derive(Debug)]
pub(super) struct Sources {
    /// For each leaf a row of bits, one for each slot; those with the whole blob are not in it.
    rows: Vec<u64>,
    /// Words of a row.
    width: usize,
    /// Slots with some leaves, by uploads: 0, 1 … and none that sends all it may.
    partial: Vec<Bits>,
    /// Slots with the whole blob, likewise.
    whole: Vec<Bits>,
    /// Those with the whole blob, busy or not.
    wholes: Bits,
    /// Slots whose links are far slower than the others', and that send nothing.
    slow: Bits,
    /// Leaves that a source sends at once: so many levels count as free.
    most: usize,
}

/// What a party can send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub uploads: u32,
    pub is_whole: bool,
    pub is_slow: bool,
}

impl Sources {
    pub(super) fn new(leaves: usize, uploads: u32) -> Self {
        let levels = uploads.max(1) as usize;
        Self {
            rows: vec![0; leaves],
            width: 1,
            partial: vec![Bits::default(); levels],
            whole: vec![Bits::default(); levels],
            wholes: Bits::default(),
            slow: Bits::default(),
            most: levels,
        }
    }

    /// Leaves that a source sends at once from now on.
    pub(super) fn limit(&mut self, most: u32) {
        self.most = (most as usize).clamp(1, self.partial.len());
    }

    /// A leaf can, or can no longer, be had from a party.
    pub(super) fn set(&mut self, leaf: usize, slot: Slot, is_there: bool) {
        if slot / 64 >= self.width {
            self.widen(slot / 64 + 1);
        }
        let word = &mut self.rows[leaf * self.width + slot / 64];
        let bit = 1 << (slot % 64);
        *word = if is_there { *word | bit } else { *word & !bit };
    }

    fn widen(&mut self, width: usize) {
        let width = width.next_power_of_two();
        let leaves = self.rows.len() / self.width;
        let mut rows = vec![0; leaves * width];
        for (wide, narrow) in rows.chunks_mut(width).zip(self.rows.chunks(self.width)) {
            wide[..self.width].copy_from_slice(narrow);
        }
        (self.rows, self.width) = (rows, width);
    }

    /// Puts a party where it belongs; `None` when it is passed over.
    pub(super) fn place(&mut self, slot: Slot, load: Option<Load>) {
        let is_whole = load.is_some_and(|load| load.is_whole);
        let is_slow = load.is_some_and(|load| load.is_slow);
        let uploads = load.map(|load| load.uploads as usize);
        for (level, (partial, whole)) in self.partial.iter_mut().zip(&mut self.whole).enumerate() {
            let is_here = uploads == Some(level) && !is_slow;
            partial.set(slot, is_here && !is_whole);
            whole.set(slot, is_here && is_whole);
        }
        self.wholes.set(slot, is_whole);
        // Over a slow link one leaf at a time is as fast as several, and each is there sooner.
        self.slow.set(slot, is_slow && uploads == Some(0));
    }

    /// Whether anybody is free to send anything.
    pub(super) fn any_free(&self) -> bool {
        self.levels().any(|level| !level.is_empty())
    }

    /// Those that are free to send, the least busy first, members before holders.
    pub(super) fn free(&self) -> impl Iterator<Item = Slot> + '_ {
        self.levels().flat_map(Bits::iter)
    }

    fn levels(&self) -> impl Iterator<Item = &Bits> {
        self.partial.iter().take(self.most).chain(self.whole.iter().take(self.most)).chain([&self.slow])
    }

    /// Whether anybody has the whole blob.
    pub(super) fn any_whole(&self) -> bool {
        !self.wholes.is_empty()
    }

    /// Those that have a leaf, those with the whole blob last.
    pub(super) fn of(&self, leaf: usize) -> impl Iterator<Item = Slot> + '_ {
        let row = &self.rows[leaf * self.width..(leaf + 1) * self.width];
        let partial = row.iter().enumerate().flat_map(|(at, word)| ones(*word).map(move |bit| at * 64 + bit));
        partial.chain(self.wholes.iter())
    }

    /// Whom `taker` should get a leaf from: a member before a holder, so that what is scarce is spared; then who sends least now; then
    /// who has sent least so far. One with a slow link at last, and only where the leaf is not `on_its_way`: who takes it passes it on
    /// sooner than that one could.
    pub(super) fn pick<P: Copy + Ord>(
        &self,
        leaf: usize,
        taker: Slot,
        member: &Member,
        parties: &Parties<P>,
        on_its_way: bool,
    ) -> Option<Slot> {
        let row = &self.rows[leaf * self.width..(leaf + 1) * self.width];
        let least_sent = |level: &Bits, has_it: &dyn Fn(usize) -> u64| {
            let here =
                (0..level.words()).flat_map(|at| ones(level.word(at) & has_it(at)).map(move |bit| at * 64 + bit));
            let fit = here.filter(|slot| *slot != taker && member.accepts(leaf, *slot)).take(COMPARED);
            fit.min_by_key(|slot| parties[*slot].sent)
        };
        let has_part = |at: usize| row.get(at).copied().unwrap_or(0);
        let partial = self.partial.iter().take(self.most).filter(|level| !level.is_empty());
        let whole = self.whole.iter().take(self.most).filter(|level| !level.is_empty());
        partial
            .map(|level| least_sent(level, &has_part))
            .chain(whole.map(|level| least_sent(level, &|_| u64::MAX)))
            .chain((!on_its_way).then(|| least_sent(&self.slow, &|at| has_part(at) | self.wholes.word(at))))
            .find_map(|source| source)
    }

    /// Bytes that it takes, about.
    pub(super) fn memory(&self) -> usize {
        self.rows.capacity() * 8
    }
}
