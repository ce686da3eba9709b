//! Leaves written past the page cache: the same bytes as ever, wherever it goes and wherever it does not.

mod common;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use common::{content, leaf, options, read_all, sha256, store_whole, write};
use shoal_content::{LEAF_SIZE, LeafHash, buffer::Buffer, leaf::leaf_count};
use shoal_store::{Direct, Disk, Options, Partial, Store, SystemDisk};

const LEAF: usize = LEAF_SIZE as usize;

/// A folder on a file system that takes direct writes; where temporary files are kept in memory, that may be none.
#[allow(clippy::print_stderr, reason = "a test that cannot run says so")]
fn folder() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let probe = folder.path().join("probe");
    fs::write(&probe, b"").unwrap();
    let mut page = Buffer::of(LEAF);
    page.fill(1);
    let taken = SystemDisk.open_direct(&probe).and_then(|file| file.write_all_at(&page, 0));
    fs::remove_file(&probe).unwrap();
    if taken.is_err() {
        eprintln!("left out: the file system of temporary files takes no direct writes");
    }
    taken.is_ok().then_some(folder)
}

fn part(folder: &Path, content: &[u8]) -> PathBuf {
    folder.join("partial").join(format!("sha256-{}.part", sha256(content).hex()))
}

/// Direct and cached writes.
fn writes(store: &Store) -> (u64, u64) {
    let usage = store.usage();
    (usage.direct_writes, usage.cached_writes)
}

/// A leaf in memory as one from upstream has it.
fn write_aligned(partial: &Partial, content: &[u8], index: u64) -> Bytes {
    let from = leaf(content, index);
    let mut buffer = Buffer::of(from.len());
    buffer.copy_from_slice(from);
    let bytes = buffer.freeze(from.len());
    assert!(partial.write_leaf(index, &bytes, LeafHash::of(&bytes)).unwrap());
    bytes
}

#[test]
fn whole_leaves_are_written_directly_in_any_order_and_read_as_they_were_written() {
    let Some(folder) = folder() else { return };
    for (seed, size) in [(1, 7 * LEAF_SIZE + 123), (2, 7 * LEAF_SIZE), (3, 6 * LEAF_SIZE + 4096), (4, LEAF_SIZE)] {
        let content = content(seed, size);
        // One that does not know yet how quick the disk is: the first leaf at least is written directly.
        let folder = folder.path().join(seed.to_string());
        let store = Store::open(options(&folder)).unwrap();
        let partial = store.partial(&sha256(&content), size).unwrap();
        let path = part(&folder, &content);
        // Now the page cache has the holes.
        assert_eq!(fs::read(&path).unwrap(), vec![0; content.len()]);
        let leaves = leaf_count(size);
        for step in 0..leaves {
            let index = (step * 5 + 3) % leaves;
            // From memory of either kind.
            if index.is_multiple_of(2) {
                write_aligned(&partial, &content, index);
            } else {
                write(&partial, &content, index).unwrap();
            }
            let mut read = vec![0; leaf(&content, index).len()];
            File::open(&path).unwrap().read_exact_at(&mut read, index * LEAF_SIZE).unwrap();
            assert!(read == leaf(&content, index), "leaf {index}");
        }
        let (direct, cached) = writes(&store);
        assert_eq!(direct + cached, leaves);
        assert!(direct > 0 && cached >= u64::from(!size.is_multiple_of(LEAF_SIZE)), "{direct} direct, {cached} cached");
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        assert!(fs::read(&path).unwrap() == content);
        store.trim();
        store.trim();
        assert!(partial.read_at(0, content.len()).unwrap() == content);
        let blob = partial.commit().unwrap();
        assert!(read_all(&blob) == content);
        assert!(store.verify(&sha256(&content)).unwrap());
    }
}

#[test]
fn what_is_shorter_than_a_leaf_is_written_through_the_page_cache() {
    let Some(folder) = folder() else { return };
    let store = Store::open(options(folder.path())).unwrap();
    for (seed, size) in [(1, 1), (2, 4096), (3, LEAF_SIZE - 1), (4, LEAF_SIZE - 4096)] {
        let content = content(seed, size);
        assert!(read_all(&store_whole(&store, &sha256(&content), &content)) == content);
    }
    assert_eq!(writes(&store), (0, 4));
    let content = content(5, LEAF_SIZE + 1);
    assert!(read_all(&store_whole(&store, &sha256(&content), &content)) == content);
    assert_eq!(writes(&store), (1, 5));
}

#[test]
fn nothing_is_written_directly_where_that_is_not_wanted() {
    let Some(folder) = folder() else { return };
    let disk = Arc::new(PickyDisk::default());
    let with = Options { direct: Direct::Never, disk: disk.clone(), ..options(folder.path()) };
    let store = Store::open(with).unwrap();
    let content = content(1, 3 * LEAF_SIZE + 7);
    assert!(read_all(&store_whole(&store, &sha256(&content), &content)) == content);
    assert_eq!(writes(&store), (0, 4));
    assert_eq!(disk.opened.load(Ordering::SeqCst), 0);
}

