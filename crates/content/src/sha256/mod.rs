//! SHA-256, one stream at a time or two at once.
//!
//! One stream cannot use more than half of a core's SHA unit: each step waits for the one before. Two streams side by side fill it, so
//! that on the processors measured (`docs/performance.md`) two hashes cost what one costs. Every byte of a blob is hashed twice,
//! in its leaf and in the whole, which is why this is here; a stream by itself, and a processor without such a unit, are left to `sha2`.

#[cfg(target_arch = "x86_64")]
mod x86;

use sha2::block_api::compress256;

/// Bytes that one step of the hash function takes.
const BLOCK: usize = 64;
type Block = [u8; BLOCK];
type Words = [u32; 8];

/// What a hash begins with: FIPS 180-4, 5.3.3.
const INITIAL: Words =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A SHA-256 that is being computed.
#[derive(Clone, Debug)]
pub(crate) struct Sha256 {
    words: Words,
    /// Bytes added. Those of a last, incomplete block are in `pending`.
    len: u64,
    pending: Block,
}

impl Sha256 {
    pub(crate) fn new() -> Self {
        Self { words: INITIAL, len: 0, pending: [0; BLOCK] }
    }

    pub(crate) fn of(content: &[u8]) -> [u8; 32] {
        let mut hash = Self::new();
        hash.update(content);
        hash.finish()
    }

    /// Adds the next bytes.
    pub(crate) fn update(&mut self, content: &[u8]) {
        let (blocks, rest) = self.complete(content).as_chunks();
        compress256(&mut self.words, blocks);
        self.keep(rest);
    }

    /// The hash of all bytes added.
    pub(crate) fn finish(mut self) -> [u8; 32] {
        let bits = self.len.wrapping_mul(8).to_be_bytes();
        // A one bit, zeros, and the length in the last eight bytes of a block: FIPS 180-4, 5.1.1.
        let mut end = [0; BLOCK + 8];
        end[0] = 0x80;
        let zeros_to = (2 * BLOCK - 8 - 1 - self.pending_len()) % BLOCK + 1;
        end[zeros_to..zeros_to + 8].copy_from_slice(&bits);
        self.update(&end[..zeros_to + 8]);
        let mut hash = [0; 32];
        for (bytes, word) in hash.as_chunks_mut().0.iter_mut().zip(self.words) {
            *bytes = word.to_be_bytes();
        }
        hash
    }

    fn pending_len(&self) -> usize {
        // Less than a block.
        (self.len % BLOCK as u64) as usize
    }

    /// Fills up the block that was begun; gives the bytes that go beyond it.
    fn complete<'a>(&mut self, content: &'a [u8]) -> &'a [u8] {
        let begun = self.pending_len();
        self.len = self.len.wrapping_add(content.len() as u64);
        if begun == 0 {
            return content;
        }
        let (first, rest) = content.split_at(content.len().min(BLOCK - begun));
        self.pending[begun..begun + first.len()].copy_from_slice(first);
        if begun + first.len() == BLOCK {
            compress256(&mut self.words, &[self.pending]);
        }
        rest
    }

    /// Keeps bytes that are not a whole block.
    fn keep(&mut self, rest: &[u8]) {
        // Where `complete` left none it has put them there itself.
        self.pending[..rest.len()].copy_from_slice(rest);
    }
}

/// Adds bytes to two hashes, each its own; as if one [`Sha256::update`] came after the other, in up to half the time.
pub(crate) fn update_two([a, b]: [&mut Sha256; 2], [of_a, of_b]: [&[u8]; 2]) {
    let (blocks_a, rest_a) = a.complete(of_a).as_chunks();
    let (blocks_b, rest_b) = b.complete(of_b).as_chunks();
    let both = blocks_a.len().min(blocks_b.len());
    let (together_a, alone_a) = blocks_a.split_at(both);
    let (together_b, alone_b) = blocks_b.split_at(both);
    compress_two([&mut a.words, &mut b.words], [together_a, together_b]);
    compress256(&mut a.words, alone_a);
    compress256(&mut b.words, alone_b);
    a.keep(rest_a);
    b.keep(rest_b);
}

/// Adds the same bytes to two hashes. Where both are at the same place within a block, its words are prepared once for both.
pub(crate) fn update_both([a, b]: [&mut Sha256; 2], content: &[u8]) {
    if a.pending_len() != b.pending_len() {
        return update_two([a, b], [content; 2]);
    }
    b.complete(content);
    let (blocks, rest) = a.complete(content).as_chunks();
    compress_both([&mut a.words, &mut b.words], blocks);
    a.keep(rest);
    b.keep(rest);
}

fn compress_two([a, b]: [&mut Words; 2], [of_a, of_b]: [&[Block]; 2]) {
    #[cfg(target_arch = "x86_64")]
    if x86::compress([&mut *a, &mut *b], [of_a, of_b]) {
        return;
    }
    compress256(a, of_a);
    compress256(b, of_b);
}

fn compress_both([a, b]: [&mut Words; 2], blocks: &[Block]) {
    #[cfg(target_arch = "x86_64")]
    if x86::compress([&mut *a, &mut *b], [blocks]) {
        return;
    }
    compress256(a, blocks);
    compress256(b, blocks);
}

#[cfg(test)]
mod tests;
