//! Trouble in the middle of a body: how it ends, and what the resume is told.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use crate::{
    fake::{CHUNK, Fake, Serve, content, unavailable},
    wire::{Client, error_code, get, serve, until},
};
use shoal_gateway::{Config, metrics::Cut};

const SIZE: usize = 1024 * 1024;

#[tokio::test]
async fn a_source_that_fails_mid_body_ends_it_by_fin_after_every_verified_byte() {
    for (serve_as, expected) in [
        (Serve::FailAfter(300_000), 300_000),
        (Serve::FailAfter(1), 1),
        (Serve::EndAfter(CHUNK), CHUNK),
        (Serve::FailAfter(SIZE - 1), SIZE - 1),
    ] {
        let fake = Fake::new();
        let digest = fake.blob(content(SIZE), serve_as);
        let served = serve(fake, Config::default()).await;
        let mut client = Client::connect(&served).await;
        client.ask("GET", &format!("/v2/a/blobs/{digest}?ns=a.b"), &[]).await;
        let head = client.head().await;
        assert_eq!((head.status, head.length()), (200, SIZE));
        assert!(client.rest().await == content(SIZE)[..expected]);
    }
}

#[tokio::test]
async fn it_is_a_fin_also_when_the_client_has_sent_more_than_was_read() {
    let fake = Fake::new();
    let word = Arc::new(Notify::new());
    let digest = fake.blob(content(SIZE), Serve::FailAfterWord(300_000, word.clone()));
    let served = serve(fake, Config::default()).await;
    let mut client = Client::connect(&served).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    client.ask("GET", &path, &[]).await;
    client.head().await;
    // Pipelined requests, more than the gateway takes in while it answers the first.
    let pipelined = format!("GET {path} HTTP/1.1\r\nHost: mirror\r\n\r\n").repeat(20_000);
    let (mut read, mut write) = tokio::io::split(client.tcp);
    let sender = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let _ = write.write_all(pipelined.as_bytes()).await;
        write
    });
    let mut first = vec![0; 200_000];
    crate::wire::within("the first bytes", async {
        use tokio::io::AsyncReadExt as _;
        read.read_exact(&mut first).await.unwrap();
    })
    .await;
    word.notify_one();
    let mut rest = Vec::new();
    crate::wire::within("the end", async {
        use tokio::io::AsyncReadExt as _;
        read.read_to_end(&mut rest).await.expect("ended by reset, not by FIN");
    })
    .await;
    // The head was read before, and whatever came with it.
    assert!(first.len() + rest.len() <= 300_000);
    assert!(content(SIZE)[..300_000].ends_with(&rest));
    crate::wire::within("the sender", sender).await.unwrap();
}

#[tokio::test]
async fn unread_input_does_not_cost_the_client_what_was_already_sent_to_it() {
    let fake = Fake::new();
    let digest = fake.blob(content(SIZE), Serve::FailAfter(SIZE - 1));
    let served = serve(fake, Config::default()).await;
    // A small window: most of the body waits in the gateway's socket when the body is cut.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut client = Client::over(socket.connect(served.address).await.unwrap());
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    client.send(&format!("GET {path} HTTP/1.1\r\nHost: mirror\r\n\r\n").repeat(500)).await;
    until("the body to be cut", || served.gateway.metrics().cut(Cut::Source) == 1).await;
    client.head().await;
    assert!(client.rest().await == content(SIZE)[..SIZE - 1]);
}

#[tokio::test]
async fn parallel_fetch_aborts_its_chunks_and_goes_on_getting_206() {
    let fake = Fake::new();
    let size = 32 * SIZE;
    let bytes = content(size);
    let digest = fake.blob(bytes.clone(), Serve::Well);
    let served = serve(fake.clone(), Config::default()).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    for first in [8 * SIZE, 24 * SIZE, 16 * SIZE] {
        let mut client = Client::connect(&served).await;
        client.ask("GET", &path, &[&format!("Range: bytes={first}-")]).await;
        let head = client.head().await;
        assert_eq!((head.status, head.length()), (206, size - first));
        assert!(client.body(SIZE).await == bytes[first..first + SIZE]);
        drop(client);
        until("the stream to be dropped", || fake.streams.load(std::sync::atomic::Ordering::SeqCst) == 0).await;
    }
    assert_eq!(served.gateway.metrics().resumes_refused(), 0);
}

#[tokio::test]
async fn a_client_that_reads_late_still_gets_every_byte_and_a_fin() {
    let fake = Fake::new();
    // More than the sockets hold, so that the cut finds the line full.
    let size = 24 * 1024 * 1024;
    let digest = fake.blob(content(size), Serve::FailAfter(size - 1));
    let served = serve(fake.clone(), Config::default()).await;
    let mut client = Client::connect(&served).await;
    client.ask("GET", &format!("/v2/a/blobs/{digest}?ns=a.b"), &[]).await;
    client.head().await;
    until("the line to be full", {
        let mut last = 0;
        let mut same = 0;
        move || {
            let now = fake.yielded.load(std::sync::atomic::Ordering::SeqCst);
            same = if now == last && now > 0 { same + 1 } else { 0 };
            last = now;
            same > 20
        }
    })
    .await;
    assert!(client.rest().await == content(size)[..size - 1]);
}

