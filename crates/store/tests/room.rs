//! Quota, eviction, and disks that are full.

mod common;

use std::{
    fs::{self, File},
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{SmallDisk, changes, content, options, read_all, sha256, store_whole, write};
use shoal_content::{Digest, LEAF_SIZE};
use shoal_store::{Change, Disk, Error, Options, Store, SystemDisk};

fn blob(seed: u64) -> (Digest, Vec<u8>) {
    let content = content(seed, 1000);
    (sha256(&content), content)
}

fn digests(range: std::ops::RangeInclusive<u64>) -> Vec<Digest> {
    range.map(|seed| blob(seed).0).collect()
}

fn held(store: &Store, of: &[Digest]) -> Vec<bool> {
    of.iter().map(|digest| store.contains(digest)).collect()
}

#[test]
fn the_least_recently_used_blobs_go_down_to_the_low_watermark_and_are_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let (on_change, seen) = changes();
    let limits = Options { quota: 10_000, high_watermark: 90, low_watermark: 70, ..options(directory.path()) };
    let store = Store::open(Options { on_change: Some(on_change), ..limits }).unwrap();
    for seed in 1..=9 {
        store.put(&blob(seed).0, &blob(seed).1).unwrap();
    }
    let roots: Vec<_> =
        digests(1..=9).iter().map(|digest| store.get(digest).unwrap().unwrap().root().unwrap()).collect();
    // Read by whole and by block: both are uses.
    store.get(&blob(1).0).unwrap();
    store.block(&roots[1]).unwrap().unwrap().read().unwrap();
    let reader = store.get(&blob(3).0).unwrap().unwrap();
    store.get(&blob(1).0).unwrap();
    assert!(store.pin(&blob(4).0, true).unwrap());
    seen.lock().unwrap().clear();

    store.put(&blob(10).0, &blob(10).1).unwrap();
    let gone = [5, 6, 7];
    let expected: Vec<_> = (1..=10).map(|seed| !gone.contains(&seed)).collect();
    assert_eq!(held(&store, &digests(1..=10)), expected);
    let removed = gone.map(|seed| Change::Removed { digest: blob(seed).0, root: Some(roots[seed as usize - 1]) });
    let seen = seen.lock().unwrap();
    assert_eq!(seen[..3], removed);
    assert!(matches!(seen[3], Change::Added { .. }) && seen.len() == 4);
    assert_eq!(read_all(&reader), blob(3).1);
    let usage = store.usage();
    assert_eq!((usage.bytes, usage.blobs, usage.evictions, usage.evicted_bytes), (7000, 7, 3, 3000));
    assert_eq!(fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count(), 7);
}

#[test]
fn the_order_of_uses_outlives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let limits = || Options { quota: 4000, high_watermark: 100, low_watermark: 100, ..options(directory.path()) };
    let store = Store::open(limits()).unwrap();
    for seed in 1..=4 {
        store.put(&blob(seed).0, &blob(seed).1).unwrap();
    }
    store.get(&blob(1).0).unwrap();
    drop(store);
    let store = Store::open(limits()).unwrap();
    store.put(&blob(5).0, &blob(5).1).unwrap();
    assert_eq!(held(&store, &digests(1..=5)), [true, false, true, true, true]);
}

#[test]
fn a_blob_that_cannot_fit_is_refused_and_nothing_goes_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Options { quota: 5000, ..options(directory.path()) }).unwrap();
    for seed in 1..=3 {
        store.put(&blob(seed).0, &blob(seed).1).unwrap();
    }
    store.pin(&blob(1).0, true).unwrap();
    let refused = store.partial(&blob(9).0, 4001).unwrap_err();
    assert!(matches!(&refused, Error::NoSpace { needed: 4001, .. }));
    assert!(refused.to_string().contains("quota"), "{refused}");
    assert_eq!(held(&store, &digests(1..=3)), [true; 3]);
    assert_eq!((store.usage().refused, store.usage().partials), (1, 0));
    store.partial(&blob(9).0, 4000).unwrap();
    assert_eq!(held(&store, &digests(1..=3)), [true, false, false]);
}

#[test]
fn no_more_blobs_are_held_than_allowed_however_small() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Options { max_blobs: 3, ..options(directory.path()) }).unwrap();
    for seed in 1..=5 {
        store.put(&blob(seed).0, &blob(seed).1).unwrap();
    }
    assert_eq!(held(&store, &digests(1..=5)), [false, false, true, true, true]);
}

