//! Arithmetic of the `Range` header. Pure.
//!
//! What clients rest on, beyond RFC 9110:
//! - `bytes=0-` is the whole: containerd opens its parallel fetch with it, and only after a 200 does it fetch serially, which
//!   survives every break. No other client asks that.
//! - a range that was understood is never answered with more than it asked for; a range in bytes that cannot be understood is
//!   refused (400), since a client that meant a part would take the whole for it. Other units are ignored, as the RFC demands.
//! - `500-0` and whatever starts at or behind the end is 416, also for an empty blob.

use std::ops::Range;

/// Most ranges that one request may hold. Lazy pullers ask a few dozen at most.
pub const MAX_RANGES: usize = 64;

/// What a request wants of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of it.
    Whole,
    /// One part.
    One(Spec),
    /// Several parts, at least two.
    Several(Vec<Spec>),
}

/// One range as it was written, not yet held against a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `first-`: from this byte to the end.
    From(u64),
    /// `first-last`: both included.
    Between(u64, u64),
    /// `-length`: the last bytes.
    Last(u64),
}

/// The header is in bytes and is not a list of ranges, or of too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Range is not `bytes=` and at most {MAX_RANGES} ranges")]
pub struct Malformed;

/// No byte of the body lies in the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("range lies outside the body of {size} bytes")]
pub struct Unsatisfiable {
    /// Size of the body in bytes.
    pub size: u64,
}

/// Reads the value of a `Range` header.
pub fn parse(header: &str) -> Result<Asked, Malformed> {
    let (unit, list) = header.split_once('=').ok_or(Malformed)?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Ok(Asked::Whole);
    }
    let mut specs = Vec::new();
    for text in list.split(',').map(|text| text.trim_matches([' ', '\t'])).filter(|text| !text.is_empty()) {
        if specs.len() == MAX_RANGES {
            return Err(Malformed);
        }
        specs.push(spec(text)?);
    }
    match specs.as_slice() {
        [] => Err(Malformed),
        [Spec::From(0)] => Ok(Asked::Whole),
        [one] => Ok(Asked::One(*one)),
        _ => Ok(Asked::Several(specs)),
    }
}

fn spec(text: &str) -> Result<Spec, Malformed> {
    let (first, last) = text.split_once('-').ok_or(Malformed)?;
    match (first, last) {
        ("", "") => Err(Malformed),
        ("", length) => Ok(Spec::Last(number(length)?)),
        (first, "") => Ok(Spec::From(number(first)?)),
        (first, last) => Ok(Spec::Between(number(first)?, number(last)?)),
    }
}

/// Digits alone; what is larger than any body counts as the largest number.
fn number(text: &str) -> Result<u64, Malformed> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed);
    }
    Ok(text.parse().unwrap_or(u64::MAX))
}

impl Spec {
    /// The bytes of a body of `size` that this means, never empty.
    pub fn within(self, size: u64) -> Result<Range<u64>, Unsatisfiable> {
        let range = match self {
            Spec::From(first) => first..size,
            Spec::Between(first, last) => first..last.saturating_add(1).min(size),
            Spec::Last(length) => size.saturating_sub(length)..size,
        };
        if range.is_empty() { Err(Unsatisfiable { size }) } else { Ok(range) }
    }
}

/// Holds several ranges against a size. Those outside are left out; all outside is [`Unsatisfiable`].
pub fn several(specs: &[Spec], size: u64) -> Result<Vec<Range<u64>>, Unsatisfiable> {
    let ranges: Vec<_> = specs.iter().filter_map(|spec| spec.within(size).ok()).collect();
    if ranges.is_empty() { Err(Unsatisfiable { size }) } else { Ok(ranges) }
}

/// `Content-Range` of a 206.
pub fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1))
}