#[tokio::test]
async fn a_stream_that_stalls_is_cut_so_that_the_client_can_go_on_elsewhere() {
    let fake = Fake::new();
    let digest = fake.blob(content(SIZE), Serve::StallAfter(100_000));
    let config = Config { stall_timeout: Duration::from_millis(50), ..Config::default() };
    let served = serve(fake, config).await;
    let mut client = Client::connect(&served).await;
    client.ask("GET", &format!("/v2/a/blobs/{digest}?ns=a.b"), &[]).await;
    client.head().await;
    assert_eq!(client.rest().await.len(), 100_000);
    assert_eq!(served.gateway.metrics().cut(Cut::Stall), 1);
}

#[tokio::test]
async fn never_a_byte_more_than_was_promised() {
    let fake = Fake::new();
    let digest = fake.blob(content(SIZE), Serve::TooMuch);
    let served = serve(fake, Config::default()).await;
    let mut client = Client::connect(&served).await;
    client.ask("GET", &format!("/v2/a/blobs/{digest}?ns=a.b"), &["Connection: close"]).await;
    client.head().await;
    assert!(client.rest().await == content(SIZE));
}

#[tokio::test]
async fn headers_are_sent_only_once_the_first_bytes_are_there() {
    let fake = Fake::new();
    let config = Config {
        first_byte_budget: Duration::from_millis(50),
        patient_budget: Duration::from_millis(60),
        ..Config::default()
    };
    let served = serve(fake.clone(), config).await;
    for (number, serve_as) in
        [Serve::FailAfter(0), Serve::EndAfter(0), Serve::StallAfter(0), Serve::Never, Serve::Refuse(unavailable())]
            .into_iter()
            .enumerate()
    {
        let digest = fake.blob(content(SIZE + number), serve_as);
        for headers in [&[][..], &["Range: bytes=0-"], &["Range: bytes=10-20"], &["Range: bytes=0-1,5-6"]] {
            let (head, body) = get(&served, &format!("/v2/a/blobs/{digest}?ns=a.b"), headers).await;
            assert_eq!((head.status, error_code(&body).as_str()), (404, "BLOB_UNKNOWN"), "{number} {headers:?}");
            let (head, _) = get(&served, &format!("/v2/a.b/a/blobs/{digest}"), headers).await;
            assert_eq!(head.status, 503, "{number} {headers:?}");
        }
    }
}

#[tokio::test]
async fn after_a_cut_the_resume_is_404_a_fresh_start_and_a_closed_range_are_not() {
    let fake = Fake::new();
    let digest = fake.blob(content(SIZE), Serve::FailAfter(300_000));
    let served = serve(fake.clone(), Config::default()).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    let mut client = Client::connect(&served).await;
    client.ask("GET", &path, &[]).await;
    client.head().await;
    assert_eq!(client.rest().await.len(), 300_000);

    // The source is well again, and still the resume goes to the next host.
    fake.blob(content(SIZE), Serve::Well);
    let (head, body) = get(&served, &path, &["Range: bytes=300000-"]).await;
    assert_eq!((head.status, error_code(&body).as_str()), (404, "BLOB_UNKNOWN"));
    assert_eq!(served.gateway.metrics().resumes_refused(), 1);

    for (headers, status) in [(&[][..], 200), (&["Range: bytes=0-"][..], 200), (&["Range: bytes=5-9"][..], 206)] {
        assert_eq!(get(&served, &path, headers).await.0.status, status);
    }
    // Another repository's blob did not fail, and a client without a next host is helped by the rest.
    let (head, _) = get(&served, &format!("/v2/other/blobs/{digest}?ns=a.b"), &["Range: bytes=300000-"]).await;
    assert_eq!(head.status, 206);
    let (head, body) = get(&served, &format!("/v2/a.b/a/blobs/{digest}"), &["Range: bytes=300000-"]).await;
    assert_eq!(head.status, 206);
    assert!(body == content(SIZE)[300_000..]);
}

#[tokio::test]
async fn the_resume_is_served_again_once_the_failure_is_forgotten() {
    let fake = Fake::new();
    let digest = fake.blob(content(SIZE), Serve::FailAfter(300_000));
    let config = Config { refuse_resume_for: Duration::ZERO, ..Config::default() };
    let served = serve(fake.clone(), config).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    let mut client = Client::connect(&served).await;
    client.ask("GET", &path, &[]).await;
    client.head().await;
    client.rest().await;
    fake.blob(content(SIZE), Serve::Well);
    assert_eq!(get(&served, &path, &["Range: bytes=300000-"]).await.0.status, 206);
}

#[tokio::test]
async fn a_part_that_fails_cuts_the_multipart_body() {
    let fake = Fake::new();
    let digest = fake.blob(content(SIZE), Serve::FailAfter(100_000));
    let served = serve(fake, Config::default()).await;
    let mut client = Client::connect(&served).await;
    client.ask("GET", &format!("/v2/a/blobs/{digest}?ns=a.b"), &["Range: bytes=0-99,1000-500000"]).await;
    let head = client.head().await;
    assert_eq!(head.status, 206);
    let rest = client.rest().await;
    assert!(rest.len() > 100_000 && rest.len() < head.length());
    assert!(rest.ends_with(&content(SIZE)[1000..101_000]));
}
