//! A digest is given out under a repository only where it belongs there, whatever this node holds; and a usual pull costs no request more for it.

mod common;

use std::time::Duration;

use common::{Bed, Node, content, drain, until};
use futures::StreamExt;
use shoal_content::{Digest, Origin, Reference, Tag};
use shoal_fetch::{Admission, Config, Credential, Error, Item, Parsed, Pulls, Rights};
use shoal_store::{Options, Store};
use shoal_upstream::fake::{Demand, Does, Fake, Fault, On};

const MIB: usize = 1 << 20;

fn tag() -> Tag {
    "v1".parse().unwrap()
}

fn by_tag() -> Item {
    Item::Manifest(Reference::Tag(tag()))
}

fn manifest(digest: Digest) -> Item {
    Item::Manifest(Reference::Digest(digest))
}

fn pod() -> Credential {
    Credential::basic("pod", "secret")
}

fn private() -> Demand {
    Demand::Basic("pod".to_owned(), "secret".to_owned())
}

fn name(admission: &Result<Admission, Error>) -> &'static str {
    match admission {
        Ok(Admission::Open) => "open",
        Ok(Admission::Proven(_)) => "proven",
        Ok(Admission::Unproven) => "unproven",
        Ok(Admission::Refused) => "refused",
        Err(Error::NotFound { .. }) => "not found",
        Err(Error::Unavailable { .. }) => "unavailable",
        Err(_) => "error",
    }
}

async fn admit(node: &Node, origin: &Origin, item: &Item) -> &'static str {
    name(&node.fetch.admit(origin, item, None).await)
}

/// What may be had for `item` by who brings `caller`, as the gateway asks for it.
async fn pulls(node: &Node, origin: &Origin, item: &Item, caller: Option<&Credential>) -> std::sync::Arc<dyn Pulls> {
    match node.fetch.admit(origin, item, caller).await {
        Ok(Admission::Open) => std::sync::Arc::new(node.fetch.clone()),
        Ok(Admission::Proven(pulls)) => pulls,
        other => panic!("{item:?} of {origin}: {}", name(&other)),
    }
}

/// Pulls as containerd does: HEAD of the tag, index and manifest by digest, then config and layers. Gives the blobs.
async fn pull(node: &Node, origin: &Origin, caller: Option<&Credential>) -> Vec<Digest> {
    let tagged = pulls(node, origin, &by_tag(), caller).await;
    let mut next = vec![tagged.resolve(origin, &tag()).await.unwrap().digest];
    let mut blobs = Vec::new();
    while let Some(digest) = next.pop() {
        let pulls = pulls(node, origin, &manifest(digest), caller).await;
        let parsed = Parsed::from_json(&pulls.manifest(origin, &digest).await.unwrap().bytes).unwrap();
        next.extend(parsed.manifests.iter().map(|child| child.digest));
        blobs.extend(parsed.blobs().map(|blob| blob.digest));
    }
    for digest in &blobs {
        let pulls = pulls(node, origin, &Item::Blob(*digest), caller).await;
        drain(pulls.blob(origin, digest, None).await.unwrap()).await.1.unwrap();
    }
    blobs
}

/// An index of one image with three layers, and a tag for it.
fn put_index(registry: &Fake, repository: &str, seed: u64) -> Digest {
    let layers = [content(seed, 2 * MIB + 3), content(seed + 1, 100), content(seed + 2, MIB)];
    let image = registry.put_image(repository, "amd64", &layers);
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image.to_string(), "size": 7,
                       "platform": {"os": "linux", "architecture": "amd64"}}],
    });
    registry.put_manifest(repository, "v1", media_type, index.to_string());
    image
}

