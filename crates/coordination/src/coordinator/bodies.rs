//! Who reads where upstream ignores ranges: each read of it begins with the first byte of the blob.
//!
//! Were leaves lent one by one there, each reader would have all that comes before its leaf sent too, and thrown away. So one member alone
//! reads, all that nobody has, and stores what passes; the others have it from there. When it dies, stalls or fails, another takes over, and
//! must let pass what is there already.
//!
//! It is so where a member says that upstream ignores ranges, and none that it gives them: one that lies makes no swarm slow that has seen
//! better.

use std::ops::Range;

use super::{Coordinator, parties::Slot};
use crate::message::Ranges;

/// What members say of how upstream sends the blob, and who reads it as a whole.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    /// Members that say that ranges are given, and that they are ignored.
    given: usize,
    ignored: usize,
    reader: Option<Reader>,
}

#[derive(Debug)]
struct Reader {
    slot: Slot,
    /// The leaf that its body has come to, as far as is known.
    position: usize,
}

impl Bodies {
    /// A member said one thing before, and says another now.
    pub(super) fn said(&mut self, before: Ranges, now: Ranges) {
        if let Some(count) = self.count(before) {
            *count -= 1;
        }
        if let Some(count) = self.count(now) {
            *count += 1;
        }
    }

    fn count(&mut self, ranges: Ranges) -> Option<&mut usize> {
        match ranges {
            Ranges::Unknown => None,
            Ranges::Given => Some(&mut self.given),
            Ranges::Ignored => Some(&mut self.ignored),
        }
    }

    /// Whether every read begins with the blob's first byte.
    pub(super) fn are_whole(&self) -> bool {
        self.ignored > 0 && self.given == 0
    }

    /// A leaf that was lent to a member has landed there.
    pub(super) fn passed(&mut self, slot: Slot, leaf: usize) {
        if let Some(reader) = self.reader.as_mut().filter(|reader| reader.slot == slot) {
            reader.position = reader.position.max(leaf + 1);
        }
    }

    /// A member reads no longer.
    pub(super) fn stopped(&mut self, slot: Slot) {
        self.reader.take_if(|reader| reader.slot == slot);
    }

    /// Leaves that a member must let pass before the next that it is to read comes.
    pub(super) fn to_pass(&self, slot: Slot, next: usize) -> usize {
        let reader = self.reader.as_ref().filter(|reader| reader.slot == slot);
        reader.map_or(0, |reader| next.saturating_sub(reader.position))
    }
}

impl<P: Copy + Ord> Coordinator<P> {
    /// The run that a member is lent which is to read a whole body, for the sake of leaf `first` and all that follow.
    pub(super) fn lend_body(&mut self, slot: Slot, first: usize) -> Range<usize> {
        self.bodies.reader = Some(Reader { slot, position: 0 });
        let end = self.parties.member(slot).map_or(first, |member| member.wanted.end);
        first..end.max(first + 1)
    }

    /// A member says that it reads by itself, or no longer does: it goes on if nobody else reads.
    pub(super) fn reads_body(&mut self, slot: Slot, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        if self.reading > 0 {
            self.cut_off(slot);
            return;
        }
        self.lent_all(slot, range);
    }

    /// Lets one member alone read: who says first that it is sent the whole has all lent to it that nobody has, and the others are cut off.
    pub(super) fn one_reads(&mut self, asker: Slot) {
        let is_sent_all = |member: &super::Member| member.reading.is_some() && member.ranges == Ranges::Ignored;
        if self.bodies.reader.is_none() && self.parties.member(asker).is_some_and(is_sent_all) {
            self.stop_reading(asker);
            self.lent_all(asker, 0..self.leaves.len());
        }
        let Some(reader) = self.bodies.reader.as_ref().map(|reader| reader.slot) else { return };
        if self.reading < 2 {
            return;
        }
        let is_other = |slot: &Slot| *slot != reader;
        let readers = self.parties.members().filter(|(_, member)| member.reading.is_some()).map(|(slot, _)| slot);
        for other in readers.filter(is_other).collect::<Vec<_>>() {
            self.stop_reading(other);
            self.cut_off(other);
        }
        for leaf in (0..self.leaves.len()).filter(|leaf| self.is_to_read(reader, *leaf)).collect::<Vec<_>>() {
            self.lend_leaf(reader, leaf);
        }
    }

    /// A member reads from the blob's first byte on: whatever of a run nobody has or reads is lent to it.
    fn lent_all(&mut self, slot: Slot, range: Range<usize>) {
        let now = self.clock.passed();
        let leaves: Vec<usize> = range.filter(|leaf| self.is_to_read(slot, *leaf)).collect();
        let (Some(first), Some(last)) = (leaves.first(), leaves.last()) else { return self.cut_off(slot) };
        let run = *first..*last + 1;
        for leaf in leaves {
            self.lend_leaf(slot, leaf);
        }
        self.bodies.reader = Some(Reader { slot, position: 0 });
        if let Some(member) = self.parties.member_mut(slot) {
            member.reading = Some((run, now));
            self.reading += 1;
        }
    }

