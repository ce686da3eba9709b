//! A blob in progress: a sparse file and the map of its verified leaves.
//!
//! Writers of different leaves run side by side; two of the same leaf take turns. A leaf counts once its bytes and its map record are written.
//!
//! The whole digest is computed meanwhile, see `whole`.
//!
//! Locks, in this order: `whole` (held while hashing and committing), `claim`, `map`, `progress` (held for a moment).

mod progress;
mod whole;
mod writing;

use std::{
    fmt,
    fs::{File, OpenOptions},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;
use shoal_content::{
    Digest, LeafHash, LeafSet, Outline,
    buffer::Buffer,
    leaf::{leaf_at, leaf_count, leaf_range},
};

pub(crate) use self::writing::Writing;
use self::{
    progress::{Progress, State},
    whole::Whole,
};
use crate::{
    blob::Blob,
    error::{Error, Result},
    layout::Layout,
    map::{Entry, Map},
    shared::Shared,
    table::{Claim, Claimed, Slot, lock},
};

/// A blob in progress. All of it is `&self`: share it behind an `Arc`. Dropping it keeps what is written, to be resumed.
pub struct Partial {
    shared: Arc<Shared>,
    digest: Digest,
    size: u64,
    /// Given back when the partial is committed, discarded or dropped.
    claim: Mutex<Option<Claimed>>,
    file: Arc<File>,
    /// The same file for direct writes, where there are such.
    direct: Option<File>,
    slot: Slot,
    whole: Mutex<Whole>,
    map: Mutex<Map>,
    progress: Mutex<Progress>,
    /// Told when a leaf's writer is done.
    landed: Condvar,
}

impl Partial {
    /// Begins a blob, or resumes it: leaves that the map of an earlier attempt names are hashed again, and those that match are kept.
    pub(crate) fn open(shared: &Arc<Shared>, digest: &Digest, size: u64) -> Result<Self> {
        let progress = Progress::new(size).ok_or(Error::TooLarge { digest: *digest, size })?;
        let claim = shared.claim(digest, Claim::Lasting)?;
        if shared.table().blobs.contains_key(digest) {
            return Err(Error::Held(*digest));
        }
        let (part, map) = (shared.layout.part(digest), shared.layout.map(digest));
        let resumed = match Map::resume(&map, digest, size)? {
            Some((log, leaves)) => open_part(&part, size)?.map(|file| (log, leaves, file)),
            None => None,
        };
        let on_disk = match &resumed {
            Some((_, _, file)) => file.metadata().map_err(Error::io("look at", &part, 0))?.blocks() * 512,
            None => {
                shared.remove_partial(digest)?;
                shared.table().slots.remove(digest);
                0
            }
        };

        let slot = shared.reserve(digest, size, on_disk.min(size))?;
        let opened = || -> Result<_> {
            match resumed {
                Some((log, leaves, file)) => Ok((file, log, leaves)),
                None => {
                    let file = create_part(&part, size)?;
                    let log = Map::create(shared.options.disk.as_ref(), &map, digest, size)?;
                    Ok((file, log, Vec::new()))
                }
            }
        };
        let (file, log, leaves) = opened().inspect_err(|_| {
            shared.table().slots.remove(digest);
            let _ = shared.remove_partial(digest);
        })?;

        let partial = Self {
            shared: Arc::clone(shared),
            digest: *digest,
            size,
            claim: Mutex::new(Some(claim)),
            file: Arc::new(file),
            direct: writing::open_direct(shared, &part, size),
            slot,
            whole: Mutex::new(Whole::new(digest.algorithm())),
            map: Mutex::new(log),
            progress: Mutex::new(progress),
            landed: Condvar::new(),
        };
        partial.resume(&leaves)?;
        Ok(partial)
    }

    /// The blob's digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The leaves that are there.
    pub fn have(&self) -> LeafSet {
        lock(&self.progress).have.clone()
    }

    /// Whether leaf `index` is there.
    pub fn has(&self, index: u64) -> bool {
        lock(&self.progress).have.contains(index)
    }

    /// Bytes from the blob's beginning on that are there without a gap.
    pub fn frontier(&self) -> u64 {
        let frontier = lock(&self.progress).frontier;
        leaf_range(self.size, frontier).start
    }

    /// The hashes of the leaves that are there.
    pub fn outline(&self) -> Outline {
        lock(&self.progress).outline.clone()
    }

    /// Writes a leaf. **The caller has hashed `bytes` and found `hash`: it is not hashed again here**, and is what the map and the outline say from now on.
    /// False when the leaf was there already, whatever its hash; then nothing is written.
    ///
    /// When it fails, the leaf is not there and everything else is as it was; `Error::NoSpace` when the disk is full and no room can be made.
    pub fn write_leaf(&self, index: u64, bytes: &Bytes, hash: LeafHash) -> Result<bool> {
        let digest = self.digest;
        if index >= leaf_count(self.size) {
            return Err(Error::NoSuchLeaf { digest, index });
        }
        let range = leaf_range(self.size, index);
        let expected = range.end - range.start;
        let got = bytes.len() as u64;
        if got != expected {
            return Err(Error::LeafLength { digest, index, expected, got });
        }
        if !self.begin_leaf(index)? {
            return Ok(false);
        }
        let turn = Turn { partial: self, index };
        let stored = match self.store_leaf(index, range.start, bytes, hash) {
            Err(error) if error.is_no_space() => {
                tracing::warn!(%digest, leaf = index, %error, "the disk is full: making room");
                self.shared.relieve(got);
                self.store_leaf(index, range.start, bytes, hash)
            }
            stored => stored,
        };
        stored?;
        // Before the leaf counts: `forget_leaf` finds it in both or in neither.
        self.shared.recent.add(digest, index, bytes);

        lock(&self.progress).admit(index, hash);
        self.slot.written.fetch_add(got, Ordering::Relaxed);
        drop(turn);
        self.catch_up();
        Ok(true)
    }

    /// Bytes `range` if they have just come and are in memory still: does not block. `None` otherwise, and where the range is not within one leaf.
    pub fn read_from_memory(&self, range: Range<u64>) -> Option<Bytes> {
        self.shared.recent.read(&self.digest, self.size, &range)
    }

    /// Up to `len` bytes from `offset` on; fewer where the blob ends before. `Error::NotWritten` when a leaf of the range is not there.
    /// Works after `commit` and `discard` too.
    pub fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let end = offset.saturating_add(len as u64).min(self.size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        {
            let progress = lock(&self.progress);
            let missing = (leaf_at(offset)..=leaf_at(end - 1)).find(|&index| !progress.have.contains(index));
            if let Some(index) = missing {
                let offset = offset.max(leaf_range(self.size, index).start);
                return Err(Error::NotWritten { digest: self.digest, offset });
            }
        }
        self.read(offset..end)
    }

    /// Finishes the whole digest and compares it. On `Ok` the bytes are the blob's: the last of them may be sent, before `commit` has made them durable.
    pub fn verify(&self) -> Result<()> {
        self.verify_whole(&mut lock(&self.whole))
    }

    /// Verifies, makes durable and puts in place.
    ///
    /// On `Error::Incomplete` and `Error::DigestMismatch` everything stays as it is: find the leaf that lied, forget it, write it again, commit again.
    /// When the disk refuses to make the bytes durable, the partial is discarded: nothing can be said of what is on disk then.
    pub fn commit(&self) -> Result<Blob> {
        let mut whole = lock(&self.whole);
        self.verify_whole(&mut whole)?;
        let outline = lock(&self.progress).outline.clone();
        let leaves = outline.hashes().ok_or(Error::Incomplete { digest: self.digest, missing: 0 })?;
        let part = self.shared.layout.part(&self.digest);
        let mut claim = lock(&self.claim);
        let held = claim.as_ref().ok_or(Error::Closed(self.digest))?;
        if let Err(error) = self.shared.make_durable(&self.file, &part, self.size) {
            lock(&self.progress).state = State::Discarded;
            self.give_up(&mut claim).unwrap_or_else(|error| {
                tracing::error!(digest = %self.digest, %error, "a partial that could not be made durable cannot be removed");
            });
            return Err(error);
        }
        let blob = self.shared.publish(held, &self.file, &part, self.size, &leaves)?;
        lock(&self.progress).state = State::Committed;
        if let Err(error) = self.shared.remove_partial(&self.digest) {
            tracing::warn!(digest = %self.digest, %error, "the map of a finished blob stays until the store is next opened");
        }
        *claim = None;
        Ok(blob)
    }

    /// Stops relying on a leaf, for good: it is missing from now on. False when it was not there.
    pub fn forget_leaf(&self, index: u64) -> Result<bool> {
        let mut whole = lock(&self.whole);
        let mut map = lock(&self.map);
        let mut progress = lock(&self.progress);
        self.check_open(&progress)?;
        if !progress.have.contains(index) {
            return Ok(false);
        }
        let path = self.shared.layout.map(&self.digest);
        map.append(self.shared.options.disk.as_ref(), &path, Entry::Forgotten(index))?;
        progress.forget(index);
        self.shared.recent.forget(&self.digest, index);
        if index < whole.leaves {
            *whole = Whole::new(self.digest.algorithm());
            progress.hashed = 0;
        }
        let range = leaf_range(self.size, index);
        self.slot.written.fetch_sub(range.end - range.start, Ordering::Relaxed);
        Ok(true)
    }

    /// Removes all of it from the disk and gives its room back.
    pub fn discard(&self) -> Result<()> {
        let _whole = lock(&self.whole);
        {
            let mut progress = lock(&self.progress);
            self.check_open(&progress)?;
            progress.state = State::Discarded;
        }
        self.give_up(&mut lock(&self.claim))
    }

    /// Removes all of it from the disk, and lets others begin it anew.
    fn give_up(&self, claim: &mut Option<Claimed>) -> Result<()> {
        self.shared.recent.forget_all(&self.digest);
        let removed = self.shared.remove_partial(&self.digest);
        self.shared.table().slots.remove(&self.digest);
        *claim = None;
        removed
    }

    /// Waits for the turn to write a leaf; false when it is there.
    fn begin_leaf(&self, index: u64) -> Result<bool> {
        let mut progress = lock(&self.progress);
        loop {
            self.check_open(&progress)?;
            if progress.have.contains(index) {
                return Ok(false);
            }
            if progress.writing.insert(index) {
                return Ok(true);
            }
            progress = self.landed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn store_leaf(&self, index: u64, start: u64, bytes: &[u8], hash: LeafHash) -> Result<()> {
        let disk = self.shared.options.disk.as_ref();
        let part = || self.shared.layout.part(&self.digest);
        self.write_bytes(bytes, start).map_err(|error| Error::io("write", part(), bytes.len() as u64)(error))?;
        let path = self.shared.layout.map(&self.digest);
        lock(&self.map).append(disk, &path, Entry::Written(index, hash))
    }

    fn resume(&self, leaves: &[Option<LeafHash>]) -> Result<()> {
        let mut kept = 0;
        let mut lost = 0u64;
        for (index, hash) in (0..).zip(leaves) {
            let Some(hash) = hash else { continue };
            let leaf = self.read_file(leaf_range(self.size, index));
            match leaf {
                Ok(leaf) if self.take_back(index, &leaf, *hash) => {
                    lock(&self.progress).admit(index, *hash);
                    kept += leaf.len() as u64;
                }
                _ => {
                    lost += 1;
                    let path = self.shared.layout.map(&self.digest);
                    lock(&self.map).append(self.shared.options.disk.as_ref(), &path, Entry::Forgotten(index))?;
                }
            }
        }
        self.slot.written.store(kept, Ordering::Relaxed);
        if !leaves.is_empty() {
            tracing::info!(digest = %self.digest, kept_bytes = kept, lost_leaves = lost, "resumed a partial");
        }
        Ok(())
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes> {
        match self.read_from_memory(range.clone()) {
            Some(bytes) => Ok(bytes),
            None => self.read_file(range),
        }
    }

    fn read_file(&self, range: Range<u64>) -> Result<Bytes> {
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        if let Some(leaf) = self.shared.read_leaf(&self.digest, &self.file, range.start, len, Layout::part) {
            return Ok(leaf);
        }
        let mut buffer = Buffer::of(len);
        let path = || self.shared.layout.part(&self.digest);
        self.file.read_exact_at(&mut buffer, range.start).map_err(|error| Error::io("read", path(), 0)(error))?;
        Ok(buffer.freeze(len))
    }

    fn check_open(&self, progress: &Progress) -> Result<()> {
        match progress.state {
            State::Open => Ok(()),
            State::Committed | State::Discarded => Err(Error::Closed(self.digest)),
        }
    }
}

/// The turn of one writer at one leaf; over when it is dropped.
struct Turn<'a> {
    partial: &'a Partial,
    index: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.partial.progress).writing.remove(&self.index);
        self.partial.landed.notify_all();
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if lock(&self.progress).state != State::Open {
            return;
        }
        if let Some(slot) = self.shared.table().slots.get_mut(&self.digest) {
            slot.closed = Some(Instant::now());
        }
    }
}

impl fmt::Debug for Partial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partial").field("digest", &self.digest).field("size", &self.size).finish_non_exhaustive()
    }
}

/// Opens the file of an earlier attempt; `None` when it is not there or not of this size.
fn open_part(path: &Path, size: u64) -> Result<Option<File>> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => {
            let len = file.metadata().map_err(Error::io("look at", path, 0))?.len();
            Ok((len == size).then_some(file))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", path, 0)(error)),
    }
}

fn create_part(path: &Path, size: u64) -> Result<File> {
    let created = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
    created.and_then(|file| file.set_len(size).map(|()| file)).map_err(Error::io("create", path, 0))
}
