//! A pull as a container runtime does it: HEAD of the tag, manifest, then config and layers three at a time, each checked.

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use shoal_content::{Digest, Hasher};
use shoal_fetch::Parsed;

use super::registry::{REPOSITORY, TAG};

/// Blobs fetched at once: containerd's default.
const PARALLEL: usize = 3;

/// Largest manifest read, in bytes.
const MAX_MANIFEST: usize = 4 << 20;

type Http = Client<HttpConnector, Empty<Bytes>>;

/// What a pull brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulled {
    pub(super) seconds: f64,
    pub(super) bytes: u64,
}

/// Pulls the demonstration's image from `base` (`http://host:port`), naming the upstream as `ns` where it is a mirror.
pub(super) async fn pull(base: &str, ns: Option<&str>) -> Result<Pulled> {
    let client: Http = Client::builder(TokioExecutor::new()).build_http();
    let began = Instant::now();
    let url = |tail: &str| {
        let query = ns.map(|ns| format!("?ns={}", ns.replace(':', "%3A"))).unwrap_or_default();
        format!("{base}/v2/{REPOSITORY}/{tail}{query}")
    };
    let tag = url(&format!("manifests/{TAG}"));
    let head = request(&client, Method::HEAD, &tag).await?;
    let digest: Digest = head
        .headers()
        .get("docker-content-digest")
        .and_then(|digest| digest.to_str().ok())
        .with_context(|| format!("HEAD {tag}: no Docker-Content-Digest"))?
        .parse()?;
    let mut parsed = manifest(&client, &url(&format!("manifests/{digest}")), &digest).await?;
    if let Some(image) = parsed.manifests.first() {
        let digest = image.digest;
        parsed = manifest(&client, &url(&format!("manifests/{digest}")), &digest).await?;
    }
    let blobs: Vec<Digest> = parsed.blobs().map(|descriptor| descriptor.digest).collect();
    let bytes = futures::stream::iter(blobs)
        .map(|digest| {
            let (client, url) = (client.clone(), url(&format!("blobs/{digest}")));
            async move { blob(&client, &url, &digest).await }
        })
        .buffer_unordered(PARALLEL)
        .try_fold(0, |sum, bytes| async move { Ok(sum + bytes) })
        .await?;
    Ok(Pulled { seconds: began.elapsed().as_secs_f64(), bytes })
}

async fn request(client: &Http, method: Method, url: &str) -> Result<hyper::Response<hyper::body::Incoming>> {
    let request = Request::builder()
        .method(method.clone())
        .uri(url)
        .header(
            header::ACCEPT,
            "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*",
        )
        .body(Empty::new())?;
    let response = client.request(request).await.with_context(|| format!("{method} {url}"))?;
    ensure!(response.status().is_success(), "{method} {url}: {}", response.status());
    Ok(response)
}

async fn manifest(client: &Http, url: &str, digest: &Digest) -> Result<Parsed> {
    let response = request(client, Method::GET, url).await?;
    let body = http_body_util::Limited::new(response.into_body(), MAX_MANIFEST).collect().await;
    let bytes = match body {
        Ok(body) => body.to_bytes(),
        Err(error) => bail!("GET {url}: {error}"),
    };
    ensure!(Digest::of(digest.algorithm(), &bytes) == *digest, "GET {url}: the manifest does not match its digest");
    Parsed::from_json(&bytes).with_context(|| format!("GET {url}: not a manifest"))
}

async fn blob(client: &Http, url: &str, digest: &Digest) -> Result<u64> {
    let mut body = request(client, Method::GET, url).await?.into_body();
    let mut hasher = Hasher::new(digest.algorithm());
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.with_context(|| format!("GET {url}: after {bytes} bytes"))?.into_data() {
            hasher.update(&data);
            bytes += data.len() as u64;
        }
    }
    ensure!(hasher.finish() == *digest, "GET {url}: the blob does not match its digest");
    Ok(bytes)
}