    /// A member is to stop reading, at once or when it asks next.
    fn cut_off(&mut self, slot: Slot) {
        if let Some(member) = self.parties.member_mut(slot) {
            member.cut = Some(0);
        }
        self.reply(slot);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use shoal_content::{LEAF_SIZE, LeafSet};

    use super::*;
    use crate::{Ask, Full, Limits, Reply};

    const LEAVES: u64 = 10;
    const NOW: Duration = Duration::from_millis(100);
    static NEXT: AtomicU64 = AtomicU64::new(1);

    /// The answer to a member's next request; `None` where it is kept open.
    fn asked(coordinator: &mut Coordinator<u32>, peer: u32, ranges: Ranges) -> Option<Reply<u32>> {
        asked_at(coordinator, peer, ranges, NOW)
    }

    fn asked_at(coordinator: &mut Coordinator<u32>, peer: u32, ranges: Ranges, now: Duration) -> Option<Reply<u32>> {
        let sequence = NEXT.fetch_add(1, Ordering::Relaxed);
        let is_new = coordinator.parties.slot(peer).is_none();
        let nothing =
            || Full { leaves: LeafSet::empty(LEAVES), hashes: Vec::new(), fetching: Vec::new(), reading: (0, 0) };
        let ask = Ask {
            sequence,
            size: Some(LEAVES * LEAF_SIZE),
            full: is_new.then(nothing),
            landed: Vec::new(),
            failed: Vec::new(),
            slots: 0,
            blobs: 1,
            upstream: true,
            ranges,
            wanted: (0, LEAVES),
            crowd: None,
        };
        let replies = coordinator.ask(peer, ask, now);
        replies.into_iter().find(|(to, reply)| *to == peer && reply.sequence == sequence).map(|(_, reply)| reply)
    }

    /// Three members, each of which has been lent a leaf, or more.
    fn three() -> Coordinator<u32> {
        let mut coordinator = Coordinator::new(LEAVES * LEAF_SIZE, Limits::default(), Duration::ZERO).unwrap();
        coordinator.search_over(NOW);
        // As many read as ask.
        (0..4).for_each(|_| coordinator.readers.landed());
        assert!(asked(&mut coordinator, 0, Ranges::Unknown).unwrap().read.is_some());
        assert_eq!(asked(&mut coordinator, 0, Ranges::Unknown), None, "its run can be cut from now on");
        for peer in 1..3 {
            assert!(asked(&mut coordinator, peer, Ranges::Unknown).unwrap().read.is_some());
        }
        coordinator
    }

    #[test]
    fn who_is_sent_the_whole_reads_alone_until_it_goes_and_then_another_does() {
        let mut coordinator = three();
        assert_eq!(asked(&mut coordinator, 1, Ranges::Ignored).and_then(|reply| reply.cut), None);
        for other in [0, 2] {
            let reply = asked(&mut coordinator, other, Ranges::Ignored).unwrap();
            assert_eq!((reply.cut, reply.read), (Some(0), None));
            assert_eq!(asked(&mut coordinator, other, Ranges::Ignored), None, "it waits for what the other reads");
        }
        assert_eq!(asked(&mut coordinator, 3, Ranges::Unknown).and_then(|reply| reply.read), None);
        let lent: Vec<(u64, u64)> = coordinator.gone(1, NOW).into_iter().filter_map(|(_, reply)| reply.read).collect();
        assert_eq!(lent, [(0, LEAVES)]);
    }

    #[test]
    fn one_that_says_that_ranges_are_ignored_and_reads_nothing_holds_nobody_up_for_long() {
        let mut coordinator = Coordinator::new(LEAVES * LEAF_SIZE, Limits::default(), Duration::ZERO).unwrap();
        coordinator.search_over(NOW);
        assert_eq!(asked(&mut coordinator, 0, Ranges::Ignored).unwrap().read, Some((0, LEAVES)));
        let mut lent = Vec::new();
        let end = Limits::default().silence + Duration::from_millis(200);
        let mut now = NOW;
        // All go on asking, as honest members do and as a liar can.
        while now < end && lent.is_empty() {
            now += Duration::from_millis(20);
            for peer in 0..3 {
                let ranges = if peer == 0 { Ranges::Ignored } else { Ranges::Unknown };
                lent.extend(asked_at(&mut coordinator, peer, ranges, now).and_then(|reply| reply.read).map(|_| peer));
            }
            let replies = coordinator.tick(now);
            lent.extend(replies.into_iter().filter(|(_, reply)| reply.read.is_some()).map(|(peer, _)| peer));
        }
        assert!(lent.iter().any(|peer| *peer != 0), "{lent:?} by {now:?}");
    }

    #[test]
    fn one_that_says_that_ranges_are_ignored_stops_nobody_who_is_given_them() {
        let mut coordinator = three();
        asked(&mut coordinator, 0, Ranges::Given);
        asked(&mut coordinator, 1, Ranges::Ignored);
        assert_eq!(asked(&mut coordinator, 2, Ranges::Unknown).and_then(|reply| reply.cut), None);
        assert!(asked(&mut coordinator, 3, Ranges::Unknown).and_then(|reply| reply.read).is_some());
    }
}
