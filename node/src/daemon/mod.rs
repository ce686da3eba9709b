//! The daemon: a node made of its parts, its listeners, and how it starts and stops.
//!
//! ```text
//!   runtime ──► gateway ──► Fetch ──► Store          peers ──► Swarm ──► Shown ──► Store
//!   commands ──► admin ──►    │  ──► Swarm                       ▲
//!   probes ──► [health]       └────► Upstream        Store ── on_change ┘ announces, withdraws
//! ```
//!
//! [`Node::start`] opens in that order and fails with what failed; [`Node::stop`] closes in the reverse: the gateway
//! first, which lets bodies in flight end, the swarm next, the store last.
//!
//! | module | what it holds |
//! |---|---|
//! | `assemble` | from the configuration to each part's own |
//! | `health` | `/healthz`, `/readyz`, `/metrics` |
//! | `metrics` | what is counted outside the parts that count themselves |
//! | `keys` | the swarm key's file |
//! | `telemetry` | logging |
//! | `serve` | `shoal serve`: limits, signals, the service manager |

mod assemble;
mod health;
pub(crate) mod keys;
mod metrics;
pub mod serve;
mod telemetry;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Context;
use shoal_fetch::{Fetch, Shown};
use shoal_gateway::Gateway;
use shoal_store::{Change, Store};
use shoal_swarm::Swarm;
use shoal_upstream::Upstream;
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{admin, config::Config, ipfs};
use health::Health;

/// Bodies have had their time; what is left is closing sockets and flushing.
const CLOSE: Duration = Duration::from_secs(5);

/// How long memory for leaves stays that nobody uses.
const TRIM_EVERY: Duration = Duration::from_secs(3);

/// A running node.
pub struct Node {
    pub(crate) data_dir: PathBuf,
    pub(crate) store: Store,
    pub(crate) swarm: Swarm,
    pub(crate) fetch: Arc<Fetch>,
    pub(crate) registries: Arc<shoal_upstream::Counters>,
    /// Where the gateway listens.
    pub(crate) gateway: SocketAddr,
    /// Where health and metrics are served.
    pub(crate) health: SocketAddr,
    pub(crate) admin_socket: PathBuf,
    pub(crate) started: Instant,
}

/// A node and what keeps it running.
pub struct Running {
    node: Arc<Node>,
    health: Arc<Health>,
    stop_gateway: CancellationToken,
    stop_rest: CancellationToken,
    gateway: JoinHandle<Result<(), shoal_gateway::Error>>,
    others: JoinSet<()>,
    stop_grace: Duration,
}

impl Node {
    /// Opens the store, joins the swarm, and listens. When it returns, all of it is ready.
    pub async fn start(config: Config) -> anyhow::Result<Running> {
        let started = Instant::now();
        let mut registry = prometheus_client::registry::Registry::default();
        let (stop_gateway, stop_rest) = (CancellationToken::new(), CancellationToken::new());
        let mut others = JoinSet::new();

        let health_listener = bind(config.metrics_listen, "health and metrics", "metrics.listen").await?;
        let gateway_listener = bind(config.gateway.listen, "the gateway", "gateway.listen").await?;
        let (health_address, gateway_address) = (health_listener.local_addr()?, gateway_listener.local_addr()?);
        let health = Arc::new(Health::default());
        others.spawn(health::serve(health_listener, health.clone(), stop_rest.clone()));

        assemble::make_data_dir(&config.data_dir)?;
        let swarm_config = assemble::swarm(&config, &mut registry)?;
        let announcer: Arc<OnceLock<Swarm>> = Arc::default();
        let store = open_store(&config, announcer.clone()).await?;

        let shown = Shown::new(store.clone());
        let swarm = Swarm::start(swarm_config, Arc::new(shown.clone()))
            .context("cannot start the swarm: swarm.listen says where it listens")?;
        // From here on every change is announced as it happens; what was there before is announced below.
        let _ = announcer.set(swarm.clone());
        tokio::time::timeout(CLOSE, swarm.listening()).await.context("the swarm does not listen")??;
        announce_all(&store, &swarm).await?;

        let upstream = Upstream::new(&assemble::upstream(&config)?).context("cannot set up registries")?;
        let registries = upstream.counters();
        let fetch = Arc::new(Fetch::new(assemble::fetch(&config), shown, swarm.clone(), upstream));
        let gateway = Gateway::new(fetch.clone(), assemble::gateway(&config));
        gateway.metrics().register(registry.sub_registry_with_prefix("shoal"));

        let node = Arc::new(Node {
            data_dir: config.data_dir.clone(),
            store,
            swarm,
            fetch,
            registries,
            gateway: gateway_address,
            health: health_address,
            admin_socket: config.admin_socket.clone(),
            started,
        });
        metrics::register(&node, &mut registry);
        let admin_listener = admin::server::bind(&config.admin_socket).await?;
        if let Some(address) = config.ipfs_listen {
            let listener = bind(address, "IPFS tools", "ipfs.listen").await?;
            let router = ipfs::router(ipfs::Shown::new(node.store.clone(), node.swarm.clone()));
            others.spawn(ipfs::serve(listener, router, stop_rest.clone()));
        }

        others.spawn(trim(node.store.clone(), stop_rest.clone()));
        others.spawn(admin::server::serve(admin_listener, node.clone(), stop_rest.clone()));
        let gateway = tokio::spawn({
            let stop = stop_gateway.clone();
            async move { gateway.serve(gateway_listener, stop.cancelled_owned()).await }
        });
        health.ready(registry);
        Ok(Running { node, health, stop_gateway, stop_rest, gateway, others, stop_grace: config.stop_grace })
    }

