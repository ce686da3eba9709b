//! Outlines of strangers: what decodes is as large as it says, and encodes to what decodes to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_content::{Outline, leaf::leaf_count};

fuzz_target!(|bytes: &[u8]| {
    let Ok(outline) = Outline::decode(bytes) else { return };
    assert_eq!(outline.leaf_count(), leaf_count(outline.size()));
    let known = (0..outline.leaf_count()).filter(|&index| outline.leaf(index).is_some()).count() as u64;
    assert_eq!(outline.known(), known);
    assert!(outline.leaf(outline.leaf_count()).is_none());
    assert_eq!(outline.is_complete(), outline.hashes().is_some());
    assert_eq!(outline.is_complete(), outline.root().is_some());
    assert!(outline.leaf_count() <= 8 * bytes.len() as u64, "a few bytes made a large outline");

    let encoded = outline.encode();
    assert!(encoded.len() <= bytes.len());
    assert_eq!(Outline::decode(&encoded), Ok(outline));
});
