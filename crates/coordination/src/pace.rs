//! How fast a peer's link is, judged by how long leaves take over it.
//!
//! A transfer is as slow as the slower of its two ends, and as many others as share them make it. So a peer is judged by the quickest of its
//! transfers of late, each divided by how many there were at once: a slow link never shows a quick one, and a quick link shows one as soon as
//! it meets another quick one.

use std::time::Duration;

/// A peer is slow when its leaves take so many times what is usual.
const SLOWER: u32 = 3;

/// What takes no longer holds nobody up, however quick the others are.
const QUICK: Duration = Duration::from_millis(50);

/// The quickest transfer of late of one peer in one direction; slower ones move it slowly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace(Option<Duration>);

impl Pace {
    /// A leaf took so long as one of some at once.
    pub(crate) fn learn(&mut self, took: Duration, at_once: u32) {
        let took = took / at_once.max(1);
        self.0 = Some(match self.0 {
            Some(best) if took > best => best + (took - best) / 8,
            _ => took,
        });
    }

    /// What a leaf takes, where one has landed.
    pub(crate) fn get(self) -> Option<Duration> {
        self.0
    }
}

/// The pace of the half that is quicker: what is usual. None of nobody.
pub(crate) fn usual(paces: impl Iterator<Item = Duration>) -> Option<Duration> {
    let mut paces: Vec<Duration> = paces.collect();
    let middle = paces.len().checked_sub(1)? / 2;
    Some(*paces.select_nth_unstable(middle).1)
}

/// Whether a peer whose leaves take `own` is to be spared what others wait for.
pub(crate) fn is_slow(own: Duration, usual: Option<Duration>) -> bool {
    usual.is_some_and(|usual| own > QUICK && own > usual * SLOWER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peer_is_judged_by_its_quickest_transfers_and_against_the_others() {
        let mut pace = Pace::default();
        for took in [2000, 300, 2000, 2000] {
            pace.learn(took * MS, 1);
        }
        assert!(pace.get().unwrap() < 800 * MS, "{pace:?}");
        for _ in 0..50 {
            pace.learn(8000 * MS, 4);
        }
        assert!(pace.get().unwrap() > 1900 * MS, "a link that has become slow is known to be: {pace:?}");
        let usual = usual([300, 310, 290, 3000].map(|ms| ms * MS).into_iter());
        assert_eq!(usual, Some(300 * MS));
        assert!(is_slow(3000 * MS, usual) && !is_slow(800 * MS, usual));
        assert!(!is_slow(40 * MS, Some(5 * MS)), "what takes no time holds nobody up");
        assert!(!is_slow(3000 * MS, None));
    }
}
