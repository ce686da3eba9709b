//! What several test programs need: content from a seed, and a blob written leaf by leaf.

#![allow(dead_code, reason = "each test program uses a part")]

use std::{
    fs::File,
    io,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use shoal_content::{
    Algorithm, Digest, LEAF_SIZE, LeafHash,
    leaf::{leaf_count, leaf_range},
};
use shoal_store::{Blob, Change, Disk, Options, Partial, Store, SystemDisk};

/// `size` bytes that no two seeds share.
pub(crate) fn content(seed: u64, size: u64) -> Vec<u8> {
    const PAGE: usize = 4096;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0xd1b5_4a32_d192_ed03;
    let mut page = Vec::with_capacity(PAGE);
    while page.len() < PAGE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        page.extend_from_slice(&state.to_le_bytes());
    }
    // Pages differ by their number only: tests are built without optimisation, and much content is needed.
    let mut bytes = Vec::with_capacity(size as usize + PAGE);
    while (bytes.len() as u64) < size {
        let number = state.wrapping_add(bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(24);
        page[..8].copy_from_slice(&number.to_le_bytes());
        bytes.extend_from_slice(&page);
    }
    bytes.truncate(size as usize);
    bytes
}

pub(crate) fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// Options that leave the machine's own disk out of it.
pub(crate) fn options(directory: &Path) -> Options {
    Options { keep_free: 0, quota: 1 << 30, ..Options::new(directory) }
}

pub(crate) fn open(directory: &Path) -> Store {
    Store::open(options(directory)).unwrap()
}

pub(crate) fn leaf(content: &[u8], index: u64) -> &[u8] {
    let range = leaf_range(content.len() as u64, index);
    &content[range.start as usize..range.end as usize]
}

pub(crate) fn write(partial: &Partial, content: &[u8], index: u64) -> Result<bool, shoal_store::Error> {
    let leaf = Bytes::copy_from_slice(leaf(content, index));
    let hash = partial.hash_leaf(&leaf);
    assert_eq!(hash, LeafHash::of(&leaf));
    partial.write_leaf(index, &leaf, hash)
}

/// Writes a blob leaf by leaf and commits it.
pub(crate) fn store_whole(store: &Store, digest: &Digest, content: &[u8]) -> Blob {
    let partial = store.partial(digest, content.len() as u64).unwrap();
    for index in 0..leaf_count(content.len() as u64) {
        write(&partial, content, index).unwrap();
    }
    partial.commit().unwrap()
}

pub(crate) fn read_all(blob: &Blob) -> Vec<u8> {
    let mut bytes = Vec::new();
    for offset in (0..blob.size()).step_by(LEAF_SIZE as usize) {
        bytes.extend_from_slice(&blob.read_at(offset, LEAF_SIZE as usize).unwrap());
    }
    bytes
}

/// Collects what a store tells of.
pub(crate) fn changes() -> (shoal_store::OnChange, Arc<Mutex<Vec<Change>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&seen);
    (Arc::new(move |change| into.lock().unwrap().push(change)), seen)
}

/// A disk with room for so many bytes more; it is full after that, also in the middle of a write.
pub(crate) struct SmallDisk {
    pub(crate) left: AtomicU64,
}

impl SmallDisk {
    pub(crate) fn new(left: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(left) })
    }
}

impl Disk for SmallDisk {
    fn open_direct(&self, path: &Path) -> io::Result<File> {
        SystemDisk.open_direct(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let needed = bytes.len() as u64;
        let taken = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(needed));
        match taken {
            Ok(_) => SystemDisk.write_at(file, bytes, offset),
            Err(left) => {
                // What a real disk does: some of it is written.
                SystemDisk.write_at(file, &bytes[..left.min(needed / 2) as usize], offset)?;
                Err(io::ErrorKind::StorageFull.into())
            }
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        SystemDisk.sync(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        SystemDisk.sync_directory(directory)
    }

    fn free(&self, _directory: &Path) -> io::Result<u64> {
        Ok(self.left.load(Ordering::SeqCst))
    }
}
