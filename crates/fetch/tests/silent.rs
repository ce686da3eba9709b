//! A node whose peers have all been unplugged, without a word: they are waited for once for a whole image.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Bed, Node, content, until};
use shoal_content::{Digest, Origin};
use shoal_fetch::{Config, Parsed, Pulls};
use shoal_upstream::fake::Fake;

const REPOSITORY: &str = "app";

/// Long beside all else that a pull from this machine needs.
const BUDGET: Duration = Duration::from_millis(600);

fn config() -> Config {
    let mut config = Config::default();
    config.limits.budget = BUDGET;
    config
}

fn layers(seed: u64) -> Vec<Bytes> {
    (seed..seed + 8).map(|seed| content(seed, 100_000)).collect()
}

/// Pulls an image as a runtime does, its layers one after another.
async fn pull(node: &Node, origin: &Origin, tag: &str) -> Duration {
    let began = Instant::now();
    let resolved = node.fetch.resolve(origin, &tag.parse().unwrap()).await.unwrap();
    let manifest = node.fetch.manifest(origin, &resolved.digest).await.unwrap();
    for blob in Parsed::from_json(&manifest.bytes).unwrap().blobs() {
        assert!(node.read(origin, &blob.digest).await.1.is_ok());
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_are_all_silent_are_waited_for_once_for_an_image_and_not_at_all_for_the_next() {
    let registry = Fake::start().await;
    let origin = registry.origin(REPOSITORY);
    registry.put_image(REPOSITORY, "v1", &layers(100));
    registry.put_image(REPOSITORY, "v2", &layers(200));
    let mut bed = Bed::new();
    let mut peers = Vec::new();
    for _ in 0..4 {
        peers.push(bed.node(&registry).await);
    }
    let plug = bed.unpluggable().await;
    let node = bed.node_with(&registry, config(), |_| {}).await;
    until("peers know one another", async || node.swarm.nearest(&Digest::sha256([0; 32]), 9).await.unwrap().len() == 5)
        .await;

    plug.unplug();
    let took = pull(&node, &origin, "v1").await;
    assert!(took < BUDGET * 2, "{took:?}, where one wait takes {BUDGET:?}");
    let took = pull(&node, &origin, "v2").await;
    assert!(took < BUDGET, "{took:?}: they are known to be silent");
    assert_eq!(node.fetch.counters().from_peers, 0);
}