#[test]
fn a_leaf_in_aligned_memory_is_written_from_there_and_another_from_an_aligned_copy() {
    let Some(folder) = folder() else { return };
    let disk = Arc::new(PickyDisk::default());
    let store = Store::open(Options { disk: disk.clone(), ..options(folder.path()) }).unwrap();
    let content = content(1, 2 * LEAF_SIZE);
    let partial = store.partial(&sha256(&content), 2 * LEAF_SIZE).unwrap();
    let aligned = write_aligned(&partial, &content, 0);
    let shifted = Bytes::from([&[0; 3], leaf(&content, 1)].concat()).slice(3..);
    assert!(partial.write_leaf(1, &shifted, LeafHash::of(&shifted)).unwrap());
    assert_eq!(store.usage().direct_writes, 2);
    let from = disk.leaves_from.lock().unwrap().clone();
    assert_eq!(from.len(), 2);
    assert_eq!(from[0], aligned.as_ptr().addr());
    assert!(from[1].is_multiple_of(4096) && from[1] != shifted.as_ptr().addr());
    assert!(read_all(&partial.commit().unwrap()) == content);
}

#[test]
fn a_leaf_that_lied_is_written_anew_over_what_was_cached_of_it() {
    let Some(folder) = folder() else { return };
    let content = content(1, 3 * LEAF_SIZE + 50);
    let digest = sha256(&content);
    for (first, then) in [(Direct::Auto, Direct::Auto), (Direct::Never, Direct::Auto), (Direct::Auto, Direct::Never)] {
        let lie = Bytes::from(vec![7; LEAF]);
        {
            let store = Store::open(Options { direct: first, ..options(folder.path()) }).unwrap();
            let partial = store.partial(&digest, content.len() as u64).unwrap();
            partial.write_leaf(1, &lie, LeafHash::of(&lie)).unwrap();
            write(&partial, &content, 3).unwrap();
        }
        let store = Store::open(Options { direct: then, ..options(folder.path()) }).unwrap();
        // Reads the lie, and so has it in the page cache.
        let partial = store.partial(&digest, content.len() as u64).unwrap();
        assert_eq!(partial.have().iter().collect::<Vec<_>>(), [1, 3]);
        assert!(partial.forget_leaf(1).unwrap());
        for index in 0..3 {
            write(&partial, &content, index).unwrap();
        }
        store.trim();
        store.trim();
        let blob = partial.commit().unwrap();
        assert!(read_all(&blob) == content);
        assert!(store.remove(&digest).unwrap());
    }
}

/// A disk that refuses or fails direct writes as it is told, and counts.
#[derive(Default)]
struct PickyDisk {
    /// What opening says.
    open: Option<i32>,
    /// What each direct write says, after it has written half of it.
    write: Option<i32>,
    opened: AtomicU64,
    /// Writes of whole leaves that were failed.
    failed: AtomicU64,
    /// Where the bytes of whole leaves were.
    leaves_from: Mutex<Vec<usize>>,
}

fn takes_only_aligned(file: &File) -> bool {
    // SAFETY: takes no pointers, and the descriptor is open.
    let flags = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(file), libc::F_GETFL) };
    flags & libc::O_DIRECT != 0
}

impl Disk for PickyDisk {
    fn open_direct(&self, path: &Path) -> io::Result<File> {
        self.opened.fetch_add(1, Ordering::SeqCst);
        match self.open {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None => SystemDisk.open_direct(path),
        }
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if bytes.len() == LEAF {
            self.leaves_from.lock().unwrap().push(bytes.as_ptr().addr());
        }
        match self.write {
            Some(code) if takes_only_aligned(file) => {
                self.failed.fetch_add(1, Ordering::SeqCst);
                let mut other = Buffer::of(LEAF);
                other.fill(9);
                // On a file system that takes it, the half of the leaf is something else by then.
                let _ = SystemDisk.write_at(file, &other[..LEAF / 2], offset);
                Err(io::Error::from_raw_os_error(code))
            }
            _ => SystemDisk.write_at(file, bytes, offset),
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

    fn free(&self, directory: &Path) -> io::Result<u64> {
        SystemDisk.free(directory)
    }
}

/// Stores some blobs on such a disk; how often a direct write failed, and how often one was opened for.
fn store_on(disk: PickyDisk) -> (u64, u64) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(disk);
    let store = Store::open(Options { disk: disk.clone(), ..options(folder.path()) }).unwrap();
    for seed in 1..=4 {
        let content = content(seed, 5 * LEAF_SIZE + seed);
        assert!(read_all(&store_whole(&store, &sha256(&content), &content)) == content);
        assert!(store.verify(&sha256(&content)).unwrap());
    }
    assert_eq!(writes(&store), (0, 4 * 6));
    (disk.failed.load(Ordering::SeqCst), disk.opened.load(Ordering::SeqCst))
}

#[test]
fn a_file_system_that_refuses_direct_writes_is_asked_once() {
    for code in [libc::EINVAL, libc::EOPNOTSUPP] {
        assert_eq!(store_on(PickyDisk { open: Some(code), ..PickyDisk::default() }), (0, 1));
        assert_eq!(store_on(PickyDisk { write: Some(code), ..PickyDisk::default() }), (1, 1));
    }
}

#[test]
fn a_direct_write_that_fails_otherwise_is_done_through_the_page_cache_and_tried_again_later() {
    assert_eq!(store_on(PickyDisk { write: Some(libc::EIO), ..PickyDisk::default() }), (1, 4));
    // No descriptor is free, for once.
    assert_eq!(store_on(PickyDisk { open: Some(libc::EMFILE), ..PickyDisk::default() }), (0, 4));
}
