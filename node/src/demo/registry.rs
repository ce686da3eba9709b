//! The upstream of the demonstration: a registry that serves one image, at a set rate, and counts what it sends.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use shoal_content::Digest;
use tokio::{
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::{Mutex, oneshot},
    time::Instant,
};

use super::image::Image;

/// The repository and tag that the image has here.
pub(super) const REPOSITORY: &str = "demo/app";
pub(super) const TAG: &str = "v1";

/// Bytes sent at once. Small beside a second at any rate that is worth showing.
const CHUNK: usize = 64 << 10;

/// A registry under way. Dropping it stops it.
pub(super) struct Registry {
    pub(super) address: SocketAddr,
    served: Arc<Served>,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

struct Served {
    image: Image,
    blob_bytes: AtomicU64,
    /// When the link is free again; one link for all clients, as a registry's is.
    link: Option<Link>,
}

struct Link {
    bytes_per_second: f64,
    free_at: Mutex<Instant>,
}

impl Registry {
    /// Starts a registry on loopback that sends at most `mbit` Mbit/s in all; 0: as fast as it can.
    pub(super) async fn start(image: Image, mbit: u64) -> Result<Self> {
        let link =
            (mbit > 0).then(|| Link { bytes_per_second: mbit as f64 * 125_000.0, free_at: Mutex::new(Instant::now()) });
        let served = Arc::new(Served { image, blob_bytes: AtomicU64::new(0), link });
        let router = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/{*path}", get(serve))
            .with_state(served.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.context("starting a registry on loopback")?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::select! {
                served = axum::serve(listener, router).into_future() => if let Err(error) = served {
                    tracing::error!(%error, "the demonstration's registry failed");
                },
                _ = stopped => {}
            }
        });
        Ok(Self { address, served, stop: Some(stop), task })
    }

    /// Bytes of blobs sent so far.
    pub(super) fn blob_bytes(&self) -> u64 {
        self.served.blob_bytes.load(Ordering::Relaxed)
    }

    /// Stops listening: whoever asks from now on is refused.
    pub(super) async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

use std::future::IntoFuture as _;

async fn serve(
    State(served): State<Arc<Served>>,
    Path(path): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(rest) = path.strip_prefix(REPOSITORY).and_then(|rest| rest.strip_prefix('/')) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (digest, is_blob) = match rest.split_once('/') {
        Some(("manifests", TAG)) => (served.image.manifest, false),
        Some(("manifests", digest)) => match digest.parse() {
            Ok(digest) => (digest, false),
            Err(_) => return StatusCode::NOT_FOUND.into_response(),
        },
        Some(("blobs", digest)) => match digest.parse() {
            Ok(digest) => (digest, true),
            Err(_) => return StatusCode::BAD_REQUEST.into_response(),
        },
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    match content(&served, &digest, is_blob, &method, &headers).await {
        Ok(response) => response,
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn content(
    served: &Arc<Served>,
    digest: &Digest,
    is_blob: bool,
    method: &Method,
    headers: &HeaderMap,
) -> std::io::Result<Response> {
    let mut file = tokio::fs::File::open(Image::path(&served.image.layout, digest)).await?;
    let size = file.metadata().await?.len();
    let from = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).and_then(range_of);
    let (start, end) = match from {
        Some((start, end)) if start < size => (start, end.unwrap_or(size).min(size)),
        Some(_) => {
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, format!("bytes */{size}"))])
                .into_response());
        }
        None => (0, size),
    };
    let media_type = if is_blob { "application/octet-stream".to_owned() } else { media_type(served, digest) };
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, media_type)
        .header(header::CONTENT_LENGTH, end - start)
        .header(header::ACCEPT_RANGES, "bytes")
        .header("docker-content-digest", digest.to_string());
    if from.is_some() {
        response = response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", end - 1));
    }
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        file.seek(std::io::SeekFrom::Start(start)).await?;
        Body::from_stream(paced(served.clone(), file, end - start, is_blob))
    };
    response.body(body).map_err(std::io::Error::other)
}

/// `bytes=START-[END]` as start and exclusive end.
fn range_of(header: &str) -> Option<(u64, Option<u64>)> {
    let (start, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let end = if last.is_empty() { None } else { Some(last.parse::<u64>().ok()?.checked_add(1)?) };
    Some((start.parse().ok()?, end))
}

fn media_type(served: &Served, digest: &Digest) -> String {
    if *digest == served.image.manifest {
        served.image.media_type.clone()
    } else {
        "application/vnd.oci.image.manifest.v1+json".to_owned()
    }
}

fn paced(
    served: Arc<Served>,
    file: tokio::fs::File,
    len: u64,
    is_blob: bool,
) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send {
    futures::stream::try_unfold((served, file, len), move |(served, mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let mut chunk = vec![0; usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)];
        file.read_exact(&mut chunk).await?;
        if let Some(link) = &served.link {
            let due = {
                let mut free_at = link.free_at.lock().await;
                let start = (*free_at).max(Instant::now());
                *free_at = start + Duration::from_secs_f64(chunk.len() as f64 / link.bytes_per_second);
                *free_at
            };
            tokio::time::sleep_until(due).await;
        }
        if is_blob {
            served.blob_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
        let left = left - chunk.len() as u64;
        Ok(Some((Bytes::from(chunk), (served, file, left))))
    })
}
