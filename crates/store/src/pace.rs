//! Past the page cache or through it: which way the next leaf is written. Pure.
//!
//! Past it (`O_DIRECT`) a leaf costs hardly any processor time, but whoever writes it waits for the disk. Through it the writer waits only for
//! a copy, and the disk is written to later. So a disk that is quick gets its leaves directly, and one that is not through the page cache,
//! with a single direct write now and then to see whether it has become quick.
//!
//! **What is measured.** Several leaves are written at a time, of one blob and of many, and each waits for those before it: its own time grows
//! with their number, though the disk is no slower. What says how quick the disk is, is the time from one end to the next, or from its
//! beginning where nothing was under way: the sum of these is the time in which the disk was busy for us. So the machine is one for a
//! whole store, and is told of beginnings and ends, not of durations.
//!
//! What others do to the disk meanwhile counts too, as it should: our readers wait for it.

use std::time::{Duration, Instant};

/// A leaf is not to take the disk longer than this: 125 MiB/s, about what a network of 1 Gbit/s brings. A slower disk would hold up what comes over
/// most networks, while the processor time that direct writes save (1.5 s/GiB) is less than a fifth of a core at such a rate. Disks are mostly far
/// from it: a SATA SSD takes 2 ms, a hard disk or a small network volume 8 to 40.
const SLOW: Duration = Duration::from_millis(8);

/// A leaf counts no more than so much, so that one hiccup (a journal's commit, a thread that was not run) does not decide: it takes
/// three or four leaves as slow as this in a row, and a dozen that are a little slower than [`SLOW`].
const MOST_COUNTED: Duration = SLOW.saturating_mul(3);

/// The mean follows a leaf by one part in so many.
const WEIGHT: u32 = 8;

/// Leaves written through the page cache until a direct write is tried again, at first; twice as many after each that was slow.
const REST: u32 = 64;

/// The most that it gets to be. At 125 MiB/s these are 8 s, in which one leaf that waits, be it for 100 ms, is little.
const LONGEST_REST: u32 = 1024;

/// After so long it is tried again, however few leaves were written: the disk may have been busy with what is over.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How a leaf is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Past the page cache. Whoever got this says how it ended, by [`Pace::done`], [`Pace::failed`] or [`Pace::refused`].
    Direct,
    /// Through it.
    Cached,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pace {
    state: State,
    /// When a direct write last ended.
    ended: Option<Instant>,
    /// How many leaves are written through the page cache the next time that the disk is slow.
    rest: u32,
}

#[derive(Debug)]
enum State {
    /// Directly; what a leaf takes in the mean.
    Quick(Duration),
    /// Through the page cache, for so many leaves more, or until then.
    Resting { left: u32, until: Instant },
    /// Through the page cache, while one is written directly to see.
    Trying,
    /// Through the page cache, for good.
    Off,
}

impl Pace {
    /// For a disk of which nothing is known: taken for quick.
    pub(crate) fn new() -> Self {
        Self { state: State::Quick(Duration::ZERO), ended: None, rest: REST }
    }

    /// Never directly.
    pub(crate) fn off() -> Self {
        Self { state: State::Off, ..Self::new() }
    }

    /// Whether no leaf is ever written directly.
    pub(crate) fn is_off(&self) -> bool {
        matches!(self.state, State::Off)
    }

    /// How the next leaf is to be written.
    pub(crate) fn next(&mut self, now: Instant) -> Way {
        match &mut self.state {
            State::Quick(_) => Way::Direct,
            State::Resting { left, until } => {
                *left = left.saturating_sub(1);
                if *left > 0 && now < *until {
                    return Way::Cached;
                }
                self.state = State::Trying;
                Way::Direct
            }
            State::Trying | State::Off => Way::Cached,
        }
    }

    /// A leaf was written directly, begun and ended then.
    pub(crate) fn done(&mut self, begun: Instant, now: Instant) {
        let since = self.ended.map_or(begun, |ended| ended.max(begun));
        let took = now.saturating_duration_since(since).min(MOST_COUNTED);
        self.ended = Some(self.ended.map_or(now, |ended| ended.max(now)));
        match &mut self.state {
            State::Quick(mean) => {
                *mean = (*mean * (WEIGHT - 1) + took) / WEIGHT;
                if *mean > SLOW {
                    self.pause(now);
                }
            }
            State::Trying if took > SLOW => self.pause(now),
            State::Trying => {
                self.state = State::Quick(took);
                self.rest = REST;
            }
            // Begun before it was found to be slow.
            State::Resting { .. } | State::Off => {}
        }
    }

    /// A direct write failed, and not because there are none here.
    pub(crate) fn failed(&mut self, now: Instant) {
        match self.state {
            State::Quick(_) | State::Trying => self.pause(now),
            State::Resting { .. } | State::Off => {}
        }
    }

    /// The file system takes no direct writes.
    pub(crate) fn refused(&mut self) {
        self.state = State::Off;
    }

