//! Paths, registries, methods, and what is no request.

use crate::{
    fake::{Fake, Serve, content},
    wire::{Client, error_code, fetch, get, serve, within},
};
use shoal_gateway::Config;

#[tokio::test]
async fn the_base_answers_get_and_head_with_and_without_a_slash() {
    let served = serve(Fake::new(), Config::default()).await;
    for path in ["/v2/", "/v2"] {
        let (head, body) = get(&served, path, &[]).await;
        assert_eq!((head.status, body.as_slice()), (200, b"{}".as_slice()));
        let (head, _) = fetch(&served, "HEAD", path, &[]).await;
        assert_eq!((head.status, head.length()), (200, 2));
    }
}

#[tokio::test]
async fn the_registry_comes_from_ns_from_the_path_or_from_the_configuration() {
    let fake = Fake::new();
    let digest = fake.blob(content(10), Serve::Well);
    let config = Config { default_registry: Some("docker.io".parse().unwrap()), ..Config::default() };
    let served = serve(fake.clone(), config).await;
    for (path, origin) in [
        (format!("/v2/lib/app/blobs/{digest}?ns=127.0.0.1%3A5000"), "127.0.0.1:5000/lib/app"),
        (format!("/v2/docker.io/library/alpine/blobs/{digest}"), "docker.io/library/alpine"),
        (format!("/v2/127.0.0.1:5000/app/blobs/{digest}"), "127.0.0.1:5000/app"),
        (format!("/v2/library/alpine/blobs/{digest}"), "docker.io/library/alpine"),
        (format!("/https://quay.io/v2/a/b/blobs/{digest}"), "quay.io/a/b"),
    ] {
        let (head, _) = get(&served, &path, &[]).await;
        assert_eq!(head.status, 200, "{path}");
        assert_eq!(fake.calls().pop().unwrap(), format!("blob {origin} None"), "{path}");
    }
}

#[tokio::test]
async fn without_any_registry_it_is_404_and_says_how_to_name_one() {
    let served = serve(Fake::new(), Config::default()).await;
    let (head, body) = get(&served, "/v2/library/alpine/manifests/latest", &[]).await;
    assert_eq!((head.status, error_code(&body).as_str()), (404, "NAME_UNKNOWN"));
    assert!(String::from_utf8(body).unwrap().contains("?ns="));
}

#[tokio::test]
async fn ns_is_echoed_on_success_and_on_failure() {
    let fake = Fake::new();
    let digest = fake.blob(content(10), Serve::Well);
    let served = serve(fake, Config::default()).await;
    let (head, _) = get(&served, &format!("/v2/app/blobs/{digest}?ns=a.b%3A5000"), &[]).await;
    assert_eq!(head.get("oci-namespace"), Some("a.b:5000"));
    let (head, _) = get(&served, "/v2/app/manifests/none?ns=a.b%3A5000", &[]).await;
    assert_eq!((head.status, head.get("oci-namespace")), (404, Some("a.b:5000")));
    let (head, _) = get(&served, &format!("/v2/a.b/app/blobs/{digest}"), &[]).await;
    assert_eq!((head.status, head.get("oci-namespace")), (200, None));
}

