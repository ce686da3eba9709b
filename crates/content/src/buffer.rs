//! Memory for leaves, used again and again.
//!
//! A leaf is too long for an allocator to keep at hand: the memory of each would be mapped anew, and every page of it zeroed and brought in by a
//! fault of its own, which costs as much as hashing the leaf (measured: a sixth of a node's CPU time in a stampede). So what one leaf has left
//! goes to the next. The pool is one for the whole program, as an allocator is.
//!
//! Such memory begins at a multiple of [`ALIGNMENT`], so that the disk takes a leaf straight from it. Each buffer has some bytes to spare for
//! that, and begins behind them: no allocator need be asked for more than memory.
//!
//! ```
//! use shoal_content::buffer::Buffer;
//!
//! let mut buffer = Buffer::of(1 << 20);
//! buffer.fill(7);
//! let bytes = buffer.freeze(1 << 20);
//! assert_eq!((bytes.len(), bytes[0]), (1 << 20, 7));
//! ```

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use crate::LEAF_SIZE;

/// Bytes of a pooled buffer: a leaf and what a message needs around it.
const CAPACITY: usize = LEAF_SIZE as usize + (4 << 10);

/// Memory for a leaf begins at a multiple of this many bytes. Direct writes (`O_DIRECT`) need a multiple of the disk's logical block, which is
/// 512 bytes or 4 KiB.
pub const ALIGNMENT: usize = 4 << 10;

/// Bytes allocated for a pooled buffer: wherever the allocator begins, an aligned one fits in.
const ALLOCATED: usize = CAPACITY + ALIGNMENT;

/// Buffers shorter than this come from the allocator, which keeps such.
const SHORTEST: usize = CAPACITY / 2;

/// Buffers kept for later at most, in all 32 MiB.
const MOST_FREE: usize = 32;

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// Memory to be filled. What is in it at first is zeros or bytes of an earlier use.
pub struct Buffer {
    memory: Box<[u8]>,
    /// Where in its memory it begins.
    start: usize,
    len: usize,
}

/// Gives back memory that has not been used since the last call. To be called every few seconds.
pub fn trim() {
    let idle = pool(Pool::trim);
    drop(idle);
}

fn pool<R>(work: impl FnOnce(&mut Pool) -> R) -> R {
    work(&mut POOL.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Buffer {
    /// Memory for `len` bytes, aligned where it is for a leaf or nearly as much.
    pub fn of(len: usize) -> Self {
        Self::behind(0, len)
    }

    /// Memory for `len` bytes of which a leaf begins at byte `head`: there it is aligned.
    pub fn behind(head: usize, len: usize) -> Self {
        if !is_pooled(len) {
            return Self { memory: vec![0; len].into(), start: 0, len };
        }
        let memory: Box<[u8]> = pool(Pool::take).unwrap_or_else(|| vec![0; ALLOCATED].into());
        let start = memory.as_ptr().addr().wrapping_add(head).wrapping_neg() % ALIGNMENT;
        Self { memory, start, len }
    }

    /// The first `filled` bytes of it, which have been written; fewer when it is shorter. Its memory is used again when the last of them is dropped.
    pub fn freeze(mut self, filled: usize) -> Bytes {
        self.len = self.len.min(filled);
        Bytes::from_owner(self)
    }
}

fn is_pooled(len: usize) -> bool {
    (SHORTEST..=CAPACITY).contains(&len)
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() == ALLOCATED {
            let memory = std::mem::take(&mut self.memory);
            // Dropped outside the lock where there is no room for it.
            let _refused = pool(|pool| pool.give(memory));
        }
    }
}

/// Memory that nobody uses at the moment.
struct Pool {
    free: Vec<Box<[u8]>>,
    /// The fewest that were free at any time since the last trim: so many nobody needed.
    idle: usize,
}

impl Pool {
    const fn new() -> Self {
        Self { free: Vec::new(), idle: 0 }
    }

    fn take(&mut self) -> Option<Box<[u8]>> {
        let memory = self.free.pop();
        self.idle = self.idle.min(self.free.len());
        memory
    }

    /// Keeps it for the next one; gives it back where there are enough.
    fn give(&mut self, memory: Box<[u8]>) -> Option<Box<[u8]>> {
        if self.free.len() >= MOST_FREE {
            return Some(memory);
        }
        self.free.push(memory);
        None
    }

    fn trim(&mut self) -> Vec<Box<[u8]>> {
        // Those at the bottom were not touched: the last one given is the first one taken.
        let idle = self.free.drain(..self.idle.min(self.free.len())).collect();
        self.idle = self.free.len();
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Box<[u8]> {
        Box::new([])
    }

    #[test]
    fn what_was_needed_since_the_last_trim_is_kept_and_the_rest_given_back() {
        let mut pool = Pool::new();
        for _ in 0..6 {
            assert!(pool.give(memory()).is_none());
        }
        // They have been free for less than one interval.
        assert_eq!(pool.trim().len(), 0);
        let taken = [pool.take(), pool.take()];
        assert!(taken.iter().all(Option::is_some));
        for memory in taken.into_iter().flatten() {
            assert!(pool.give(memory).is_none());
        }
        // Two of the six were used.
        assert_eq!(pool.trim().len(), 4);
        assert_eq!(pool.trim().len(), 2);
        assert!(pool.take().is_none());
    }

    #[test]
    fn no_more_is_kept_than_the_most() {
        let mut pool = Pool::new();
        let kept = (0..MOST_FREE + 3).filter(|_| pool.give(memory()).is_none()).count();
        assert_eq!(kept, MOST_FREE);
    }

    #[test]
    fn a_buffer_is_as_long_as_asked_and_freezes_to_what_was_filled() {
        for len in [0, 1, SHORTEST - 1, SHORTEST, LEAF_SIZE as usize, CAPACITY, CAPACITY + 1, ALLOCATED, 4 << 20] {
            let mut buffer = Buffer::of(len);
            assert_eq!(buffer.len(), len);
            buffer.fill(9);
            let filled = len / 2;
            let bytes = buffer.freeze(filled);
            assert!(bytes.len() == filled && bytes.iter().all(|byte| *byte == 9), "{len}");
        }
        assert_eq!(Buffer::of(5).freeze(7).len(), 5);
    }

    #[test]
    fn memory_for_a_leaf_begins_at_an_aligned_address() {
        // More than the pool has, so that some of them are new.
        let buffers: Vec<_> = (0..5).map(|_| Buffer::of(LEAF_SIZE as usize)).collect();
        for buffer in buffers {
            assert!(buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
            let bytes = buffer.freeze(LEAF_SIZE as usize);
            assert!(bytes.as_ptr().addr().is_multiple_of(ALIGNMENT));
        }
        for head in [1, 59, ALIGNMENT] {
            let buffer = Buffer::behind(head, CAPACITY);
            assert!(buffer[head..].as_ptr().addr().is_multiple_of(ALIGNMENT), "{head}");
        }
        for len in [SHORTEST, CAPACITY] {
            assert!(Buffer::of(len).as_ptr().addr().is_multiple_of(ALIGNMENT), "{len}");
        }
    }

    #[test]
    fn bytes_in_use_are_not_given_to_another() {
        let held: Vec<Bytes> = (0..8)
            .map(|number| {
                let mut buffer = Buffer::of(LEAF_SIZE as usize);
                buffer.fill(number);
                buffer.freeze(LEAF_SIZE as usize).slice(17..1 << 19)
            })
            .collect();
        for (number, bytes) in held.iter().enumerate() {
            assert!(bytes.iter().all(|byte| usize::from(*byte) == number));
        }
    }
}
