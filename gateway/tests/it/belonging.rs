//! What a node holds of one repository is not given out under another, however it is asked for: with a real store and a registry behind.

use std::sync::Arc;

use shoal_content::Digest;
use shoal_fetch::{Fetch, Shown};
use shoal_gateway::Config;
use shoal_store::{Options, Store};
use shoal_swarm::{Admission, Identity, Swarm, SwarmKey};
use shoal_upstream::{
    Upstream,
    fake::{Demand, Fake},
};
use tempfile::TempDir;

use crate::{
    fake::content,
    wire::{Client, Served, error_code, fetch, get, serve, until},
};

const MIB: usize = 1 << 20;

/// `Basic`, of `pod` and `secret`.
const BASIC: &str = "Authorization: Basic cG9kOnNlY3JldA==";

/// A node behind a gateway, and its registry, which has two images: `app` and `secret`.
struct Bed {
    registry: Fake,
    served: Served,
    fetch: Fetch,
    store: Store,
    /// The manifest and the layer of `secret`.
    secret: (Digest, Digest),
    _folder: TempDir,
}

impl Bed {
    async fn new() -> Self {
        let registry = Fake::start().await;
        registry.put_image("app", "v1", &[content(1000)]);
        let layer = content(6 * MIB + 1);
        let manifest = registry.put_image("secret", "v1", std::slice::from_ref(&layer));
        let layer = registry.put_blob("secret", layer);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(folder.path())).unwrap();
        let shown = Shown::new(store.clone());
        let mut config = shoal_swarm::Config::new(Identity::generate(), Admission::Noise(SwarmKey::generate()));
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let swarm = Swarm::start(config, Arc::new(shown.clone())).unwrap();
        let upstream = Upstream::new(&registry.config()).unwrap();
        let fetch = Fetch::new(shoal_fetch::Config::default(), shown, swarm, upstream);
        let served = serve(Arc::new(fetch.clone()), Config::default()).await;
        Self { registry, served, fetch, store, secret: (manifest, layer), _folder: folder }
    }

    /// A path in either form that a client may use.
    fn paths(&self, repository: &str, rest: &str) -> [String; 2] {
        let registry = self.registry.registry();
        let escaped = registry.to_string().replace(':', "%3A");
        [format!("/v2/{repository}/{rest}?ns={escaped}"), format!("/v2/{registry}/{repository}/{rest}")]
    }

    async fn status(&self, method: &str, path: &str, headers: &[&str]) -> u16 {
        fetch(&self.served, method, path, headers).await.0.status
    }

    /// The secret's layer and manifest are not to be had under `app`, with `headers` or a range beside them.
    async fn is_refused(&self, headers: &[&str]) {
        let (manifest, layer) = self.secret;
        for rest in [format!("blobs/{layer}"), format!("manifests/{manifest}"), format!("blobs/{manifest}")] {
            for path in self.paths("app", &rest) {
                for range in [None, Some("Range: bytes=0-"), Some("Range: bytes=5-9"), Some("Range: bytes=1-2,5-9")] {
                    let headers: Vec<_> = headers.iter().copied().chain(range).collect();
                    let (head, body) = get(&self.served, &path, &headers).await;
                    assert_eq!(head.status, 404, "{path} {headers:?}");
                    let code = error_code(&body);
                    assert!(["BLOB_UNKNOWN", "MANIFEST_UNKNOWN"].contains(&code.as_str()), "{path}: {code}");
                }
                assert_eq!(self.status("HEAD", &path, headers).await, 404, "{path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_of_another_repository_is_refused_on_its_way_and_when_it_is_whole() {
    for headers in [&[][..], &[BASIC]] {
        let bed = Bed::new().await;
        if !headers.is_empty() {
            bed.registry.demand(Demand::Basic("pod".to_owned(), "secret".to_owned()));
        }
        let (manifest, layer) = bed.secret;
        for rest in ["app/v1", "secret/v1"] {
            let (repository, tag) = rest.split_once('/').unwrap();
            let [path, _] = bed.paths(repository, &format!("manifests/{tag}"));
            assert_eq!(bed.status("GET", &path, headers).await, 200, "{rest}");
        }
        assert!(bed.store.contains(&manifest));

        bed.registry.set_rate(Some(4 * MIB as u64));
        let [path, _] = bed.paths("secret", &format!("blobs/{layer}"));
        let mut client = Client::connect(&bed.served).await;
        client.ask("GET", &path, headers).await;
        let head = client.head().await;
        assert_eq!((head.status, head.length()), (200, 6 * MIB + 1));
        client.body(MIB).await;
        bed.is_refused(headers).await;
        assert_eq!(bed.fetch.sessions().len(), 1, "it was still coming");

        bed.registry.set_rate(None);
        client.body(5 * MIB + 1).await;
        until("the layer is held", || bed.store.contains(&layer)).await;
        bed.is_refused(headers).await;
        let [path, _] = bed.paths("secret", &format!("blobs/{layer}"));
        assert_eq!(bed.status("HEAD", &path, headers).await, 200);
        assert_eq!(bed.registry.sent(&layer), 6 * MIB as u64 + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_the_other_repository_has_too_is_given_at_the_price_of_one_head() {
    let bed = Bed::new().await;
    let (_, layer) = bed.secret;
    let [secret, _] = bed.paths("secret", &format!("blobs/{layer}"));
    assert_eq!(bed.status("GET", &secret, &[]).await, 200);
    until("the layer is held", || bed.store.contains(&layer)).await;
    // As a registry mounts it from the one to the other.
    assert_eq!(bed.registry.put_blob("app", content(6 * MIB + 1)), layer);
    let before = bed.registry.requests().len();
    let paths = bed.paths("app", &format!("blobs/{layer}"));
    for path in &paths {
        for range in [&[][..], &["Range: bytes=5-9"]] {
            let (head, body) = get(&bed.served, path, range).await;
            assert_eq!(body.len(), if range.is_empty() { 6 * MIB + 1 } else { 5 }, "{}", head.status);
        }
    }
    let more = bed.registry.requests().split_off(before);
    assert_eq!(more.iter().map(|seen| seen.method.as_str()).collect::<Vec<_>>(), ["HEAD"], "{more:?}");
    assert_eq!(bed.registry.sent(&layer), 6 * MIB as u64 + 1);
}
