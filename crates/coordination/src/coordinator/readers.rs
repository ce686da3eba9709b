//! How many members read from upstream at once, and how many leaves each is lent at a time.
//!
//! Upstream's link is shared by all that read: the fewer there are, the sooner is each leaf there to be passed on. So few begin, and one more
//! may with each leaf that lands, up to what a blob has of [`Limits::readers`](crate::Limits::readers). Where upstream is far away or slow to
//! begin, as many leave its link idle: there a leaf takes no longer for others being read beside it. While it is so, more and more read at
//! once, and each is lent longer runs.

use std::time::Duration;

/// Members that read at once before anything has come.
const FIRST: usize = 2;

/// Members that may read at once beyond the usual number, at the most.
const MOST_MORE: usize = 32;

/// So many more lengthen a run by one leaf.
const MORE_FOR_A_LEAF: usize = 4;

/// What upstream has shown.
#[derive(Debug, Default)]
pub(super) struct Readers {
    landed: usize,
    /// What the first leaf of a run takes when it comes soonest.
    soonest: Option<Duration>,
    /// How many may read at once beyond the usual number.
    more: usize,
}

impl Readers {
    /// How many may read at once, where `usual` do usually.
    pub(super) fn at_once(&self, usual: usize) -> usize {
        (usual + self.more).min(FIRST + self.landed)
    }

    /// Leaves that one is lent at a time, `longest` at the most.
    pub(super) fn run(&self, longest: usize) -> usize {
        (1 + self.more / MORE_FOR_A_LEAF).min(longest)
    }

    /// A leaf has landed.
    pub(super) fn landed(&mut self) {
        self.landed += 1;
    }

    /// The first leaf of a run took so long from when it was lent.
    pub(super) fn began(&mut self, took: Duration) {
        // What was long ago counts less and less.
        let soonest = self.soonest.map_or(took, |soonest| took.min(soonest + soonest / 64));
        self.soonest = Some(soonest);
        if took <= soonest * 3 / 2 {
            self.more = (self.more + 1).min(MOST_MORE);
        } else if took > soonest * 5 / 2 {
            self.more = self.more.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn few_begin_and_more_follow_up_to_the_usual_number_where_a_link_is_shared() {
        let mut readers = Readers::default();
        assert_eq!(readers.at_once(8), 2);
        for landed in 1..20 {
            let reading = readers.at_once(8) as u32;
            readers.began(100 * MS * reading);
            readers.landed();
            assert!(readers.at_once(8) <= (2 + landed).min(10), "{readers:?}");
        }
        assert!(readers.at_once(8) >= 8);
        assert_eq!(readers.run(8), 1, "{readers:?}");
    }

    #[test]
    fn more_and_more_read_longer_runs_where_each_takes_no_longer_for_it() {
        let mut readers = Readers::default();
        for _ in 0..100 {
            readers.began(1000 * MS);
            readers.landed();
        }
        assert_eq!((readers.at_once(8), readers.run(8)), (8 + MOST_MORE, 8));
        for _ in 0..MOST_MORE {
            readers.began(5000 * MS);
        }
        assert_eq!(readers.run(8), 1, "{readers:?}");
    }
}
