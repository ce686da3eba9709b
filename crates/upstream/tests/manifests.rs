//! Tags, manifests, lists: what is believed of an answer, and what is done where a registry says little.

use bytes::Bytes;
use shoal_content::{Algorithm, Digest, Reference};
use shoal_upstream::{
    Descriptor, Error, MAX_MANIFEST, Upstream,
    fake::{Does, Fake, Fault, On},
};

const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

async fn image() -> (Fake, Upstream, Digest) {
    let fake = Fake::start().await;
    let digest = fake.put_image("lib/app", "v1", &[Bytes::from_static(b"layer")]);
    let upstream = Upstream::new(&fake.config()).unwrap();
    (fake, upstream, digest)
}

fn tag(text: &str) -> Reference {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_tag_is_resolved_by_one_head() {
    let (fake, upstream, digest) = image().await;
    let found = upstream.resolve(&fake.origin("lib/app"), &"v1".parse().unwrap()).await.unwrap();
    let Descriptor { digest: found, media_type, size } = found;
    assert_eq!((found, media_type.as_str()), (digest, OCI_IMAGE));
    assert!(size > 100);
    let [seen] = &fake.requests()[..] else { panic!("more than one request") };
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("HEAD", "/v2/lib/app/manifests/v1"));
    let accept = seen.accept.as_deref().unwrap();
    for media_type in
        ["image.index.v1+json", "manifest.list.v2+json", "image.manifest.v1+json", "manifest.v2+json", "*/*"]
    {
        assert!(accept.contains(media_type), "{accept}");
    }
}

#[tokio::test]
async fn where_head_says_too_little_the_digest_is_computed_from_the_manifest() {
    let poor = [
        Fault::always(On::Manifests, Does::NoContentDigest),
        Fault::always(On::Head, Does::Status(405)),
        Fault::always(On::Head, Does::Status(501)),
        Fault::always(On::Head, Does::Status(403)),
        Fault::always(On::Head, Does::NoLength),
    ];
    for fault in poor {
        let (fake, upstream, digest) = image().await;
        let kind = format!("{fault:?}");
        fake.fault(fault);
        let found = upstream.resolve(&fake.origin("lib/app"), &"v1".parse().unwrap()).await.unwrap();
        assert_eq!((found.digest, found.media_type.as_str()), (digest, OCI_IMAGE), "{kind}");
        assert_eq!(fake.requests().last().unwrap().method, "GET", "{kind}");
    }
}

#[tokio::test]
async fn a_manifest_comes_by_tag_and_by_digest_and_sha512() {
    let (fake, upstream, digest) = image().await;
    let origin = fake.origin("lib/app");
    let by_tag = upstream.manifest(&origin, &tag("v1")).await.unwrap();
    let by_digest = upstream.manifest(&origin, &Reference::Digest(digest)).await.unwrap();
    assert_eq!(by_tag, by_digest);
    assert_eq!(by_tag.digest, digest);
    assert_eq!(Digest::of(Algorithm::Sha256, &by_tag.bytes), digest);
}

#[tokio::test]
async fn wrong_bytes_a_wrong_digest_or_a_wrong_type_is_never_a_manifest() {
    let other = Digest::of(Algorithm::Sha256, b"other").to_string();
    for (does, word) in [
        (Does::WrongBytes, "digest"),
        (Does::ContentDigest(other), "announced"),
        (Does::ContentDigest("sha256:0".into()), "no digest"),
        (Does::ContentType("application/vnd.oci.image.index.v1+json".into()), "Content-Type"),
    ] {
        let (fake, upstream, digest) = image().await;
        fake.fault(Fault::always(On::Manifests, does.clone()));
        for reference in [tag("v1"), Reference::Digest(digest)] {
            let error = upstream.manifest(&fake.origin("lib/app"), &reference).await.unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{does:?}: {error}");
            let text = error.to_string();
            assert!(text.contains(word) && text.contains("lib/app"), "{does:?}: {text}");
        }
    }
}

#[tokio::test]
async fn a_manifest_of_more_than_4_mib_is_refused_whether_or_not_it_says_so() {
    for does in [None, Some(Does::NoLength)] {
        let fake = Fake::start().await;
        let huge = format!("{{\"layers\":[],\"annotations\":\"{}\"}}", "x".repeat(MAX_MANIFEST));
        fake.put_manifest("a", "v1", OCI_IMAGE, huge);
        if let Some(does) = does {
            fake.fault(Fault::always(On::Manifests, does));
        }
        let upstream = Upstream::new(&fake.config()).unwrap();
        let error = upstream.manifest(&fake.origin("a"), &tag("v1")).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_manifest_whose_body_breaks_is_asked_for_again() {
    let (fake, upstream, digest) = image().await;
    fake.fault(Fault::times(1, On::Manifests, Does::CutAfter(20)));
    fake.fault(Fault::times(1, On::Manifests, Does::StallAfter(20)));
    let manifest = upstream.manifest(&fake.origin("lib/app"), &tag("v1")).await.unwrap();
    assert_eq!(manifest.digest, digest);
}

#[tokio::test]
async fn what_is_not_there_is_not_found_with_the_registrys_words() {
    let (fake, upstream, _) = image().await;
    let absent = Digest::of(Algorithm::Sha256, b"absent");
    let origin = fake.origin("lib/app");
    let error = upstream.manifest(&origin, &tag("v2")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("manifest v2 of 127.0.0.1") && text.contains("MANIFEST_UNKNOWN manifest unknown"), "{text}");
    assert!(matches!(upstream.resolve(&origin, &"v2".parse().unwrap()).await, Err(Error::NotFound { .. })));
    assert!(matches!(upstream.blob_size(&origin, &absent).await, Err(Error::NotFound { .. })));
    assert!(matches!(upstream.blob(&origin, &absent, 0).await, Err(Error::NotFound { .. })));
    assert_eq!(upstream.counters().snapshot().not_found, 4);
}

#[tokio::test]
async fn a_registry_that_is_not_listed_is_not_asked() {
    let (fake, _, _) = image().await;
    let other = Fake::start().await;
    let upstream = Upstream::new(&other.config()).unwrap();
    assert!(!upstream.serves(&fake.registry()));
    let error = upstream.manifest(&fake.origin("lib/app"), &tag("v1")).await.unwrap_err();
    assert!(matches!(error, Error::NotServed(_)), "{error}");
    assert!(fake.requests().is_empty());
}

#[tokio::test]
async fn lists_are_passed_on_and_their_links_stay_with_us() {
    let (fake, upstream, digest) = image().await;
    let origin = fake.origin("lib/app");
    let passed = upstream.passthrough(&origin, "tags/list", Some("n=1")).await.unwrap();
    assert_eq!(passed.status, 200);
    assert_eq!(&passed.body[..], br#"{"name":"lib/app","tags":["v1"]}"#);
    let link = passed.headers.iter().find(|(name, _)| name == "link").map(|(_, value)| value.as_str());
    assert_eq!(link, Some("</v2/lib/app/tags/list?last=x>; rel=\"next\""));
    assert_eq!(fake.requests()[0].query.as_deref(), Some("n=1"));

    let referrers = format!("referrers/{digest}");
    let passed = upstream.passthrough(&origin, &referrers, None).await.unwrap();
    assert_eq!(passed.status, 404);
    let error = upstream.passthrough(&origin, "blobs/uploads/", None).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert_eq!(fake.count("uploads"), 0);
}
