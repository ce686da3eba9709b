//! Repositories that are not open to all.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use crate::{
    fake::{Fake, Serve, content},
    wire::{error_code, fetch, get, serve, serve_at},
};
use shoal_fetch::Admission;
use shoal_gateway::Config;

/// `Basic`, of `pod` and `secret`.
const BASIC: &str = "Authorization: Basic cG9kOnNlY3JldA==";

#[tokio::test]
async fn who_brings_no_credentials_is_asked_for_them_whatever_is_asked_for() {
    let fake = Fake::new();
    let digest = fake.blob(content(10), Serve::Well);
    *fake.admission.lock().unwrap() = Some(Admission::Unproven);
    let served = serve(fake.clone(), Config::default()).await;
    for path in [
        format!("/v2/app/blobs/{digest}?ns=a.b"),
        format!("/v2/app/manifests/{digest}?ns=a.b"),
        "/v2/app/manifests/latest?ns=a.b".to_owned(),
        "/v2/a.b/app/manifests/latest".to_owned(),
        "/v2/app/tags/list?ns=a.b".to_owned(),
        format!("/v2/app/referrers/{digest}?ns=a.b"),
    ] {
        for method in ["GET", "HEAD"] {
            let (head, body) = fetch(&served, method, &path, &[]).await;
            assert_eq!(
                (head.status, head.get("www-authenticate")),
                (401, Some("Basic realm=\"a.b\"")),
                "{method} {path}"
            );
            if method == "GET" {
                assert_eq!(error_code(&body), "UNAUTHORIZED");
            }
        }
    }
    assert!(fake.calls().iter().all(|call| call.starts_with("admit nobody to ")), "{:?}", fake.calls());
    // Docker, podman and CRI-O drop a mirror whose base they may not read.
    let (head, _) = get(&served, "/v2/", &[]).await;
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn who_has_proven_it_gets_it_in_his_own_name() {
    let (fake, own) = (Fake::new(), Fake::new());
    let digest = own.blob(content(100_000), Serve::Well);
    *fake.admission.lock().unwrap() = Some(Admission::Proven(own.clone()));
    let served = serve(fake.clone(), Config::default()).await;
    let path = format!("/v2/app/blobs/{digest}?ns=a.b");
    let (head, body) = get(&served, &path, &[BASIC]).await;
    assert_eq!((head.status, body.len()), (200, 100_000));
    let (head, body) = get(&served, &path, &[BASIC, "Range: bytes=5-9"]).await;
    assert_eq!((head.status, body.len()), (206, 5));
    assert_eq!(fake.calls().len(), 2);
    assert!(fake.calls().iter().all(|call| call.starts_with("admit pod:secret to ")), "{:?}", fake.calls());
    assert_eq!(own.calls(), ["blob a.b/app None", "info a.b/app", "blob a.b/app Some(5..10)"]);
}

#[tokio::test]
async fn who_may_not_read_it_is_sent_on_or_told_so() {
    let fake = Fake::new();
    let digest = fake.blob(content(10), Serve::Well);
    *fake.admission.lock().unwrap() = Some(Admission::Refused);
    let served = serve(Arc::clone(&fake) as _, Config::default()).await;
    // containerd tries a refused secret five times, and then goes upstream; after 404 it goes at once.
    for path in [format!("/v2/app/blobs/{digest}?ns=a.b"), "/v2/app/manifests/latest?ns=a.b".to_owned()] {
        let (head, _) = get(&served, &path, &[BASIC]).await;
        assert_eq!((head.status, head.get("www-authenticate")), (404, None), "{path}");
    }
    let (head, body) = get(&served, "/v2/a.b/app/manifests/latest", &[BASIC]).await;
    assert_eq!((head.status, error_code(&body).as_str()), (403, "DENIED"));
}

#[tokio::test]
async fn what_is_no_credential_is_none() {
    let fake = Fake::new();
    *fake.admission.lock().unwrap() = Some(Admission::Unproven);
    let served = serve(fake.clone(), Config::default()).await;
    for header in
        ["Authorization: Bearer abc", "Authorization: Basic ?", "Authorization: Basic bm9jb2xvbg==", "Authorization:"]
    {
        let (head, _) = get(&served, "/v2/app/manifests/latest?ns=a.b", &[header]).await;
        assert_eq!(head.status, 401, "{header}");
    }
    assert!(fake.calls().iter().all(|call| call.starts_with("admit nobody to ")), "{:?}", fake.calls());
}

/// An address of this machine that is not loopback. Nothing is sent to find it.
fn address_in_the_network() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Of a network that is for documentation (RFC 5737): only the route to it is looked up.
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test]
async fn who_does_not_come_over_loopback_is_never_asked_for_credentials_and_those_he_sends_are_not_looked_at() {
    // A machine without a network cannot be reached over one.
    let Some(address) = address_in_the_network() else { return };
    let fake = Fake::new();
    let digest = fake.blob(content(10), Serve::Well);
    *fake.admission.lock().unwrap() = Some(Admission::Unproven);
    let mut served = serve_at(Ipv4Addr::UNSPECIFIED.into(), fake.clone(), Config::default()).await;
    let port = served.address.port();
    for (path, status) in [
        (format!("/v2/app/blobs/{digest}?ns=a.b"), 404),
        ("/v2/app/manifests/latest?ns=a.b".to_owned(), 404),
        (format!("/v2/a.b/app/blobs/{digest}"), 403),
        ("/v2/a.b/app/manifests/latest".to_owned(), 403),
    ] {
        served.address = SocketAddr::new(address, port);
        for headers in [&[][..], &[BASIC]] {
            for method in ["GET", "HEAD"] {
                let (head, _) = fetch(&served, method, &path, headers).await;
                assert_eq!((head.status, head.get("www-authenticate")), (status, None), "{method} {path}");
            }
        }
        // The same port over loopback.
        served.address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let (head, _) = get(&served, &path, &[]).await;
        assert_eq!((head.status, head.get("www-authenticate")), (401, Some("Basic realm=\"a.b\"")), "{path}");
    }
    assert!(fake.calls().iter().all(|call| call.starts_with("admit nobody to ")), "{:?}", fake.calls());
    // What is open is open to him too.
    *fake.admission.lock().unwrap() = None;
    served.address = SocketAddr::new(address, port);
    let (head, body) = get(&served, &format!("/v2/app/blobs/{digest}?ns=a.b"), &[]).await;
    assert_eq!((head.status, body.len()), (200, 10));
}