#[test]
fn a_stale_partial_goes_before_any_blob_and_a_recent_one_after_all() {
    let partial_size = 2 * LEAF_SIZE;
    for (partial_ttl, blob_stays) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let directory = tempfile::tempdir().unwrap();
        let limits = Options { quota: 2 * LEAF_SIZE, partial_ttl, ..options(directory.path()) };
        let store = Store::open(limits).unwrap();
        let content = content(7, partial_size);
        let partial = store.partial(&sha256(&content), partial_size).unwrap();
        write(&partial, &content, 0).unwrap();
        drop(partial);
        store.put(&blob(1).0, &blob(1).1).unwrap();
        assert_eq!(store.usage().partial_bytes, LEAF_SIZE);
        store.partial(&blob(2).0, LEAF_SIZE - 500).unwrap();
        assert_eq!(store.contains(&blob(1).0), blob_stays);
        assert_eq!(store.usage().dropped_partials, u64::from(blob_stays));
    }
}

#[test]
fn a_disk_that_fills_up_while_a_blob_is_written_loses_nothing() {
    let content = content(1, 3 * LEAF_SIZE);
    let digest = sha256(&content);
    // Full at every point: the map's beginning, a leaf, a leaf's record.
    for left in [50, 500, LEAF_SIZE + 86 + 20, 2 * LEAF_SIZE + 86 + 45, 2 * LEAF_SIZE + 86 + 60] {
        let directory = tempfile::tempdir().unwrap();
        let disk = SmallDisk::new(u64::MAX / 2);
        let limits = Options { disk: disk.clone(), ..options(directory.path()) };
        let store = Store::open(limits.clone()).unwrap();
        let fill_up = |left| disk.left.store(left, Ordering::SeqCst);
        let partial = store.partial(&digest, 3 * LEAF_SIZE).unwrap();
        fill_up(left.max(86) - 86);
        let mut written = Vec::new();
        let full = loop {
            let index = written.len() as u64;
            match write(&partial, &content, index) {
                Ok(true) => written.push(index),
                other => break other.unwrap_err(),
            }
        };
        assert!(full.is_no_space(), "{full}");
        assert_eq!(written.len() as u64, (left.max(86) - 86) / (LEAF_SIZE + 45));
        assert_eq!(partial.have().iter().collect::<Vec<_>>(), written);
        for &index in &written {
            assert_eq!(partial.read_at(index * LEAF_SIZE, LEAF_SIZE as usize).unwrap(), common::leaf(&content, index));
        }
        drop((partial, store));

        fill_up(u64::MAX / 2);
        let store = Store::open(limits).unwrap();
        let partial = store.partial(&digest, 3 * LEAF_SIZE).unwrap();
        assert_eq!(partial.have().iter().collect::<Vec<_>>(), written);
        for index in 0..3 {
            write(&partial, &content, index).unwrap();
        }
        assert!(read_all(&partial.commit().unwrap()) == content);
    }
}

/// A disk that fails one kind of call for as long as it is told to.
#[derive(Default)]
struct FailingDisk {
    sync: AtomicBool,
    rename: AtomicBool,
    sync_directory: AtomicBool,
}

fn fail_if(failing: &AtomicBool) -> io::Result<()> {
    if failing.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
}

