//! Time that only goes forward, and never far at once.

use std::time::Duration;

/// A node's clock may be put back, or forward by an hour; a node may be suspended. Either would make leases eternal or end all of them at
/// once, so what counts here is how far the clock moves from one look to the next, and that within bounds: back counts as not at all, and
/// a leap as [`Clock::longest`].
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    shown: Duration,
    /// What has passed since the beginning.
    passed: Duration,
    longest: Duration,
}

impl Clock {
    /// A clock that shows `now`. Between two looks at it at most `longest` passes.
    pub(crate) fn new(now: Duration, longest: Duration) -> Self {
        Self { shown: now, passed: Duration::ZERO, longest }
    }

    /// The clock shows `now`; gives what has passed in all.
    pub(crate) fn look(&mut self, now: Duration) -> Duration {
        self.passed += now.saturating_sub(self.shown).min(self.longest);
        self.shown = now;
        self.passed
    }

    /// A number that nobody can foresee: the nanoseconds of the last look.
    pub(crate) fn chance(&self) -> u64 {
        u64::from(self.shown.subsec_nanos())
    }

    /// What had passed at the last look.
    pub(crate) fn passed(&self) -> Duration {
        self.passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_is_a_second_and_a_step_back_is_nothing() {
        let second = Duration::from_secs(1);
        let mut clock = Clock::new(100 * second, second);
        assert_eq!(clock.look(100 * second + second / 2), second / 2);
        assert_eq!(clock.look(4000 * second), second * 3 / 2);
        assert_eq!(clock.look(second), second * 3 / 2);
        assert_eq!(clock.look(second * 3 / 2), second * 2);
    }
}
