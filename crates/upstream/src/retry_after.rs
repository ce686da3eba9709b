//! `Retry-After` (RFC 9110, 10.2.3).

use std::time::Duration;

use http::{HeaderMap, header::RETRY_AFTER};

/// The wait that an answer asks for. The form with a date is not read: it would rest on two wall clocks, and registries
/// send seconds.
pub(crate) fn read(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read_and_nothing_else() {
        let wait = |value: &str| read(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]));
        assert_eq!(wait("3"), Some(Duration::from_secs(3)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(wait("-1"), None);
        assert_eq!(read(&HeaderMap::new()), None);
    }
}
