//! Whole nodes on loopback: finding, fetching, losing and finding again.

mod common;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{Node, config, eventually, within};
use futures::future::BoxFuture;
use shoal_content::{Algorithm, Digest, LeafHash};
use shoal_swarm::{Admission, BlockError, Config, Error, Identity, Resolve, SwarmKey};

/// `count` nodes; each knows only the first.
async fn swarm_of(count: usize) -> Vec<Node> {
    let mut nodes = vec![Node::start(config()).await];
    for _ in 1..count {
        let mut config = config();
        config.seeds = vec![nodes[0].seed()];
        nodes.push(Node::start(config).await);
    }
    for node in &nodes {
        for other in &nodes {
            if node.peer() != other.peer() {
                node.meets(other.peer()).await;
            }
        }
    }
    nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_of_five_nodes_announces_is_found_by_every_other() {
    let nodes = swarm_of(5).await;
    let (digest, outline) = nodes[3].hold(&vec![5; 3 << 20]);
    for node in nodes.iter().filter(|node| node.peer() != nodes[3].peer()) {
        assert_eq!(node.finds(&digest).await, nodes[3].peer());
        let told = within(node.swarm.outline(nodes[3].peer(), &digest)).await.unwrap();
        assert_eq!(told.as_ref(), Some(&*outline));
        let root = outline.root().unwrap();
        let found = within(async { node.swarm.providers_of_cid(&root).recv().await }).await;
        assert_eq!(found, Some(nodes[3].peer()));
    }
    let unknown = Digest::of(Algorithm::Sha256, b"unknown");
    assert_eq!(nodes[0].swarm.outline(nodes[3].peer(), &unknown).await.unwrap(), None);
    let nobody = within(async { nodes[0].swarm.providers(&unknown).recv().await }).await;
    assert_eq!(nobody, None, "the search ends by itself");
    let own = within(async { nodes[3].swarm.providers(&digest).recv().await }).await;
    assert_eq!(own, None, "a node does not find itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_announced_before_anybody_was_there_is_found_too() {
    let first = Node::start(config()).await;
    let (digest, _) = first.hold(b"early");
    let mut late = config();
    late.seeds = vec![first.seed()];
    let late = Node::start(late).await;
    assert_eq!(late.finds(&digest).await, first.peer());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_blob_is_no_longer_found_at_its_holder() {
    let nodes = swarm_of(2).await;
    let (digest, _) = nodes[0].hold(b"short lived");
    assert_eq!(nodes[1].finds(&digest).await, nodes[0].peer());
    nodes[0].swarm.withdraw(&digest);
    let newcomer = {
        let mut config = config();
        config.seeds = vec![nodes[0].seed()];
        Node::start(config).await
    };
    newcomer.meets(nodes[0].peer()).await;
    drop(nodes);
    let found = within(async { newcomer.swarm.providers(&digest).recv().await }).await;
    assert_eq!(found, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_fetched_leaf_by_leaf_by_a_peer_that_finds_it() {
    let nodes = swarm_of(2).await;
    let content: Vec<u8> = (0..(5 << 20) + 7777).map(|byte: u32| ((byte * 31) >> 7) as u8).collect();
    let (digest, _) = nodes[0].hold(&content);
    let holder = nodes[1].finds(&digest).await;
    let outline = within(nodes[1].swarm.outline(holder, &digest)).await.unwrap().unwrap();
    let mut fetched = Vec::new();
    for hash in outline.hashes().unwrap() {
        assert!(within(nodes[1].swarm.have(holder, hash.cid())).await.unwrap());
        fetched.extend_from_slice(&within(nodes[1].swarm.block(holder, hash.cid(), 1)).await.unwrap());
    }
    assert_eq!(Digest::of(Algorithm::Sha256, &fetched), digest);
    let ledger = nodes[1].swarm.peers().await.unwrap()[0].ledger;
    assert_eq!(ledger.bytes_received, content.len() as u64);

    let unknown = LeafHash::of(b"unknown").cid();
    assert_eq!(within(nodes[1].swarm.have(holder, unknown)).await, Ok(false));
    assert_eq!(within(nodes[1].swarm.block(holder, unknown, 1)).await, Err(BlockError::DontHave));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_is_gone_in_seconds_and_so_is_what_it_announced() {
    let mut nodes = swarm_of(3).await;
    let (digest, _) = nodes[2].hold(b"blob");
    assert_eq!(nodes[1].finds(&digest).await, nodes[2].peer());
    let killed = nodes.pop().unwrap();
    killed.swarm.shutdown().await;
    let began = Instant::now();
    for node in &nodes {
        node.loses(killed.peer()).await;
        let found = within(async { node.swarm.providers(&digest).recv().await }).await;
        assert_eq!(found, None, "a record of a dead peer is hidden");
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let gone = within(nodes[0].swarm.block(killed.peer(), LeafHash::of(b"blob").cid(), 1)).await;
    assert_eq!(gone, Err(BlockError::Disconnected));
    let gone = within(nodes[0].swarm.outline(killed.peer(), &digest)).await;
    assert!(matches!(gone, Err(Error::Unreachable(_))), "{gone:?}");
    assert!(matches!(killed.swarm.peers().await, Err(Error::Stopped)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_restarted_on_its_port_is_found_again_in_seconds_under_either_name() {
    let first = Node::start(config()).await;
    let identity = Identity::generate();
    let mut second = config();
    second.identity = identity.clone();
    second.seeds = vec![first.seed()];
    let mut second = Node::start(second).await;
    first.meets(second.peer()).await;

    for identity in [identity, Identity::generate()] {
        let old = second.peer();
        let listen = second.address.clone();
        second.swarm.shutdown().await;
        first.loses(old).await;
        let began = Instant::now();
        let mut again = config();
        again.identity = identity;
        // It knows nobody: it is the other that must find it.
        again.listen = vec![listen];
        second = Node::start(again).await;
        first.meets(second.peer()).await;
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    }
    assert_eq!(first.swarm.peers().await.unwrap().len(), 1);
}

/// A name that stands for whatever a test says.
#[derive(Default)]
struct Names(Mutex<Vec<SocketAddr>>);

impl Resolve for Names {
    fn resolve(&self, host: &str, _: u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
        assert_eq!(host, "shoal.example");
        let addresses = self.0.lock().unwrap().clone();
        Box::pin(async { Ok(addresses) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_behind_a_name_is_found_though_only_addresses_are_known_and_ours_is_among_them() {
    let names = Arc::new(Names::default());
    let by_name = || {
        let mut config = config();
        config.seeds = vec!["shoal.example:4001".parse().unwrap()];
        config.resolver = Arc::clone(&names) as Arc<dyn Resolve>;
        config.resolve_every = Duration::from_millis(300);
        config
    };
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let node = Node::start(by_name()).await;
        // All of them, as a headless Service lists them, the new one too.
        names.0.lock().unwrap().push(SocketAddr::from(([127, 0, 0, 1], node.port())));
        nodes.push(node);
    }
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.peer() != node.peer()) {
            node.meets(other.peer()).await;
        }
        assert_eq!(node.swarm.peers().await.unwrap().len(), 2);
    }
}

async fn is_refused(member: Config, stranger: Admission) {
    let member = Node::start(member).await;
    let mut config = Config::new(Identity::generate(), stranger);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.seeds = vec![member.seed()];
    // Under pnet a stranger is not answered at all: it learns nothing, not even that it is one.
    config.dial_timeout = Duration::from_millis(500);
    let mut registry = prometheus_client::registry::Registry::default();
    config.metrics = Some(shoal_swarm::Metrics::register(&mut registry));
    let stranger = Node::start(config).await;
    // It has tried more than once, and each time in vain.
    eventually("dials fail", || async {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let failed = text.lines().find_map(|line| line.strip_prefix("shoal_swarm_dials_failed_total "));
        failed.unwrap().parse::<u64>().unwrap() >= 3
    })
    .await;
    assert!(stranger.swarm.peers().await.unwrap().is_empty());
    assert!(member.swarm.peers().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_by_the_prologue() {
    is_refused(config(), Admission::Noise(SwarmKey::generate())).await;
    is_refused(config(), Admission::Open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_by_pnet() {
    let member = || {
        let mut config = config();
        config.admission = Admission::Pnet(common::key());
        config
    };
    is_refused(member(), Admission::Pnet(SwarmKey::generate())).await;
    is_refused(member(), Admission::Noise(common::key())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_meet_under_pnet() {
    let pnet = || {
        let mut config = config();
        config.admission = Admission::Pnet(common::key());
        config
    };
    let first = Node::start(pnet()).await;
    let mut second = pnet();
    second.seeds = vec![first.seed()];
    let second = Node::start(second).await;
    let (digest, _) = first.hold(b"blob");
    assert_eq!(second.finds(&digest).await, first.peer());
}

#[tokio::test(flavor = "multi_thread")]
async fn lookups_of_ten_nodes_take_milliseconds() {
    let nodes = swarm_of(10).await;
    let digests: Vec<Digest> = (0..50u8).map(|number| nodes[9].hold(&[number; 100]).0).collect();
    for digest in &digests {
        nodes[1].finds(digest).await;
    }
    let mut times = Vec::new();
    for node in &nodes[..9] {
        for digest in &digests {
            let began = Instant::now();
            let found = within(async { node.swarm.providers(digest).recv().await }).await;
            assert_eq!(found, Some(nodes[9].peer()));
            times.push(began.elapsed());
        }
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    assert!(median < Duration::from_millis(10), "{median:?}");
}
