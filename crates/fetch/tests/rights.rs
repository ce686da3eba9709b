//! Who is given what: a registry that wants credentials, nodes that have some or none, and callers that bring some or none.

mod common;

use common::{Bed, Node, content, drain};
use shoal_content::{Digest, Origin, Reference};
use shoal_fetch::{Admission, Config, Credential, Error, Item, Pulls, Rights};
use shoal_upstream::fake::{Demand, Does, Fake, Fault, On};

const MIB: usize = 1 << 20;
const REPOSITORY: &str = "app";

/// A registry with one image of one layer, and what of it is asked for.
async fn registry() -> (Fake, Origin, Digest, Item) {
    let registry = Fake::start().await;
    let layer = content(1, 2 * MIB + 3);
    registry.put_image(REPOSITORY, "v1", std::slice::from_ref(&layer));
    let digest = registry.put_blob(REPOSITORY, layer);
    let origin = registry.origin(REPOSITORY);
    (registry, origin, digest, Item::Manifest(Reference::Tag("v1".parse().unwrap())))
}

fn pod() -> Credential {
    Credential::basic("pod", "secret")
}

fn demands() -> [Demand; 2] {
    let (user, password) = ("pod".to_owned(), "secret".to_owned());
    [Demand::Basic(user.clone(), password.clone()), Demand::Bearer { user: Some((user, password)), realm: None }]
}

async fn node(registry: &Fake, rights: Rights) -> Node {
    Bed::new().node_with(registry, Config { rights, ..Config::default() }, |_| {}).await
}

fn name(admission: &Result<Admission, Error>) -> &'static str {
    match admission {
        Ok(Admission::Open) => "open",
        Ok(Admission::Proven(_)) => "proven",
        Ok(Admission::Unproven) => "unproven",
        Ok(Admission::Refused) => "refused",
        Err(_) => "error",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_is_asked_for_once_and_its_tag_is_known_by_the_way() {
    let (registry, origin, digest, item) = registry().await;
    let node = node(&registry, Rights::Caller).await;
    for _ in 0..3 {
        assert_eq!(name(&node.fetch.admit(&origin, &item, None).await), "open");
        let resolved = node.fetch.resolve(&origin, &"v1".parse().unwrap()).await.unwrap();
        node.fetch.manifest(&origin, &resolved.digest).await.unwrap();
        assert_eq!(name(&node.fetch.admit(&origin, &Item::Blob(digest), Some(&pod())).await), "open");
    }
    // The HEAD of the tag, and the manifest, which names the blob.
    assert_eq!(registry.requests().len(), 2, "{:?}", registry.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_open_is_given_to_who_may_read_it_and_in_his_name() {
    for demand in demands() {
        let (registry, origin, digest, item) = registry().await;
        registry.demand(demand);
        let node = node(&registry, Rights::Caller).await;
        let admit = async |caller: Option<&Credential>| node.fetch.admit(&origin, &item, caller).await;
        assert_eq!(name(&admit(None).await), "unproven");
        assert_eq!(name(&admit(Some(&Credential::basic("pod", "wrong"))).await), "refused");
        // The node has no credentials of its own.
        assert!(matches!(node.fetch.blob(&origin, &digest, None).await, Err(Error::Denied { .. })));
        let Ok(Admission::Proven(pulls)) = admit(Some(&pod())).await else { panic!("it may be read with these") };
        let resolved = pulls.resolve(&origin, &"v1".parse().unwrap()).await.unwrap();
        pulls.manifest(&origin, &resolved.digest).await.unwrap();
        let (bytes, end) = drain(pulls.blob(&origin, &digest, None).await.unwrap()).await;
        assert!(end.is_ok() && bytes.len() == 2 * MIB + 3);
        // It is on this node now, and still not for everybody; nor is upstream asked about each request.
        let asked = registry.requests().len();
        assert_eq!(name(&node.fetch.admit(&origin, &Item::Blob(digest), None).await), "unproven");
        assert_eq!(name(&node.fetch.admit(&origin, &Item::Blob(digest), Some(&pod())).await), "proven");
        assert_eq!(registry.requests().len(), asked);
        assert_eq!(node.fetch.counters().unproven, 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_upstream_says_nothing_what_it_said_before_holds() {
    let (registry, origin, digest, item) = registry().await;
    let [demand, _] = demands();
    registry.demand(demand);
    let config = Config { right_ttl: std::time::Duration::ZERO, ..Config::default() };
    let node = Bed::new().node_with(&registry, config, |_| {}).await;
    assert_eq!(name(&node.fetch.admit(&origin, &item, None).await), "unproven");
    let Ok(Admission::Proven(pulls)) = node.fetch.admit(&origin, &item, Some(&pod())).await else { panic!("it may") };
    let resolved = pulls.resolve(&origin, &"v1".parse().unwrap()).await.unwrap();
    pulls.manifest(&origin, &resolved.digest).await.unwrap();
    registry.fault(Fault::always(On::Any, Does::Status(503)));
    assert_eq!(name(&node.fetch.admit(&origin, &Item::Blob(digest), Some(&pod())).await), "proven");
    assert_eq!(name(&node.fetch.admit(&origin, &Item::Blob(digest), None).await), "unproven");
    assert_eq!(node.fetch.counters().unchecked, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_has_never_spoken_of_is_as_configured() {
    for (rights, expected, unchecked) in [(Rights::Caller, "open", 1), (Rights::Strict, "error", 0)] {
        let (registry, origin, digest, _) = registry().await;
        registry.fault(Fault::always(On::Any, Does::Status(503)));
        let node = node(&registry, rights).await;
        assert_eq!(name(&node.fetch.admit(&origin, &Item::Blob(digest), None).await), expected, "{rights:?}");
        assert_eq!(node.fetch.counters().unchecked, unchecked, "{rights:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_node_decides_nobody_is_asked() {
    let (registry, origin, _, item) = registry().await;
    let [demand, _] = demands();
    registry.demand(demand);
    let node = node(&registry, Rights::Node).await;
    assert_eq!(name(&node.fetch.admit(&origin, &item, None).await), "open");
    assert_eq!(registry.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_says_nothing_of_its_repository() {
    let (registry, origin, _, item) = registry().await;
    let node = node(&registry, Rights::Caller).await;
    let missing = Item::Manifest(Reference::Tag("none".parse().unwrap()));
    for caller in [None, Some(pod())] {
        let admission = node.fetch.admit(&origin, &missing, caller.as_ref()).await;
        assert!(matches!(admission, Err(Error::NotFound { .. })), "{}", name(&admission));
    }
    assert_eq!(name(&node.fetch.admit(&origin, &item, None).await), "open");
}
