//! Blobs in progress: written in any order by many, resumed, corrected, committed or let go.

mod common;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Barrier,
    thread,
};

use bytes::Bytes;
use common::{content, leaf, open, options, read_all, sha256, store_whole, write};
use shoal_content::{Digest, LEAF_SIZE, LeafHash};
use shoal_store::{Error, Options, Partial, Store};

const SIZE: u64 = 5 * LEAF_SIZE + 123;

struct Bench {
    directory: tempfile::TempDir,
    content: Vec<u8>,
    digest: Digest,
}

impl Bench {
    fn new() -> Self {
        let content = content(42, SIZE);
        Self { directory: tempfile::tempdir().unwrap(), digest: sha256(&content), content }
    }

    fn open(&self) -> Store {
        open(self.directory.path())
    }

    fn open_other(&self) -> Store {
        open(&self.directory.path().join("other"))
    }

    fn partial(&self, store: &Store) -> Partial {
        store.partial(&self.digest, SIZE).unwrap()
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.directory.path().join("partial").join(format!("sha256-{}.{extension}", self.digest.hex()))
    }

    fn leaves(&self) -> Vec<u64> {
        self.partial(&self.open()).have().iter().collect()
    }

    /// Writes these leaves, and goes.
    fn leave_behind(&self, leaves: &[u64]) {
        let partial = self.partial(&self.open());
        for &index in leaves {
            assert!(write(&partial, &self.content, index).unwrap());
        }
    }

    /// Writes what is missing, and commits.
    fn finish(&self) {
        let store = self.open();
        let partial = self.partial(&store);
        for index in 0..6 {
            write(&partial, &self.content, index).unwrap();
        }
        assert!(read_all(&partial.commit().unwrap()) == self.content);
        assert_eq!(store.usage().partial_bytes, 0);
        assert!(!self.file("part").exists() && !self.file("map").exists());
    }
}

#[test]
fn leaves_may_come_in_any_order_and_only_those_that_are_there_are_read() {
    let bench = Bench::new();
    let store = bench.open();
    let partial = bench.partial(&store);
    assert_eq!((partial.size(), partial.frontier(), partial.have().len()), (SIZE, 0, 0));
    let frontiers = [(3, 0), (1, 0), (0, 2), (5, 2), (2, 4)];
    for (index, frontier) in frontiers {
        assert!(write(&partial, &bench.content, index).unwrap());
        assert!(!write(&partial, &bench.content, index).unwrap(), "a second time changes nothing");
        assert_eq!(partial.frontier(), frontier * LEAF_SIZE);
        assert_eq!(partial.outline().leaf(index), Some(LeafHash::of(leaf(&bench.content, index))));
    }
    let bytes = partial.read_at(LEAF_SIZE - 7, 20).unwrap();
    assert_eq!(bytes, bench.content[LEAF_SIZE as usize - 7..LEAF_SIZE as usize + 13]);
    let missing = partial.read_at(4 * LEAF_SIZE - 1, 2);
    assert!(matches!(missing, Err(Error::NotWritten { offset, .. }) if offset == 4 * LEAF_SIZE));
    assert!(partial.read_at(SIZE, 10).unwrap().is_empty());
    assert!(matches!(partial.commit(), Err(Error::Incomplete { missing: 1, .. })));
    write(&partial, &bench.content, 4).unwrap();
    assert_eq!(partial.frontier(), SIZE);
    partial.verify().unwrap();
    assert!(!store.contains(&bench.digest));
    partial.commit().unwrap();
    assert_eq!(partial.read_at(0, SIZE as usize).unwrap(), bench.content, "whoever streams from it goes on");
    assert!(matches!(partial.commit(), Err(Error::Closed(_))));
    assert!(matches!(write(&partial, &bench.content, 0), Err(Error::Closed(_))));
    assert!(store.remove(&bench.digest).unwrap(), "a partial that is done is in nobody's way");
}

#[test]
fn a_leaf_of_the_wrong_length_or_place_is_refused() {
    let bench = Bench::new();
    let partial = bench.partial(&bench.open());
    let hash = LeafHash([0; 32]);
    assert!(matches!(partial.write_leaf(6, &Bytes::new(), hash), Err(Error::NoSuchLeaf { index: 6, .. })));
    assert!(matches!(partial.write_leaf(u64::MAX, &Bytes::new(), hash), Err(Error::NoSuchLeaf { .. })));
    assert!(matches!(
        partial.write_leaf(5, &vec![0; 122].into(), hash),
        Err(Error::LeafLength { expected: 123, got: 122, .. })
    ));
    assert!(matches!(
        partial.write_leaf(0, &vec![0; 1].into(), hash),
        Err(Error::LeafLength { expected: LEAF_SIZE, .. })
    ));
    assert!(partial.have().is_empty());
    let huge = bench.open_other().partial(&bench.digest, u64::MAX);
    assert!(matches!(huge, Err(Error::TooLarge { .. })));
}

