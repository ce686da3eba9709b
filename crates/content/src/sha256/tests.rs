use proptest::prelude::*;
use sha2::Digest as _;

use super::*;

fn reference(content: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(content).into()
}

/// Bytes that differ everywhere.
fn content(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[7] ^ seed).collect()
}

#[test]
fn what_the_standard_gives_as_examples_holds() {
    let examples = [
        ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
    ];
    for (text, hash) in examples {
        assert_eq!(hex::encode(Sha256::of(text.as_bytes())), hash);
    }
}

#[test]
fn every_length_around_a_block_hashes_as_the_reference_does() {
    let content = content(4 * BLOCK, 0);
    for len in 0..content.len() {
        let expected = reference(&content[..len]);
        assert_eq!(Sha256::of(&content[..len]), expected, "{len} bytes");
        let (mut a, mut b) = (Sha256::new(), Sha256::new());
        update_both([&mut a, &mut b], &content[..len]);
        assert_eq!((a.finish(), b.finish()), (expected, expected), "{len} bytes, twice");
    }
}

#[test]
fn two_leaves_at_once_hash_as_one_after_the_other() {
    let leaves = [content(1 << 20, 0), content(1 << 20, 1)];
    let (mut a, mut b) = (Sha256::new(), Sha256::new());
    update_two([&mut a, &mut b], [&leaves[0], &leaves[1]]);
    assert_eq!((a.finish(), b.finish()), (reference(&leaves[0]), reference(&leaves[1])));
}

/// Where the processor has them; the other tests hold everywhere.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_instructions_do_what_the_portable_code_does() {
    let content = content(96 * BLOCK, 7);
    let (blocks, _) = content.as_chunks();
    for (from, to) in [(0, 0), (0, 1), (1, 3), (3, 96)] {
        let (mut a, mut b) = (INITIAL, INITIAL.map(u32::swap_bytes));
        let (mut expected_a, mut expected_b) = (a, b);
        if !x86::compress([&mut a, &mut b], [&blocks[from..to], &blocks[..to - from]]) {
            return;
        }
        compress256(&mut expected_a, &blocks[from..to]);
        compress256(&mut expected_b, &blocks[..to - from]);
        assert_eq!((a, b), (expected_a, expected_b), "two messages of {} blocks", to - from);

        assert!(x86::compress([&mut a, &mut b], [&blocks[from..to]]));
        compress256(&mut expected_a, &blocks[from..to]);
        compress256(&mut expected_b, &blocks[from..to]);
        assert_eq!((a, b), (expected_a, expected_b), "one message of {} blocks", to - from);
    }
}

/// One step of two hashes side by side.
#[derive(Clone, Debug)]
enum Step {
    First(usize),
    Second(usize),
    Both(usize),
    Two(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Short ones reach every place within a block, long ones several blocks.
    let len = prop_oneof![0usize..200, 0usize..5000, (0usize..20).prop_map(|blocks| blocks * BLOCK)];
    let step = prop_oneof![
        len.clone().prop_map(Step::First),
        len.clone().prop_map(Step::Second),
        len.clone().prop_map(Step::Both),
        (len.clone(), len).prop_map(|(a, b)| Step::Two(a, b)),
    ];
    prop::collection::vec(step, 0..12)
}

proptest! {
    #[test]
    fn however_bytes_come_and_from_wherever_both_hashes_are_right(steps in steps(), offset in 0usize..70) {
        let source = content(12_000, 3);
        let mut at = offset;
        let mut take = |len: usize| {
            at = (at + 131) % 5000;
            &source[at..at + len]
        };
        let (mut a, mut b) = (Sha256::new(), Sha256::new());
        let (mut all_a, mut all_b) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::First(len) => {
                    let part = take(len);
                    a.update(part);
                    all_a.extend_from_slice(part);
                }
                Step::Second(len) => {
                    let part = take(len);
                    b.update(part);
                    all_b.extend_from_slice(part);
                }
                Step::Both(len) => {
                    let part = take(len);
                    update_both([&mut a, &mut b], part);
                    all_a.extend_from_slice(part);
                    all_b.extend_from_slice(part);
                }
                Step::Two(first, second) => {
                    let parts = [take(first), take(second)];
                    update_two([&mut a, &mut b], parts);
                    all_a.extend_from_slice(parts[0]);
                    all_b.extend_from_slice(parts[1]);
                }
            }
        }
        prop_assert_eq!(a.finish(), reference(&all_a));
        prop_assert_eq!(b.finish(), reference(&all_b));
    }
}
