//! Blobs: whole, in one range, or in several.
//!
//! | asked | answered |
//! |---|---|
//! | no range, or `bytes=0-` | 200 and the whole, once its first bytes are there |
//! | one range | 206, its exact bytes and the complete length, once its first bytes are there |
//! | several | 206 `multipart/byteranges`; 400 when together they are longer than the blob |
//! | outside the blob, or of an empty one | 416 |
//! | `bytes=N-` with `?ns=` within half a minute of a cut body | 404, so that containerd goes on from upstream |
//! | HEAD | the headers of the whole |
//!
//! A client with the registry in its path is not refused the resume: it has no other host, and a 206 that brings the rest
//! saves its pull.

use std::{ops::Range, sync::Arc, time::Instant};

use axum::{body::Body, response::Response};
use futures::{StreamExt as _, TryFutureExt as _, stream};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_RANGE, CONTENT_TYPE},
};
use shoal_content::{Digest, Origin};
use shoal_fetch::{Error, Pulls};

use crate::{
    answer::{Asking, Shared, insert, local, name_immutable, sized},
    body::{Bytestream, Pour, Setting, exactly, ready},
    deadline::Deadline,
    fault::{About, Fault},
    multipart,
    range::{self, Asked, Spec},
};

impl Shared {
    /// Answers a request for a blob.
    pub(crate) async fn blob(self: &Arc<Self>, asking: Asking<'_>, digest: Digest) -> Result<Response, Fault> {
        let asked = asking.asked(&digest)?;
        if let Asked::One(Spec::From(_)) = asked
            && asking.next_host
            && self.failed().lately(&asking.origin, &digest, Instant::now())
        {
            self.metrics.resumes_refused.inc();
            return Err(Fault::resume(&digest));
        }

        let next_host = asking.next_host;
        let fault = |error: Error| Fault::from_error(&error, About::Blob, next_host);
        let mut response = match asked {
            Asked::Whole if asking.head_only => {
                let size = self.size(&asking, &digest).await.map_err(fault)?;
                sized(Body::empty(), size)
            }
            Asked::Whole => {
                let open = open(Wanted::of(&asking, digest), None);
                let (stream, length) =
                    self.in_time(&asking.deadline, &what(&asking, &digest), open).await.map_err(fault)?;
                sized(self.pour(asking, digest, stream, length), length)
            }
            Asked::One(spec) => {
                let size = self.size(&asking, &digest).await.map_err(fault)?;
                let range = spec.within(size).map_err(|outside| Fault::outside(outside.size))?;
                let open = open(Wanted::of(&asking, digest), Some((range.clone(), size)));
                let (stream, length) =
                    self.in_time(&asking.deadline, &what(&asking, &digest), open).await.map_err(fault)?;
                let mut response = sized(self.pour(asking, digest, stream, length), length);
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                insert(response.headers_mut(), CONTENT_RANGE, &range::content_range(&range, size));
                response
            }
            Asked::Several(specs) => {
                let size = self.size(&asking, &digest).await.map_err(fault)?;
                let ranges = range::several(&specs, size).map_err(|outside| Fault::outside(outside.size))?;
                let frames = multipart::frames(&digest, &ranges, size)
                    .ok_or_else(|| Fault::bad_range("the ranges add up to more than the blob"))?;
                let (length, media_type) = (frames.length, frames.media_type.clone());
                let parts = parts(Wanted::of(&asking, digest), size, ranges, frames);
                let stream = self.in_time(&asking.deadline, &what(&asking, &digest), parts).await.map_err(fault)?;
                let mut response = sized(self.pour(asking, digest, stream, length), length);
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                insert(response.headers_mut(), CONTENT_TYPE, &media_type);
                response
            }
        };
        let headers = response.headers_mut();
        headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/octet-stream"));
        name_immutable(headers, &digest);
        Ok(response)
    }

    async fn size(&self, asking: &Asking<'_>, digest: &Digest) -> Result<u64, Error> {
        let info = asking.pulls.blob_info(&asking.origin, digest);
        Ok(self.in_time(&asking.deadline, &what(asking, digest), info).await?.size)
    }

    /// A body that remembers the blob when it is cut.
    fn pour(self: &Arc<Self>, asking: Asking<'_>, digest: Digest, stream: Bytestream, length: u64) -> Body {
        let Asking { origin, scissors, going, .. } = asking;
        let shared = self.clone();
        let on_cut = Box::new(move |reason: &str| {
            tracing::warn!(%origin, %digest, reason, "body cut: the client is left to resume or to ask its next host");
            shared.failed().remember(&origin, &digest, Instant::now());
        });
        let setting =
            Setting { scissors, stall: self.config.stall_timeout, metrics: self.metrics.clone(), going, on_cut };
        Body::new(Pour::new(stream, length, setting))
    }
}

/// A blob, whence it may be had, and by when.
#[derive(Clone)]
struct Wanted {
    pulls: Arc<dyn Pulls>,
    origin: Origin,
    digest: Digest,
    deadline: Deadline,
}

impl Wanted {
    fn of(asking: &Asking<'_>, digest: Digest) -> Self {
        let (pulls, origin, deadline) = (asking.pulls.clone(), asking.origin.clone(), asking.deadline.clone());
        Self { pulls, origin, digest, deadline }
    }
}

/// Opens a blob, or a range of one whose size is known, and waits for its first bytes. Gives also how many there will be.
async fn open(wanted: Wanted, part: Option<(Range<u64>, u64)>) -> Result<(Bytestream, u64), Error> {
    let Wanted { pulls, origin, digest, deadline } = wanted;
    let asked = part.as_ref().map(|(range, _)| range.clone());
    let body = pulls.blob(&origin, &digest, asked).await?;
    let (expected, size) = part.unwrap_or((0..body.size, body.size));
    if body.range != expected || body.size != size {
        let reason = format!("{:?} of {} bytes came, not {expected:?} of {size}", body.range, body.size);
        return Err(local(&digest.to_string(), &reason));
    }
    let length = expected.end - expected.start;
    Ok((ready(body.stream, length, &digest.to_string(), &deadline).await?, length))
}

/// The parts of a blob with their frames, the first one open, the others opened as their turn comes.
async fn parts(
    wanted: Wanted,
    size: u64,
    ranges: Vec<Range<u64>>,
    frames: multipart::Frames,
) -> Result<Bytestream, Error> {
    let digest = wanted.digest;
    let mut ranges = ranges.into_iter();
    let Some(first) = ranges.next() else { return Err(local(&digest.to_string(), "no range is left to send")) };
    let (first, length) = open(wanted.clone(), Some((first, size))).await?;
    let rest = ranges.map(move |range| -> Bytestream {
        let open = open(wanted.clone(), Some((range, size)));
        Box::pin(open.map_ok(|(stream, length)| exactly(stream, length)).try_flatten_stream())
    });
    // Opened lazily: `flat_map` takes the next part when the one before has ended.
    let contents = std::iter::once(exactly(first, length)).chain(rest);
    let framed = stream::iter(frames.heads.into_iter().zip(contents))
        .flat_map(|(head, content)| stream::once(std::future::ready(Ok(head))).chain(content));
    Ok(Box::pin(framed.chain(stream::once(std::future::ready(Ok(frames.tail))))))
}

fn what(asking: &Asking<'_>, digest: &Digest) -> String {
    format!("{digest} of {}", asking.origin)
}
