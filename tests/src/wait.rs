//! Waiting for an event, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks: short beside what is waited for, long beside what a look costs.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks until `look` gives something, and gives that. After `limit` it fails and says what did not happen.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain: {what}");
        }
        // Other processes tell nothing of what happens in them, so this is the one place that looks again and again.
        #[allow(clippy::disallowed_methods)]
        std::thread::sleep(LOOK_EVERY);
    }
}
