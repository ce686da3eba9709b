//! Files by CID, between nodes.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Bed, Lie, Node, content, drain};
use shoal_content::{Cid, LeafHash, dag::Span};
use shoal_fetch::Error;
use shoal_upstream::fake::Fake;

const MIB: usize = 1 << 20;
const REPOSITORY: &str = "app";

/// A blob at a node, and the root of its DAG.
async fn held(node: &Node, registry: &Fake, bytes: Bytes) -> Cid {
    let digest = registry.put_blob(REPOSITORY, bytes);
    assert!(node.read(&registry.origin(REPOSITORY), &digest).await.1.is_ok());
    let store = node.store.clone();
    tokio::task::spawn_blocking(move || store.get(&digest).unwrap().unwrap().root().unwrap()).await.unwrap()
}

async fn file(node: &Node, root: &Cid, span: Span) -> Result<Vec<u8>, Error> {
    let body = node.fetch.file(root, span).await?;
    let length = body.range.end - body.range.start;
    let (bytes, end) = drain(body).await;
    end?;
    assert_eq!(bytes.len() as u64, length);
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_any_size_and_any_range_of_it_comes_from_a_peer_by_its_cid() {
    let registry = Fake::start().await;
    let mut bed = Bed::new();
    let (holder, asker) = (bed.node(&registry).await, bed.node(&registry).await);
    for size in [0, 1, MIB, MIB + 1, 40 * MIB + 3] {
        let bytes = content(size as u64 + 1, size);
        let root = held(&holder, &registry, bytes.clone()).await;
        assert!(file(&asker, &root, Span::ALL).await.unwrap() == bytes, "{size}");
        assert!(file(&holder, &root, Span::ALL).await.unwrap() == bytes, "{size}, from its own store");
        let (from, to) = (size / 3, size - size / 4);
        let part = file(&asker, &root, Span::Bytes(from as u64..to as u64)).await.unwrap();
        assert!(part == bytes[from..to], "{size}");
    }
    assert_eq!(asker.fetch.counters().from_upstream, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_silent_costs_a_moment_where_another_has_the_file() {
    let registry = Fake::start().await;
    let bytes = content(7, 12 * MIB);
    let mut bed = Bed::new();
    let (silent, good) = (bed.node(&registry).await, bed.node(&registry).await);
    let root = held(&silent, &registry, bytes.clone()).await;
    assert_eq!(held(&good, &registry, bytes.clone()).await, root);
    let asker = bed.node(&registry).await;
    *silent.mask.lie.lock().unwrap() = Some(Lie::Silent(Duration::from_secs(10)));
    let began = Instant::now();
    assert!(file(&asker, &root, Span::ALL).await.unwrap() == bytes);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    *silent.mask.lie.lock().unwrap() = None;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_sends_something_else_gives_nothing_and_another_does() {
    let registry = Fake::start().await;
    let bytes = content(8, 3 * MIB);
    let mut bed = Bed::new();
    let (liar, good) = (bed.node(&registry).await, bed.node(&registry).await);
    let root = held(&liar, &registry, bytes.clone()).await;
    held(&good, &registry, bytes.clone()).await;
    let asker = bed.node(&registry).await;
    let leaf = LeafHash::of(&bytes[MIB..2 * MIB]).cid();
    *liar.mask.lie.lock().unwrap() = Some(Lie::Block(leaf, content(9, MIB)));
    assert!(file(&asker, &root, Span::ALL).await.unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_nobody_has_is_an_error_that_names_it() {
    let registry = Fake::start().await;
    let mut bed = Bed::new();
    let (_other, asker) = (bed.node(&registry).await, bed.node(&registry).await);
    let nowhere = LeafHash::of(b"nowhere").cid();
    let error = file(&asker, &nowhere, Span::ALL).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }) && error.to_string().contains(&nowhere.to_string()), "{error}");
}
