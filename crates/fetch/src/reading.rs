//! A read from upstream, cut into leaves.

use std::{ops::Range, pin::Pin};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use shoal_content::{
    buffer::Buffer,
    leaf::{leaf_count, leaf_range},
};

/// Bytes of a blob in order, as upstream sends them.
pub(crate) type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// Leaves `range` of a blob of `size` bytes, from a stream of its bytes that begins at `offset`.
pub(crate) struct Reading {
    chunks: Chunks,
    size: u64,
    /// Leaves not given out yet.
    range: Range<u64>,
    /// Bytes that the stream gives before the first leaf: upstream ignored the range that it was asked for.
    skip: u64,
    /// The leaf under way, once something of it has come, and how far it has.
    leaf: Option<(Buffer, usize)>,
    /// Bytes that came after the end of a leaf.
    rest: Bytes,
}

/// What a read gave.
#[derive(Debug)]
pub(crate) enum Read {
    /// The next leaf, whole.
    Leaf(u64, Bytes),
    /// All leaves have been given out.
    End,
    /// The stream broke or ended early.
    Broken(String),
}

impl Reading {
    /// Cuts `chunks`, which begin at byte `offset` of the blob, at or before the first leaf.
    pub(crate) fn new(chunks: Chunks, offset: u64, range: Range<u64>, size: u64) -> Self {
        let skip = leaf_range(size, range.start).start.saturating_sub(offset);
        Self { chunks, size, range, skip, leaf: None, rest: Bytes::new() }
    }

    /// Gives out all leaves, of a stream that begins with the blob's first byte, before anything has been taken from it.
    pub(crate) fn take_all(&mut self) {
        (self.range, self.skip) = (0..leaf_count(self.size), 0);
    }

    /// Ends before leaf `end`; true when nothing is left to be read.
    pub(crate) fn cut(&mut self, end: u64) -> bool {
        self.range.end = self.range.end.min(end).max(self.range.start);
        self.range.is_empty()
    }

    /// The next leaf. May be dropped and called again: nothing is lost.
    pub(crate) async fn next(&mut self) -> Read {
        loop {
            if self.range.is_empty() {
                return Read::End;
            }
            let index = self.range.start;
            let wanted = leaf_range(self.size, index);
            let len = usize::try_from(wanted.end - wanted.start).unwrap_or(usize::MAX);
            if !self.rest.is_empty() || len == 0 {
                let (buffer, filled) = self.leaf.get_or_insert_with(|| (Buffer::of(len), 0));
                let taken = self.rest.split_to(self.rest.len().min(len - *filled));
                buffer[*filled..*filled + taken.len()].copy_from_slice(&taken);
                *filled += taken.len();
                if *filled == len
                    && let Some((buffer, filled)) = self.leaf.take()
                {
                    self.range.start += 1;
                    return Read::Leaf(index, buffer.freeze(filled));
                }
            }
            match self.chunks.next().await {
                Some(Ok(mut chunk)) => {
                    let skipped = self.skip.min(chunk.len() as u64);
                    self.skip -= skipped;
                    self.rest = chunk.split_off(usize::try_from(skipped).unwrap_or(usize::MAX));
                }
                Some(Err(error)) => return Read::Broken(error),
                None => {
                    let filled = self.leaf.as_ref().map_or(0, |(_, filled)| *filled);
                    return Read::Broken(format!("ended {filled} bytes into leaf {index}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_content::LEAF_SIZE;

    use super::*;

    fn chunks(content: &[u8], size: usize) -> Chunks {
        let chunks: Vec<_> = content.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Box::pin(futures::stream::iter(chunks))
    }

    #[tokio::test]
    async fn a_stream_is_cut_into_leaves_wherever_it_begins() {
        let size = 3 * LEAF_SIZE + 5;
        let content: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        for (offset, range) in [(0, 0..4), (0, 2..4), (LEAF_SIZE, 1..3), (LEAF_SIZE + 7, 2..4)] {
            let from = usize::try_from(offset).unwrap();
            let mut reading = Reading::new(chunks(&content[from..], 70_001), offset, range.clone(), size);
            for leaf in range {
                let Read::Leaf(index, bytes) = reading.next().await else { panic!("leaf {leaf} is missing") };
                let at = leaf_range(size, leaf);
                assert_eq!(index, leaf);
                assert_eq!(bytes, content[usize::try_from(at.start).unwrap()..usize::try_from(at.end).unwrap()]);
            }
            assert!(matches!(reading.next().await, Read::End));
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_early_is_broken() {
        let mut reading = Reading::new(chunks(&[0; 10], 3), 0, 0..1, 11);
        assert!(matches!(reading.next().await, Read::Broken(_)));
    }

    #[tokio::test]
    async fn an_empty_blob_is_one_empty_leaf() {
        let mut reading = Reading::new(chunks(&[], 1), 0, 0..1, 0);
        assert!(matches!(reading.next().await, Read::Leaf(0, bytes) if bytes.is_empty()));
    }
}
