//! Two SHA-256 streams at once by the SHA extensions of x86-64 processors.
//!
//! `sha256rnds2` takes four cycles and another can begin after two (Zen 4, Ice Lake), but within one stream each needs the result of the one
//! before. Here every step of one stream stands beside the same step of the other. Where both have the same message, its schedule
//! (`sha256msg1`, `sha256msg2`) is computed once.

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_cvtsi128_si32, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x,
    _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use super::{Block, Words};

/// Streams at once.
const TWO: usize = 2;

/// The constants of the 64 rounds: FIPS 180-4, 4.2.2.
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// The words of one hash as the instructions want them: `a b e f` and `c d g h`, the first in the highest lane.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

/// The last sixteen words of a message's schedule.
type Schedule = [__m128i; 4];

/// Adds whole blocks to two hashes: each its own of two messages of one length, or both the same message.
/// False, and nothing is done, when the processor has not the instructions.
pub(super) fn compress<const MESSAGES: usize>(states: [&mut Words; TWO], messages: [&[Block]; MESSAGES]) -> bool {
    if !(is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1")) {
        return false;
    }
    // SAFETY: the processor has all that `compress_blocks` enables, as was just asked. Nothing else about it is unsafe: it takes no pointers.
    unsafe { compress_blocks(states, messages) };
    true
}

#[target_feature(enable = "sha,sse4.1")]
fn compress_blocks<const MESSAGES: usize>(words: [&mut Words; TWO], messages: [&[Block]; MESSAGES]) {
    const { assert!(MESSAGES == 1 || MESSAGES == TWO) }
    let len = messages[0].len();
    // Cut to one length, so that the bounds are checked here and not for each block.
    let messages = messages.map(|message| &message[..len]);
    let mut totals = [load(words[0]), load(words[1])];
    #[expect(clippy::needless_range_loop, reason = "it is each message's block that is taken, not the message")]
    for at in 0..len {
        let mut states = totals;
        let mut schedules: [Schedule; MESSAGES] = core::array::from_fn(|message| read(&messages[message][at]));
        four_rounds(&mut states, &schedules, 0, 0);
        four_rounds(&mut states, &schedules, 1, 1);
        four_rounds(&mut states, &schedules, 2, 2);
        four_rounds(&mut states, &schedules, 3, 3);
        // Three times instead of a loop over both: the compiler unrolls these, and every index is known to it.
        sixteen_rounds(&mut states, &mut schedules, 4);
        sixteen_rounds(&mut states, &mut schedules, 8);
        sixteen_rounds(&mut states, &mut schedules, 12);
        for (total, state) in totals.iter_mut().zip(states) {
            total.abef = _mm_add_epi32(total.abef, state.abef);
            total.cdgh = _mm_add_epi32(total.cdgh, state.cdgh);
        }
    }
    for (words, total) in words.into_iter().zip(totals) {
        store(words, total);
    }
}

/// Sixteen rounds, after the schedule has been moved on by as many words. `from` counts in fours.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn sixteen_rounds<const MESSAGES: usize>(states: &mut [State; TWO], schedules: &mut [Schedule; MESSAGES], from: usize) {
    for part in 0..4 {
        for schedule in schedules.iter_mut() {
            let [w0, w1, w2, w3] = core::array::from_fn(|ahead| schedule[(part + ahead) % 4]);
            let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4));
            schedule[part] = _mm_sha256msg2_epu32(sum, w3);
        }
        four_rounds(states, schedules, part, from + part);
    }
}

/// Rounds `4 * round..4 * round + 4`, by part `part` of the schedule.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn four_rounds<const MESSAGES: usize>(
    states: &mut [State; TWO],
    schedules: &[Schedule; MESSAGES],
    part: usize,
    round: usize,
) {
    let k = vector(core::array::from_fn(|lane| K[4 * round + lane]));
    let mut sums = [k; MESSAGES];
    for (sum, schedule) in sums.iter_mut().zip(schedules) {
        *sum = _mm_add_epi32(schedule[part], k);
    }
    for which in 0..TWO {
        let State { abef, cdgh } = states[which];
        states[which].cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sums[which % MESSAGES]);
    }
    for which in 0..TWO {
        let State { abef, cdgh } = states[which];
        let upper = _mm_shuffle_epi32(sums[which % MESSAGES], 0b00_00_11_10);
        states[which].abef = _mm_sha256rnds2_epu32(abef, cdgh, upper);
    }
}

/// A block as sixteen big-endian words.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn read(block: &Block) -> Schedule {
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let (halves, _) = block.as_chunks::<8>();
    let half = |at: usize| i64::from_le_bytes(halves[at]);
    [0, 2, 4, 6].map(|at| _mm_shuffle_epi8(_mm_set_epi64x(half(at + 1), half(at)), swap))
}

#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn load(words: &Words) -> State {
    let [a, b, c, d, e, f, g, h] = *words;
    State { abef: vector([f, e, b, a]), cdgh: vector([h, g, d, c]) }
}

#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn store(words: &mut Words, state: State) {
    let [f, e, b, a] = lanes(state.abef);
    let [h, g, d, c] = lanes(state.cdgh);
    *words = [a, b, c, d, e, f, g, h];
}

/// Four words, the first in the lowest lane.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn vector(words: [u32; 4]) -> __m128i {
    let [w0, w1, w2, w3] = words.map(u32::cast_signed);
    _mm_set_epi32(w3, w2, w1, w0)
}

#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn lanes(vector: __m128i) -> [u32; 4] {
    [
        _mm_cvtsi128_si32(vector),
        _mm_extract_epi32(vector, 1),
        _mm_extract_epi32(vector, 2),
        _mm_extract_epi32(vector, 3),
    ]
    .map(i32::cast_unsigned)
}
