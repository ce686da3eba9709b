//! Leaves that are read back: past the page cache the first time.
//!
//! A leaf that was written past the page cache is not in it. To read it through it costs more than to hash it, nearly all of it for pages that are
//! touched for the first time (`docs/performance.md`), and mostly for nothing: a runtime that takes a blob more slowly than it comes in reads each leaf
//! once, and in a swarm a holder sends each about once. So what the page cache has is taken from it; what it has not is read past it the first time, and
//! through it from then on, so that a blob that is wanted again and again is in memory.

use std::{
    collections::{HashSet, VecDeque},
    fs::File,
    hash::{BuildHasher, RandomState},
    os::{fd::AsRawFd, unix::fs::FileExt, unix::fs::OpenOptionsExt},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use shoal_content::{Digest, LEAF_SIZE, buffer::Buffer};

use crate::{options::Direct, table::lock};

/// Leaves that are remembered as read, of 16 GiB in all: half a MiB of memory.
const MOST_REMEMBERED: usize = 16 << 10;

const LEAF: usize = LEAF_SIZE as usize;

/// Which leaves were read lately, and whether the file system takes direct reads.
pub(crate) struct FirstReads {
    is_off: AtomicBool,
    /// Two leaves of one key: the second counts as read when the first was, which costs a copy.
    keys: RandomState,
    read: Mutex<Read>,
}

#[derive(Default)]
struct Read {
    keys: HashSet<u64>,
    /// The oldest first.
    order: VecDeque<u64>,
}

impl FirstReads {
    pub(crate) fn new(direct: Direct) -> Self {
        let is_off = AtomicBool::new(direct == Direct::Never);
        Self { is_off, keys: RandomState::new(), read: Mutex::default() }
    }

    /// The whole leaf at `offset` of a blob's file, which `path` names; `None` when it is to be read as anything else is.
    pub(crate) fn read(&self, digest: &Digest, path: &Path, file: &File, offset: u64) -> Option<Bytes> {
        if self.is_off.load(Ordering::Relaxed) {
            return None;
        }
        let mut buffer = Buffer::of(LEAF);
        if is_read_from_cache(file, &mut buffer, offset) {
            return Some(buffer.freeze(LEAF));
        }
        if !self.is_first(digest, offset) {
            return None;
        }
        let opened = File::options().read(true).custom_flags(libc::O_DIRECT).open(path);
        match opened.and_then(|file| file.read_exact_at(&mut buffer, offset)) {
            Ok(()) => Some(buffer.freeze(LEAF)),
            Err(error) => {
                if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) {
                    self.is_off.store(true, Ordering::Relaxed);
                }
                // What else there is to say is said by who reads it the usual way.
                tracing::debug!(%digest, offset, %error, "a direct read failed");
                None
            }
        }
    }

    fn is_first(&self, digest: &Digest, offset: u64) -> bool {
        let key = self.keys.hash_one((digest, offset));
        let mut read = lock(&self.read);
        if !read.keys.insert(key) {
            return false;
        }
        read.order.push_back(key);
        if read.order.len() > MOST_REMEMBERED
            && let Some(oldest) = read.order.pop_front()
        {
            read.keys.remove(&oldest);
        }
        true
    }
}

/// Fills the buffer if the page cache has all of it, without a word to the disk.
fn is_read_from_cache(file: &File, buffer: &mut [u8], offset: u64) -> bool {
    let Ok(offset) = libc::off_t::try_from(offset) else { return false };
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the one part is the buffer, which is ours to write until the call returns.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, offset, libc::RWF_NOWAIT) };
    usize::try_from(read).is_ok_and(|read| read == buffer.len())
}

#[cfg(test)]
mod tests {
    use shoal_content::Algorithm;

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[number])
    }

    #[test]
    fn each_leaf_is_first_once_until_many_others_were_read() {
        let reads = FirstReads::new(Direct::Auto);
        for (number, leaf) in [(1, 0), (1, 1), (2, 0)] {
            assert!(reads.is_first(&digest(number), leaf * LEAF_SIZE));
            assert!(!reads.is_first(&digest(number), leaf * LEAF_SIZE));
        }
        for leaf in 0..MOST_REMEMBERED as u64 {
            reads.is_first(&digest(3), leaf * LEAF_SIZE);
        }
        assert!(reads.is_first(&digest(1), 0));
        assert_eq!(lock(&reads.read).order.len(), MOST_REMEMBERED);
        assert_eq!(lock(&reads.read).keys.len(), MOST_REMEMBERED);
    }

    #[test]
    fn what_is_read_is_what_is_in_the_file_by_whichever_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let content: Vec<u8> = (0..2 * LEAF).map(|at| (at / 7 % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        let reads = FirstReads::new(Direct::Auto);
        for turn in 0..3 {
            for leaf in [1, 0] {
                // `None` where the page cache has lost it, and on file systems without direct reads.
                if let Some(bytes) = reads.read(&digest(1), &path, &file, leaf as u64 * LEAF_SIZE) {
                    assert!(bytes == content[leaf * LEAF..][..LEAF], "{turn}");
                }
            }
            // Not in the page cache any more, where that can be had.
            file.sync_all().unwrap();
            // SAFETY: the call takes a file and numbers.
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        }
        assert!(reads.read(&digest(1), &path, &file, 2 * LEAF_SIZE).is_none(), "the file has no such leaf");
        assert!(FirstReads::new(Direct::Never).read(&digest(1), &path, &file, 0).is_none());
    }
}
