//! Blobs and their ranges while all is well.

use std::sync::atomic::Ordering;

use crate::{
    fake::{Fake, Serve, content, denied, unavailable},
    wire::{Served, error_code, fetch, get, serve, until},
};
use shoal_content::Digest;
use shoal_gateway::{
    Config,
    metrics::{Cut, Kind},
};

async fn blob_of(size: usize) -> (Served, Digest, std::sync::Arc<Fake>) {
    let fake = Fake::new();
    let digest = fake.blob(content(size), Serve::Well);
    (serve(fake.clone(), Config::default()).await, digest, fake)
}

#[tokio::test]
async fn a_blob_comes_whole_with_the_headers_that_name_it() {
    let (served, digest, _) = blob_of(200_000).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    let accept = ["Accept-Encoding: zstd, gzip, deflate"];
    let (head, body) = get(&served, &path, &accept).await;
    assert_eq!((head.status, body.as_slice()), (200, &content(200_000)[..]));
    let (of_head, nothing) = fetch(&served, "HEAD", &path, &accept).await;
    assert_eq!((of_head.status, nothing.len()), (200, 0));
    for head in [head, of_head] {
        assert_eq!(head.length(), 200_000);
        assert_eq!(head.get("content-type"), Some("application/octet-stream"));
        assert_eq!(head.get("docker-content-digest"), Some(digest.to_string().as_str()));
        assert_eq!(head.get("etag"), Some(format!("\"{digest}\"").as_str()));
        assert_eq!(head.get("accept-ranges"), Some("bytes"));
        assert_eq!(head.get("content-encoding"), None);
        assert_eq!(head.get("transfer-encoding"), None);
    }
    assert_eq!(served.gateway.metrics().bytes(Kind::Blob), 200_000);
    assert_eq!(served.gateway.metrics().requests(Kind::Blob, 200), 2);
    until("nothing to be in flight", || served.gateway.metrics().in_flight() == 0).await;
    assert_eq!(served.gateway.metrics().cut(Cut::Abandoned), 0);
}

#[tokio::test]
async fn a_range_from_the_first_byte_to_the_end_is_answered_200_and_whole() {
    let (served, digest, fake) = blob_of(5000).await;
    let (head, body) = get(&served, &format!("/v2/a/blobs/{digest}?ns=a.b"), &["Range: bytes=0-"]).await;
    assert_eq!((head.status, head.get("content-range"), body.len()), (200, None, 5000));
    assert_eq!(fake.calls(), ["blob a.b/a None"]);
}

#[tokio::test]
async fn every_other_range_is_206_with_its_exact_bytes_and_the_complete_length() {
    let (served, digest, _) = blob_of(2048).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    for (range, expected) in [
        ("bytes=500-1499", 500..1500),
        ("bytes=500-", 500..2048),
        ("bytes=-500", 1548..2048),
        ("bytes=2000-5000", 2000..2048),
        ("bytes=0-0", 0..1),
        ("bytes=0-1", 0..2),
        ("bytes=0-2047", 0..2048),
    ] {
        let (head, body) = get(&served, &path, &[&format!("Range: {range}")]).await;
        assert_eq!(head.status, 206, "{range}");
        let (first, last) = (expected.start, expected.end - 1);
        assert_eq!(head.get("content-range"), Some(format!("bytes {first}-{last}/2048").as_str()));
        assert_eq!(head.length(), expected.len());
        assert_eq!(body, content(2048)[expected], "{range}");
    }
}

#[tokio::test]
async fn ranges_outside_a_blob_and_of_an_empty_one_are_416_with_its_size() {
    let (served, digest, fake) = blob_of(2048).await;
    let empty = fake.blob(content(0), Serve::Well);
    for (digest, range, size) in [
        (digest, "bytes=500-0", 2048),
        (digest, "bytes=5000-10000", 2048),
        (digest, "bytes=-0", 2048),
        (digest, "bytes=9000-,8000-", 2048),
        (empty, "bytes=0-5", 0),
        (empty, "bytes=-1", 0),
    ] {
        let path = format!("/v2/a/blobs/{digest}?ns=a.b");
        let (head, _) = get(&served, &path, &[&format!("Range: {range}")]).await;
        assert_eq!(
            (head.status, head.get("content-range")),
            (416, Some(format!("bytes */{size}").as_str())),
            "{range}"
        );
    }
}

#[tokio::test]
async fn an_empty_blob_is_200_without_a_byte() {
    let (served, digest, _) = blob_of(0).await;
    for method in ["GET", "HEAD"] {
        let (head, _) = fetch(&served, method, &format!("/v2/a/blobs/{digest}?ns=a.b"), &[]).await;
        assert_eq!((head.status, head.length()), (200, 0));
    }
}