/// `Content-Range` of a 416.
pub fn content_range_outside(size: u64) -> String {
    format!("bytes */{size}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of_2048(header: &str) -> Result<Range<u64>, Unsatisfiable> {
        match parse(header).unwrap() {
            Asked::One(spec) => spec.within(2048),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_ranges_of_the_conformance_suite_come_out_as_it_wants_them() {
        assert_eq!(of_2048("bytes=500-1499"), Ok(500..1500));
        assert_eq!(of_2048("bytes=500-"), Ok(500..2048));
        assert_eq!(of_2048("bytes=-500"), Ok(1548..2048));
        assert_eq!(of_2048("bytes=2000-5000"), Ok(2000..2048));
        assert_eq!(of_2048("bytes=500-0"), Err(Unsatisfiable { size: 2048 }));
        assert_eq!(of_2048("bytes=5000-10000"), Err(Unsatisfiable { size: 2048 }));
    }

    #[test]
    fn the_ends_of_a_body_are_exact() {
        assert_eq!(of_2048("bytes=0-0"), Ok(0..1));
        assert_eq!(of_2048("bytes=0-1"), Ok(0..2));
        assert_eq!(of_2048("bytes=2047-"), Ok(2047..2048));
        assert_eq!(of_2048("bytes=2048-"), Err(Unsatisfiable { size: 2048 }));
        assert_eq!(of_2048("bytes=-1"), Ok(2047..2048));
        assert_eq!(of_2048("bytes=-9999"), Ok(0..2048));
        assert_eq!(of_2048("bytes=-0"), Err(Unsatisfiable { size: 2048 }));
        for spec in [Spec::From(0), Spec::Between(0, 9), Spec::Last(5)] {
            assert_eq!(spec.within(0), Err(Unsatisfiable { size: 0 }));
        }
    }

    #[test]
    fn from_the_first_byte_to_the_end_is_the_whole() {
        assert_eq!(parse("bytes=0-"), Ok(Asked::Whole));
        assert_eq!(parse("bytes=0-,5-"), Ok(Asked::Several(vec![Spec::From(0), Spec::From(5)])));
        assert_eq!(parse("bytes=0-1"), Ok(Asked::One(Spec::Between(0, 1))));
    }

    #[test]
    fn other_units_are_ignored_and_nonsense_in_bytes_is_refused() {
        assert_eq!(parse("items=1-2"), Ok(Asked::Whole));
        assert_eq!(parse("Bytes=1-2"), Ok(Asked::One(Spec::Between(1, 2))));
        for bad in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=1 -2",
            "bytes=,",
        ] {
            assert_eq!(parse(bad), Err(Malformed), "{bad}");
        }
        let many = |count| format!("bytes={}", vec!["1-2"; count].join(","));
        assert!(parse(&many(MAX_RANGES)).is_ok());
        assert_eq!(parse(&many(MAX_RANGES + 1)), Err(Malformed));
    }

    #[test]
    fn numbers_beyond_any_body_are_no_overflow() {
        assert_eq!(of_2048("bytes=0-99999999999999999999999"), Ok(0..2048));
        assert_eq!(of_2048("bytes=99999999999999999999999-"), Err(Unsatisfiable { size: 2048 }));
        assert_eq!(of_2048("bytes=5-18446744073709551615"), Ok(5..2048));
    }

    #[test]
    fn of_several_ranges_those_outside_are_left_out() {
        let Ok(Asked::Several(specs)) = parse("bytes=0-1, 9000-, 4-5,-1") else { panic!() };
        assert_eq!(several(&specs, 2048), Ok(vec![0..2, 4..6, 2047..2048]));
        assert_eq!(several(&[Spec::From(9), Spec::From(8)], 5), Err(Unsatisfiable { size: 5 }));
    }

    proptest! {
        #[test]
        fn no_header_panics_and_every_range_lies_in_the_body(header in "(bytes=)?[0-9,\\- a]{0,40}", size in any::<u64>()) {
            match parse(&header) {
                Ok(Asked::One(spec)) => if let Ok(range) = spec.within(size) {
                    prop_assert!(range.start < range.end && range.end <= size);
                },
                Ok(Asked::Several(specs)) => if let Ok(ranges) = several(&specs, size) {
                    prop_assert!(ranges.iter().all(|range| range.start < range.end && range.end <= size));
                },
                Ok(Asked::Whole) | Err(Malformed) => {}
            }
        }
    }
}
