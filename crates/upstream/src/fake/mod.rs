//! A registry on loopback that misbehaves to order: for tests of this crate and of those that stand on it.
//!
//! [`Fake`] keeps blobs and manifests in memory, speaks the pull side of the distribution API with HEAD, ranges, Basic
//! and Bearer authentication, and remembers every request and how many bytes of each blob left it. [`Fault`]s are put
//! on top: each says on what it acts, what it does, and how often. Only for tests: it panics where a test is wrong.

mod answer;
mod body;
mod fault;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use shoal_content::{Algorithm, Digest, Origin, Registry};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use url::Url;

use crate::{Backoff, Config, RegistryConfig, Retry, Timeouts};

pub use fault::{Does, Fault, On};

/// A running registry. Dropping it stops it.
#[derive(Debug)]
pub struct Fake {
    address: SocketAddr,
    state: Arc<State>,
    server: Mutex<Option<JoinHandle<()>>>,
}

/// What the registry demands.
#[derive(Clone, Debug, Default)]
pub enum Demand {
    /// Nothing.
    #[default]
    Nothing,
    /// This user and password with every request.
    Basic(String, String),
    /// A token from `realm` (its own `/token` where `None`), for this user and password, or for anybody where `None`.
    Bearer {
        /// Whom a token is given to.
        user: Option<(String, String)>,
        /// Named in place of the registry's own token endpoint.
        realm: Option<String>,
    },
}

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Method.
    pub method: String,
    /// Path as it came.
    pub path: String,
    /// Query as it came.
    pub query: Option<String>,
    /// `Range`.
    pub range: Option<String>,
    /// `Authorization`.
    pub authorization: Option<String>,
    /// `Accept`, lines joined.
    pub accept: Option<String>,
}

#[derive(Debug)]
struct State {
    inner: Mutex<Inner>,
    seen: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Inner {
    address: Option<SocketAddr>,
    blobs: HashMap<(String, Digest), Bytes>,
    manifests: HashMap<(String, String), (String, Bytes)>,
    demand: Demand,
    tokens: Vec<String>,
    issued: usize,
    faults: Vec<Fault>,
    seen: Vec<Seen>,
    sent: HashMap<Digest, u64>,
    connections: usize,
    rate: Option<f64>,
    next_slot: Option<tokio::time::Instant>,
}

// === impl Fake ===

impl Fake {
    /// Starts an empty registry over plain HTTP on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let inner = Inner { address: Some(address), ..Inner::default() };
        let state = Arc::new(State { inner: Mutex::new(inner), seen: watch::Sender::new(0) });
        let server = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { address, state, server: Mutex::new(Some(server)) }
    }

    /// Closes the port and every connection.
    pub async fn stop(&self) {
        let server = self.server.lock().expect("no holder panics").take();
        if let Some(server) = server {
            server.abort();
            server.await.ok();
        }
    }

    /// Opens the port again after [`stop`](Self::stop).
    pub async fn restart(&self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is still free");
        let server = tokio::spawn(serve(listener, Arc::clone(&self.state)));
        *self.server.lock().expect("no holder panics") = Some(server);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name in image names: `127.0.0.1:<port>`.
    pub fn registry(&self) -> Registry {
        self.address.to_string().parse().expect("an address is a registry")
    }

    /// A repository of it.
    pub fn origin(&self, repository: &str) -> Origin {
        Origin { registry: self.registry(), repository: repository.parse().expect("a test names a valid repository") }
    }

    /// Its URL.
    pub fn url(&self) -> Url {
        format!("http://{}", self.address).parse().expect("an address makes a URL")
    }

    /// How to reach it: plain HTTP, loopback allowed.
    pub fn rules(&self) -> RegistryConfig {
        RegistryConfig { endpoint: Some(self.url()), allow_private: true, ..RegistryConfig::default() }
    }

    /// A configuration that serves it alone, with time-outs of tests.
    pub fn config(&self) -> Config {
        Config {
            registries: [(self.registry(), self.rules())].into(),
            timeouts: Timeouts {
                connect: Duration::from_secs(2),
                headers: Duration::from_secs(2),
                stall: Duration::from_millis(300),
            },
            retry: Retry {
                attempts: 4,
                backoff: Backoff { base: Duration::from_millis(10), cap: Duration::from_millis(50) },
                budget: Duration::from_secs(5),
                longest_retry_after: Duration::from_secs(2),
            },
            ..Config::default()
        }
    }

    /// Puts a blob in a repository.
    pub fn put_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        self.inner().blobs.insert((repository.to_owned(), digest), bytes);
        digest
    }

    /// Puts a manifest in a repository, under its digest and under `tag`.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let mut inner = self.inner();
        for reference in [tag.to_owned(), digest.to_string()] {
            let manifest = (media_type.to_owned(), bytes.clone());
            inner.manifests.insert((repository.to_owned(), reference), manifest);
        }
        digest
    }

    /// Puts an image of these layers in a repository, as a registry would have it: config, manifest, tag.
    pub fn put_image(&self, repository: &str, tag: &str, layers: &[Bytes]) -> Digest {
        let descriptor = |media_type: &str, digest: Digest, size: usize| serde_json::json!({"mediaType": media_type, "digest": digest.to_string(), "size": size});
        let config =
            Bytes::from_static(br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#);
        let config_digest = self.put_blob(repository, config.clone());
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| {
                let digest = self.put_blob(repository, layer.clone());
                descriptor("application/vnd.oci.image.layer.v1.tar+gzip", digest, layer.len())
            })
            .collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor("application/vnd.oci.image.config.v1+json", config_digest, config.len()),
            "layers": layers,
        });
        self.put_manifest(repository, tag, media_type, manifest.to_string())
    }

    /// From now on demands this.
    pub fn demand(&self, demand: Demand) {
        self.inner().demand = demand;
    }

    /// Tokens given so far are no longer good.
    pub fn revoke_tokens(&self) {
        self.inner().tokens.clear();
    }

    /// Puts a fault on top of those there are.
    pub fn fault(&self, fault: Fault) {
        self.inner().faults.push(fault);
    }

    /// Takes all faults away.
    pub fn heal(&self) {
        self.inner().faults.clear();
    }

    /// All bodies together leave at this many bytes a second; `None` for as fast as they can.
    pub fn set_rate(&self, bytes_per_second: Option<u64>) {
        self.inner().rate = bytes_per_second.map(|rate| rate as f64);
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.inner().seen.clone()
    }

    /// Requests so far whose path contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.inner().seen.iter().filter(|seen| seen.path.contains(part)).count()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.inner().connections
    }

    /// Waits until `count` requests have come.
    pub async fn seen(&self, count: usize) {
        let mut seen = self.state.seen.subscribe();
        seen.wait_for(|seen| *seen >= count).await.expect("the registry outlives its tests");
    }

    /// Bytes of this blob that have left so far, over all requests.
    pub fn sent(&self, digest: &Digest) -> u64 {
        self.inner().sent.get(digest).copied().unwrap_or(0)
    }

    /// Bytes of all blobs that have left so far.
    pub fn sent_total(&self) -> u64 {
        self.inner().sent.values().sum()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.state.inner()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(server) = self.server.lock().expect("no holder panics").take() {
            server.abort();
        }
    }
}

// === impl State ===

impl State {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder panics")
    }
}

/// Accepts until it is aborted; its connections go with it.
async fn serve(listener: TcpListener, state: Arc<State>) {
    let router = axum::Router::new().fallback(answer::handle).with_state(Arc::clone(&state));
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        state.inner().connections += 1;
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        while connections.try_join_next().is_some() {}
    }
}
