//! An image into the store: what a runtime does, without the runtime.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream};
use shoal_content::{Digest, Image, Origin, Reference};
use shoal_fetch::{Manifest, Parsed, Pulls};
use tokio::sync::mpsc;

use super::types::PullEvent;

/// containerd's default: pulls behave as they do there.
const BLOBS_AT_ONCE: usize = 3;

/// Events of a blob come no closer than this.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// An index names manifests; one that names indexes of indexes is not for us to follow further.
const MAX_DEPTH: usize = 3;

/// A blob of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// What it is of the image.
    pub(crate) kind: &'static str,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// An image's manifest for one platform, and all that it is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    /// What the name stands for: the index where there is one.
    pub(crate) digest: Digest,
    pub(crate) stale: bool,
    /// Index and manifest first, then config and layers, each digest once.
    pub(crate) all: Vec<Part>,
}

/// Resolves an image and reads its manifests. `platform` is `os/architecture`.
pub(crate) async fn parts(pulls: &dyn Pulls, image: &Image, platform: &str) -> Result<Parts, String> {
    let (digest, stale) = match &image.reference {
        Reference::Digest(digest) => (*digest, false),
        Reference::Tag(tag) => {
            let resolved = pulls.resolve(&image.origin, tag).await.map_err(|error| error.to_string())?;
            (resolved.digest, resolved.stale)
        }
    };
    let mut all = Vec::new();
    let mut next = digest;
    for _ in 0..MAX_DEPTH {
        let Manifest { bytes, .. } = pulls.manifest(&image.origin, &next).await.map_err(|error| error.to_string())?;
        let parsed = Parsed::from_json(&bytes).ok_or_else(|| format!("{next} is not an image manifest"))?;
        let size = bytes.len() as u64;
        if parsed.config.is_some() || parsed.manifests.is_empty() {
            all.push(Part { kind: "manifest", digest: next, size });
            let config = parsed.config.iter().map(|config| ("config", config));
            let layers = parsed.layers.iter().map(|layer| ("layer", layer));
            for (kind, blob) in config.chain(layers) {
                // Layers that may not be passed on live at their vendor's; no mirror is asked for them.
                let is_foreign = blob.media_type.contains("foreign") || blob.media_type.contains("nondistributable");
                if !is_foreign && !all.iter().any(|part: &Part| part.digest == blob.digest) {
                    all.push(Part { kind, digest: blob.digest, size: blob.size });
                }
            }
            return Ok(Parts { digest, stale, all });
        }
        all.push(Part { kind: "index", digest: next, size });
        let fits = |platform: &str, manifest: &&shoal_fetch::Descriptor| {
            let of = manifest.platform.as_ref();
            of.is_some_and(|of| format!("{}/{}", of.os, of.architecture) == platform)
        };
        let chosen = parsed.manifests.iter().find(|manifest| fits(platform, manifest));
        next = chosen.map(|manifest| manifest.digest).ok_or_else(|| {
            let of = |manifest: &shoal_fetch::Descriptor| {
                manifest.platform.as_ref().map(|platform| format!("{}/{}", platform.os, platform.architecture))
            };
            let have: Vec<_> = parsed.manifests.iter().filter_map(of).collect();
            format!("{image} has no manifest for {platform}, only for {}", have.join(", "))
        })?;
    }
    Err(format!("{image} is an index of indexes, more than {MAX_DEPTH} deep"))
}

/// The platform of this machine, by Go's names.
pub(crate) fn own_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    format!("linux/{architecture}")
}

/// Pulls an image and tells how it goes. Ends when nobody listens any more.
pub(crate) async fn pull(
    pulls: Arc<dyn Pulls>,
    image: Image,
    platform: String,
    events: mpsc::Sender<PullEvent>,
) -> Result<u64, String> {
    let parts = parts(&*pulls, &image, &platform).await?;
    let blobs: Vec<_> = parts.all.into_iter().filter(|part| matches!(part.kind, "config" | "layer")).collect();
    let resolved = PullEvent::Resolved {
        image: image.to_string(),
        digest: parts.digest,
        stale: parts.stale,
        blobs: blobs.iter().map(|blob| (blob.digest, blob.size)).collect(),
    };
    tell(&events, resolved).await?;
    let total = blobs.iter().map(|blob| blob.size).sum();
    stream::iter(blobs.into_iter().map(Ok))
        .try_for_each_concurrent(BLOBS_AT_ONCE, |part| pull_blob(&*pulls, &image.origin, part, &events))
        .await?;
    Ok(total)
}

async fn pull_blob(
    pulls: &dyn Pulls,
    origin: &Origin,
    part: Part,
    events: &mpsc::Sender<PullEvent>,
) -> Result<(), String> {
    let Part { kind, digest, size } = part;
    let fail = |reason: String| format!("{kind} {digest}: {reason}");
    let began = Instant::now();
    let mut body = pulls.blob(origin, &digest, None).await.map_err(|error| fail(error.to_string()))?;
    if body.size != size {
        return Err(fail(format!("it is {} bytes, the manifest says {size}", body.size)));
    }
    let mut done = 0;
    let mut told = began;
    while let Some(bytes) = body.stream.try_next().await.map_err(|error| fail(error.to_string()))? {
        done += bytes.len() as u64;
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            tell(events, PullEvent::Progress { digest, done }).await?;
        }
    }
    if done != size {
        return Err(fail(format!("it ended after {done} of {size} bytes")));
    }
    tell(events, PullEvent::Progress { digest, done }).await?;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tell(events, PullEvent::Done { digest, took_ms }).await
}

async fn tell(events: &mpsc::Sender<PullEvent>, event: PullEvent) -> Result<(), String> {
    events.send(event).await.map_err(|_| "nobody waits for the pull any more".to_owned())
}

/// The events as lines of JSON.
pub(crate) fn lines(
    events: mpsc::Receiver<PullEvent>,
) -> impl stream::Stream<Item = Result<bytes::Bytes, serde_json::Error>> {
    stream::unfold(events, |mut events| async { events.recv().await.map(|event| (event, events)) }).map(|event| {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        Ok(line.into())
    })
}
