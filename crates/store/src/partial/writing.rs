//! A leaf's bytes on their way into the file: past the page cache where that is quick, else through it.
//!
//! Most of what a leaf costs through the page cache is the first touch of its pages (`docs/performance.md`). Only whole leaves go past it, whose
//! place and length are aligned by themselves. The last, shorter one goes through it by another descriptor of the same file: the two share no page,
//! and the kernel keeps apart who writes and who reads.
//!
//! The file has its length from the beginning and neither way changes it. Reading is through the page cache, whichever way a leaf was written: a
//! direct write drops what was cached of its range, so that what is read after it is what was written.
//!
//! A direct write leaves nothing to write to `fsync`, but the blocks' places are in the file system's journal and the bytes in the disk's own cache
//! until then: it is as needed as ever.

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use shoal_content::{
    LEAF_SIZE,
    buffer::{ALIGNMENT, Buffer},
};

use super::Partial;
use crate::{
    error::is_full,
    options::Direct,
    pace::{Pace, Way},
    shared::Shared,
    table::lock,
};

/// A leaf's length and, but for the blob's last, that of a range of its file.
const WHOLE: usize = LEAF_SIZE as usize;

/// How leaves were written to this store, and how the next one is to be.
pub(crate) struct Writing {
    pub(crate) pace: Mutex<Pace>,
    /// Leaves written past the page cache.
    pub(crate) direct: AtomicU64,
    /// Leaves written through it.
    pub(crate) cached: AtomicU64,
}

impl Writing {
    pub(crate) fn new(direct: Direct) -> Self {
        let pace = match direct {
            Direct::Auto => Pace::new(),
            Direct::Never => Pace::off(),
        };
        Self { pace: Mutex::new(pace), direct: AtomicU64::new(0), cached: AtomicU64::new(0) }
    }

    fn refuse(&self, error: &io::Error) {
        let mut pace = lock(&self.pace);
        if !pace.is_off() {
            tracing::info!(%error, "the file system takes no direct writes: writing through the page cache");
            pace.refused();
        }
    }
}

