//! Many keys, too many peers, and peers that fall silent.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::{Node, config, eventually};
use prometheus_client::registry::Registry;
use shoal_content::{Algorithm, Digest, LeafHash};
use shoal_swarm::{Config, Error, Metrics, Provides, Swarm};
use tokio::net::{TcpListener, TcpStream};

fn counted(config: &mut Config) -> Registry {
    let mut registry = Registry::default();
    config.metrics = Some(Metrics::register(&mut registry));
    registry
}

fn value(registry: &Registry, name: &str) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    let line = text.lines().find(|line| line.split(' ').next() == Some(&format!("shoal_swarm_{name}")));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_blobs_are_announced_to_all_within_seconds() {
    let mut first = config();
    let records = counted(&mut first);
    let first = Node::start(first).await;
    let mut second = config();
    second.seeds = vec![first.seed()];
    let announcing = counted(&mut second);
    let second = Node::start(second).await;
    for number in 0..10_000u32 {
        let digest = Digest::of(Algorithm::Sha256, &number.to_be_bytes());
        second.swarm.announce(&digest, &LeafHash::of(&number.to_le_bytes()).cid());
    }
    let began = Instant::now();
    // A few numbers read the same in both byte orders, and make a digest that is another's root.
    eventually("all are known", || async { value(&records, "provider_keys") >= 19_900 }).await;
    eventually("all are told", || async { value(&announcing, "unannounced_keys") == 0 }).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(value(&announcing, "provided_keys"), value(&records, "provider_keys"));
    assert_eq!(value(&records, "records_refused_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_is_let_in_and_the_least_useful_peer_let_go() {
    let mut full = config();
    full.max_peers = 3;
    let counts = counted(&mut full);
    let full = Node::start(full).await;
    let mut others = Vec::new();
    for _ in 0..5 {
        let mut config = config();
        // Were they to know one another, they would all dial all.
        config.seeds = vec![full.seed()];
        let other = Node::start(config).await;
        other.meets(full.peer()).await;
        others.push(other);
    }
    eventually("peers are let go", || async {
        value(&counts, "peers_let_go_total") >= 2 && full.swarm.peers().await.unwrap().len() <= 3
    })
    .await;
}

/// Passes bytes on between its clients and a node, until it is told to pass nothing on and to say nothing of it.
async fn proxy(to: u16, is_dead: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut clients = Vec::new();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            if is_dead.load(Ordering::Relaxed) {
                clients.push(client);
                continue;
            }
            let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let (client_read, client_write) = client.into_split();
            let (server_read, server_write) = server.into_split();
            tokio::spawn(pass(client_read, server_write, Arc::clone(&is_dead)));
            tokio::spawn(pass(server_read, client_write, Arc::clone(&is_dead)));
        }
    });
    port
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    is_dead: Arc<AtomicBool>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length) = from.read(&mut buffer).await {
        if is_dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_falls_silent_is_dropped_in_seconds_and_holds_back_nobody() {
    let silent = Node::start(config()).await;
    let is_dead = Arc::new(AtomicBool::new(false));
    let port = proxy(silent.port(), Arc::clone(&is_dead)).await;
    let mut config = config();
    config.seeds = vec![format!("127.0.0.1:{port}").parse().unwrap()];
    config.dead_after = Duration::from_secs(2);
    let node = Node::start(config).await;
    node.meets(silent.peer()).await;
    // It must not be reached past the proxy.
    let (digest, _) = silent.hold(b"blob");
    assert_eq!(node.finds(&digest).await, silent.peer());
    is_dead.store(true, Ordering::Relaxed);

    let began = Instant::now();
    let asked = node.swarm.outline(silent.peer(), &digest).await;
    assert!(matches!(asked, Err(Error::Timeout(_))), "{asked:?}");
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    node.loses(silent.peer()).await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_an_error_that_names_it() {
    let node = Node::start(config()).await;
    let mut second = config();
    second.listen = vec![node.address.clone()];
    let error = Swarm::start(second, Arc::clone(&node.shelf) as Arc<dyn Provides>).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }));
    assert!(error.to_string().contains(&node.address.to_string()), "{error}");
}
