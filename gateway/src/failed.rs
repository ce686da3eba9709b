//! Blobs whose body was cut a moment ago. Pure: the clock is passed in.
//!
//! containerd resumes a cut body at the same host, and goes on from upstream at the same offset when that host answers 404.
//! A 206 in its place would turn its parallel fetch back on, which has no second host. So for a while after a cut the
//! open-ended range that follows is refused, and this is the memory of it.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use shoal_content::{Digest, Origin};

/// Most blobs remembered. A node pulls a few dozen at once; when more fail, the oldest has long been asked for again.
const MAX_REMEMBERED: usize = 1024;

type Key = (Origin, Digest);

/// Which blobs failed lately, bounded in number and time.
#[derive(Debug)]
pub struct Failed {
    keep: Duration,
    last: HashMap<Key, Instant>,
    order: VecDeque<(Instant, Key)>,
}

impl Failed {
    /// Remembers each failure for `keep`.
    pub fn new(keep: Duration) -> Self {
        Self { keep, last: HashMap::new(), order: VecDeque::new() }
    }

    /// The body of this blob was cut at `now`.
    pub fn remember(&mut self, origin: &Origin, digest: &Digest, now: Instant) {
        self.forget_old(now);
        let key = (origin.clone(), *digest);
        self.last.insert(key.clone(), now);
        self.order.push_back((now, key));
        while self.order.len() > MAX_REMEMBERED {
            self.drop_oldest();
        }
    }

    /// Whether a body of this blob was cut within the time that is remembered.
    pub fn lately(&mut self, origin: &Origin, digest: &Digest, now: Instant) -> bool {
        self.forget_old(now);
        // Cloning the origin is the price of one map; nothing is looked up while nothing has failed.
        !self.last.is_empty() && self.last.contains_key(&(origin.clone(), *digest))
    }

    fn forget_old(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.front() {
            if now.saturating_duration_since(*at) < self.keep {
                break;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((at, key)) = self.order.pop_front()
            && self.last.get(&key) == Some(&at)
        {
            self.last.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_content::Algorithm;

    use super::*;

    fn origin() -> Origin {
        Origin { registry: "a.b".parse().unwrap(), repository: "app".parse().unwrap() }
    }

    fn digest(number: usize) -> Digest {
        Digest::of(Algorithm::Sha256, &number.to_le_bytes())
    }

    #[test]
    fn a_failure_is_remembered_for_its_time_and_no_longer() {
        let mut failed = Failed::new(Duration::from_secs(30));
        let start = Instant::now();
        failed.remember(&origin(), &digest(1), start);
        assert!(failed.lately(&origin(), &digest(1), start + Duration::from_secs(29)));
        assert!(!failed.lately(&origin(), &digest(2), start));
        let other = Origin { repository: "other".parse().unwrap(), ..origin() };
        assert!(!failed.lately(&other, &digest(1), start));
        assert!(!failed.lately(&origin(), &digest(1), start + Duration::from_secs(30)));
        assert!(failed.last.is_empty() && failed.order.is_empty());
    }

    #[test]
    fn a_second_failure_begins_the_time_again() {
        let mut failed = Failed::new(Duration::from_secs(30));
        let start = Instant::now();
        failed.remember(&origin(), &digest(1), start);
        failed.remember(&origin(), &digest(1), start + Duration::from_secs(20));
        assert!(failed.lately(&origin(), &digest(1), start + Duration::from_secs(45)));
        assert!(!failed.lately(&origin(), &digest(1), start + Duration::from_secs(50)));
    }

    #[test]
    fn the_memory_is_bounded_and_drops_the_oldest() {
        let mut failed = Failed::new(Duration::from_secs(30));
        let now = Instant::now();
        for number in 0..MAX_REMEMBERED + 10 {
            failed.remember(&origin(), &digest(number), now + Duration::from_nanos(number as u64));
        }
        assert_eq!((failed.last.len(), failed.order.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
        assert!(!failed.lately(&origin(), &digest(9), now));
        assert!(failed.lately(&origin(), &digest(10), now));
    }
}
