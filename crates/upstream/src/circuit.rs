//! Remembers for a moment who cannot be reached, so that the next request fails at once instead of after a time-out.
//!
//! Pure: the caller says what happened and when. A host that gave no answer is not asked for a time that doubles with
//! every failure in a row; after it, one request may try, and the others wait for how that one fares. A request
//! that tries has a lease: one that is dropped on the way blocks nobody for ever.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Hosts remembered at once. Each entry is a host that failed; when the table is full, the one that may be tried
/// soonest is forgotten, which costs a time-out and nothing else.
const MAX_HOSTS: usize = 1024;

/// The circuits of all hosts.
#[derive(Debug)]
pub(crate) struct Circuits {
    first: Duration,
    longest: Duration,
    lease: Duration,
    open: HashMap<String, Open>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    pause: Duration,
    until: Instant,
    probe_until: Option<Instant>,
}

/// Whether a host may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Nothing is known against it.
    Free,
    /// It failed lately, and this request is the one that finds out whether it is back: one attempt, no retries.
    Probe,
    /// It failed lately: not before this much time.
    Blocked(Duration),
}

impl Circuits {
    /// Pauses from `first` up to `longest`; a probe may take `lease`.
    pub(crate) fn new(first: Duration, longest: Duration, lease: Duration) -> Self {
        Self { first, longest, lease, open: HashMap::new() }
    }

    /// Whether `host` may be asked now.
    pub(crate) fn admit(&mut self, host: &str, now: Instant) -> Admission {
        let Some(open) = self.open.get_mut(host) else { return Admission::Free };
        if now < open.until {
            return Admission::Blocked(open.until - now);
        }
        match open.probe_until {
            Some(until) if now < until => Admission::Blocked(until - now),
            _ => {
                open.probe_until = Some(now + self.lease);
                Admission::Probe
            }
        }
    }

    /// `host` answered, whatever it said.
    pub(crate) fn answered(&mut self, host: &str) {
        self.open.remove(host);
    }

    /// `host` gave no answer.
    pub(crate) fn failed(&mut self, host: &str, now: Instant) {
        let pause = match self.open.get(host) {
            // Requests that were under way together fail together: they count once.
            Some(open) if now < open.until => return,
            Some(open) => open.pause.saturating_mul(2).min(self.longest),
            None => self.first,
        };
        if self.open.len() >= MAX_HOSTS && !self.open.contains_key(host) {
            let soonest = self.open.iter().min_by_key(|(_, open)| open.until).map(|(host, _)| host.clone());
            if let Some(soonest) = soonest {
                self.open.remove(&soonest);
            }
        }
        self.open.insert(host.to_owned(), Open { pause, until: now + pause, probe_until: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn circuits() -> Circuits {
        Circuits::new(SECOND, 30 * SECOND, 5 * SECOND)
    }

    #[test]
    fn a_host_that_failed_is_left_alone_and_then_tried_by_one_request() {
        let (mut circuits, start) = (circuits(), Instant::now());
        assert_eq!(circuits.admit("a", start), Admission::Free);
        circuits.failed("a", start);
        assert_eq!(circuits.admit("a", start), Admission::Blocked(SECOND));
        assert_eq!(circuits.admit("b", start), Admission::Free);
        let later = start + SECOND;
        assert_eq!(circuits.admit("a", later), Admission::Probe);
        assert_eq!(circuits.admit("a", later), Admission::Blocked(5 * SECOND));
        circuits.answered("a");
        assert_eq!(circuits.admit("a", later), Admission::Free);
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (mut circuits, mut now) = (circuits(), Instant::now());
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            circuits.failed("a", now);
            assert_eq!(circuits.admit("a", now), Admission::Blocked(pause * SECOND));
            now += pause * SECOND;
            assert_eq!(circuits.admit("a", now), Admission::Probe);
        }
    }

    #[test]
    fn failures_of_one_moment_count_once() {
        let (mut circuits, now) = (circuits(), Instant::now());
        for _ in 0..10 {
            circuits.failed("a", now);
        }
        assert_eq!(circuits.admit("a", now), Admission::Blocked(SECOND));
    }

    #[test]
    fn a_probe_that_is_never_heard_of_again_blocks_for_its_lease_only() {
        let (mut circuits, start) = (circuits(), Instant::now());
        circuits.failed("a", start);
        let later = start + SECOND;
        assert_eq!(circuits.admit("a", later), Admission::Probe);
        assert_eq!(circuits.admit("a", later + 5 * SECOND), Admission::Probe);
    }

    #[test]
    fn the_table_is_bounded() {
        let (mut circuits, now) = (circuits(), Instant::now());
        for host in 0..2 * MAX_HOSTS {
            circuits.failed(&host.to_string(), now);
        }
        assert_eq!(circuits.open.len(), MAX_HOSTS);
    }
}
