//! By when there must be something to answer with.
//!
//! Over a slow link the first piece of a blob takes longer than a client with another host should wait for one that may never come. While
//! bytes are coming in (an empty piece of a [`shoal_fetch::Body`] says so) the wait goes on, though never so long that the client gives up.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

/// How much longer a sign of life makes the wait, from then on. The face gives one a second while bytes come.
const LIFE: Duration = Duration::from_secs(5);

/// A deadline that signs of life put off. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Deadline {
    until: Arc<Mutex<Instant>>,
    latest: Instant,
}

impl Deadline {
    /// One in `budget`, which may be put off until `longest` from now.
    pub(crate) fn new(budget: Duration, longest: Duration) -> Self {
        let now = Instant::now();
        Self { until: Arc::new(Mutex::new(now + budget)), latest: now + longest.max(budget) }
    }

    /// Something is coming.
    pub(crate) fn put_off(&self) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max((Instant::now() + LIFE).min(self.latest));
    }

    /// What `asked` gives, or `None` when it comes too late.
    pub(crate) async fn keep<T>(&self, asked: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(asked);
        loop {
            let until = self.until();
            if let Ok(given) = timeout_at(until, &mut asked).await {
                return Some(given);
            }
            if self.until() <= until {
                return None;
            }
        }
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn signs_of_life_put_a_deadline_off_but_not_for_ever() {
        let (budget, longest) = (Duration::from_millis(30), Duration::from_millis(150));
        let begin = Instant::now();
        assert!(Deadline::new(budget, longest).keep(std::future::pending::<()>()).await.is_none());
        assert!(begin.elapsed() >= budget);

        let begin = Instant::now();
        let deadline = Deadline::new(budget, longest);
        deadline.put_off();
        assert!(deadline.keep(std::future::pending::<()>()).await.is_none());
        assert!(begin.elapsed() >= longest, "put off as far as it goes, which is less than a sign of life gives");
        deadline.put_off();
        assert_eq!(deadline.keep(std::future::ready(7)).await, Some(7), "what is there is taken");
    }
}
