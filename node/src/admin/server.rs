//! The side of the node.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::{StreamExt, TryStreamExt};
use serde::Deserialize;
use shoal_content::{Cid, Digest, Image, Origin, dag::Span};
use shoal_fetch::{Pulls, Trace};
use shoal_store::{Blob, Store};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{
    find, pull,
    types::{Avoided, BytesBySource, ErrorBody, HeldBlob, Peer, PullEvent, PullRequest, Status, StoreStatus},
};
use crate::daemon::Node;

/// Events of a pull that its client has not read yet. A client that does not read holds up its own pull and no other.
const EVENTS: usize = 64;

/// A blob is read in pieces of this many bytes.
const PIECE: u64 = 1 << 20;

/// A request in flight when the node stops is not waited for longer.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Listens on a socket that only its owner can use. One left by a node that is gone is replaced; one of a node that runs is not.
pub async fn bind(path: &FilePath) -> anyhow::Result<UnixListener> {
    let doing = || format!("cannot listen on the admin socket {}: admin.socket says where", path.display());
    if UnixStream::connect(path).await.is_ok() {
        bail!("a node listens on {} already: stop it, or choose another admin.socket", path.display());
    }
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).with_context(doing)?;
    }
    // Under another name first: between bind and chmod anybody could connect.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let bound = remove_if_there(&new).and_then(|()| UnixListener::bind(&new)).and_then(|listener| {
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&new, path)?;
        Ok(listener)
    });
    bound.with_context(doing)
}

fn remove_if_there(path: &FilePath) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: UnixListener, node: Arc<Node>, stop: CancellationToken) {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/blobs", get(blobs))
        .route("/v1/blobs/{name}", get(blob))
        .route("/v1/find", get(find_holders))
        .route("/v1/traces", get(traces))
        .route("/v1/pull", post(pull_image))
        .fallback(|| async { Refused::not_found("there is no such request: are the two programs of one version?") })
        .with_state(node);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let bounded = async {
        stop.cancelled().await;
        tokio::time::sleep(LAST_REQUEST).await;
    };
    tokio::select! {
        result = async { serving.await } => if let Err(error) = result {
            tracing::error!(%error, "the admin socket is no longer served");
        },
        () = bounded => {}
    }
}

/// An answer that is an error.
struct Refused(StatusCode, String);

impl Refused {
    fn not_found(reason: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, reason.into())
    }

    fn bad(reason: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, reason.into())
    }

    fn failed(reason: impl std::fmt::Display) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, reason.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorBody { error: self.1 })).into_response()
    }
}

type Answer<T> = Result<T, Refused>;

/// Asks the store, off the network threads.
async fn ask<T: Send + 'static>(
    node: &Node,
    question: impl FnOnce(&Store) -> shoal_store::Result<T> + Send + 'static,
) -> Answer<T> {
    let answer = node.blocking(question).await;
    answer.ok_or_else(|| Refused::failed("the store failed: see the node's log"))?.map_err(Refused::failed)
}

/// Sessions under way, then those that are over, newest first.
async fn traces(State(node): State<Arc<Node>>) -> Json<Vec<Trace>> {
    let mut traces = node.fetch.sessions();
    traces.extend(node.fetch.traces());
    Json(traces)
}

async fn status(State(node): State<Arc<Node>>) -> Answer<Json<Status>> {
    let usage = ask(&node, |store| Ok(store.usage())).await?;
    let peers = node.swarm.peers().await.map_err(Refused::failed)?;
    let avoided = node.fetch.avoided().into_iter();
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        peer_id: node.swarm.local_peer().to_string(),
        addresses: node.swarm.addresses().iter().map(ToString::to_string).collect(),
        gateway: format!("http://{}", node.gateway),
        uptime_ms: milliseconds(node.started.elapsed()),
        peers: peers.len() as u64,
        sessions: node.fetch.sessions().len() as u64,
        store: StoreStatus {
            data_dir: node.data_dir.display().to_string(),
            quota: usage.quota,
            bytes: usage.bytes,
            blobs: usage.blobs,
            partial_bytes: usage.partial_bytes,
            partials: usage.partials,
            unverified: usage.unverified,
            evictions: usage.evictions,
        },
        bytes: by_source(&node),
        avoided: avoided.map(|(peer, reason)| Avoided { peer_id: peer.to_string(), reason }).collect(),
    }))
}

fn by_source(node: &Node) -> BytesBySource {
    let counted = node.fetch.counters();
    BytesBySource { disk: counted.from_disk, peers: counted.from_peers, upstream: counted.from_upstream }
}

async fn peers(State(node): State<Arc<Node>>) -> Answer<Json<Vec<Peer>>> {
    let mut peers = node.swarm.peers().await.map_err(Refused::failed)?;
    peers.sort_by_key(|peer| peer.connected_since);
    let peers = peers.into_iter().map(|peer| Peer {
        peer_id: peer.id.to_string(),
        addresses: peer.addresses.iter().map(ToString::to_string).collect(),
        agent: peer.agent,
        rtt_us: peer.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        connected_ms: milliseconds(peer.connected_since.elapsed()),
        received: peer.ledger.bytes_received,
        sent: peer.ledger.bytes_sent,
    });
    Ok(Json(peers.collect()))
}

