//! The `Range` header: no more is given than was asked for, never nothing, and what is written back is read the same.

#![no_main]

#[allow(dead_code)]
#[path = "../../gateway/src/range.rs"]
mod range;

use libfuzzer_sys::fuzz_target;
use range::{Asked, MAX_RANGES, Spec};

fn text(spec: &Spec) -> String {
    match spec {
        Spec::From(first) => format!("{first}-"),
        Spec::Between(first, last) => format!("{first}-{last}"),
        Spec::Last(length) => format!("-{length}"),
    }
}

fuzz_target!(|input: (u64, &str)| {
    let (size, header) = input;
    let Ok(asked) = range::parse(header) else { return };
    let specs = match &asked {
        Asked::Whole => return,
        Asked::One(spec) => vec![*spec],
        Asked::Several(specs) => specs.clone(),
    };
    assert_eq!(specs.len() > 1, matches!(asked, Asked::Several(_)));
    assert!((1..=MAX_RANGES).contains(&specs.len()));
    let list: Vec<String> = specs.iter().map(text).collect();
    assert_eq!(range::parse(&format!("bytes={}", list.join(","))), Ok(asked));

    let mut satisfied = Vec::new();
    for spec in &specs {
        let Ok(range) = spec.within(size) else { continue };
        assert!(range.start < range.end && range.end <= size);
        match *spec {
            Spec::From(first) => assert_eq!(range, first..size),
            Spec::Between(first, last) => assert!(range.start == first && range.end - 1 <= last),
            Spec::Last(length) => assert!(range.end == size && range.end - range.start <= length),
        }
        let shown = range::content_range(&range, size);
        assert_eq!(shown, format!("bytes {}-{}/{size}", range.start, range.end - 1));
        satisfied.push(range);
    }
    assert_eq!(range::several(&specs, size).ok(), (!satisfied.is_empty()).then_some(satisfied));
});