fn asked(registry: &Fake) -> Vec<String> {
    let mut asked: Vec<_> = registry.requests().iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect();
    asked.sort();
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usual_pull_asks_upstream_no_more_than_one_that_checks_nothing() {
    let mut ways = Vec::new();
    for rights in [Rights::Node, Rights::Caller, Rights::Strict] {
        let registry = Fake::start().await;
        let origin = registry.origin("app");
        put_index(&registry, "app", 1);
        let mut bed = Bed::new();
        let config = Config { rights, ..Config::default() };
        let node = bed.node_with(&registry, config.clone(), |_| {}).await;
        let blobs = pull(&node, &origin, None).await;
        assert_eq!(blobs.len(), 4);
        let first = asked(&registry);
        // HEAD of the tag, GET of index, manifest, config and three layers.
        assert_eq!(first.len(), 7, "{rights:?}: {first:?}");
        // From the disk the same again costs nothing while the tag is fresh.
        pull(&node, &origin, None).await;
        assert_eq!(asked(&registry), first, "{rights:?}");
        // A second node asks for the tag.
        let second = bed.node_with(&registry, config, |_| {}).await;
        for blob in &blobs {
            second.finds(blob, 1).await;
        }
        pull(&second, &origin, None).await;
        let more: Vec<_> = registry.requests().split_off(first.len());
        ways.push((first, more.iter().filter(|seen| seen.path.contains("/blobs/")).count(), more[0].method.clone()));
    }
    assert!(ways.iter().all(|way| *way == ways[0]), "{ways:?}");
    assert_eq!((ways[0].1, ways[0].2.as_str()), (0, "HEAD"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_repository_does_not_have_is_not_given_under_it_whatever_the_node_holds() {
    for rights in [Rights::Caller, Rights::Strict] {
        let registry = Fake::start().await;
        let (app, secret) = (registry.origin("app"), registry.origin("secret"));
        put_index(&registry, "app", 1);
        let image = put_index(&registry, "secret", 11);
        let node = Bed::new().node_with(&registry, Config { rights, ..Config::default() }, |_| {}).await;
        pull(&node, &app, None).await;
        let blobs = pull(&node, &secret, None).await;
        for item in blobs.iter().skip(1).map(|blob| Item::Blob(*blob)).chain([manifest(image)]) {
            assert_eq!(admit(&node, &app, &item).await, "not found", "{item:?}");
            assert_eq!(admit(&node, &secret, &item).await, "open", "{item:?}");
            // In whose name makes no difference.
            assert_eq!(name(&node.fetch.admit(&app, &item, Some(&pod())).await), "not found", "{item:?}");
        }
        // Both have the same config, which each manifest names.
        assert_eq!(admit(&node, &app, &Item::Blob(blobs[0])).await, "open");
        assert_eq!(admit(&node, &registry.origin("none"), &Item::Blob(blobs[1])).await, "not found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_node_decides_what_it_holds_is_for_all() {
    let registry = Fake::start().await;
    put_index(&registry, "secret", 11);
    let node = Bed::new().node_with(&registry, Config { rights: Rights::Node, ..Config::default() }, |_| {}).await;
    let blobs = pull(&node, &registry.origin("secret"), None).await;
    let before = registry.requests().len();
    assert_eq!(admit(&node, &registry.origin("app"), &Item::Blob(blobs[1])).await, "open");
    assert_eq!(registry.requests().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_on_its_way_is_not_given_under_another_repository() {
    let registry = Fake::start().await;
    let (app, secret) = (registry.origin("app"), registry.origin("secret"));
    registry.put_image("app", "v1", &[content(1, 10)]);
    let layer = registry.put_blob("secret", content(2, 8 * MIB));
    let node = Bed::new().node(&registry).await;
    pull(&node, &app, None).await;
    assert_eq!(admit(&node, &secret, &Item::Blob(layer)).await, "open");
    registry.set_rate(Some(8 * MIB as u64));
    let mut body = node.fetch.blob(&secret, &layer, None).await.unwrap();
    body.stream.next().await.unwrap().unwrap();
    assert_eq!(admit(&node, &app, &Item::Blob(layer)).await, "not found");
    assert_eq!(node.fetch.sessions().len(), 1, "it was still coming");
    registry.set_rate(None);
    drain(body).await.1.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_another_repository_has_too_costs_one_head_in_the_callers_name_and_no_second_copy() {
    let registry = Fake::start().await;
    registry.demand(private());
    let layer = content(3, 3 * MIB);
    let (one, other) = (registry.origin("one"), registry.origin("other"));
    registry.put_image("one", "v1", std::slice::from_ref(&layer));
    let node = Bed::new().node(&registry).await;
    let blobs = pull(&node, &one, Some(&pod())).await;
    let digest = registry.put_blob("other", layer.clone());
    registry.put_image("other", "v1", &[content(4, 10)]);
    pull(&node, &other, Some(&pod())).await;

    let before = registry.requests().len();
    assert_eq!(digest, blobs[1]);
    let item = Item::Blob(digest);
    let pod = pod();
    let asks = (0..8).map(|_| node.fetch.admit(&other, &item, Some(&pod)));
    for admission in futures::future::join_all(asks).await {
        let Ok(Admission::Proven(pulls)) = admission else { panic!("{}", name(&admission)) };
        let (bytes, end) = drain(pulls.blob(&other, &digest, None).await.unwrap()).await;
        assert!(end.is_ok() && bytes == layer);
    }
    let more = registry.requests().split_off(before);
    assert_eq!(more.len(), 1, "{more:?}");
    assert_eq!((more[0].method.as_str(), more[0].path.clone()), ("HEAD", format!("/v2/other/blobs/{digest}")));
    assert!(more[0].authorization.as_ref().is_some_and(|value| value.starts_with("Basic ")), "{more:?}");
    assert_eq!(registry.sent(&digest), layer.len() as u64);
    // Who brings nothing, or what is not good, gets nothing.
    assert_eq!(admit(&node, &other, &item).await, "unproven");
    let wrong = Credential::basic("pod", "wrong");
    assert_eq!(name(&node.fetch.admit(&other, &item, Some(&wrong)).await), "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_looks_like_a_manifest_opens_nothing() {
    let registry = Fake::start().await;
    let (mine, secret) = (registry.origin("mine"), registry.origin("secret"));
    let layer = registry.put_blob("secret", content(5, MIB));
    let text = format!(r#"{{"layers":[{{"digest":"{layer}","size":{MIB}}}]}}"#);
    let text = registry.put_blob("mine", text.into_bytes());
    let node = Bed::new().node(&registry).await;
    for (origin, digest) in [(&secret, layer), (&mine, text)] {
        assert_eq!(admit(&node, origin, &Item::Blob(digest)).await, "open");
        node.read(origin, &digest).await.1.unwrap();
    }
    assert_eq!(admit(&node, &mine, &manifest(text)).await, "not found");
    assert_eq!(admit(&node, &mine, &Item::Blob(layer)).await, "not found");
    // Even where somebody who is not asked for rights has read it as one.
    node.fetch.manifest(&mine, &text).await.unwrap();
    assert_eq!(admit(&node, &mine, &Item::Blob(layer)).await, "not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_has_said_holds_while_it_cannot_be_asked_and_what_is_of_another_repository_stays_closed() {
    for rights in [Rights::Caller, Rights::Strict] {
        let registry = Fake::start().await;
        registry.demand(private());
        let (app, secret) = (registry.origin("app"), registry.origin("secret"));
        put_index(&registry, "app", 1);
        let image = put_index(&registry, "secret", 11);
        let config = Config { rights, right_ttl: Duration::ZERO, belongs_ttl: Duration::ZERO, ..Config::default() };
        let node = Bed::new().node_with(&registry, config, |_| {}).await;
        let ours = pull(&node, &app, Some(&pod())).await;
        let theirs = pull(&node, &secret, Some(&pod())).await;
        registry.fault(Fault::always(On::Any, Does::Status(503)));
        let admit = async |origin: &Origin, item: &Item| name(&node.fetch.admit(origin, item, Some(&pod())).await);
        for blob in &ours {
            assert_eq!(admit(&app, &Item::Blob(*blob)).await, "proven");
        }
        // Known of another repository, whether of this one upstream has spoken or never has.
        for origin in [&app, &registry.origin("none")] {
            for item in [Item::Blob(theirs[1]), manifest(image)] {
                assert_eq!(admit(origin, &item).await, "unavailable", "{rights:?}: {item:?} of {origin}");
            }
        }
        assert_eq!(node.fetch.counters().unchecked, 0);
        // Of this nothing is known.
        let unknown = Item::Blob(Digest::of(shoal_content::Algorithm::Sha256, b"unknown"));
        let (expected, unchecked) = if rights == Rights::Caller { ("proven", 1) } else { ("unavailable", 0) };
        assert_eq!(admit(&app, &unknown).await, expected);
        assert_eq!(node.fetch.counters().unchecked, unchecked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_may_read_elsewhere_is_given_while_upstream_cannot_be_asked() {
    let registry = Fake::start().await;
    put_index(&registry, "open", 1);
    let node = Bed::new().node(&registry).await;
    let blobs = pull(&node, &registry.origin("open"), None).await;
    registry.stop().await;
    assert_eq!(admit(&node, &registry.origin("app"), &Item::Blob(blobs[1])).await, "open");
    assert_eq!(node.fetch.counters().unchecked, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_with_upstream_gone_images_are_had_under_their_repositories_and_no_others() {
    let registry = Fake::start().await;
    let (app, lib) = (registry.origin("app"), registry.origin("lib"));
    put_index(&registry, "app", 1);
    let untagged = put_index(&registry, "lib", 11);
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_owned();
    let at = |options: &mut Options| options.directory.clone_from(&directory);
    let node = Bed::new().node_with(&registry, Config::default(), at).await;
    let ours = pull(&node, &app, None).await;
    // This one by digest only.
    assert_eq!(admit(&node, &lib, &manifest(untagged)).await, "open");
    let parsed = Parsed::from_json(&node.fetch.manifest(&lib, &untagged).await.unwrap().bytes).unwrap();
    let theirs: Vec<_> = parsed.blobs().map(|blob| blob.digest).collect();
    for blob in &theirs {
        assert_eq!(admit(&node, &lib, &Item::Blob(*blob)).await, "open");
        node.read(&lib, blob).await.1.unwrap();
    }
    node.swarm.shutdown().await;
    drop(node);
    until("the store is closed", async || Store::open(Options::new(&directory)).is_ok()).await;

    registry.stop().await;
    let node = Bed::new().node_with(&registry, Config::default(), at).await;
    assert_eq!(pull(&node, &app, None).await, ours);
    for item in theirs.iter().map(|blob| Item::Blob(*blob)).chain([manifest(untagged)]) {
        assert_eq!(admit(&node, &lib, &item).await, "open", "{item:?}");
    }
    for item in [Item::Blob(theirs[1]), manifest(untagged)] {
        assert_eq!(admit(&node, &app, &item).await, "unavailable", "{item:?}");
    }
    assert_eq!(admit(&node, &lib, &Item::Blob(ours[1])).await, "unavailable");
}