#[tokio::test]
async fn nonsense_in_bytes_is_400_and_another_unit_is_ignored() {
    let (served, digest, _) = blob_of(10).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    for range in ["bytes=x", "bytes=1", "bytes=--1", "bytes"] {
        let (head, body) = get(&served, &path, &[&format!("Range: {range}")]).await;
        assert_eq!((head.status, error_code(&body).as_str()), (400, "RANGE_INVALID"), "{range}");
    }
    let (head, body) = get(&served, &path, &["Range: items=1-2"]).await;
    assert_eq!((head.status, body.len()), (200, 10));
}

#[tokio::test]
async fn several_ranges_come_as_one_multipart_body_of_the_stated_length() {
    let (served, digest, fake) = blob_of(200_000).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    let (head, body) = get(&served, &path, &["Range: bytes=0-9,100000-199999,-1"]).await;
    assert_eq!((head.status, head.get("docker-content-digest")), (206, Some(digest.to_string().as_str())));
    let boundary = head.get("content-type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut expected = Vec::new();
    for (before, range) in [("", 0..10), ("\r\n", 100_000..200_000), ("\r\n", 199_999..200_000)] {
        let frame = format!(
            "{before}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {}-{}/200000\r\n\r\n",
            range.start,
            range.end - 1
        );
        expected.extend_from_slice(frame.as_bytes());
        expected.extend_from_slice(&content(200_000)[range]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(body == expected);
    assert_eq!(fake.calls().len(), 4, "one look at the size and one stream for each part");
}

#[tokio::test]
async fn ranges_that_add_up_to_more_than_the_blob_are_400() {
    let (served, digest, _) = blob_of(100).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    let (head, _) = get(&served, &path, &["Range: bytes=0-90,5-95"]).await;
    assert_eq!(head.status, 400);
    let many = vec!["0-0"; 65].join(",");
    let (head, _) = get(&served, &path, &[&format!("Range: bytes={many}")]).await;
    assert_eq!(head.status, 400);
}

#[tokio::test]
async fn a_range_under_if_range_holds_only_for_the_very_blob() {
    let (served, digest, _) = blob_of(100).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    let (head, _) = get(&served, &path, &["Range: bytes=5-", &format!("If-Range: \"{digest}\"")]).await;
    assert_eq!(head.status, 206);
    for other in ["\"other\"", "Wed, 21 Oct 2015 07:28:00 GMT"] {
        let (head, body) = get(&served, &path, &["Range: bytes=5-", &format!("If-Range: {other}")]).await;
        assert_eq!((head.status, body.len()), (200, 100), "{other}");
    }
}

#[tokio::test]
async fn a_head_is_answered_without_opening_the_blob() {
    let (served, digest, fake) = blob_of(100).await;
    let (head, _) = fetch(&served, "HEAD", &format!("/v2/a/blobs/{digest}?ns=a.b"), &["Range: bytes=5-"]).await;
    assert_eq!((head.status, head.length()), (200, 100));
    assert_eq!(fake.calls(), ["info a.b/a"]);
}

#[tokio::test]
async fn a_sha512_blob_is_served_by_its_digest() {
    let fake = Fake::new();
    let served = serve(fake, Config::default()).await;
    let digest = Digest::of(shoal_content::Algorithm::Sha512, b"x");
    let (head, body) = get(&served, &format!("/v2/a/blobs/{digest}?ns=a.b"), &[]).await;
    // Nobody has it; what counts is that the digest is understood.
    assert_eq!((head.status, error_code(&body).as_str()), (404, "BLOB_UNKNOWN"));
}

#[tokio::test]
async fn who_has_a_next_host_gets_404_and_who_has_none_gets_the_truth() {
    let fake = Fake::new();
    let config = Config { default_registry: Some("a.b".parse().unwrap()), ..Config::default() };
    let served = serve(fake.clone(), config).await;
    for (number, (error, alone)) in [(unavailable(), 503), (denied(), 403)].into_iter().enumerate() {
        let digest = fake.blob(content(10 + number), Serve::Refuse(error));
        for path in [format!("/v2/a/blobs/{digest}?ns=a.b"), format!("/v2/a/blobs/{digest}")] {
            let (head, body) = get(&served, &path, &[]).await;
            assert_eq!((head.status, error_code(&body).as_str()), (404, "BLOB_UNKNOWN"), "{path}");
        }
        let (head, _) = get(&served, &format!("/v2/a.b/a/blobs/{digest}"), &[]).await;
        assert_eq!(head.status, alone);
    }
}

#[tokio::test]
async fn an_abandoned_get_drops_its_stream_and_does_not_pull_the_rest() {
    let fake = Fake::new();
    let size = 64 * 1024 * 1024;
    let digest = fake.blob(content(size), Serve::Well);
    let served = serve(fake.clone(), Config::default()).await;
    let mut client = crate::wire::Client::connect(&served).await;
    client.ask("GET", &format!("/v2/a/blobs/{digest}?ns=a.b"), &[]).await;
    client.head().await;
    drop(client);
    until("the stream to be dropped", || fake.streams.load(Ordering::SeqCst) == 0).await;
    assert!(fake.yielded.load(Ordering::SeqCst) < size / 2);
    until("it to be counted", || served.gateway.metrics().cut(Cut::Abandoned) == 1).await;
}
