//! Blobs come in, are found again whole and by block, and go.

mod common;

use std::{sync::Arc, thread};

use common::{changes, content, leaf, open, options, read_all, sha256, store_whole, write};
use shoal_content::{Algorithm, Cid, Digest, LEAF_SIZE, LeafHash, dag, leaf::leaf_count};
use shoal_store::{Change, Error, Options, Store, TagRecord};

/// The root as the DAG builder has it, over the leaves as they are.
fn root_of(content: &[u8]) -> dag::Dag {
    let mut builder = dag::Builder::new();
    for index in 0..leaf_count(content.len() as u64) {
        let leaf = leaf(content, index);
        builder.leaf(LeafHash::of(leaf), leaf.len() as u64);
    }
    builder.finish()
}

fn read_block(store: &Store, cid: &Cid) -> Option<Vec<u8>> {
    let block = store.block(cid).unwrap()?;
    let bytes = block.read().unwrap();
    assert_eq!(bytes.len() as u64, block.size());
    Some(bytes.to_vec())
}

#[test]
fn blobs_of_every_shape_are_found_whole_and_by_block_also_after_a_restart() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        for size in [0, 1, 100, LEAF_SIZE - 1, LEAF_SIZE, LEAF_SIZE + 1, 3 * LEAF_SIZE, 4 * LEAF_SIZE + 5] {
            let directory = tempfile::tempdir().unwrap();
            let content = content(size, size);
            let digest = Digest::of(algorithm, &content);
            let store = open(directory.path());
            assert!(store.get(&digest).unwrap().is_none() && !store.contains(&digest));
            store_whole(&store, &digest, &content);
            check_found(&store, &digest, &content);
            drop(store);
            check_found(&open(directory.path()), &digest, &content);
        }
    }
}

fn check_found(store: &Store, digest: &Digest, content: &[u8]) {
    let size = content.len() as u64;
    let dag = root_of(content);
    assert!(store.contains(digest));
    let blob = store.get(digest).unwrap().unwrap();
    assert_eq!((blob.digest(), blob.size(), blob.root().unwrap()), (*digest, size, dag.root));
    assert!(read_all(&blob) == content);
    assert!(blob.read_at(size, 1).unwrap().is_empty() && blob.read_at(u64::MAX, 9).unwrap().is_empty());
    assert_eq!(blob.outline().unwrap().root(), Some(dag.root));
    assert_eq!(store.outline(digest).unwrap().unwrap(), blob.outline().unwrap());
    for index in 0..leaf_count(size) {
        let leaf = leaf(content, index);
        assert!(read_block(store, &LeafHash::of(leaf).cid()).unwrap() == leaf);
    }
    for (cid, bytes) in &dag.nodes {
        assert_eq!(read_block(store, cid).unwrap(), *bytes);
    }
    assert_eq!(read_block(store, &LeafHash::of(b"nobody has this").cid()), None);
}

#[test]
fn a_blob_put_at_once_is_the_same_as_one_written_leaf_by_leaf() {
    let directory = tempfile::tempdir().unwrap();
    let (on_change, seen) = changes();
    let store = Store::open(Options { on_change: Some(on_change), ..options(directory.path()) }).unwrap();
    let content = content(5, LEAF_SIZE + 77);
    let digest = sha256(&content);
    let wrong = store.put(&digest, &content[1..]);
    assert!(matches!(wrong, Err(Error::DigestMismatch { expected, .. }) if expected == digest));
    store.put(&digest, &content).unwrap();
    check_found(&store, &digest, &content);
    assert!(read_all(&store.put(&digest, &content).unwrap()) == content, "a second time changes nothing");
    assert_eq!(*seen.lock().unwrap(), [Change::Added { digest, root: root_of(&content).root }]);
    assert!(matches!(store.partial(&digest, content.len() as u64), Err(Error::Held(held)) if held == digest));
}