async fn blobs(State(node): State<Arc<Node>>) -> Answer<Json<Vec<HeldBlob>>> {
    let mut blobs = ask(&node, Store::blobs).await?;
    blobs.sort_by_key(|blob| (std::cmp::Reverse(blob.last_use), blob.digest));
    let blobs = blobs.into_iter().map(|blob| HeldBlob {
        digest: blob.digest,
        size: blob.size,
        root: blob.root.to_string(),
        media_type: blob.media_type,
        last_use: blob.last_use,
        pinned: blob.pinned,
    });
    Ok(Json(blobs.collect()))
}

#[derive(Deserialize)]
struct BlobQuery {
    from: Option<String>,
}

async fn blob(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Query(query): Query<BlobQuery>,
) -> Answer<Response> {
    let digest = match name.parse::<Digest>() {
        Ok(digest) => digest,
        Err(not_a_digest) => {
            let cid: Cid =
                name.parse().map_err(|_| Refused::bad(format!("{name:?} is not a CID, and {not_a_digest}")))?;
            return file(&node, cid).await;
        }
    };
    if let Some(blob) = ask(&node, move |store| store.get(&digest)).await? {
        return Ok(stored(blob));
    }
    let Some(from) = query.from else {
        return Err(Refused::not_found(format!(
            "this node does not hold {digest}: `--from registry/repository` fetches it from peers or upstream"
        )));
    };
    let origin = origin(&from)?;
    let body = node.fetch.blob(&origin, &digest, None).await.map_err(|error| Refused::failed(error.to_string()))?;
    Ok(bytes_of(body.size, Body::from_stream(body.stream.map_err(|error| io::Error::other(error.to_string())))))
}

fn origin(text: &str) -> Answer<Origin> {
    let image: Image = text.parse().map_err(|error| Refused::bad(format!("{text:?} is not a repository: {error}")))?;
    Ok(image.origin)
}

/// A file by its CID: a blob by its root, a part of one, or what any peer of the swarm has.
async fn file(node: &Node, cid: Cid) -> Answer<Response> {
    let body = node.fetch.file(&cid, Span::ALL).await.map_err(|error| match error {
        shoal_fetch::Error::Unavailable { .. } => Refused::not_found(error.to_string()),
        other => Refused::failed(other),
    })?;
    let stream = body.stream.map_err(move |error| {
        // Whoever reads it only sees that it broke off.
        tracing::warn!(%cid, %error, "a file could not be read to its end");
        io::Error::other(error.to_string())
    });
    Ok(bytes_of(body.size, Body::from_stream(stream)))
}

fn stored(blob: Blob) -> Response {
    let size = blob.size();
    let pieces = futures::stream::iter((0..size).step_by(PIECE as usize)).then(move |offset| {
        let blob = blob.clone();
        let len = PIECE.min(size - offset) as usize;
        async move {
            let read = tokio::task::spawn_blocking(move || blob.read_at(offset, len)).await;
            read.map_err(io::Error::other)?.map_err(io::Error::other)
        }
    });
    bytes_of(size, Body::from_stream(pieces))
}

fn bytes_of(size: u64, body: Body) -> Response {
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, size.to_string())];
    (headers, body).into_response()
}

#[derive(Deserialize)]
struct FindQuery {
    what: String,
}

async fn find_holders(
    State(node): State<Arc<Node>>,
    Query(query): Query<FindQuery>,
) -> Answer<Json<Vec<super::types::Found>>> {
    let found = find::find(&node, &query.what).await;
    found.map(Json).map_err(|reason| Refused(StatusCode::UNPROCESSABLE_ENTITY, reason))
}

async fn pull_image(State(node): State<Arc<Node>>, Json(request): Json<PullRequest>) -> Answer<Response> {
    let image: Image = request
        .image
        .parse()
        .map_err(|error| Refused::bad(format!("{:?} is not an image's name: {error}", request.image)))?;
    let platform = request.platform.unwrap_or_else(pull::own_platform);
    let (events, read) = mpsc::channel(EVENTS);
    tokio::spawn(async move {
        let (began, before) = (Instant::now(), by_source(&node));
        let last = match pull::pull(node.fetch.clone(), image, platform, events.clone()).await {
            Ok(bytes) => {
                let now = by_source(&node);
                PullEvent::Finished {
                    bytes,
                    took_ms: milliseconds(began.elapsed()),
                    by_source: BytesBySource {
                        disk: now.disk - before.disk,
                        peers: now.peers - before.peers,
                        upstream: now.upstream - before.upstream,
                    },
                }
            }
            Err(reason) => PullEvent::Failed { reason },
        };
        // Fails when the client has gone: then nobody is to be told.
        let _ = events.send(last).await;
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pull::lines(read))).into_response())
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