#[test]
fn one_has_a_blob_in_progress_at_a_time_and_the_next_resumes_it() {
    let bench = Bench::new();
    let store = bench.open();
    let partial = bench.partial(&store);
    write(&partial, &bench.content, 2).unwrap();
    assert!(matches!(store.partial(&bench.digest, SIZE), Err(Error::Busy(busy)) if busy == bench.digest));
    assert!(matches!(store.put(&bench.digest, &bench.content), Err(Error::Busy(_))));
    assert!(!store.remove(&bench.digest).unwrap());
    drop(partial);
    let partial = bench.partial(&store);
    assert_eq!(partial.have().iter().collect::<Vec<_>>(), [2]);
    drop(partial);
    store.put(&bench.digest, &bench.content).unwrap();
    assert!(!bench.file("part").exists(), "what came whole needs no partial");
    assert_eq!(store.usage().partials, 0);
}

#[test]
fn a_restart_keeps_the_leaves_whose_bytes_are_right() {
    let bench = Bench::new();
    bench.leave_behind(&[0, 1, 4, 5]);
    assert_eq!(bench.open().usage().partials, 1);
    let part = OpenOptions::new().write(true).open(bench.file("part")).unwrap();
    // Bytes that never reached the disk, and a flipped one.
    part.write_all_at(&vec![0; LEAF_SIZE as usize], LEAF_SIZE).unwrap();
    part.write_all_at(&[bench.content[SIZE as usize - 1] ^ 1], SIZE - 1).unwrap();
    assert_eq!(bench.leaves(), [0, 4]);
    assert_eq!(bench.leaves(), [0, 4]);
    bench.finish();
}

#[test]
fn a_blob_in_progress_of_another_size_is_begun_anew() {
    let bench = Bench::new();
    bench.leave_behind(&[0, 1]);
    let store = bench.open();
    let partial = store.partial(&bench.digest, SIZE - 1).unwrap();
    assert!(partial.have().is_empty());
    drop(partial);
    drop(store);
    assert_eq!(bench.leaves(), [] as [u64; 0]);
    bench.finish();
}

#[test]
fn a_map_that_was_cut_or_scribbled_over_costs_no_more_than_the_leaves_it_named() {
    const HEADER: usize = 86;
    const RECORD: usize = 45;
    let bench = Bench::new();
    bench.leave_behind(&[0, 1, 2]);
    let map = fs::read(bench.file("map")).unwrap();
    assert_eq!(map.len(), HEADER + 3 * RECORD);
    let cases: [(Vec<u8>, &[u64]); 5] = [
        (map[..HEADER + 2 * RECORD + 7].to_vec(), &[0, 1]),
        ([&map[..], &[0xff; 1000]].concat(), &[0, 1, 2]),
        ([&map[..HEADER + RECORD], &[0; 500], &map[HEADER + RECORD..]].concat(), &[0]),
        (map[..HEADER - 1].to_vec(), &[]),
        (vec![0x55; 5000], &[]),
    ];
    let part = fs::read(bench.file("part")).unwrap();
    for (damaged, expected) in cases {
        fs::write(bench.file("map"), damaged).unwrap();
        fs::write(bench.file("part"), &part).unwrap();
        assert_eq!(bench.leaves(), expected);
    }
    bench.finish();
}

#[test]
fn a_part_without_its_map_or_of_another_length_is_nothing() {
    let bench = Bench::new();
    bench.leave_behind(&[0, 1]);
    fs::remove_file(bench.file("map")).unwrap();
    drop(bench.open());
    assert!(!bench.file("part").exists());
    bench.leave_behind(&[0, 1]);
    OpenOptions::new().write(true).open(bench.file("part")).unwrap().set_len(SIZE + 1).unwrap();
    assert_eq!(bench.leaves(), [] as [u64; 0]);
    bench.finish();
}

#[test]
fn a_leaf_that_lied_is_found_forgotten_and_written_again() {
    let bench = Bench::new();
    let store = bench.open();
    let partial = bench.partial(&store);
    let lie = Bytes::from(vec![7; LEAF_SIZE as usize]);
    for index in 0..6 {
        match index {
            1 | 3 => assert!(partial.write_leaf(index, &lie, LeafHash::of(&lie)).unwrap()),
            _ => assert!(write(&partial, &bench.content, index).unwrap()),
        }
    }
    for index in [1, 3] {
        let mismatch = partial.commit();
        assert!(matches!(mismatch, Err(Error::DigestMismatch { expected, .. }) if expected == bench.digest));
        assert!(!store.contains(&bench.digest));
        assert!(!write(&partial, &bench.content, index).unwrap(), "what is there has to be forgotten first");
        assert!(partial.forget_leaf(index).unwrap());
        assert!(!partial.forget_leaf(index).unwrap());
        assert_eq!((partial.outline().leaf(index), partial.frontier()), (None, index * LEAF_SIZE));
        assert!(write(&partial, &bench.content, index).unwrap());
    }
    assert!(read_all(&partial.commit().unwrap()) == bench.content);
}

