//! Frames of strangers: what decodes is within bounds, and encodes to what decodes to the same.

#![no_main]

// The modules themselves: what the crate around them is built on takes minutes to instrument and reads no frame.
#[allow(dead_code, unused_imports)]
#[path = "../../crates/bitswap/src/error.rs"]
mod error;
#[allow(dead_code, unused_imports)]
#[path = "../../crates/bitswap/src/wire/mod.rs"]
mod wire;

use bytes::Bytes;
use error::Error;
use libfuzzer_sys::fuzz_target;
use wire::{MAX_BLOCK_LEN, MAX_ENTRIES, Message, Prefix, Version};

/// Encodes, takes the length off again, and decodes.
fn again(message: &Message, version: Version) -> Message {
    let frame = message.encode(version);
    let bytes = frame.to_vec();
    assert_eq!(frame.remaining(), bytes.len());
    let (prefix, len) = uvarint(&bytes);
    assert_eq!(len, (bytes.len() - prefix) as u64);
    Message::decode_shared(&Bytes::from(bytes).slice(prefix..)).expect("what was encoded decodes")
}

fn uvarint(bytes: &[u8]) -> (usize, u64) {
    let end = bytes.iter().position(|byte| byte & 0x80 == 0).expect("a frame has a length");
    let value = bytes[..=end].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    (end + 1, value)
}

fuzz_target!(|frame: &[u8]| {
    let Ok(message) = Message::decode(frame) else { return };
    assert!(message.wants.len() <= MAX_ENTRIES);
    assert!(message.presences.len() <= MAX_ENTRIES);
    assert!(message.blocks.len() <= MAX_ENTRIES);
    assert!(message.blocks.iter().all(|block| block.data.len() <= MAX_BLOCK_LEN));

    let mut expected = Message { ignored: 0, ..message };
    // A bare block is one of CIDv0, and later versions say so.
    for block in &mut expected.blocks {
        block.prefix.get_or_insert(Prefix::V0);
    }
    assert_eq!(again(&expected, Version::V1_2), expected);
    // What an older version cannot say is left out once; the rest it says again.
    for version in [Version::V1_1, Version::V1_0] {
        let older = again(&expected, version);
        assert_eq!(again(&older, version), older);
        assert!(older.wants.len() <= expected.wants.len() && older.presences.is_empty());
    }
});
