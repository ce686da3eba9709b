//! How many leaves a member takes at once.
//!
//! On a slow link several at once come as late as all of them together, and none in time for a reader; on a quick one a single leaf leaves the
//! link idle between two. So a member begins with one and takes more while they come quickly.

use std::time::Duration;

/// While a leaf takes no longer, one more is taken at once.
const QUICK: Duration = Duration::from_millis(1000);

/// When a leaf takes longer, half as many are.
const LONG: Duration = Duration::from_millis(2500);

/// A number of leaves, from one to a limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    size: u32,
    most: u32,
}

impl Window {
    pub(crate) fn new(most: u32) -> Self {
        Self { size: most.min(1), most }
    }

    pub(crate) fn get(self) -> u32 {
        self.size
    }

    /// A leaf from a peer took so long.
    pub(crate) fn learn(&mut self, took: Duration) {
        if took <= QUICK {
            self.size = (self.size + 1).min(self.most);
        } else if took > LONG {
            self.size = (self.size / 2).max(self.most.min(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_link_takes_all_that_it_may_and_a_slow_one_leaf_by_leaf() {
        let mut window = Window::new(4);
        assert_eq!(window.get(), 1);
        for _ in 0..9 {
            window.learn(QUICK);
        }
        assert_eq!(window.get(), 4);
        window.learn(LONG);
        assert_eq!(window.get(), 4, "in between it stays");
        for _ in 0..9 {
            window.learn(LONG * 2);
        }
        assert_eq!(window.get(), 1);
    }
}