#[test]
fn a_leaf_in_two_blobs_is_found_for_as_long_as_one_of_them_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let shared = content(1, LEAF_SIZE);
    let first = [content(2, LEAF_SIZE), shared.clone(), content(3, 10)].concat();
    let second = [shared.clone(), content(4, LEAF_SIZE)].concat();
    let (first_digest, second_digest) = (sha256(&first), sha256(&second));
    store_whole(&store, &first_digest, &first);
    store_whole(&store, &second_digest, &second);
    let cid = LeafHash::of(&shared).cid();
    for gone in [first_digest, second_digest] {
        assert!(read_block(&store, &cid).unwrap() == shared);
        assert!(store.remove(&gone).unwrap());
        assert!(!store.remove(&gone).unwrap());
    }
    assert_eq!(read_block(&store, &cid), None);
    assert_eq!(store.blobs().unwrap(), []);
}

#[test]
fn who_reads_a_blob_goes_on_reading_when_it_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let (on_change, seen) = changes();
    let store = Store::open(Options { on_change: Some(on_change), ..options(directory.path()) }).unwrap();
    let content = content(6, 2 * LEAF_SIZE);
    let digest = sha256(&content);
    let blob = store_whole(&store, &digest, &content);
    let again = store.get(&digest).unwrap().unwrap();
    let block = store.block(&LeafHash::of(leaf(&content, 1)).cid()).unwrap().unwrap();
    let root = blob.root().unwrap();
    assert!(store.remove(&digest).unwrap());
    assert!(read_all(&blob) == content && read_all(&again) == content);
    assert_eq!((again.root().unwrap(), again.outline().unwrap().root()), (root, Some(root)));
    assert!(store.get(&digest).unwrap().is_none());
    assert!(matches!(block.read(), Err(Error::Gone(gone)) if gone == digest));
    assert_eq!(*seen.lock().unwrap(), [Change::Added { digest, root }, Change::Removed { digest, root: Some(root) }]);
}

#[test]
fn a_file_taken_away_or_cut_under_the_store_is_not_held_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (gone, cut) = (content(1, 1000), content(2, 1000));
    let path = |content: &[u8]| directory.path().join("blobs/sha256").join(sha256(content).hex());
    for content in [&gone, &cut] {
        store.put(&sha256(content), content).unwrap();
    }
    std::fs::remove_file(path(&gone)).unwrap();
    std::fs::write(path(&cut), &cut[..999]).unwrap();
    for content in [&gone, &cut] {
        let digest = sha256(content);
        assert!(store.get(&digest).unwrap().is_none() && !store.contains(&digest));
        assert!(read_all(&store.put(&digest, content).unwrap()) == *content, "it can be stored again");
    }
    assert_eq!(store.usage().quarantined, 1);
    assert_eq!(store.usage().bytes, 2000);
}

#[test]
fn a_bit_that_flipped_on_disk_is_found_by_verifying() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let content = content(3, LEAF_SIZE + 9);
    let digest = sha256(&content);
    store_whole(&store, &digest, &content);
    assert!(store.verify(&digest).unwrap());
    let mut flipped = content.clone();
    flipped[LEAF_SIZE as usize] ^= 1;
    std::fs::write(directory.path().join("blobs/sha256").join(digest.hex()), flipped).unwrap();
    assert!(!store.verify(&digest).unwrap());
    assert!(!store.contains(&digest));
    assert!(directory.path().join("quarantine").join(digest.hex()).exists());
}

#[test]
fn a_second_store_in_the_same_directory_is_refused_by_name_and_process() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let refused = Store::open(options(directory.path())).unwrap_err();
    assert!(matches!(&refused, Error::Locked { .. }));
    let text = refused.to_string();
    assert!(text.contains(&directory.path().display().to_string()), "{text}");
    assert!(text.contains(&std::process::id().to_string()), "{text}");
    drop(store);
    open(directory.path());
}