    /// Asks the store on a thread that may block; `None` when that thread panicked.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> Option<T> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || ask(&store)).await.ok()
    }

    /// Where the gateway listens.
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// Where health and metrics are served.
    pub fn health(&self) -> SocketAddr {
        self.health
    }

    /// The swarm that it is a peer of.
    pub fn swarm(&self) -> &Swarm {
        &self.swarm
    }

    /// Its blobs.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl Running {
    /// The node.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Returns when the gateway has ended by itself: the node is of no use any more.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.gateway).await {
            Ok(Ok(())) => anyhow::anyhow!("the gateway has closed"),
            Ok(Err(error)) => error.into(),
            Err(error) => anyhow::Error::new(error).context("the gateway failed"),
        }
    }

    /// Stops: no new requests, bodies in flight end within the grace, peers see the node leave, the store is flushed.
    pub async fn stop(mut self) {
        self.health.stopping();
        self.stop_gateway.cancel();
        if !self.gateway.is_finished()
            && tokio::time::timeout(self.stop_grace + CLOSE, &mut self.gateway).await.is_err()
        {
            tracing::warn!("the gateway did not close in time");
            self.gateway.abort();
        }
        self.stop_rest.cancel();
        self.node.swarm.shutdown().await;
        let closed = tokio::time::timeout(CLOSE, async { while self.others.join_next().await.is_some() {} }).await;
        if closed.is_err() {
            tracing::warn!("a request on the admin or health port did not end in time");
            self.others.abort_all();
        }
        match self.node.blocking(Store::flush).await {
            Some(Ok(())) => {}
            Some(Err(error)) => tracing::warn!(%error, "the store could not be flushed: last uses may be lost"),
            None => tracing::warn!("the store could not be flushed: last uses may be lost"),
        }
        // Fails only where somebody removed the socket already.
        let _ = std::fs::remove_file(&self.node.admin_socket);
    }
}

/// Gives memory back that the work has left.
async fn trim(store: Store, stop: CancellationToken) {
    while tokio::time::timeout(TRIM_EVERY, stop.cancelled()).await.is_err() {
        store.trim();
        shoal_content::buffer::trim();
    }
}

async fn bind(address: SocketAddr, what: &str, key: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address} for {what}: {key} says where"))
}

async fn open_store(config: &Config, announcer: Arc<OnceLock<Swarm>>) -> anyhow::Result<Store> {
    let mut options = assemble::store(config)?;
    options.on_change = Some(Arc::new(move |change| {
        let Some(swarm) = announcer.get() else { return };
        match change {
            Change::Added { digest, root } => {
                swarm.announce(&digest, &root);
                // An IPFS peer that asked everybody for it before it was here is still waiting.
                swarm.have_now(root);
            }
            Change::Removed { digest, .. } => swarm.withdraw(&digest),
        }
    }));
    let directory = config.data_dir.display().to_string();
    let opened = tokio::task::spawn_blocking(move || Store::open(options)).await;
    opened.context("opening the store failed")?.with_context(|| format!("cannot open the store in {directory}"))
}

/// Announces what the store held before anybody listened to it.
async fn announce_all(store: &Store, swarm: &Swarm) -> anyhow::Result<()> {
    let (store, swarm) = (store.clone(), swarm.clone());
    let announced = tokio::task::spawn_blocking(move || {
        for blob in store.blobs()? {
            swarm.announce(&blob.digest, &blob.root);
            // It may have gone between the two, and its going been told before it was announced.
            if !store.contains(&blob.digest) {
                swarm.withdraw(&blob.digest);
            }
        }
        Ok::<_, shoal_store::Error>(())
    });
    announced.await.context("listing the store failed")?.context("cannot list the store")
}
