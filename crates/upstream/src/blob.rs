//! A blob on its way from upstream: a stream that takes itself up again where it broke.
//!
//! On a cut, or when no byte has come for the stall time-out, the rest is asked for by range from the exact byte, after
//! a wait that grows; attempts are bounded and start anew once the body has got on. A server that ignores ranges is
//! read from the start and what the reader has is thrown away. Nothing here knows the digest: who reads verifies.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use http::{HeaderMap, HeaderValue, Method, header};
use reqwest::Response;
use shoal_content::{Digest, Origin};

use crate::{
    auth::Access,
    counters::Counters,
    dial::Patience,
    error::{Again, Asked, Error, Failure, Item},
    range,
    resume::{Fault, Head, Resume, Step},
    site::Site,
    wire::{Answer, Request, Wire},
};

/// Bytes of a blob from upstream, in order from [`offset`](Self::offset).
///
/// Ends after the last byte that was asked for; an error is the last item. Dropping it closes the connection.
pub struct BlobStream {
    size: Option<u64>,
    offset: u64,
    end: Option<u64>,
    ranged: bool,
    host: String,
    stream: BoxStream<'static, Result<Bytes, Error>>,
}

/// What is needed to ask for the rest.
struct Reading {
    wire: Arc<Wire>,
    site: Arc<Site>,
    access: Access,
    request: Request,
    resume: Resume,
    open: Option<Response>,
    host: String,
    finished: bool,
}

/// Opens the bytes from `start` up to `end` of a blob.
pub(crate) async fn open(
    wire: Arc<Wire>,
    site: Arc<Site>,
    access: Access,
    origin: &Origin,
    digest: &Digest,
    start: u64,
    end: Option<u64>,
) -> Result<BlobStream, Error> {
    let mut resume = Resume::new(start, end, wire.retry.attempts);
    let request = request(&site, origin, digest, start, end);
    let answer = wire.send(&site, &request, &access).await?;
    let ranged = answer.status == 206
        || answer.header(header::ACCEPT_RANGES).is_some_and(|units| units.eq_ignore_ascii_case("bytes"));
    let head = head(answer)?;
    let (answer, head) = match head {
        (answer, head) if head.status == 416 && is_at_end(&head, start) => {
            return Ok(empty(answer.host, start));
        }
        other => other,
    };
    resume.opened(&head).map_err(|fault| fault_error(&answer, fault))?;
    let host = answer.host;
    let (size, offset, end) = (resume.total(), resume.position(), resume.end());
    let reading =
        Reading { wire, site, access, request, resume, open: answer.open, host: host.clone(), finished: false };
    let stream = stream::unfold(reading, |mut reading| async move {
        let item = reading.next().await?;
        Some((item, reading))
    });
    Ok(BlobStream { size, offset, end, ranged, host, stream: stream.boxed() })
}

/// The request for a part of a blob. A whole blob is asked for without a range, which everybody understands.
fn request(site: &Site, origin: &Origin, digest: &Digest, start: u64, end: Option<u64>) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    // A store that compresses on the way would change the bytes that the digest is of.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    set_range(&mut headers, start, end);
    Request {
        what: Arc::new(Asked { origin: origin.clone(), item: Item::Blob(*digest) }),
        method: Method::GET,
        url: site.url(origin, &format!("blobs/{digest}"), None),
        headers,
        body_limit: None,
    }
}

fn set_range(headers: &mut HeaderMap, start: u64, end: Option<u64>) {
    if start == 0 && end.is_none() {
        headers.remove(header::RANGE);
    } else if let Ok(value) = HeaderValue::from_str(&range::request(start, end)) {
        headers.insert(header::RANGE, value);
    }
}

/// What a blob's answer says of its body; an error where it is none.
fn head(answer: Answer) -> Result<(Answer, Head), Error> {
    if !matches!(answer.status.as_u16(), 200 | 206 | 416) {
        return Err(answer.into_error());
    }
    if answer.header(header::CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(answer.invalid("it compressed the blob on the way, which nobody asked for"));
    }
    let head = Head {
        status: answer.status.as_u16(),
        content_range: answer.header(header::CONTENT_RANGE).and_then(range::read),
        content_length: answer.content_length(),
    };
    Ok((answer, head))
}

/// A range that starts at the very end is nothing, not a mistake.
fn is_at_end(head: &Head, start: u64) -> bool {
    head.content_range.as_ref().and_then(|range| range.total) == Some(start)
}

