//! The admin API of real nodes, over their sockets, as the commands use it.

mod support;

use std::os::unix::fs::PermissionsExt;

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, StatusCode};
use shoal::admin::{
    Client, ClientError,
    client::percent_encoded,
    types::{Found, HeldBlob, Peer, PullEvent, PullRequest, Status},
};
use support::{DEADLINE, TestNode, TestRegistry};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

const MIB: usize = 1 << 20;

async fn pull(client: &Client, image: &str) -> Vec<PullEvent> {
    let request = serde_json::to_vec(&PullRequest { image: image.to_owned(), platform: None }).unwrap();
    let mut body = client.request(Method::POST, "/v1/pull", Bytes::from(request)).await.unwrap();
    let mut buffer = BytesMut::new();
    while let Some(bytes) = client.next(&mut body).await.unwrap() {
        buffer.extend_from_slice(&bytes);
    }
    let lines = serde_json::Deserializer::from_reader(buffer.reader()).into_iter();
    lines.collect::<Result<_, _>>().unwrap()
}

async fn fetch(client: &Client, path: &str) -> Result<Vec<u8>, ClientError> {
    let mut body = client.request(Method::GET, path, Bytes::new()).await?;
    let mut all = Vec::new();
    while let Some(bytes) = client.next(&mut body).await? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// Waits until `node` is connected to `count` peers.
async fn connected(node: &TestNode, count: usize) -> Vec<Peer> {
    timeout(DEADLINE, async {
        loop {
            let peers: Vec<Peer> = node.client.get("/v1/peers").await.unwrap();
            if peers.len() >= count && peers.iter().all(|peer| peer.agent.is_some()) {
                return peers;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the peers connect")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_what_it_is_and_pulls_lists_and_gives_what_it_is_asked_for() {
    let registry = TestRegistry::start(&[3 * MIB + 17, 5]).await;
    let node = TestNode::start(registry.address, &[]).await;
    let status: Status = node.client.get("/v1/status").await.unwrap();
    assert_eq!(status.peer_id, node.running.node().swarm().local_peer().to_string());
    assert_eq!(status.gateway, format!("http://{}", node.running.node().gateway()));
    assert_eq!(status.store.quota, 1 << 30);
    assert!(!status.addresses.is_empty());

    let events = timeout(DEADLINE, pull(&node.client, &registry.image())).await.unwrap();
    let Some(PullEvent::Resolved { digest, stale: false, blobs, .. }) = events.first() else { panic!("{events:?}") };
    assert_eq!((*digest, blobs.len()), (registry.manifest, 3));
    let Some(PullEvent::Finished { bytes, by_source, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!(*bytes, 3 * MIB as u64 + 17 + 5 + 14);
    assert_eq!(by_source.upstream, *bytes);
    assert_eq!(by_source.peers, 0);

    let held: Vec<HeldBlob> = node.client.get("/v1/blobs").await.unwrap();
    let traces: Vec<shoal_fetch::Trace> = node.client.get("/v1/traces").await.unwrap();
    let trace = traces.iter().find(|trace| trace.digest == registry.layer(0)).expect("it is told how the layer came");
    assert_eq!((trace.size, trace.from_upstream, trace.outcome.as_str()), ((3 * MIB + 17) as u64, trace.size, "whole"));

    let layer = held.iter().find(|blob| blob.digest == registry.layer(0)).expect("the layer is held");
    assert_eq!(layer.size, 3 * MIB as u64 + 17);
    let by_digest = fetch(&node.client, &format!("/v1/blobs/{}", percent_encoded(&layer.digest.to_string()))).await;
    assert_eq!(by_digest.unwrap(), registry.layers[0]);
    let by_root = fetch(&node.client, &format!("/v1/blobs/{}", layer.root)).await.unwrap();
    assert_eq!(by_root, registry.layers[0]);

    let found: Vec<Found> = node.client.get(&format!("/v1/find?what={}", layer.digest)).await.unwrap();
    assert!(found[0].held && found[0].holders.is_empty(), "{found:?}");
    assert_eq!(found[0].size, Some(layer.size));
    timeout(DEADLINE, node.running.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_node_finds_the_first_and_pulls_from_it_when_upstream_is_gone() {
    let registry = TestRegistry::start(&[4 * MIB, MIB + 1, 100]).await;
    let first = TestNode::start(registry.address, &[]).await;
    let finished = timeout(DEADLINE, pull(&first.client, &registry.image())).await.unwrap();
    assert!(matches!(finished.last(), Some(PullEvent::Finished { .. })), "{finished:?}");

    let second = TestNode::start(registry.address, &[&first]).await;
    let peers = connected(&second, 1).await;
    let name = first.running.node().swarm().local_peer().to_string();
    assert_eq!(peers[0].peer_id, name);
    let found: Vec<Found> = second.client.get(&format!("/v1/find?what={}", registry.layer(0))).await.unwrap();
    assert!(!found[0].held);
    assert_eq!(found[0].holders.len(), 1, "{found:?}");
    let holder = &found[0].holders[0];
    assert!(holder.whole && holder.peer_id == name && holder.leaves == 4, "{holder:?}");

    let by_digest = registry.image().replace(":v1", &format!("@{}", registry.manifest));
    let (layers, total) = (registry.layers.clone(), 5 * MIB as u64 + 1 + 100 + 14);
    let layer = registry.layer(0);
    drop(registry);
    let events = timeout(DEADLINE, pull(&second.client, &by_digest)).await.unwrap();
    let Some(PullEvent::Finished { bytes, by_source, .. }) = events.last() else { panic!("{events:?}") };
    assert_eq!((*bytes, by_source.upstream), (total, 0));
    // The manifest comes from the peer too, and is no layer.
    assert!((total..total + 4096).contains(&by_source.peers), "{by_source:?}");
    let got = fetch(&second.client, &format!("/v1/blobs/{layer}")).await.unwrap();
    assert_eq!(got, layers[0]);

    let peers: Vec<Peer> = second.client.get("/v1/peers").await.unwrap();
    assert!(peers[0].received >= 5 * MIB as u64, "{peers:?}");
    timeout(DEADLINE, second.running.stop()).await.unwrap();
    timeout(DEADLINE, first.running.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_refused_with_a_sentence() {
    let registry = TestRegistry::start(&[1]).await;
    let node = TestNode::start(registry.address, &[]).await;
    let refused = |answer: Result<Vec<u8>, ClientError>| match answer {
        Err(ClientError::Refused { status, message }) => (status, message),
        other => panic!("{other:?}"),
    };
    let (status, message) = refused(fetch(&node.client, &format!("/v1/blobs/{}", registry.layer(0))).await);
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(message.contains("does not hold") && message.contains("--from"), "{message}");
    let (status, _) = refused(fetch(&node.client, "/v1/blobs/nonsense").await);
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, message) = refused(fetch(&node.client, "/v1/find?what=NoImage").await);
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(message.contains("neither a digest nor an image"), "{message}");
    let (status, _) = refused(fetch(&node.client, "/v1/nothing").await);
    assert_eq!(status, StatusCode::NOT_FOUND);

    let from = format!("/v1/blobs/{}?from={}", registry.layer(0), percent_encoded(&registry.image()));
    assert_eq!(fetch(&node.client, &from).await.unwrap(), registry.layers[0]);
    let events = pull(&node.client, "elsewhere.example/a:b").await;
    let [PullEvent::Failed { reason }] = events.as_slice() else { panic!("{events:?}") };
    assert!(reason.contains("elsewhere.example is not served"), "{reason}");
    timeout(DEADLINE, node.running.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_its_owners_and_only_a_dead_nodes_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/admin.sock");
    let listener = shoal::admin::server::bind(&path).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let error = shoal::admin::server::bind(&path).await.unwrap_err().to_string();
    assert!(error.contains("already"), "{error}");
    drop(listener);
    shoal::admin::server::bind(&path).await.expect("nobody listens there any more");

    let nobody = Client::new(dir.path().join("nobody.sock"));
    let error = nobody.get::<Status>("/v1/status").await.unwrap_err().to_string();
    assert!(error.starts_with("cannot reach the node at ") && error.contains("is `shoal serve` running?"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_metrics_are_served_until_the_node_stops() {
    let registry = TestRegistry::start(&[1]).await;
    let node = TestNode::start(registry.address, &[]).await;
    let address = node.running.node().health();
    let get = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    pull(&node.client, &registry.image()).await;
    let metrics = get("/metrics").await;
    for line in [
        "shoal_build_info{version=",
        "shoal_store_blobs 3",
        "shoal_fetch_from_upstream_bytes_total 15",
        "shoal_upstream_requests_total ",
        "shoal_gateway_connections 0",
        "shoal_swarm_peers 0",
        "process_resident_memory_bytes ",
        "# EOF",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    timeout(DEADLINE, node.running.stop()).await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}