impl Disk for FailingDisk {
    fn open_direct(&self, path: &Path) -> io::Result<File> {
        SystemDisk.open_direct(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        SystemDisk.write_at(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        fail_if(&self.sync)?;
        SystemDisk.sync(file)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fail_if(&self.rename)?;
        SystemDisk.rename(from, to)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        fail_if(&self.sync_directory)?;
        SystemDisk.sync_directory(directory)
    }

    fn free(&self, directory: &Path) -> io::Result<u64> {
        SystemDisk.free(directory)
    }
}

#[test]
fn bytes_that_the_disk_would_not_make_durable_never_become_a_blob() {
    let content = content(1, 2 * LEAF_SIZE);
    let digest = sha256(&content);
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let store = Store::open(Options { disk: disk.clone(), ..options(directory.path()) }).unwrap();
    let partial = store.partial(&digest, 2 * LEAF_SIZE).unwrap();
    for index in 0..2 {
        write(&partial, &content, index).unwrap();
    }
    disk.sync.store(true, Ordering::SeqCst);
    assert!(matches!(partial.commit(), Err(Error::Io { what: "sync", .. })));
    disk.sync.store(false, Ordering::SeqCst);
    assert!(
        matches!(partial.commit(), Err(Error::Closed(_))),
        "a second fsync would say nothing of the first one's pages"
    );
    assert_eq!(partial.read_at(0, 2 * LEAF_SIZE as usize).unwrap(), content, "whoever streams from it goes on");
    assert!(!store.contains(&digest) && store.usage().partials == 0);
    assert!(store.partial(&digest, 2 * LEAF_SIZE).unwrap().have().is_empty());
}

#[test]
fn a_name_that_would_not_become_durable_is_taken_back_and_commit_can_be_tried_again() {
    let content = content(1, 2 * LEAF_SIZE);
    let digest = sha256(&content);
    let directory = tempfile::tempdir().unwrap();
    let disk = Arc::new(FailingDisk::default());
    let store = Store::open(Options { disk: disk.clone(), ..options(directory.path()) }).unwrap();
    let partial = store.partial(&digest, 2 * LEAF_SIZE).unwrap();
    for index in 0..2 {
        write(&partial, &content, index).unwrap();
    }
    for failing in [&disk.rename, &disk.sync_directory] {
        failing.store(true, Ordering::SeqCst);
        assert!(matches!(partial.commit(), Err(Error::Io { .. })));
        assert!(matches!(store.put(&sha256(b"x"), b"x"), Err(Error::Io { .. })));
        failing.store(false, Ordering::SeqCst);
        assert_eq!(store.usage().blobs, 0);
        assert_eq!(fs::read_dir(directory.path().join("blobs/sha256")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(directory.path().join("partial")).unwrap().count(), 2);
    }
    assert!(read_all(&partial.commit().unwrap()) == content);
}

#[test]
fn a_disk_too_full_to_begin_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(10_000);
    let store = Store::open(Options { disk: disk.clone(), ..options(directory.path()) }).unwrap();
    assert!(store.partial(&blob(1).0, 20_000).unwrap_err().is_no_space(), "asked before anything is written");
    disk.left.store(50, Ordering::SeqCst);
    assert!(store.put(&blob(1).0, &blob(1).1).unwrap_err().is_no_space());
    assert!(store.partial(&blob(1).0, 30).unwrap_err().is_no_space(), "the map itself has no room");
    assert_eq!(fs::read_dir(directory.path().join("partial")).unwrap().count(), 0);
    assert_eq!((store.usage().partials, store.usage().bytes), (0, 0));
    disk.left.store(10_000, Ordering::SeqCst);
    store.put(&blob(1).0, &blob(1).1).unwrap();
}

#[test]
fn a_full_disk_takes_the_least_recently_used_blob_rather_than_failing() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(u64::MAX / 2);
    let evicted = Arc::new(AtomicU64::new(0));
    let on_change = {
        let (disk, evicted) = (Arc::clone(&disk), Arc::clone(&evicted));
        move |change| {
            if matches!(change, Change::Removed { .. }) {
                evicted.fetch_add(1, Ordering::SeqCst);
                disk.left.fetch_add(2 * LEAF_SIZE, Ordering::SeqCst);
            }
        }
    };
    let limits = Options { disk: disk.clone(), on_change: Some(Arc::new(on_change)), ..options(directory.path()) };
    let store = Store::open(limits).unwrap();
    for seed in 1..=3 {
        let content = content(seed, 2 * LEAF_SIZE);
        store_whole(&store, &sha256(&content), &content);
    }
    let content = content(4, 3 * LEAF_SIZE);
    let partial = store.partial(&sha256(&content), 3 * LEAF_SIZE).unwrap();
    // Somebody else has filled the disk since room was reserved.
    disk.left.store(LEAF_SIZE / 2, Ordering::SeqCst);
    for index in 0..3 {
        assert!(write(&partial, &content, index).unwrap());
    }
    assert!(read_all(&partial.commit().unwrap()) == content);
    assert_eq!(evicted.load(Ordering::SeqCst), 2);
    assert!(store.contains(&sha256(&common::content(3, 2 * LEAF_SIZE))));
}

#[test]
fn the_file_systems_free_space_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(100_000);
    let limits = Options { disk: disk.clone(), keep_free: 98_000, ..options(directory.path()) };
    let store = Store::open(limits).unwrap();
    store.put(&blob(1).0, &blob(1).1).unwrap();
    disk.left.store(98_500, Ordering::SeqCst);
    assert!(store.partial(&blob(2).0, 5000).unwrap_err().is_no_space());
    assert!(store.contains(&blob(1).0));
    store.put(&blob(2).0, &blob(2).1).unwrap();
    assert!(!store.contains(&blob(1).0));
}