fn empty(host: String, size: u64) -> BlobStream {
    let stream = stream::empty().boxed();
    BlobStream { size: Some(size), offset: size, end: Some(size), ranged: true, host, stream }
}

fn fault_error(answer: &Answer, fault: Fault) -> Error {
    match fault {
        Fault::OutOfRange { offset, size: Some(size) } => {
            Error::OutOfRange { what: Arc::clone(&answer.what), offset, size }
        }
        fault => answer.invalid(fault.to_string()),
    }
}

// === impl BlobStream ===

impl BlobStream {
    /// Size of the whole blob in bytes, where upstream said it.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The byte of the blob that the stream starts with. Where upstream ignores ranges this is 0, whatever was asked
    /// for.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the stream ends, exclusive; `None` where upstream did not say how long the blob is.
    pub fn end(&self) -> Option<u64> {
        self.end
    }

    /// Whether upstream gives this blob by range, as far as it has shown or said.
    pub fn ranged(&self) -> bool {
        self.ranged
    }

    /// Who sends it: the registry, or the store that it redirected to.
    pub fn host(&self) -> &str {
        &self.host
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(context)
    }
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream")
            .field("host", &self.host)
            .field("size", &self.size)
            .field("offset", &self.offset)
            .field("end", &self.end)
            .field("ranged", &self.ranged)
            .finish_non_exhaustive()
    }
}

// === impl Reading ===

impl Reading {
    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if self.finished {
            return None;
        }
        let item = self.advance().await;
        self.finished = !matches!(item, Ok(Some(_)));
        item.transpose()
    }

    /// The next bytes for the reader, `None` at the end.
    async fn advance(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let Some(response) = &mut self.open else {
                self.reopen().await?;
                continue;
            };
            let dial = &self.wire.dial;
            let chunk = match dial.chunk(&self.request.what, &self.host, response).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => {
                    match self.resume.ended() {
                        Step::Done => return Ok(None),
                        step => {
                            let reason = "the body ended before its announced end".to_owned();
                            self.pause(
                                step,
                                &Failure { again: Again::Soon, ..Failure::last(self.unreachable(reason)) },
                            )
                            .await?;
                        }
                    }
                    continue;
                }
                Err(failure) => {
                    match self.resume.broke() {
                        Step::Done => return Ok(None),
                        step => self.pause(step, &failure).await?,
                    }
                    continue;
                }
            };
            let given = self.resume.piece(chunk.len()).map_err(|fault| self.invalid(&fault))?;
            Counters::add(&dial.counters.discarded, given.start as u64);
            if !given.is_empty() {
                return Ok(Some(chunk.slice(given)));
            }
        }
    }

    /// Closes what broke, and waits before the next attempt, if there is one.
    async fn pause(&mut self, step: Step, failure: &Failure) -> Result<(), Error> {
        self.open = None;
        let wait = match step {
            Step::Again { attempt } => self.wire.wait(failure, attempt),
            Step::Done | Step::GiveUp => None,
        };
        let Some(wait) = wait else { return Err(failure.error.clone()) };
        tracing::debug!(error = %failure.error, position = self.resume.position(), ?wait, "taking up a body again");
        tokio::time::sleep(wait).await;
        Ok(())
    }

    async fn reopen(&mut self) -> Result<(), Error> {
        let (start, end) = (self.resume.position(), self.resume.end());
        set_range(&mut self.request.headers, start, end);
        Counters::add(&self.wire.dial.counters.resumed, 1);
        match self.wire.attempt(&self.site, &self.request, &self.access, Patience::Resuming).await {
            Ok(answer) => {
                let (answer, head) = head(answer)?;
                self.resume.reopened(&head).map_err(|fault| fault_error(&answer, fault))?;
                self.host = answer.host;
                self.open = answer.open;
                Ok(())
            }
            Err(failure) => {
                let step = self.resume.broke();
                if step == Step::GiveUp
                    && let Some(host) = &failure.silent
                {
                    self.wire.dial.gave_no_answer(host);
                }
                self.pause(step, &failure).await
            }
        }
    }

    fn unreachable(&self, reason: String) -> Error {
        Error::Unreachable { what: Arc::clone(&self.request.what), host: self.host.clone(), reason }
    }

    fn invalid(&self, fault: &Fault) -> Error {
        Error::Invalid { what: Arc::clone(&self.request.what), host: self.host.clone(), reason: fault.to_string() }
    }
}
