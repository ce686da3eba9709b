//! How long to wait before trying again. Pure: attempt and randomness come in, a duration comes out.

use std::time::Duration;

/// Waits that double from `base` up to `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub base: Duration,
    /// The longest wait of all.
    pub cap: Duration,
}

impl Backoff {
    /// The wait before attempt `attempt + 1`, where `random` is uniform in `0.0..1.0`.
    ///
    /// Half of the wait is fixed, so that there is one, and half is random, so that nodes that failed together do not
    /// come back together.
    pub fn wait(&self, attempt: u32, random: f64) -> Duration {
        let doubled = self.base.saturating_mul(1u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX));
        let full = doubled.min(self.cap);
        full / 2 + (full / 2).mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(2) };

    #[test]
    fn waits_double_up_to_the_cap_and_vary_by_half() {
        for (attempt, full) in [(0, 100), (1, 200), (2, 400), (4, 1600), (5, 2000), (31, 2000), (u32::MAX, 2000)] {
            let full = Duration::from_millis(full);
            assert_eq!(BACKOFF.wait(attempt, 0.0), full / 2);
            assert_eq!(BACKOFF.wait(attempt, 1.0), full);
            assert_eq!(BACKOFF.wait(attempt, 0.5), full * 3 / 4);
        }
    }

    #[test]
    fn randomness_out_of_its_bounds_changes_nothing() {
        assert_eq!(BACKOFF.wait(0, 7.0), BACKOFF.wait(0, 1.0));
        assert_eq!(BACKOFF.wait(0, -1.0), BACKOFF.wait(0, 0.0));
    }
}
