//! The port closes when the runtime hangs.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream},
    sync::mpsc,
    time::{Duration, Instant},
};

use shoal_gateway::{Config, Gateway};

use crate::{
    fake::{Fake, Serve, content},
    wire::DEADLINE,
};

/// Tries until it holds, on a thread that the hanging runtime has no part in.
#[expect(clippy::disallowed_methods, reason = "a pause between looks, on the test's own thread: the runtime hangs")]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn answers(address: SocketAddr) -> bool {
    let Ok(mut tcp) = StdStream::connect(address) else { return false };
    tcp.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut answer = [0; 12];
    tcp.write_all(b"GET /v2/ HTTP/1.1\r\nHost: mirror\r\n\r\n").is_ok()
        && tcp.read_exact(&mut answer).is_ok()
        && answer == *b"HTTP/1.1 200"
}

fn is_refused(address: SocketAddr) -> bool {
    match StdStream::connect(address) {
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        Ok(_) => false,
    }
}

fn hang_and_recover(listener: StdListener) {
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let fake = Fake::new();
    let digest = fake.blob(content(1024 * 1024), Serve::StallAfter(1000));
    let gateway = Gateway::new(fake, Config { watchdog: Duration::from_millis(250), ..Config::default() });
    let serving = gateway.clone();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        serving.serve(listener, std::future::pending()).await.unwrap();
    });
    until("the gateway to answer", || answers(address));

    // One connection in the middle of a body, and one that is idle.
    let mut amid = StdStream::connect(address).unwrap();
    amid.set_read_timeout(Some(DEADLINE)).unwrap();
    amid.write_all(format!("GET /v2/a/blobs/{digest}?ns=a.b HTTP/1.1\r\nHost: m\r\n\r\n").as_bytes()).unwrap();
    let mut first = [0; 12];
    amid.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let mut idle = StdStream::connect(address).unwrap();
    idle.set_read_timeout(Some(DEADLINE)).unwrap();
    // It has been answered, so it is accepted: one that still waits for that is reset with the socket, before any header.
    idle.write_all(b"HEAD /v2/ HTTP/1.1\r\nHost: m\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        idle.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert_eq!(gateway.metrics().port_closed(), 0);

    for hang in 1..=2 {
        let (release, held) = mpsc::sync_channel::<()>(1);
        runtime.spawn(async move {
            let _ = held.recv();
        });
        until("the port to refuse connections", || is_refused(address));
        if hang == 1 {
            let mut rest = Vec::new();
            amid.read_to_end(&mut rest).expect("the body ended by reset, not by FIN");
            assert!(rest.len() < 2000);
            rest.clear();
            idle.read_to_end(&mut rest).expect("ended by reset, not by FIN");
            assert_eq!(rest, b"");
        }
        drop(release);
        until("the gateway to answer again", || answers(address));
        assert_eq!(gateway.metrics().port_closed(), hang);
    }
    runtime.shutdown_background();
}

#[test]
fn a_hanging_runtime_closes_the_port_and_a_running_one_opens_it_again() {
    hang_and_recover(StdListener::bind("127.0.0.1:0").unwrap());
}

#[test]
fn a_port_that_was_asked_for_by_number_is_the_same_after_a_hang() {
    let free = StdListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    hang_and_recover(StdListener::bind(address).unwrap());
}

#[test]
fn a_busy_but_moving_runtime_keeps_its_port() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let gateway = Gateway::new(Fake::new(), Config { watchdog: Duration::from_secs(1), ..Config::default() });
    let serving = gateway.clone();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move { serving.serve(listener, std::future::pending()).await });
    // Work that leaves the runtime between pieces, for twice the watchdog's limit.
    let busy = runtime.spawn(async {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(2) {
            let piece = Instant::now();
            while piece.elapsed() < Duration::from_millis(5) {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
    });
    runtime.block_on(busy).unwrap();
    until("the gateway to answer", || answers(address));
    assert_eq!(gateway.metrics().port_closed(), 0);
    runtime.shutdown_background();
}
