//! Manifests, tags, and what only upstream can answer.

use std::time::Duration;

use bytes::Bytes;
use shoal_fetch::Passed;
use shoal_gateway::{Config, metrics::Kind};

use crate::{
    fake::{Fake, Serve, content, denied, not_found, unavailable},
    wire::{error_code, fetch, get, serve},
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[tokio::test]
async fn a_tag_is_resolved_by_head_and_its_manifest_comes_by_digest() {
    let fake = Fake::new();
    let digest = fake.manifest(INDEX, content(1000));
    fake.tag("v1", digest, false);
    let served = serve(fake.clone(), Config::default()).await;
    let (by_tag, _) = fetch(&served, "HEAD", "/v2/a/manifests/v1?ns=a.b", &[]).await;
    assert_eq!(fake.calls(), ["resolve a.b/a:v1"], "a HEAD costs upstream one question and no manifest");
    let (by_digest, _) = fetch(&served, "HEAD", &format!("/v2/a/manifests/{digest}?ns=a.b"), &[]).await;
    let (got, body) = get(&served, &format!("/v2/a/manifests/{digest}?ns=a.b"), &[]).await;
    let (got_by_tag, same) = get(&served, "/v2/a/manifests/v1?ns=a.b", &[]).await;
    assert!(body == content(1000) && same == body);
    for head in [by_tag, by_digest, got, got_by_tag] {
        assert_eq!((head.status, head.length()), (200, 1000));
        assert_eq!(head.get("docker-content-digest"), Some(digest.to_string().as_str()));
        assert_eq!(head.get("content-type"), Some(INDEX));
        assert_eq!(head.get("warning"), None);
    }
    assert_eq!(served.gateway.metrics().requests(Kind::Manifest, 200), 4);
}

#[tokio::test]
async fn a_stale_tag_says_so_and_is_given_only_with_a_manifest_that_is_there() {
    let fake = Fake::new();
    let digest = fake.manifest(INDEX, content(1000));
    fake.tag("v1", digest, true);
    fake.tag("gone", shoal_content::Digest::of(shoal_content::Algorithm::Sha256, b"nobody has it"), true);
    let served = serve(fake, Config::default()).await;
    for method in ["HEAD", "GET"] {
        let (head, _) = fetch(&served, method, "/v2/a/manifests/v1?ns=a.b", &[]).await;
        assert_eq!((head.status, head.length()), (200, 1000));
        assert_eq!(head.get("warning"), Some(r#"110 - "Response is Stale""#));
        let (head, _) = fetch(&served, method, "/v2/a/manifests/gone?ns=a.b", &[]).await;
        assert_eq!(head.status, 404);
    }
}

#[tokio::test]
async fn a_manifest_is_given_by_range_too_and_whole_from_the_first_byte() {
    let fake = Fake::new();
    let digest = fake.manifest(INDEX, content(1000));
    let served = serve(fake, Config::default()).await;
    let path = format!("/v2/a/manifests/{digest}?ns=a.b");
    let (head, body) = get(&served, &path, &["Range: bytes=0-"]).await;
    assert_eq!((head.status, body.len()), (200, 1000));
    let (head, body) = get(&served, &path, &["Range: bytes=400-"]).await;
    assert_eq!((head.status, head.get("content-range")), (206, Some("bytes 400-999/1000")));
    assert!(body == content(1000)[400..]);
    assert_eq!(get(&served, &path, &["Range: bytes=1000-"]).await.0.status, 416);
}

#[tokio::test]
async fn separate_accept_lines_are_one_list_and_only_tags_are_held_against_it() {
    let fake = Fake::new();
    let digest = fake.manifest(INDEX, content(1000));
    fake.tag("v1", digest, false);
    let served = serve(fake, Config::default()).await;
    let lines = [
        "Accept: application/vnd.docker.distribution.manifest.v2+json",
        "Accept: application/vnd.oci.image.manifest.v1+json",
        "Accept: application/vnd.oci.image.index.v1+json",
    ];
    for method in ["HEAD", "GET"] {
        assert_eq!(fetch(&served, method, "/v2/a/manifests/v1?ns=a.b", &lines).await.0.status, 200);
        assert_eq!(fetch(&served, method, "/v2/a/manifests/v1?ns=a.b", &lines[..2]).await.0.status, 404);
        let by_digest = format!("/v2/a/manifests/{digest}?ns=a.b");
        assert_eq!(fetch(&served, method, &by_digest, &lines[..2]).await.0.status, 200);
    }
}

#[tokio::test]
async fn what_is_not_to_be_had_is_404_at_once_and_for_the_registry_in_the_path_the_truth() {
    let fake = Fake::new();
    fake.tag_fails("down", unavailable());
    fake.tag_fails("secret", denied());
    fake.tag_fails("foreign", shoal_fetch::Error::NotServed("a.b".parse().unwrap()));
    let served = serve(fake, Config::default()).await;
    for (tag, alone) in [("none", 404), ("down", 503), ("secret", 403), ("foreign", 404)] {
        for method in ["HEAD", "GET"] {
            let (head, _) = fetch(&served, method, &format!("/v2/a/manifests/{tag}?ns=a.b"), &[]).await;
            assert_eq!(head.status, 404, "{tag}");
            let (head, _) = fetch(&served, method, &format!("/v2/a.b/a/manifests/{tag}"), &[]).await;
            assert_eq!(head.status, alone, "{tag}");
        }
    }
    let (head, body) = get(&served, "/v2/a/manifests/foreign?ns=a.b", &[]).await;
    assert_eq!((head.get("content-type"), error_code(&body).as_str()), (Some("application/json"), "NAME_UNKNOWN"));
}

#[tokio::test]
async fn a_tag_that_stands_for_referrers_is_404_only_when_upstream_says_so() {
    let fake = Fake::new();
    let tag = format!("sha256-{}", "0".repeat(64));
    let served = serve(fake.clone(), Config::default()).await;
    let path = format!("/v2/a/manifests/{tag}?ns=a.b");
    for (error, status) in [
        (not_found(), 404),
        (unavailable(), 503),
        (denied(), 503),
        (shoal_fetch::Error::NotServed("a.b".parse().unwrap()), 503),
    ] {
        fake.tag_fails(&tag, error);
        assert_eq!(get(&served, &path, &[]).await.0.status, status);
    }
}

#[tokio::test]
async fn lists_are_passed_on_with_their_query_headers_and_a_next_page_that_leads_back_here() {
    let fake = Fake::new();
    fake.pass(Ok(Passed {
        status: 200,
        headers: vec![
            ("Content-Type".into(), "application/json".into()),
            ("Link".into(), r#"</v2/a/tags/list?n=2&last=b>; rel="next""#.into()),
            ("OCI-Filters-Applied".into(), "artifactType".into()),
            ("Set-Cookie".into(), "secret=1".into()),
            ("Content-Length".into(), "99".into()),
        ],
        body: Bytes::from_static(b"{\"tags\":[]}"),
    }));
    let served = serve(fake.clone(), Config::default()).await;
    let (head, body) = get(&served, "/v2/a/tags/list?n=2&ns=a.b", &[]).await;
    assert_eq!((head.status, body.as_slice()), (200, b"{\"tags\":[]}".as_slice()));
    assert_eq!(head.get("link"), Some(r#"</v2/a/tags/list?n=2&last=b&ns=a.b>; rel="next""#));
    assert_eq!(head.get("oci-filters-applied"), Some("artifactType"));
    assert_eq!(head.get("set-cookie"), None);
    let digest = shoal_content::Digest::of(shoal_content::Algorithm::Sha256, b"");
    let (head, _) = get(&served, &format!("/v2/a.b/a/referrers/{digest}?artifactType=x%2Fy"), &[]).await;
    assert_eq!(head.status, 200);
    let (head, _) = fetch(&served, "HEAD", "/v2/a/tags/list?n=100000&ns=a.b", &[]).await;
    assert_eq!((head.status, head.length()), (200, 11));
    assert_eq!(
        fake.calls(),
        [
            "pass a.b/a tags/list Some(\"n=2\")".to_owned(),
            format!("pass a.b/a referrers/{digest} Some(\"artifactType=x%2Fy\")"),
            "pass a.b/a tags/list Some(\"n=1000\")".to_owned(),
        ]
    );
}

#[tokio::test]
async fn a_list_that_upstream_cannot_give_is_503_and_never_404_or_429() {
    let fake = Fake::new();
    let served = serve(fake.clone(), Config::default()).await;
    let digest = shoal_content::Digest::of(shoal_content::Algorithm::Sha256, b"");
    let paths = [format!("/v2/a/referrers/{digest}?ns=a.b"), "/v2/a.b/a/tags/list".to_owned()];
    for error in [unavailable(), denied(), shoal_fetch::Error::NotServed("a.b".parse().unwrap())] {
        fake.pass(Err(error));
        for path in &paths {
            let (head, body) = get(&served, path, &[]).await;
            assert_eq!((head.status, error_code(&body).as_str()), (503, "UNAVAILABLE"), "{path}");
        }
    }
    for (from_upstream, status) in
        [(400, 400), (401, 503), (403, 503), (404, 404), (408, 503), (429, 503), (500, 503), (307, 503), (0, 503)]
    {
        fake.pass(Ok(Passed { status: from_upstream, headers: vec![], body: Bytes::from_static(b"{}") }));
        assert_eq!(get(&served, &paths[0], &[]).await.0.status, status, "{from_upstream}");
    }
}

#[tokio::test]
async fn a_manifest_of_four_mebibytes_passes() {
    let fake = Fake::new();
    let digest = fake.manifest(INDEX, content(4 * 1024 * 1024));
    let served = serve(fake, Config { manifest_budget: Duration::from_secs(5), ..Config::default() }).await;
    let (head, body) = get(&served, &format!("/v2/a/manifests/{digest}?ns=a.b"), &[]).await;
    assert_eq!(head.status, 200);
    assert!(body == content(4 * 1024 * 1024));
}

#[tokio::test]
async fn what_upstream_does_not_answer_in_time_is_given_up() {
    let fake = Fake::new();
    let digest = fake.manifest(INDEX, content(1000));
    let blob = fake.blob(content(10), Serve::Well);
    fake.silent.store(true, std::sync::atomic::Ordering::SeqCst);
    let config = Config {
        manifest_budget: Duration::from_millis(30),
        first_byte_budget: Duration::from_millis(30),
        patient_budget: Duration::from_millis(60),
        ..Config::default()
    };
    let served = serve(fake, config).await;
    for what in ["manifests/v1".to_owned(), format!("manifests/{digest}"), format!("blobs/{blob}")] {
        let (head, _) = fetch(&served, "HEAD", &format!("/v2/a/{what}?ns=a.b"), &[]).await;
        assert_eq!(head.status, 404, "{what}");
        let (head, _) = fetch(&served, "HEAD", &format!("/v2/a.b/a/{what}"), &[]).await;
        assert_eq!(head.status, 503, "{what}");
    }
    for what in ["tags/list".to_owned(), format!("referrers/{digest}"), format!("manifests/sha256-{}", "0".repeat(64))]
    {
        let (head, _) = get(&served, &format!("/v2/a/{what}?ns=a.b"), &[]).await;
        assert_eq!(head.status, 503, "{what}");
    }
}
