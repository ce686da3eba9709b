//! Clients that take their time, or too much room.

use std::{sync::atomic::Ordering, time::Duration};

use crate::{
    fake::{Fake, Serve, content},
    wire::{Client, get, serve, until, within},
};
use shoal_gateway::Config;

#[tokio::test]
async fn a_head_that_does_not_come_in_time_ends_the_connection() {
    let config = Config { header_timeout: Duration::from_millis(50), ..Config::default() };
    let served = serve(Fake::new(), config).await;
    for beginning in ["", "GET /v2/ HTTP/1.1\r\nHost: mir"] {
        let mut client = Client::connect(&served).await;
        client.send(beginning).await;
        // Without an answer: a 408 would be repeated five times at once.
        assert_eq!(client.rest().await, b"");
    }
    until("the connections to be gone", || served.gateway.metrics().connections() == 0).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_431_and_ends_by_fin() {
    let config = Config { max_header_bytes: 8192, ..Config::default() };
    let served = serve(Fake::new(), config).await;
    let mut client = Client::connect(&served).await;
    let _ = tokio::io::AsyncWriteExt::write_all(
        &mut client.tcp,
        format!("GET /v2/ HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000)).as_bytes(),
    )
    .await;
    assert_eq!(client.head().await.status, 431);
    client.rest().await;
}

#[tokio::test]
async fn what_is_no_http_is_400_and_ends_by_fin() {
    let served = serve(Fake::new(), Config::default()).await;
    for nonsense in
        ["\x16\x03\x01\x02\x00\x01\r\n\r\n", "GET /v2/\\ \\ HTTP/1.1\r\n\r\n", "GET /v2/\0 HTTP/1.1\r\n\r\n"]
    {
        let mut client = Client::connect(&served).await;
        client.send(nonsense).await;
        assert_eq!(client.head().await.status, 400, "{nonsense:?}");
        client.rest().await;
    }
}

#[tokio::test]
async fn a_client_that_takes_no_byte_is_cut_and_its_stream_dropped() {
    let fake = Fake::new();
    let size = 64 * 1024 * 1024;
    let digest = fake.blob(content(size), Serve::Well);
    let config = Config { write_timeout: Duration::from_millis(100), ..Config::default() };
    let served = serve(fake.clone(), config).await;
    let mut client = Client::connect(&served).await;
    client.ask("GET", &format!("/v2/a/blobs/{digest}?ns=a.b"), &[]).await;
    client.head().await;
    until("the stream to be dropped", || fake.streams.load(Ordering::SeqCst) == 0).await;
    assert!(fake.yielded.load(Ordering::SeqCst) < size);
    assert!(client.rest().await.len() < size);
}

#[tokio::test]
async fn a_slow_reader_holds_back_nobody_and_is_not_read_ahead_of() {
    let fake = Fake::new();
    let size = 64 * 1024 * 1024;
    let digest = fake.blob(content(size), Serve::Well);
    let served = serve(fake.clone(), Config::default()).await;
    let path = format!("/v2/a/blobs/{digest}?ns=a.b");
    let mut slow = Client::connect(&served).await;
    slow.ask("GET", &path, &[]).await;
    slow.head().await;
    let (head, body) = get(&served, &path, &[]).await;
    assert_eq!(head.status, 200);
    assert!(body == content(size));
    // What was taken for the slow one is at most what the sockets hold.
    let for_slow = fake.yielded.load(Ordering::SeqCst) - size;
    assert!(for_slow < size / 2, "{for_slow}");
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once_and_there_is_room_again_later() {
    let config = Config { max_connections: 2, ..Config::default() };
    let served = serve(Fake::new(), config).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(&served).await;
        client.ask("GET", "/v2/", &[]).await;
        assert_eq!(client.head().await.status, 200);
        kept.push(client);
    }
    let mut refused = Client::connect(&served).await;
    assert_eq!(refused.rest().await, b"");
    kept.pop();
    within("room for another", async {
        loop {
            let mut client = Client::connect(&served).await;
            let mut answer = [0; 12];
            let ask =
                tokio::io::AsyncWriteExt::write_all(&mut client.tcp, b"GET /v2/ HTTP/1.1\r\nHost: m\r\n\r\n").await;
            if ask.is_ok() && tokio::io::AsyncReadExt::read_exact(&mut client.tcp, &mut answer).await.is_ok() {
                break;
            }
        }
    })
    .await;
}