#[tokio::test]
async fn traversal_and_malformed_names_are_refused_and_never_reach_the_sessions() {
    let fake = Fake::new();
    let served = serve(fake.clone(), Config::default()).await;
    let digest = fake.blob(content(10), Serve::Well);
    for path in [
        format!("/v2/../../etc/blobs/{digest}?ns=a.b"),
        format!("/v2/a/%2e%2e/b/blobs/{digest}?ns=a.b"),
        format!("/v2/a%2fb/blobs/{digest}?ns=a.b"),
        format!("/v2/a%252fb/blobs/{digest}?ns=a.b"),
        format!("/v2/a//b/blobs/{digest}?ns=a.b"),
        format!("/v2/a%00b/blobs/{digest}?ns=a.b"),
        format!("/v2/a%5cb/blobs/{digest}?ns=a.b"),
        format!("/v2/A/blobs/{digest}?ns=a.b"),
        format!("/v2/a/blobs/{digest}?ns=http://169.254.169.254"),
        format!("/v2/a/blobs/{digest}?ns=a.b/../c"),
        format!("/v2/a/blobs/{digest}?ns=user:pw@a.b"),
        format!("/v2/a/blobs/{digest}?ns=a.b&ns=c.d"),
        "/v2/a/blobs/sha256:..%2f..%2fetc%2fpasswd?ns=a.b".to_owned(),
        "/v2/a/manifests/..?ns=a.b".to_owned(),
        "/v2/_catalog".to_owned(),
        "/etc/passwd".to_owned(),
        "/".to_owned(),
    ] {
        let (head, body) = get(&served, &path, &[]).await;
        assert!(matches!(head.status, 400 | 404), "{path}: {}", head.status);
        error_code(&body);
    }
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_malformed_digest_is_400_and_an_impossible_tag_is_404() {
    let served = serve(Fake::new(), Config::default()).await;
    for path in [
        "/v2/a/blobs/sha256:abc?ns=a.b",
        "/v2/a/manifests/sha256:abc?ns=a.b",
        "/v2/a/manifests/md5:d41d8cd98f00b204e9800998ecf8427e?ns=a.b",
        "/v2/a/referrers/sha256:abc?ns=a.b",
        "/v2/a/blobs/abc?ns=a.b",
    ] {
        let (head, body) = get(&served, path, &[]).await;
        assert_eq!((head.status, error_code(&body).as_str()), (400, "DIGEST_INVALID"), "{path}");
    }
    let (head, body) = get(&served, "/v2/a/manifests/.INVALID_MANIFEST_NAME?ns=a.b", &[]).await;
    assert_eq!((head.status, error_code(&body).as_str()), (404, "MANIFEST_UNKNOWN"));
}

#[tokio::test]
async fn pushes_and_deletes_are_405_and_the_answer_survives_an_unread_upload() {
    let fake = Fake::new();
    let digest = fake.blob(content(10), Serve::Well);
    let served = serve(fake.clone(), Config::default()).await;
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/?ns=a.b".to_owned()),
        ("PUT", "/v2/a/manifests/v1?ns=a.b".to_owned()),
        ("PATCH", "/v2/a/blobs/uploads/1?ns=a.b".to_owned()),
        ("DELETE", format!("/v2/a/blobs/{digest}?ns=a.b")),
    ] {
        let (head, body) = fetch(&served, method, &path, &["Content-Length: 0"]).await;
        assert_eq!((head.status, error_code(&body).as_str()), (405, "UNSUPPORTED"), "{method}");
        assert_eq!(head.get("allow"), Some("GET, HEAD"));
    }
    let mut client = Client::connect(&served).await;
    client.ask("PUT", "/v2/a/manifests/v1?ns=a.b", &["Content-Length: 1000000"]).await;
    client.send(&"x".repeat(300_000)).await;
    let head = client.head().await;
    assert_eq!(head.status, 405);
    let length = head.length();
    assert_eq!(error_code(&client.body(length).await), "UNSUPPORTED");
    client.rest().await;
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let fake = Fake::new();
    let digest = fake.blob(content(100_000), Serve::Well);
    let served = serve(fake, Config::default()).await;
    let mut client = Client::connect(&served).await;
    for _ in 0..3 {
        client.ask("GET", &format!("/v2/a/blobs/{digest}?ns=a.b"), &[]).await;
        let length = client.head().await.length();
        assert_eq!(client.body(length).await, content(100_000));
        client.ask("GET", "/v2/a/manifests/none?ns=a.b", &[]).await;
        let head = client.head().await;
        assert_eq!(head.status, 404);
        client.body(head.length()).await;
    }
}

#[tokio::test]
async fn shutdown_lets_a_request_in_flight_end_and_refuses_new_ones() {
    let fake = Fake::new();
    // More than all socket buffers together, so that it is in flight when the shutdown begins.
    let bytes = content(24 * 1024 * 1024);
    let digest = fake.blob(bytes.clone(), Serve::Well);
    let mut served = serve(fake, Config::default()).await;
    let mut client = Client::connect(&served).await;
    client.ask("GET", &format!("/v2/a/blobs/{digest}?ns=a.b"), &[]).await;
    let length = client.head().await.length();
    served.stop.take().unwrap().send(()).unwrap();
    within("the port to close", async {
        while tokio::net::TcpStream::connect(served.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(client.body(length).await == bytes);
    assert_eq!(client.rest().await, b"");
    within("serve to return", served.task).await.unwrap().unwrap();
}
