//! What is found again when the index is lost, damaged or wrong, and what is never served.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{changes, content, leaf, open, options, read_all, sha256, store_whole, write};
use shoal_content::{Algorithm, Digest, LEAF_SIZE, LeafHash};
use shoal_store::{Change, Indexing, Options, Store};

struct Bench {
    directory: tempfile::TempDir,
    contents: Vec<Vec<u8>>,
}

impl Bench {
    /// A closed store with some blobs and a partial.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sizes = [0, 1000, LEAF_SIZE, 2 * LEAF_SIZE + 9];
        let contents: Vec<_> = (1..).zip(sizes).map(|(seed, size)| content(seed, size)).collect();
        let store = open(directory.path());
        for content in &contents {
            store_whole(&store, &sha256(content), content);
        }
        let long = &contents[3];
        store_whole(&store, &Digest::of(Algorithm::Sha512, long), long);
        let unfinished = content(99, 2 * LEAF_SIZE);
        write(&store.partial(&sha256(&unfinished), 2 * LEAF_SIZE).unwrap(), &unfinished, 1).unwrap();
        Self { directory, contents }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn digests(&self) -> Vec<Digest> {
        let mut digests: Vec<_> = self.contents.iter().map(|content| sha256(content)).collect();
        digests.push(Digest::of(Algorithm::Sha512, &self.contents[3]));
        digests
    }

    fn file(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// Everything is served, whole and by block, and the partial has its leaf.
    fn check_all(&self, store: &Store) {
        for digest in self.digests() {
            let blob = store.get(&digest).unwrap().expect("held");
            assert_eq!(Digest::of(digest.algorithm(), &read_all(&blob)), digest);
        }
        for content in &self.contents {
            let first = leaf(content, 0);
            assert!(store.block(&LeafHash::of(first).cid()).unwrap().unwrap().read().unwrap() == first);
        }
        let root = store.get(&sha256(&self.contents[3])).unwrap().unwrap().root().unwrap();
        assert!(store.block(&root).unwrap().is_some());
        let unfinished = content(99, 2 * LEAF_SIZE);
        let partial = store.partial(&sha256(&unfinished), 2 * LEAF_SIZE).unwrap();
        assert_eq!(partial.have().iter().collect::<Vec<_>>(), [1]);
    }
}

#[test]
fn an_intact_index_is_believed_and_no_file_is_read_again() {
    let bench = Bench::new();
    let (on_change, seen) = changes();
    let store = Store::open(Options { on_change: Some(on_change), ..options(bench.path()) }).unwrap();
    assert_eq!((store.usage().unverified, store.usage().blobs), (0, 5));
    bench.check_all(&store);
    assert_eq!(*seen.lock().unwrap(), []);
}

#[test]
fn a_lost_index_is_made_again_from_the_files_and_every_blob_is_told_of() {
    let bench = Bench::new();
    fs::remove_dir_all(bench.path().join("index")).unwrap();
    let (on_change, seen) = changes();
    let store = Store::open(Options { on_change: Some(on_change), ..options(bench.path()) }).unwrap();
    bench.check_all(&store);
    store.wait_verified();
    let mut added: Vec<_> = seen
        .lock()
        .unwrap()
        .iter()
        .map(|change| match change {
            Change::Added { digest, .. } => *digest,
            Change::Removed { .. } => panic!("nothing was removed"),
        })
        .collect();
    added.sort();
    let mut expected = bench.digests();
    expected.sort();
    assert_eq!(added, expected);
    drop(store);
    let store = open(bench.path());
    assert_eq!(store.usage().unverified, 0, "once is enough");
    bench.check_all(&store);
}

#[test]
fn what_the_index_lost_is_served_to_the_first_who_asks() {
    let bench = Bench::new();
    fs::remove_dir_all(bench.path().join("index")).unwrap();
    let store = open(bench.path());
    for digest in bench.digests() {
        assert!(store.get(&digest).unwrap().is_some());
    }
}

#[test]
fn an_index_full_of_garbage_is_moved_aside() {
    let bench = Bench::new();
    let index = bench.path().join("index");
    for entry in fs::read_dir(&index).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::write(path, content(1, 700_000)).unwrap();
        }
    }
    let store = open(bench.path());
    store.wait_verified();
    bench.check_all(&store);
    assert!(bench.path().join("index.damaged-1").is_dir());
}

#[test]
fn an_index_damaged_anywhere_never_makes_the_store_fail_or_serve_wrong_bytes() {
    for at in [0usize, 20, 100, 4000, 70_000, 200_000, 520_000] {
        let bench = Bench::new();
        let path = bench.path().join("index/db");
        let mut bytes = fs::read(&path).unwrap();
        let at = at.min(bytes.len() - 1);
        let end = (at + 64).min(bytes.len());
        bytes[at..end].fill(0xa7);
        fs::write(&path, bytes).unwrap();
        let store = open(bench.path());
        store.wait_verified();
        bench.check_all(&store);
    }
}