#[test]
fn pins_media_types_tags_and_last_uses_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (older, newer) = (content(1, 10), content(2, 10));
    for content in [&newer, &older] {
        store.put(&sha256(content), content).unwrap();
    }
    store.get(&sha256(&newer)).unwrap();
    let digest = sha256(&newer);
    assert!(store.pin(&digest, true).unwrap());
    assert!(store.set_media_type(&digest, "application/json").unwrap());
    assert!(!store.pin(&sha256(b"nobody"), true).unwrap());
    assert!(!store.set_media_type(&sha256(b"nobody"), "application/json").unwrap());
    let tag = TagRecord { digest, media_type: "application/json".into(), size: 10, resolved_at: 1_700_000_000 };
    store.set_tag("docker.io/library/alpine:3", &tag).unwrap();
    let before = store.blobs().unwrap();
    drop(store);

    let store = open(directory.path());
    assert_eq!(store.blobs().unwrap(), before);
    let info = before.iter().find(|info| info.digest == digest).unwrap();
    assert!(info.pinned && before.iter().all(|other| other.last_use <= info.last_use));
    assert_eq!(store.media_type(&digest).unwrap().as_deref(), Some("application/json"));
    assert_eq!(store.tag("docker.io/library/alpine:3").unwrap(), Some(tag));
    assert_eq!(store.tag("docker.io/library/alpine:4").unwrap(), None);
}

#[test]
fn the_tags_resolved_longest_ago_go_when_there_are_too_many() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(Options { max_tags: 20, ..options(directory.path()) }).unwrap();
    let tag = |resolved_at| TagRecord { digest: sha256(b""), media_type: "a/b".into(), size: 0, resolved_at };
    for number in 0..50 {
        store.set_tag(&format!("tag-{number}"), &tag(number)).unwrap();
        assert!(store.usage().tags <= 20);
        assert!(store.tag(&format!("tag-{number}")).unwrap().is_some());
    }
    assert_eq!(store.tag("tag-0").unwrap(), None);
    assert!(store.tag("tag-35").unwrap().is_some());
    assert!(matches!(store.set_tag(&"x".repeat(2000), &tag(1)), Err(Error::TooLong { len: 2000, .. })));
}

#[test]
fn readers_writers_and_removers_of_many_blobs_do_not_disturb_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let contents: Arc<Vec<Vec<u8>>> = Arc::new((0..4).map(|seed| content(seed, LEAF_SIZE + 1 + seed)).collect());
    let work = |thread: usize| {
        let (store, contents) = (store.clone(), Arc::clone(&contents));
        thread::spawn(move || {
            for round in 0..40 {
                let content = &contents[(thread + round) % contents.len()];
                let digest = sha256(content);
                match (thread + round * 7) % 4 {
                    0 => drop(store.remove(&digest).unwrap()),
                    1 => match store.put(&digest, content) {
                        Ok(blob) => assert!(read_all(&blob) == *content),
                        Err(Error::Busy(_)) => {}
                        Err(error) => panic!("{error}"),
                    },
                    2 => match store.partial(&digest, content.len() as u64) {
                        Ok(partial) => {
                            for index in [1, 0] {
                                write(&partial, content, index).unwrap();
                            }
                            assert!(read_all(&partial.commit().unwrap()) == *content);
                        }
                        Err(Error::Busy(_) | Error::Held(_)) => {}
                        Err(error) => panic!("{error}"),
                    },
                    _ => {
                        if let Some(blob) = store.get(&digest).unwrap() {
                            assert!(read_all(&blob) == *content);
                        }
                    }
                }
            }
        })
    };
    let threads: Vec<_> = (0..6).map(work).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let held = store.blobs().unwrap();
    assert_eq!(store.usage().bytes, held.iter().map(|info| info.size).sum::<u64>());
    assert_eq!((store.usage().partials, store.usage().quarantined), (0, 0));
}