    fn pause(&mut self, now: Instant) {
        self.state = State::Resting { left: self.rest, until: now + LONGEST_PAUSE };
        self.rest = self.rest.saturating_mul(2).min(LONGEST_REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    struct Disk {
        pace: Pace,
        now: Instant,
    }

    impl Disk {
        fn new() -> Self {
            Self { pace: Pace::new(), now: Instant::now() }
        }

        /// Writes a leaf alone, which takes this long if it is written directly.
        fn write(&mut self, took: Duration) -> Way {
            let begun = self.now;
            let way = self.pace.next(begun);
            if way == Way::Direct {
                self.now += took;
                self.pace.done(begun, self.now);
            }
            way
        }

        /// So many leaves of which each takes this long; how many of them were written directly.
        fn writes(&mut self, count: usize, took: Duration) -> usize {
            (0..count).filter(|_| self.write(took) == Way::Direct).count()
        }
    }

    #[test]
    fn a_quick_disk_gets_every_leaf_directly_and_a_hiccup_changes_nothing() {
        let mut disk = Disk::new();
        for _ in 0..100 {
            assert_eq!(disk.writes(20, ms(2)), 20);
            assert_eq!(disk.write(ms(500)), Way::Direct);
        }
    }

    #[test]
    fn a_disk_a_little_below_the_limit_is_quick_for_ever_and_one_above_it_for_some_leaves() {
        assert_eq!(Disk::new().writes(10_000, ms(8)), 10_000);
        let slow = |took| {
            (0..)
                .take_while({
                    let mut disk = Disk::new();
                    move |_| disk.write(took) == Way::Direct
                })
                .count()
        };
        assert_eq!((slow(ms(9)), slow(ms(16)), slow(ms(32)), slow(ms(5000))), (17, 6, 4, 4));
    }

    #[test]
    fn a_slow_disk_is_tried_again_ever_more_seldom_and_by_one_leaf() {
        let mut disk = Disk::new();
        assert_eq!(disk.writes(4, ms(40)), 4);
        for rest in [64, 128, 256, 512, 1024, 1024] {
            assert_eq!(disk.writes(rest - 1, ms(40)), 0, "{rest}");
            assert_eq!(disk.pace.next(disk.now), Way::Direct, "{rest}");
            assert_eq!(disk.pace.next(disk.now), Way::Cached, "while one tries the others do not");
            disk.now += ms(40);
            disk.pace.done(disk.now - ms(40), disk.now);
        }
    }

    #[test]
    fn a_disk_that_has_become_quick_gets_its_leaves_directly_again() {
        let mut disk = Disk::new();
        // The one that tries is slow once more.
        assert_eq!(disk.writes(4 + 64, ms(40)), 5);
        assert_eq!(disk.writes(127, ms(1)), 0);
        assert_eq!(disk.writes(100, ms(1)), 100);
        // And is given as short a rest as the first time.
        assert_eq!(disk.writes(3, ms(100)), 3);
        assert_eq!(disk.writes(63, ms(1)), 0);
        assert_eq!(disk.writes(100, ms(1)), 100);
    }

    #[test]
    fn after_half_a_minute_it_is_tried_again_however_few_leaves_there_were() {
        let mut disk = Disk::new();
        assert_eq!(disk.writes(5, ms(40)), 4);
        disk.now += LONGEST_PAUSE;
        assert_eq!(disk.writes(10, ms(1)), 10);
    }

    #[test]
    fn leaves_that_wait_for_one_another_do_not_make_a_disk_slow() {
        // Sixteen writers; the disk takes 2 ms for a leaf, so each leaf takes 32 ms.
        let mut pace = Pace::new();
        let start = Instant::now();
        let end = |number: u64| start + ms(2) * u32::try_from(number).unwrap();
        for number in 1..1000 {
            assert_eq!(pace.next(end(number)), Way::Direct);
            pace.done(if number <= 16 { start } else { end(number - 16) }, end(number));
        }
        // The same disk, which ends four at a time.
        for number in 250..500 {
            for _ in 0..4 {
                assert_eq!(pace.next(end(number * 4)), Way::Direct);
                pace.done(end(number * 4 - 4), end(number * 4));
            }
        }
    }

    #[test]
    fn as_many_writers_do_not_make_a_slow_disk_quick() {
        let mut pace = Pace::new();
        let start = Instant::now();
        let slow = (1..100u32).find(|number| {
            pace.done(start + ms(20) * number.saturating_sub(16), start + ms(20) * *number);
            pace.next(start + ms(20) * *number) == Way::Cached
        });
        assert_eq!(slow, Some(4));
    }

    #[test]
    fn what_was_under_way_when_the_disk_was_found_slow_decides_nothing() {
        let mut disk = Disk::new();
        let begun = disk.now;
        assert_eq!(disk.writes(4, ms(40)), 4);
        for _ in 0..16 {
            disk.pace.done(begun, disk.now);
        }
        assert_eq!(disk.writes(63, ms(1)), 0);
        assert_eq!(disk.write(ms(1)), Way::Direct);
    }

    #[test]
    fn a_failure_is_a_rest_and_a_refusal_is_for_good() {
        let mut disk = Disk::new();
        assert_eq!(disk.pace.next(disk.now), Way::Direct);
        disk.pace.failed(disk.now);
        assert_eq!(disk.writes(63, ms(1)), 0);
        assert_eq!(disk.pace.next(disk.now), Way::Direct);
        disk.pace.failed(disk.now);
        assert_eq!(disk.writes(127, ms(1)), 0);
        assert_eq!(disk.pace.next(disk.now), Way::Direct);
        assert!(!disk.pace.is_off());
        disk.pace.refused();
        disk.pace.done(disk.now, disk.now);
        disk.pace.failed(disk.now);
        disk.now += 10 * LONGEST_PAUSE;
        assert!(disk.pace.is_off() && disk.writes(5000, ms(1)) == 0);
        assert!(Pace::off().is_off());
    }
}