#[test]
fn a_forgotten_leaf_stays_forgotten_across_a_restart() {
    let bench = Bench::new();
    bench.leave_behind(&[0, 1, 2]);
    let partial = bench.partial(&bench.open());
    assert!(partial.forget_leaf(1).unwrap());
    drop(partial);
    assert_eq!(bench.leaves(), [0, 2]);
    bench.finish();
}

#[test]
fn what_is_discarded_is_gone_and_can_be_begun_anew() {
    let bench = Bench::new();
    let store = bench.open();
    let partial = bench.partial(&store);
    write(&partial, &bench.content, 0).unwrap();
    partial.discard().unwrap();
    assert!(!bench.file("part").exists() && !bench.file("map").exists());
    assert_eq!((store.usage().partials, store.usage().partial_bytes), (0, 0));
    assert!(matches!(partial.discard(), Err(Error::Closed(_))));
    let again = bench.partial(&store);
    assert!(again.have().is_empty());
}

#[test]
fn many_writers_of_a_blob_and_of_the_same_leaf_leave_it_right() {
    const LEAVES: u64 = 40;
    const WRITERS: u64 = 4;
    for round in 0..5u64 {
        let content = content(round, LEAVES * LEAF_SIZE);
        let digest = sha256(&content);
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let partial = store.partial(&digest, content.len() as u64).unwrap();
        let start = Barrier::new(WRITERS as usize);
        let lie = Bytes::from(vec![9; LEAF_SIZE as usize]);
        let lies = thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (partial, content, start, lie) = (&partial, &content, &start, &lie);
                    scope.spawn(move || {
                        start.wait();
                        let mut lies = Vec::new();
                        for step in 0..LEAVES {
                            // Odd multipliers, prime to the number of leaves: each writer has an order of its own.
                            let index = (step * (2 * writer + 7) + round * writer) % LEAVES;
                            if writer == 3 && index.is_multiple_of(8) {
                                if partial.write_leaf(index, lie, LeafHash::of(lie)).unwrap() {
                                    lies.push(index);
                                }
                            } else {
                                write(partial, content, index).unwrap();
                            }
                        }
                        lies
                    })
                })
                .collect();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(partial.have().is_full());
        for index in 0..LEAVES {
            let range = partial.read_at(index * LEAF_SIZE, LEAF_SIZE as usize).unwrap();
            assert_eq!(partial.outline().leaf(index), Some(LeafHash::of(&range)), "bytes and hash are of one writer");
        }
        if !lies.is_empty() {
            assert!(matches!(partial.commit(), Err(Error::DigestMismatch { .. })));
            for &index in &lies {
                assert!(partial.forget_leaf(index).unwrap());
                write(&partial, &content, index).unwrap();
            }
        }
        assert!(read_all(&partial.commit().unwrap()) == content);
    }
}

#[test]
fn forgetting_and_writing_again_under_other_writers_still_gives_the_whole_digest() {
    const LEAVES: u64 = 24;
    let content = content(11, LEAVES * LEAF_SIZE);
    let digest = sha256(&content);
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let partial = store.partial(&digest, content.len() as u64).unwrap();
    let lie = Bytes::from(vec![3; LEAF_SIZE as usize]);
    thread::scope(|scope| {
        scope.spawn(|| {
            for index in 0..LEAVES {
                partial.write_leaf(index, &lie, LeafHash::of(&lie)).unwrap();
                partial.forget_leaf(index).unwrap();
                write(&partial, &content, index).unwrap();
            }
        });
        scope.spawn(|| {
            for index in (0..LEAVES).rev() {
                write(&partial, &content, index).unwrap();
            }
        });
    });
    let lying: Vec<_> =
        (0..LEAVES).filter(|&index| partial.outline().leaf(index) == Some(LeafHash::of(&lie))).collect();
    assert_eq!(lying, [] as [u64; 0]);
    partial.commit().unwrap();
}

#[test]
fn a_partial_begun_while_its_store_is_dropped_keeps_the_store_until_it_is_done() {
    let bench = Bench::new();
    let partial = bench.partial(&bench.open());
    assert!(matches!(Store::open(options(bench.directory.path())), Err(Error::Locked { .. })));
    for index in 0..6 {
        write(&partial, &bench.content, index).unwrap();
    }
    let blob = partial.commit().unwrap();
    drop((partial, blob));
    assert!(bench.open().contains(&bench.digest));
}

#[test]
fn a_blob_in_progress_reserves_its_whole_size() {
    let bench = Bench::new();
    let store = Store::open(Options { quota: SIZE + 1000, ..options(bench.directory.path()) }).unwrap();
    let small = content(1, 900);
    store_whole(&store, &sha256(&small), &small);
    let partial = bench.partial(&store);
    assert_eq!(store.usage().partial_bytes, SIZE);
    let other = content(2, 2000);
    assert!(store.put(&sha256(&other), &other).unwrap_err().is_no_space());
    drop(partial);
    assert_eq!(store.usage().partial_bytes, 0, "nothing of it is on disk");
    store.put(&sha256(&other), &other).unwrap();
}
