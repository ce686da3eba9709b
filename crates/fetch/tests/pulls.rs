//! Pulls through real stores and a real swarm, with a registry that misbehaves to order.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Bed, Lie, content, drain, until};
use shoal_content::{Algorithm, Digest, LeafHash, Outline, Reference};
use shoal_fetch::{Config, Error, Pulls, Serve};
use shoal_upstream::fake::{Does, Fake, Fault, On};

const MIB: usize = 1 << 20;
const REPOSITORY: &str = "app";

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_comes_from_upstream_once_and_from_disk_after_that() {
    let registry = Fake::start().await;
    let bytes = content(1, 5 * MIB + 7);
    let digest = registry.put_blob(REPOSITORY, bytes.clone());
    let origin = registry.origin(REPOSITORY);
    let node = Bed::new().node(&registry).await;
    for _ in 0..2 {
        let (read, end) = node.read(&origin, &digest).await;
        assert!(end.is_ok() && read == bytes);
    }
    assert_eq!(registry.sent(&digest), bytes.len() as u64);
    let counted = node.fetch.counters();
    assert_eq!((counted.from_upstream, counted.from_disk), (bytes.len() as u64, bytes.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_at_once_share_one_session() {
    let registry = Fake::start().await;
    let bytes = content(2, 6 * MIB);
    let digest = registry.put_blob(REPOSITORY, bytes.clone());
    let origin = registry.origin(REPOSITORY);
    let node = Bed::new().node(&registry).await;
    let reads = (0..8).map(|_| node.read(&origin, &digest));
    for (read, end) in futures::future::join_all(reads).await {
        assert!(end.is_ok() && read == bytes);
    }
    assert_eq!(registry.sent(&digest), bytes.len() as u64);
    assert_eq!(node.fetch.counters().sessions, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_gets_an_image_from_the_first_with_upstream_gone() {
    let registry = Fake::start().await;
    let layers = [content(3, 3 * MIB + 1), content(4, 100), content(5, MIB)];
    let digest = registry.put_image(REPOSITORY, "v1", &layers);
    let origin = registry.origin(REPOSITORY);
    let mut bed = Bed::new();
    let first = bed.node(&registry).await;
    let second = bed.node(&registry).await;
    let tag = "v1".parse().unwrap();

    let resolved = first.fetch.resolve(&origin, &tag).await.unwrap();
    assert_eq!((resolved.digest, resolved.stale), (digest, false));
    let manifest = first.fetch.manifest(&origin, &digest).await.unwrap();
    let parsed = shoal_fetch::Parsed::from_json(&manifest.bytes).unwrap();
    for blob in parsed.blobs() {
        assert!(first.read(&origin, &blob.digest).await.1.is_ok());
    }
    for blob in parsed.blobs() {
        second.finds(&blob.digest, 1).await;
    }
    second.finds(&digest, 1).await;
    second.finds(&shoal_fetch::tag_key(&format!("{origin}:v1")), 1).await;

    registry.stop().await;
    let resolved = second.fetch.resolve(&origin, &tag).await.unwrap();
    assert_eq!((resolved.digest, resolved.stale), (digest, true));
    let manifest = second.fetch.manifest(&origin, &digest).await.unwrap();
    assert_eq!(manifest.media_type, "application/vnd.oci.image.manifest.v1+json");
    for (blob, layer) in parsed.layers.iter().zip(&layers) {
        let (read, end) = second.read(&origin, &blob.digest).await;
        assert!(end.is_ok(), "{end:?}");
        assert!(read == *layer);
    }
    let counted = second.fetch.counters();
    assert_eq!(counted.from_upstream, 0);
    assert!(counted.from_peers >= layers.iter().map(|layer| layer.len() as u64).sum());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_exists_nowhere_is_not_found_and_one_out_of_reach_is_unavailable() {
    let registry = Fake::start().await;
    let origin = registry.origin(REPOSITORY);
    let node = Bed::new().node(&registry).await;
    let nowhere = Digest::of(Algorithm::Sha256, b"nowhere");
    assert!(matches!(node.read(&origin, &nowhere).await.1, Err(Error::NotFound { .. })));
    registry.stop().await;
    let end = node.read(&origin, &Digest::of(Algorithm::Sha256, b"elsewhere")).await.1;
    assert!(matches!(end, Err(Error::Unavailable { .. })), "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_that_sends_wrong_bytes_never_yields_a_whole_blob() {
    let registry = Fake::start().await;
    let bytes = content(6, 2 * MIB + 5);
    let digest = registry.put_blob(REPOSITORY, bytes.clone());
    let origin = registry.origin(REPOSITORY);
    let node = Bed::new().node(&registry).await;
    registry.fault(Fault::times(1, On::Blob(digest), Does::WrongBytes));
    let (read, end) = node.read(&origin, &digest).await;
    assert!(end.is_err());
    assert!(read.len() < bytes.len(), "the last leaf is held back");
    assert!(!node.store.contains(&digest));
    let (read, end) = node.read(&origin, &digest).await;
    assert!(end.is_ok() && read == bytes, "the next attempt is right");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_blob_is_resumed_where_it_was() {
    let registry = Fake::start().await;
    let bytes = content(7, 8 * MIB);
    let digest = registry.put_blob(REPOSITORY, bytes.clone());
    let origin = registry.origin(REPOSITORY);
    let node = Bed::new().node(&registry).await;
    registry.set_rate(Some(20 * MIB as u64));
    let mut body = node.fetch.blob(&origin, &digest, None).await.unwrap();
    let mut read = 0;
    while read < 3 * MIB {
        read += futures::StreamExt::next(&mut body.stream).await.unwrap().unwrap().len();
    }
    drop(body);
    until("the session is over", async || node.fetch.sessions().is_empty()).await;
    registry.set_rate(None);
    let (read, end) = node.read(&origin, &digest).await;
    assert!(end.is_ok() && read == bytes);
    assert!(node.fetch.counters().from_upstream <= bytes.len() as u64);
    until("both sessions are told of", async || node.fetch.traces().len() == 2).await;
    assert!(node.fetch.traces()[0].resumed >= 3 * MIB as u64, "{:?}", node.fetch.traces()[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_makes_only_its_leaves_be_fetched() {
    let registry = Fake::start().await;
    let bytes = content(8, 10 * MIB);
    let digest = registry.put_blob(REPOSITORY, bytes.clone());
    let origin = registry.origin(REPOSITORY);
    let node = Bed::new().node(&registry).await;
    let range = 4 * MIB as u64 + 10..5 * MIB as u64 + 20;
    let body = node.fetch.blob(&origin, &digest, Some(range.clone())).await.unwrap();
    assert_eq!((body.size, body.range.clone()), (bytes.len() as u64, range.clone()));
    let (read, end) = drain(body).await;
    assert!(end.is_ok() && read == bytes[4 * MIB + 10..5 * MIB + 20]);
    assert!(node.fetch.counters().from_upstream <= 3 * MIB as u64);
    let beyond = node.fetch.blob(&origin, &digest, Some(10 * MIB as u64..11 * MIB as u64)).await;
    assert!(matches!(beyond, Err(Error::OutOfRange { .. })));
}

/// An outline that is right but for one leaf, and the bytes that it names instead.
fn lying_outline(bytes: &[u8], leaf: usize) -> (Arc<Outline>, bytes::Bytes) {
    let wrong = content(99, MIB);
    let hashes: Vec<LeafHash> = bytes
        .chunks(MIB)
        .enumerate()
        .map(|(index, chunk)| if index == leaf { LeafHash::of(&wrong) } else { LeafHash::of(chunk) })
        .collect();
    (Arc::new(Outline::complete(bytes.len() as u64, &hashes).unwrap()), wrong)
}

/// Content of a blob that `node` coordinates, as it is the nearest to its digest.
async fn coordinated_by(node: &common::Node, len: usize) -> (bytes::Bytes, Digest) {
    for seed in 1000.. {
        let bytes = content(seed, len);
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        if node.swarm.nearest(&digest, 1).await.unwrap() == [None] {
            return (bytes, digest);
        }
    }
    unreachable!("some digest is near to every node");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_outline_costs_one_attempt_and_the_liar_is_avoided() {
    for serve in [Serve::Stream, Serve::Verified] {
        let registry = Fake::start().await;
        let origin = registry.origin(REPOSITORY);
        let mut bed = Bed::new();
        let liar = bed.node(&registry).await;
        let config = Config { serve, ..Config::default() };
        let victim = bed.node_with(&registry, config, |_| {}).await;
        let (bytes, digest) = coordinated_by(&victim, 6 * MIB).await;
        assert_eq!(registry.put_blob(REPOSITORY, bytes.clone()), digest);
        let (outline, wrong) = lying_outline(&bytes, 2);
        *liar.mask.lie.lock().unwrap() = Some(Lie::Outline(digest, outline));
        liar.store.put(&digest, &bytes).unwrap();
        liar.store.put(&Digest::of(Algorithm::Sha256, &wrong), &wrong).unwrap();
        victim.finds(&digest, 1).await;

        let (read, end) = victim.read(&origin, &digest).await;
        match serve {
            Serve::Stream => {
                assert!(matches!(end, Err(Error::Corrupt { .. })), "{end:?}");
                assert!(read.len() < bytes.len(), "a wrong blob is never whole");
            }
            Serve::Verified => assert!(end.is_ok() && read == bytes, "{end:?}"),
        }
        let (read, end) = victim.read(&origin, &digest).await;
        assert!(end.is_ok() && read == bytes, "the next attempt succeeds: {end:?}");
        let avoided = victim.fetch.avoided();
        assert_eq!(avoided.len(), 1);
        assert_eq!(avoided[0].0, liar.swarm.local_peer());
        assert_eq!(victim.fetch.counters().lies, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liar_beside_an_honest_holder_fails_no_verified_pull_with_upstream_gone() {
    let registry = Fake::start().await;
    let origin = registry.origin(REPOSITORY);
    let mut bed = Bed::new();
    let (liar, honest) = (bed.node(&registry).await, bed.node(&registry).await);
    let config = Config { serve: Serve::Verified, ..Config::default() };
    let node = bed.node_with(&registry, config, |_| {}).await;
    let (bytes, digest) = coordinated_by(&node, 5 * MIB).await;
    let (outline, wrong) = lying_outline(&bytes, 4);
    *liar.mask.lie.lock().unwrap() = Some(Lie::Outline(digest, outline));
    liar.store.put(&Digest::of(Algorithm::Sha256, &wrong), &wrong).unwrap();
    for holder in [&liar, &honest] {
        holder.store.put(&digest, &bytes).unwrap();
    }
    node.finds(&digest, 2).await;
    registry.stop().await;
    let (read, end) = node.read(&origin, &digest).await;
    assert!(end.is_ok() && read == bytes, "{end:?}");
    assert!(node.fetch.avoided().iter().all(|(peer, _)| *peer == liar.swarm.local_peer()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_is_not_what_it_should_be_is_had_from_elsewhere() {
    let registry = Fake::start().await;
    let bytes = content(11, 4 * MIB);
    let digest = registry.put_blob(REPOSITORY, bytes.clone());
    let origin = registry.origin(REPOSITORY);
    let mut bed = Bed::new();
    let bad = bed.node(&registry).await;
    assert!(bad.read(&origin, &digest).await.1.is_ok());
    let cid = LeafHash::of(&bytes[2 * MIB..3 * MIB]).cid();
    *bad.mask.lie.lock().unwrap() = Some(Lie::Block(cid, content(98, MIB)));
    let node = bed.node(&registry).await;
    node.finds(&digest, 1).await;
    let (read, end) = node.read(&origin, &digest).await;
    assert!(end.is_ok() && read == bytes, "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_dies_or_stalls_in_the_middle_costs_about_a_second() {
    for dies in [true, false] {
        let registry = Fake::start().await;
        let bytes = content(12, 12 * MIB);
        let digest = registry.put_blob(REPOSITORY, bytes.clone());
        let origin = registry.origin(REPOSITORY);
        let mut bed = Bed::new();
        let holder = bed.node(&registry).await;
        assert!(holder.read(&origin, &digest).await.1.is_ok());
        let node = bed.node(&registry).await;
        node.finds(&digest, 1).await;
        // Slow enough that the pull is under way when it happens.
        *holder.mask.lie.lock().unwrap() = Some(Lie::Silent(Duration::from_millis(100)));
        let mut body = node.fetch.blob(&origin, &digest, None).await.unwrap();
        let first = futures::StreamExt::next(&mut body.stream).await.unwrap().unwrap();
        let began = std::time::Instant::now();
        if dies {
            holder.swarm.shutdown().await;
        } else {
            *holder.mask.lie.lock().unwrap() = Some(Lie::Silent(Duration::from_secs(4)));
        }
        let (rest, end) = drain(body).await;
        assert!(end.is_ok(), "{end:?}");
        assert!([first.as_ref(), &rest].concat() == bytes);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?} lost", began.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_room_does_not_fail_a_pull() {
    let registry = Fake::start().await;
    let bytes = content(13, 5 * MIB + 3);
    let digest = registry.put_blob(REPOSITORY, bytes.clone());
    let origin = registry.origin(REPOSITORY);
    let node = Bed::new().node_with(&registry, Config::default(), |options| options.quota = MIB as u64).await;
    let (read, end) = node.read(&origin, &digest).await;
    assert!(end.is_ok() && read == bytes, "{end:?}");
    assert_eq!(node.fetch.counters().unstored, 1);
    assert!(!node.store.contains(&digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_gone_in_the_middle_ends_short_when_nobody_else_has_it_and_is_made_up_for_when_somebody_has() {
    for has_holder in [false, true] {
        let registry = Fake::start().await;
        let bytes = content(14, 10 * MIB);
        let digest = registry.put_blob(REPOSITORY, bytes.clone());
        let origin = registry.origin(REPOSITORY);
        let mut bed = Bed::new();
        let other = bed.node(&registry).await;
        let node = bed.node(&registry).await;
        registry.set_rate(Some(10 * MIB as u64));
        let mut body = node.fetch.blob(&origin, &digest, None).await.unwrap();
        let first = futures::StreamExt::next(&mut body.stream).await.unwrap().unwrap();
        if has_holder {
            other.store.put(&digest, &bytes).unwrap();
            node.finds(&digest, 1).await;
        }
        registry.stop().await;
        let (rest, end) = drain(body).await;
        let read = [first.as_ref(), &rest].concat();
        assert!(bytes.starts_with(&read));
        if has_holder {
            assert!(end.is_ok() && read == bytes, "{end:?}");
        } else {
            assert!(matches!(end, Err(Error::Unavailable { .. })), "{end:?}");
            assert!(read.len() < bytes.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_not_listed_is_not_served() {
    let registry = Fake::start().await;
    let node = Bed::new().node(&registry).await;
    let mut origin = registry.origin(REPOSITORY);
    origin.registry = "elsewhere.example".parse().unwrap();
    let tag = "v1".parse().unwrap();
    assert!(matches!(node.fetch.resolve(&origin, &tag).await, Err(Error::NotServed(_))));
    let Reference::Digest(digest) = Digest::of(Algorithm::Sha256, b"x").to_string().parse().unwrap() else { panic!() };
    assert!(matches!(node.fetch.manifest(&origin, &digest).await, Err(Error::NotServed(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_together_read_upstream_once() {
    let registry = Fake::start().await;
    let bytes = content(15, 40 * MIB + 11);
    let digest = registry.put_blob(REPOSITORY, bytes.clone());
    let origin = registry.origin(REPOSITORY);
    let mut bed = Bed::new();
    let mut nodes = Vec::new();
    // Six nodes of a development build in one process answer late.
    let mut config = Config::default();
    config.limits.budget = Duration::from_secs(2);
    for _ in 0..6 {
        nodes.push(bed.node_with(&registry, config.clone(), |_| {}).await);
    }
    registry.set_rate(Some(20 * MIB as u64));
    let reads = nodes.iter().map(|node| node.read(&origin, &digest));
    for (read, end) in futures::future::join_all(reads).await {
        assert!(end.is_ok() && read == bytes, "{end:?}");
    }
    let sent = registry.sent(&digest) as f64 / bytes.len() as f64;
    assert!(sent <= 1.05, "{sent} copies");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_upstream_that_ignores_ranges_one_node_reads_for_all() {
    let registry = Fake::start().await;
    let bytes = content(15, 24 * MIB + 9);
    let digest = registry.put_blob(REPOSITORY, bytes.clone());
    let origin = registry.origin(REPOSITORY);
    registry.fault(Fault::always(On::Blobs, Does::IgnoreRange));
    registry.set_rate(Some(20 * MIB as u64));
    let mut bed = Bed::new();
    let mut nodes = Vec::new();
    let mut config = Config::default();
    config.limits.budget = Duration::from_secs(2);
    for _ in 0..4 {
        nodes.push(bed.node_with(&registry, config.clone(), |_| {}).await);
    }
    let reads = nodes.iter().map(|node| node.read(&origin, &digest));
    for (read, end) in futures::future::join_all(reads).await {
        assert!(end.is_ok() && read == bytes, "{end:?}");
    }
    let copies = registry.sent(&digest) as f64 / bytes.len() as f64;
    assert!(copies < 1.5, "upstream sent {copies:.2} copies");
}