/// Opens the file of a blob in progress once more, for direct writes; `None` where there are none.
pub(super) fn open_direct(shared: &Shared, path: &Path, size: u64) -> Option<File> {
    if size < LEAF_SIZE || lock(&shared.writing.pace).is_off() {
        return None;
    }
    match shared.options.disk.open_direct(path) {
        Ok(file) => Some(file),
        Err(error) if is_refusal(&error) => {
            shared.writing.refuse(&error);
            None
        }
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "cannot open for direct writes");
            None
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

impl Partial {
    /// Writes a leaf's bytes to their place.
    pub(super) fn write_bytes(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(file) = &self.direct
            && bytes.len() == WHOLE
            && lock(&self.shared.writing.pace).next(Instant::now()) == Way::Direct
            && self.write_direct(file, bytes, offset)?
        {
            return Ok(());
        }
        self.shared.options.disk.write_at(&self.file, bytes, offset)?;
        self.shared.writing.cached.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// False when it could not be written so, and may be otherwise; an error when the disk is full.
    fn write_direct(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<bool> {
        let writing = &self.shared.writing;
        let copy = (!bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)).then(|| {
            let mut copy = Buffer::of(WHOLE);
            copy.copy_from_slice(bytes);
            copy
        });
        let begun = Instant::now();
        let written = self.shared.options.disk.write_at(file, copy.as_deref().unwrap_or(bytes), offset);
        let now = Instant::now();
        match written {
            Ok(()) => {
                lock(&writing.pace).done(begun, now);
                writing.direct.fetch_add(1, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if is_refusal(&error) => {
                writing.refuse(&error);
                Ok(false)
            }
            Err(error) => {
                lock(&writing.pace).failed(now);
                if is_full(&error) {
                    return Err(error);
                }
                // If it is the disk that fails, writing through the page cache says so, or `fsync` does.
                tracing::warn!(digest = %self.digest, offset, %error, "a direct write failed: writing through the page cache");
                Ok(false)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Barrier, atomic::AtomicBool},
        thread,
        time::Duration,
    };

    use bytes::Bytes;
    use shoal_content::{Algorithm, Digest, LeafHash, leaf::leaf_range};

    use super::*;
    use crate::{options::Options, store::Store};

    const LEAVES: u64 = 24;
    const WRITERS: u64 = 4;

    /// Numbers that follow from a seed.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % limit
        }

        fn shuffle<T>(&mut self, items: &mut [T]) {
            for at in (1..items.len()).rev() {
                items.swap(at, self.below(at as u64 + 1) as usize);
            }
        }
    }

    fn leaf(blob: &[u8], index: u64) -> &[u8] {
        let range = leaf_range(blob.len() as u64, index);
        &blob[range.start as usize..range.end as usize]
    }

    /// A disk that has just been found to be slow.
    fn resting() -> Pace {
        let mut pace = Pace::new();
        pace.failed(Instant::now());
        pace
    }

    /// Reads what is there, by the store and by the file, until it is told to stop.
    fn read_on(partial: &Partial, blob: &[u8], mut random: Random, done: &AtomicBool) {
        while !done.load(Ordering::Relaxed) {
            let index = random.below(LEAVES);
            let range = leaf_range(blob.len() as u64, index);
            let has = partial.has(index);
            // What is not there yet is read too, so that the page cache has old pages of it.
            let read = partial.read_file(range.clone()).unwrap();
            if has {
                assert!(read == leaf(blob, index), "leaf {index}");
                let from = range.start + random.below(range.end - range.start);
                let len = random.below(3 * 4096) as usize;
                let upto = (from as usize + len).min(range.end as usize);
                let part = partial.read_at(from, upto - from as usize).unwrap();
                assert!(part == blob[from as usize..upto], "{len} bytes at {from}");
            }
        }
    }

    #[test]
    fn direct_and_cached_writes_of_many_side_by_side_are_read_as_they_were_written() {
        let (mut direct, mut cached) = (0, 0);
        for seed in 0..12 {
            let mut random = Random(seed);
            let size = (LEAVES - 1) * LEAF_SIZE + 1 + random.below(LEAF_SIZE);
            let blob: Vec<u8> = (0..size).map(|at| ((at >> 9) ^ (at * 7) ^ seed) as u8).collect();
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(Options { keep_free: 0, ..Options::new(folder.path()) }).unwrap();
            let partial = store.partial(&Digest::of(Algorithm::Sha256, &blob), size).unwrap();
            let mut order: Vec<u64> = (0..LEAVES).collect();
            random.shuffle(&mut order);
            let (done, start) = (AtomicBool::new(false), Barrier::new(WRITERS as usize));
            thread::scope(|scope| {
                for reader in 0..2 {
                    let (partial, blob, done) = (&partial, &blob, &done);
                    scope.spawn(move || read_on(partial, blob, Random(seed * 100 + reader), done));
                }
                let writers = (0..WRITERS).map(|writer| {
                    let (partial, store, blob, order, start) = (&partial, &store, &blob, &order, &start);
                    let mut random = Random(seed * 1000 + writer);
                    scope.spawn(move || {
                        start.wait();
                        for index in order.iter().skip(writer as usize).step_by(WRITERS as usize) {
                            let pace = if random.below(2) == 0 { Pace::new() } else { resting() };
                            *lock(&store.shared.writing.pace) = pace;
                            // Many are lies at first, as a leaf from a peer may be, and are cached as such.
                            if random.below(3) == 0 {
                                let lie = Bytes::from(vec![random.below(250) as u8; leaf(blob, *index).len()]);
                                partial.write_bytes(&lie, index * LEAF_SIZE).unwrap();
                            }
                            let at = random.below(2) as usize;
                            let bytes = Bytes::from([&vec![0; at], leaf(blob, *index)].concat()).slice(at..);
                            partial.write_leaf(*index, &bytes, LeafHash::of(&bytes)).unwrap();
                        }
                    })
                });
                let writers: Vec<_> = writers.collect();
                let ended: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
                done.store(true, Ordering::Relaxed);
                assert!(ended.iter().all(Result::is_ok), "seed {seed}");
            });
            store.trim();
            store.trim();
            for index in 0..LEAVES {
                let read = partial.read_file(leaf_range(size, index)).unwrap();
                assert!(read == leaf(&blob, index), "seed {seed}, leaf {index}");
            }
            let committed = partial.commit().unwrap();
            assert!(committed.read_at(0, size as usize).unwrap() == blob, "seed {seed}");
            direct += store.usage().direct_writes;
            cached += store.usage().cached_writes;
        }
        // Where there are direct writes at all.
        assert!(direct == 0 || direct > 12 && cached > 12, "{direct} direct, {cached} cached");
    }

    #[test]
    fn a_slow_disk_is_written_to_through_the_page_cache() {
        let size = 9 * LEAF_SIZE;
        let blob = vec![3; size as usize];
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options { keep_free: 0, ..Options::new(folder.path()) }).unwrap();
        let partial = store.partial(&Digest::of(Algorithm::Sha256, &blob), size).unwrap();
        let now = Instant::now();
        for number in 0..20 {
            let at = now + Duration::from_millis(50) * number;
            lock(&store.shared.writing.pace).done(at, at + Duration::from_millis(50));
        }
        for index in 0..9 {
            let bytes = Bytes::copy_from_slice(leaf(&blob, index));
            partial.write_leaf(index, &bytes, LeafHash::of(&bytes)).unwrap();
        }
        assert_eq!((store.usage().direct_writes, store.usage().cached_writes), (0, 9));
        partial.commit().unwrap();
    }
}
