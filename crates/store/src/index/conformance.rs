//! What every index does. An implementation runs [`run`] and adds tests of its own for what only it does.

use std::path::Path;

use shoal_content::{Algorithm, Digest, LEAF_SIZE, LeafHash};

use super::{BlockKey, DAG_PB, Index, InnerNode, MAX_PLACES, Place, Record, TagRecord, cid};

/// Runs the suite on indices that `open` makes in the directory given to it; where they are `durable`, opening again finds everything.
pub(crate) fn run(open: impl Fn(&Path) -> Box<dyn Index>, durable: bool) {
    type Case = fn(&dyn Index);
    let cases: [Case; 8] = [
        knows_nothing_at_first,
        gives_back_what_was_inserted,
        finds_a_block_in_each_blob_that_has_it,
        gives_only_some_of_very_many_places,
        removal_takes_only_what_is_the_blobs_own,
        insertion_replaces,
        notes_uses_and_changes_of_listed_blobs_only,
        keeps_tags,
    ];
    for case in cases {
        let directory = tempfile::tempdir().unwrap();
        case(open(&directory.path().join("index")).as_ref());
    }
    if durable {
        let directory = tempfile::tempdir().unwrap();
        finds_everything_again_when_opened_again(|| open(&directory.path().join("index")));
    }
}