#[test]
fn without_an_index_a_file_that_was_cut_or_flipped_goes_to_quarantine() {
    let bench = Bench::new();
    let [_, flipped, cut, swapped, grown] = bench.digests()[..] else { panic!("five blobs") };
    let good = bench.digests()[0];
    let edit = |digest: &Digest, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(bench.file(digest)).unwrap();
        change(&mut bytes);
        fs::write(bench.file(digest), bytes).unwrap();
    };
    edit(&flipped, &|bytes| bytes[999] ^= 0x80);
    edit(&cut, &|bytes| bytes.truncate(5000));
    edit(&swapped, &|bytes| bytes.swap(0, LEAF_SIZE as usize));
    edit(&grown, &|bytes| bytes.push(0));
    fs::remove_dir_all(bench.path().join("index")).unwrap();

    let (on_change, seen) = changes();
    let store = Store::open(Options { on_change: Some(on_change), ..options(bench.path()) }).unwrap();
    for digest in [flipped, cut, swapped, grown] {
        assert!(store.get(&digest).unwrap().is_none());
    }
    store.wait_verified();
    assert_eq!(store.usage().quarantined, 4);
    assert_eq!(fs::read_dir(bench.path().join("quarantine")).unwrap().count(), 4);
    assert_eq!(store.blobs().unwrap().iter().map(|info| info.digest).collect::<Vec<_>>(), [good]);
    assert_eq!((store.usage().unverified, store.usage().bytes), (0, 0));
    assert_eq!(seen.lock().unwrap().len(), 1);
    store_whole(&store, &flipped, &bench.contents[1]);
}

#[test]
fn with_an_index_a_file_of_another_length_goes_to_quarantine_and_a_missing_one_is_dropped() {
    let bench = Bench::new();
    let [_, cut, gone, ..] = bench.digests()[..] else { panic!("five blobs") };
    let bytes = fs::read(bench.file(&cut)).unwrap();
    fs::write(bench.file(&cut), &bytes[1..]).unwrap();
    fs::remove_file(bench.file(&gone)).unwrap();
    let store = open(bench.path());
    for digest in [cut, gone] {
        assert!(!store.contains(&digest) && store.get(&digest).unwrap().is_none());
    }
    assert_eq!((store.usage().quarantined, store.usage().blobs), (1, 3));
    assert_eq!(store.blobs().unwrap().len(), 3);
    assert_eq!(store.block(&LeafHash::of(&bench.contents[2]).cid()).unwrap().map(|block| block.digest()), None);
}

#[test]
fn what_has_no_business_among_the_blobs_is_put_out_of_the_way() {
    let bench = Bench::new();
    let blobs = bench.path().join("blobs/sha256");
    fs::write(blobs.join("README"), "hello").unwrap();
    fs::write(blobs.join(sha256(b"x").hex().to_uppercase()), "x").unwrap();
    std::os::unix::fs::symlink("/etc/hostname", blobs.join(sha256(b"y").hex())).unwrap();
    fs::write(bench.path().join("partial/sha256-00.part"), "x").unwrap();
    fs::write(bench.path().join(format!("partial/sha256-{}.put", sha256(b"z").hex())), "half").unwrap();
    let store = open(bench.path());
    store.wait_verified();
    assert_eq!((store.usage().quarantined, store.usage().blobs), (3, 5));
    assert_eq!(fs::read_dir(bench.path().join("partial")).unwrap().count(), 2);
    bench.check_all(&store);
}

#[test]
fn an_index_in_memory_verifies_every_file_when_it_is_opened() {
    let bench = Bench::new();
    let store = Store::open(Options { indexing: Indexing::Memory, ..options(bench.path()) }).unwrap();
    store.wait_verified();
    bench.check_all(&store);
}

#[test]
fn files_that_are_not_verified_yet_give_way_when_room_is_needed() {
    let bench = Bench::new();
    let total: u64 = bench.contents.iter().map(|content| content.len() as u64).sum::<u64>() + 2 * LEAF_SIZE + 9;
    fs::remove_dir_all(bench.path().join("index")).unwrap();
    let store = Store::open(Options { quota: total + LEAF_SIZE, ..options(bench.path()) }).unwrap();
    // Little enough that the file which is being verified at that moment may stay.
    let large = content(50, 3 * LEAF_SIZE);
    store_whole(&store, &sha256(&large), &large);
    store.wait_verified();
    assert!(store.contains(&sha256(&large)));
    assert!(store.usage().bytes <= total + LEAF_SIZE);
}
