//! Redirects and addresses: where a registry may send us, and what goes along.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use shoal_content::Digest;
use shoal_upstream::{
    Config, Error, RegistryConfig, Upstream,
    fake::{Demand, Does, Fake, Fault, On},
};

/// A registry that keeps its blobs in another place, which knows nothing of tokens.
async fn registry_and_store() -> (Fake, Fake, Digest) {
    let (registry, store) = (Fake::start().await, Fake::start().await);
    let content = Bytes::from(vec![9; 300_000]);
    let digest = registry.put_blob("a", content.clone());
    store.put_blob("a", content);
    registry.demand(Demand::Bearer { user: None, realm: None });
    registry.fault(Fault::always(On::Blobs, Does::Redirect(store.url().to_string())));
    (registry, store, digest)
}

async fn read(upstream: &Upstream, registry: &Fake, digest: &Digest) -> Result<Vec<u8>, Error> {
    let stream = upstream.blob(&registry.origin("a"), digest, 0).await?;
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    Ok(pieces.concat())
}

#[tokio::test]
async fn a_blob_is_fetched_from_the_store_without_the_registrys_proof() {
    let (registry, store, digest) = registry_and_store().await;
    let manifest = registry.put_image("a", "v1", &[]);
    let upstream = Upstream::new(&registry.config()).unwrap();
    // The token is known before the redirect comes, so it could be sent along.
    upstream.manifest(&registry.origin("a"), &shoal_content::Reference::Digest(manifest)).await.unwrap();
    assert_eq!(read(&upstream, &registry, &digest).await.unwrap(), vec![9; 300_000]);
    assert!(registry.requests().last().unwrap().authorization.is_some());
    let [seen] = &store.requests()[..] else { panic!("more than one request to the store") };
    assert_eq!(seen.authorization, None);
}

#[tokio::test]
async fn the_place_of_a_blob_is_remembered_until_it_refuses() {
    let (registry, store, digest) = registry_and_store().await;
    let upstream = Upstream::new(&registry.config()).unwrap();
    for start in [0, 1000, 2000] {
        let range = start..start + 1000;
        let stream = upstream.blob_range(&registry.origin("a"), &digest, range).await.unwrap();
        let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert_eq!(pieces.concat().len(), 1000);
    }
    assert_eq!(registry.count("/blobs/"), 1);
    assert_eq!(store.count("/blobs/"), 3);
    // The signature has run out.
    store.fault(Fault::times(1, On::Blobs, Does::Status(403)));
    assert_eq!(read(&upstream, &registry, &digest).await.unwrap().len(), 300_000);
    assert_eq!(registry.count("/blobs/"), 2);
    // What the node was shown is not shown to somebody else.
    registry.heal();
    registry.fault(Fault::always(On::Blobs, Does::Status(403)));
    assert!(matches!(read(&upstream.anonymous(), &registry, &digest).await, Err(Error::Denied { .. })));
}

#[tokio::test]
async fn nothing_is_remembered_where_that_is_switched_off() {
    let (registry, _store, digest) = registry_and_store().await;
    let config = Config { remember_redirects: Duration::ZERO, ..registry.config() };
    let upstream = Upstream::new(&config).unwrap();
    for _ in 0..3 {
        read(&upstream, &registry, &digest).await.unwrap();
    }
    assert_eq!(registry.count("/blobs/"), 3);
}

#[tokio::test]
async fn a_circle_of_redirects_ends_after_five() {
    let registry = Fake::start().await;
    let digest = registry.put_blob("a", "x");
    registry.fault(Fault::always(On::Blobs, Does::Redirect(registry.url().to_string())));
    let upstream = Upstream::new(&registry.config()).unwrap();
    let error = read(&upstream, &registry, &digest).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("more than 5 redirects"), "{error}");
    assert_eq!(registry.requests().len(), 6);
}

#[tokio::test]
async fn redirects_to_what_is_no_public_place_are_refused_without_a_connection() {
    for target in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://0.0.0.0/",
        "http://[::ffff:169.254.169.254]/",
        "http://224.0.0.1/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://user:pw@127.0.0.1/",
    ] {
        let registry = Fake::start().await;
        let digest = registry.put_blob("a", "x");
        registry.fault(Fault::always(On::Blobs, Does::RedirectTo(target.into())));
        let upstream = Upstream::new(&registry.config()).unwrap();
        let error = read(&upstream, &registry, &digest).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{target}: {error}");
        assert_eq!(upstream.counters().snapshot().refused, 1);
        assert_eq!(registry.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_registry_at_a_private_address_needs_leave_by_address_and_by_name() {
    let fake = Fake::start().await;
    let digest = fake.put_blob("a", "x");
    let by_name = format!("http://localhost:{}", fake.address().port());
    for endpoint in [fake.url().to_string(), by_name] {
        let mut config = fake.config();
        let rules = config.registries.get_mut(&fake.registry()).unwrap();
        rules.endpoint = Some(endpoint.parse().unwrap());
        rules.allow_private = false;
        let upstream = Upstream::new(&config).unwrap();
        let error = read(&upstream, &fake, &digest).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{endpoint}: {error}");
        assert!(error.to_string().contains("allow_private"), "{endpoint}: {error}");
        assert!(fake.requests().is_empty(), "{endpoint}");
    }
}

#[tokio::test]
async fn any_registry_means_any_public_one_over_https() {
    let fake = Fake::start().await;
    let upstream = Upstream::new(&Config { allow_any: true, ..Config::default() }).unwrap();
    let digest = fake.put_blob("a", "x");
    for registry in [fake.registry().to_string(), "localhost".into(), "169.254.169.254".into(), "2130706433".into()] {
        let origin = shoal_content::Origin { registry: registry.parse().unwrap(), ..fake.origin("a") };
        let error = upstream.blob(&origin, &digest, 0).await.unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{registry}: {error}");
    }
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn leave_for_one_registry_is_no_leave_for_another() {
    let (one, other) = (Fake::start().await, Fake::start().await);
    let digest = other.put_blob("a", "x");
    let mut config = one.config();
    config.registries.insert(other.registry(), RegistryConfig { allow_private: false, ..other.rules() });
    let upstream = Upstream::new(&config).unwrap();
    assert!(matches!(read(&upstream, &other, &digest).await, Err(Error::Refused { .. })));
}

#[tokio::test]
async fn a_signed_url_appears_in_no_error() {
    let (registry, store, digest) = registry_and_store().await;
    registry.heal();
    let signed = format!("{}v2/a/blobs/{digest}?X-Signature=s3cr3t", store.url());
    registry.fault(Fault::always(On::Blobs, Does::RedirectTo(signed)));
    store.stop().await;
    let upstream = Upstream::new(&registry.config()).unwrap();
    let error = read(&upstream, &registry, &digest).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let text = format!("{error} {error:?}");
    assert!(!text.contains("s3cr3t"), "{text}");
    assert!(text.contains(&store.address().to_string()), "{text}");
}