fn digest(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

fn leaf(number: u32) -> LeafHash {
    LeafHash::of(&number.to_be_bytes())
}

fn record(digest: Digest, leaves: usize, nodes: &[u8]) -> Record {
    let nodes: Vec<_> = nodes.iter().map(|&byte| InnerNode { hash: [byte; 32], size: 50_000 }).collect();
    let root = nodes.last().map_or(leaf(0).cid(), |node| cid(DAG_PB, &node.hash));
    let size = leaves as u64 * LEAF_SIZE;
    Record { digest, size, root, nodes, last_use: 3, pinned: false, media_type: None }
}

fn all(index: &dyn Index) -> Vec<Record> {
    let mut records = Vec::new();
    index.records(&mut |record| records.push(record)).unwrap();
    records
}

fn places(index: &dyn Index, number: u32) -> Vec<Place> {
    let mut places = index.find(&BlockKey::Leaf(leaf(number))).unwrap();
    places.sort_by_key(|place| place.digest);
    places
}

fn knows_nothing_at_first(index: &dyn Index) {
    assert!(all(index).is_empty());
    assert_eq!(index.record(&digest("a")).unwrap(), None);
    assert_eq!(index.leaves(&digest("a")).unwrap(), None);
    assert_eq!(index.remove(&digest("a")).unwrap(), None);
    assert_eq!(places(index, 1), []);
    assert_eq!(index.tag("t").unwrap(), None);
    assert!(!index.remove_tag("t").unwrap());
    index.flush().unwrap();
}

fn gives_back_what_was_inserted(index: &dyn Index) {
    // More leaves than fit any batch or group.
    let leaves: Vec<_> = (0..2500).map(leaf).collect();
    let large = record(digest("large"), leaves.len(), &[1, 2, 3]);
    let long = record(Digest::of(Algorithm::Sha512, b"long"), 1, &[]);
    index.insert(&large, &leaves).unwrap();
    index.insert(&long, &[leaf(9999)]).unwrap();
    assert_eq!(all(index), [large.clone(), long.clone()]);
    assert_eq!(index.record(&large.digest).unwrap(), Some(large.clone()));
    assert_eq!(index.leaves(&large.digest).unwrap(), Some(leaves));
    assert_eq!(index.leaves(&long.digest).unwrap(), Some(vec![leaf(9999)]));
    assert_eq!(places(index, 2499), [Place { digest: large.digest, position: 2499 }]);
    assert_eq!(index.find(&BlockKey::Inner([2; 32])).unwrap(), [Place { digest: large.digest, position: 1 }]);
}

fn finds_a_block_in_each_blob_that_has_it(index: &dyn Index) {
    let (a, b) = (record(digest("a"), 2, &[1]), record(digest("b"), 3, &[1, 2]));
    index.insert(&a, &[leaf(1), leaf(2)]).unwrap();
    index.insert(&b, &[leaf(7), leaf(8), leaf(1)]).unwrap();
    let mut expected = [Place { digest: a.digest, position: 0 }, Place { digest: b.digest, position: 2 }];
    expected.sort_by_key(|place| place.digest);
    assert_eq!(places(index, 1), expected);
    assert_eq!(index.find(&BlockKey::Inner([1; 32])).unwrap().len(), 2);
    assert_eq!(index.find(&BlockKey::Inner(leaf(1).0)).unwrap(), [], "a leaf is not an inner node");
}

fn gives_only_some_of_very_many_places(index: &dyn Index) {
    for number in 0..MAX_PLACES + 5 {
        index.insert(&record(digest(&number.to_string()), 1, &[]), &[leaf(1)]).unwrap();
    }
    assert_eq!(places(index, 1).len(), MAX_PLACES);
}

fn removal_takes_only_what_is_the_blobs_own(index: &dyn Index) {
    let (a, b) = (record(digest("a"), 3, &[1, 2]), record(digest("b"), 2, &[2]));
    // A leaf may be in the same blob twice.
    index.insert(&a, &[leaf(1), leaf(2), leaf(1)]).unwrap();
    index.insert(&b, &[leaf(2), leaf(3)]).unwrap();
    assert_eq!(index.remove(&a.digest).unwrap(), Some(a.clone()));
    assert_eq!(index.remove(&a.digest).unwrap(), None);
    assert_eq!(places(index, 1), []);
    assert_eq!(places(index, 2), [Place { digest: b.digest, position: 0 }]);
    assert_eq!(index.find(&BlockKey::Inner([1; 32])).unwrap(), []);
    assert_eq!(index.find(&BlockKey::Inner([2; 32])).unwrap().len(), 1);
    assert_eq!(index.leaves(&a.digest).unwrap(), None);
    assert_eq!(all(index), [b]);
}

fn insertion_replaces(index: &dyn Index) {
    let first = record(digest("a"), 2, &[1]);
    index.insert(&first, &[leaf(1), leaf(2)]).unwrap();
    let second = Record { last_use: 9, media_type: Some("text/plain".into()), ..first };
    index.insert(&second, &[leaf(1), leaf(2)]).unwrap();
    assert_eq!(all(index), [second]);
    assert_eq!(places(index, 1).len(), 1);
}

fn notes_uses_and_changes_of_listed_blobs_only(index: &dyn Index) {
    let a = record(digest("a"), 1, &[]);
    index.insert(&a, &[leaf(1)]).unwrap();
    index.touch(&[(a.digest, 50), (digest("b"), 60)]).unwrap();
    assert_eq!(all(index), [Record { last_use: 50, ..a.clone() }]);
    assert!(index.update(&a.digest, &mut |record| record.pinned = true).unwrap());
    assert!(!index.update(&digest("b"), &mut |record| record.pinned = true).unwrap());
    assert_eq!(all(index), [Record { last_use: 50, pinned: true, ..a.clone() }]);
    assert_eq!(places(index, 1).len(), 1);
    index.remove(&a.digest).unwrap();
    index.insert(&a, &[leaf(1)]).unwrap();
    assert_eq!(all(index), [a], "what was removed leaves nothing behind");
}

fn keeps_tags(index: &dyn Index) {
    let tag = |resolved_at| TagRecord {
        digest: digest("manifest"),
        media_type: "application/vnd.oci.image.index.v1+json".into(),
        size: 1234,
        resolved_at,
    };
    assert!(index.set_tag("docker.io/library/alpine:3", &tag(1)).unwrap());
    assert!(index.set_tag("a", &tag(2)).unwrap());
    assert!(!index.set_tag("a", &tag(3)).unwrap());
    assert_eq!(index.tag("a").unwrap(), Some(tag(3)));
    let mut tags = Vec::new();
    index.tags(&mut |key, tag| tags.push((key.to_owned(), tag.resolved_at))).unwrap();
    assert_eq!(tags, [("a".to_owned(), 3), ("docker.io/library/alpine:3".to_owned(), 1)]);
    assert!(index.remove_tag("a").unwrap());
    assert_eq!(index.tag("a").unwrap(), None);
}

fn finds_everything_again_when_opened_again(open: impl Fn() -> Box<dyn Index>) {
    let leaves: Vec<_> = (0..300).map(leaf).collect();
    let kept = Record { pinned: true, last_use: 70, ..record(digest("kept"), leaves.len(), &[1]) };
    let gone = record(digest("gone"), 1, &[]);
    let index = open();
    index.insert(&kept, &leaves).unwrap();
    index.insert(&gone, &[leaf(5000)]).unwrap();
    index.remove(&gone.digest).unwrap();
    index.flush().unwrap();
    drop(index);
    let index = open();
    assert_eq!(all(index.as_ref()), std::slice::from_ref(&kept));
    assert_eq!(index.leaves(&kept.digest).unwrap(), Some(leaves));
    assert_eq!(places(index.as_ref(), 5000), []);
}
