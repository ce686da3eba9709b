//! Health, readiness and metrics, over HTTP.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;

/// `application/openmetrics-text` in the version that `prometheus_client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Prometheus gives up after 10 s by default.
const SCRAPE: Duration = Duration::from_secs(10);

/// A scrape in flight when the node stops is not waited for longer.
const LAST_SCRAPE: Duration = Duration::from_secs(1);

/// What is told of the node's health. Served from the first moment: a store that is opened for a minute is not a node that hangs.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// It has opened its store, joined the swarm, listens, and is not stopping.
    ready: AtomicBool,
    metrics: OnceLock<Registry>,
}

impl Health {
    pub(super) fn ready(&self, metrics: Registry) {
        // A node becomes ready once.
        let _ = self.metrics.set(metrics);
        self.ready.store(true, Ordering::Release);
    }

    pub(super) fn stopping(&self) {
        self.ready.store(false, Ordering::Release);
    }
}

/// Serves until `stop`.
pub(super) async fn serve(listener: TcpListener, health: Arc<Health>, stop: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .with_state(health);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let bounded = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_SCRAPE).await;
    };
    tokio::select! {
        result = async { serving.await } => if let Err(error) = result {
            tracing::error!(%error, "health and metrics are no longer served");
        },
        () = bounded => {}
    }
}

async fn ready(State(health): State<Arc<Health>>) -> (StatusCode, &'static str) {
    if health.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n")
    }
}

async fn scrape(State(health): State<Arc<Health>>) -> Response {
    // Collecting asks the store, which may wait for its lock.
    let encoded = tokio::task::spawn_blocking(move || {
        let Some(metrics) = health.metrics.get() else { return Ok(None) };
        let mut text = String::new();
        encode(&mut text, metrics).map(|()| Some(text))
    });
    match timeout(SCRAPE, encoded).await {
        Ok(Ok(Ok(Some(text)))) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Ok(Ok(Ok(None))) => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be collected\n").into_response(),
    }
}
