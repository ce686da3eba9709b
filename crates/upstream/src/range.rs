//! `Range` and `Content-Range` (RFC 9110, section 14). Pure.

use std::ops::Range;

/// The value of `Range` for bytes from `start` up to, not including, `end`; to the end of the blob where that is
/// `None`.
pub(crate) fn request(start: u64, end: Option<u64>) -> String {
    match end {
        Some(end) => format!("bytes={start}-{}", end.saturating_sub(1)),
        None => format!("bytes={start}-"),
    }
}

/// What a 206 says that it holds, or a 416 that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    /// The bytes that follow; none after a 416.
    pub(crate) bytes: Option<Range<u64>>,
    /// Size of the whole; `None` where the server does not know it.
    pub(crate) total: Option<u64>,
}

/// Reads `bytes 5-9/20`, `bytes 5-9/*` and `bytes */20`.
pub(crate) fn read(value: &str) -> Option<ContentRange> {
    let (unit, rest) = value.trim().split_once(' ')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (bytes, total) = rest.trim().split_once('/')?;
    let total = match total {
        "*" => None,
        total => Some(number(total)?),
    };
    if bytes == "*" {
        return Some(ContentRange { bytes: None, total });
    }
    let (first, last) = bytes.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    let is_sound = first <= last && last < u64::MAX && total.is_none_or(|total| last < total);
    is_sound.then(|| ContentRange { bytes: Some(first..last + 1), total })
}

fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_asked_for_with_their_last_byte() {
        assert_eq!(request(5, Some(10)), "bytes=5-9");
        assert_eq!(request(5, None), "bytes=5-");
    }

    #[test]
    fn content_ranges_are_read() {
        let range = |bytes, total| Some(ContentRange { bytes, total });
        assert_eq!(read("bytes 5-9/20"), range(Some(5..10), Some(20)));
        assert_eq!(read("bytes 5-9/*"), range(Some(5..10), None));
        assert_eq!(read("bytes */20"), range(None, Some(20)));
        assert_eq!(read("Bytes 0-0/1"), range(Some(0..1), Some(1)));
    }

    #[test]
    fn what_makes_no_sense_is_not_a_content_range() {
        let max = format!("bytes 0-{}/*", u64::MAX);
        for bad in [
            "",
            "bytes",
            "bytes 5-9",
            "bytes 9-5/20",
            "bytes 5-20/20",
            "items 5-9/20",
            "bytes -9/20",
            "bytes +5-9/20",
            &max,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
