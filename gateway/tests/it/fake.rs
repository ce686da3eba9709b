//! An in-memory [`Pulls`] with faults on order, which notes what it was asked for.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use shoal_content::{Algorithm, Digest, Origin, Tag};
use shoal_fetch::{Admission, BlobInfo, Body, Credential, Error, Item, Manifest, Passed, Pulls, Resolved};
use tokio::sync::Notify;

/// How a blob's stream behaves.
#[derive(Clone)]
pub(crate) enum Serve {
    /// All of it, in chunks.
    Well,
    /// This many bytes, then an error.
    FailAfter(usize),
    /// This many bytes, then an end.
    EndAfter(usize),
    /// This many bytes, then nothing.
    StallAfter(usize),
    /// This many bytes, then an error once told so.
    FailAfterWord(usize, Arc<Notify>),
    /// More than it said.
    TooMuch,
    /// No answer at all.
    Never,
    /// An error instead of a stream.
    Refuse(Error),
}

#[derive(Default)]
pub(crate) struct Fake {
    tags: Mutex<HashMap<String, Result<Resolved, Error>>>,
    manifests: Mutex<HashMap<Digest, Manifest>>,
    blobs: Mutex<HashMap<Digest, (Bytes, Serve)>>,
    passed: Mutex<Option<Result<Passed, Error>>>,
    /// Who is admitted; everybody where it is not said.
    pub(crate) admission: Mutex<Option<Admission>>,
    /// From now on nothing but blobs is answered.
    pub(crate) silent: AtomicBool,
    /// One line for each call.
    pub(crate) calls: Mutex<Vec<String>>,
    /// Streams that are alive.
    pub(crate) streams: Arc<AtomicUsize>,
    /// Bytes that streams have yielded.
    pub(crate) yielded: Arc<AtomicUsize>,
    /// Told whenever a stream is dropped.
    pub(crate) dropped: Arc<Notify>,
}

/// Size of the chunks that streams yield.
pub(crate) const CHUNK: usize = 64 * 1024;

pub(crate) fn unavailable() -> Error {
    Error::Unavailable { what: "it".into(), reason: "all sources failed".into() }
}

pub(crate) fn not_found() -> Error {
    Error::NotFound { what: "it".into(), reason: "upstream says so".into() }
}

pub(crate) fn denied() -> Error {
    Error::Denied { what: "it".into(), reason: "upstream answered 401".into() }
}

/// Bytes in which a shift shows: a pattern whose length is prime, so that it meets no boundary twice in the same way.
pub(crate) fn content(size: usize) -> Bytes {
    const PERIOD: usize = 65_537;
    let pattern: Vec<u8> = (0..PERIOD.min(size)).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let mut bytes = Vec::with_capacity(size);
    while bytes.len() < size {
        bytes.extend_from_slice(&pattern[..pattern.len().min(size - bytes.len())]);
    }
    bytes.into()
}

impl Fake {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn blob(&self, bytes: Bytes, serve: Serve) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        self.blobs.lock().unwrap().insert(digest, (bytes, serve));
        digest
    }

    pub(crate) fn manifest(&self, media_type: &str, bytes: Bytes) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        self.manifests.lock().unwrap().insert(digest, Manifest { digest, media_type: media_type.into(), bytes });
        digest
    }

    pub(crate) fn tag(&self, tag: &str, digest: Digest, stale: bool) {
        let manifest = self.manifests.lock().unwrap().get(&digest).cloned();
        let (media_type, size) =
            manifest.map_or((String::new(), 0), |manifest| (manifest.media_type, manifest.bytes.len() as u64));
        let resolved = Resolved { digest, media_type, size, stale };
        self.tags.lock().unwrap().insert(tag.into(), Ok(resolved));
    }

    pub(crate) fn tag_fails(&self, tag: &str, error: Error) {
        self.tags.lock().unwrap().insert(tag.into(), Err(error));
    }

    pub(crate) fn pass(&self, result: Result<Passed, Error>) {
        *self.passed.lock().unwrap() = Some(result);
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    async fn silence(&self) {
        if self.silent.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

/// Counts a stream as alive.
struct Alive(Arc<AtomicUsize>, Arc<Notify>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
        self.1.notify_one();
    }
}

#[async_trait]
impl Pulls for Fake {
    async fn admit(&self, origin: &Origin, item: &Item, caller: Option<&Credential>) -> Result<Admission, Error> {
        let admission = self.admission.lock().unwrap().clone();
        let Some(admission) = admission else { return Ok(Admission::Open) };
        let caller = caller.map_or("nobody".to_owned(), |caller| match caller {
            Credential::Basic { username, password } => format!("{}:{}", username.expose(), password.expose()),
            Credential::Identity(_) => "a token".to_owned(),
        });
        self.note(format!("admit {caller} to {item:?} of {origin}"));
        Ok(admission)
    }

    async fn resolve(&self, origin: &Origin, tag: &Tag) -> Result<Resolved, Error> {
        self.note(format!("resolve {origin}:{}", tag.as_str()));
        self.silence().await;
        let result = self.tags.lock().unwrap().get(tag.as_str()).cloned();
        result.unwrap_or_else(|| Err(not_found()))
    }

    async fn manifest(&self, origin: &Origin, digest: &Digest) -> Result<Manifest, Error> {
        self.note(format!("manifest {origin}"));
        self.silence().await;
        self.manifests.lock().unwrap().get(digest).cloned().ok_or_else(not_found)
    }

    async fn blob_info(&self, origin: &Origin, digest: &Digest) -> Result<BlobInfo, Error> {
        self.note(format!("info {origin}"));
        self.silence().await;
        let found = self.blobs.lock().unwrap().get(digest).cloned();
        let (bytes, _) = found.ok_or_else(not_found)?;
        Ok(BlobInfo { digest: *digest, size: bytes.len() as u64 })
    }

    async fn blob(&self, origin: &Origin, digest: &Digest, range: Option<Range<u64>>) -> Result<Body, Error> {
        self.note(format!("blob {origin} {range:?}"));
        let found = self.blobs.lock().unwrap().get(digest).cloned();
        let (bytes, serve) = found.ok_or_else(not_found)?;
        let size = bytes.len() as u64;
        let range = range.unwrap_or(0..size);
        let part = bytes.slice(range.start as usize..range.end as usize);
        let upto = |count: usize| part.slice(..count.min(part.len()));
        type Tail = std::pin::Pin<Box<dyn futures::Stream<Item = Result<Bytes, Error>> + Send>>;
        let fails = || -> Tail { Box::pin(stream::once(async { Err(unavailable()) })) };
        let (head, tail): (Bytes, Tail) = match serve {
            Serve::Well => (part.clone(), Box::pin(stream::empty())),
            Serve::FailAfter(count) => (upto(count), fails()),
            Serve::EndAfter(count) => (upto(count), Box::pin(stream::empty())),
            Serve::StallAfter(count) => (upto(count), Box::pin(stream::pending())),
            Serve::FailAfterWord(count, word) => (
                upto(count),
                Box::pin(stream::once(async move {
                    word.notified().await;
                    Err(unavailable())
                })),
            ),
            Serve::TooMuch => (part.clone(), Box::pin(stream::once(async { Ok(Bytes::from_static(b"more")) }))),
            Serve::Never => std::future::pending().await,
            Serve::Refuse(error) => return Err(error),
        };
        self.streams.fetch_add(1, Ordering::SeqCst);
        let alive = Alive(self.streams.clone(), self.dropped.clone());
        let yielded = self.yielded.clone();
        let chunks: Vec<Bytes> =
            (0..head.len()).step_by(CHUNK).map(|at| head.slice(at..(at + CHUNK).min(head.len()))).collect();
        let stream = stream::iter(chunks.into_iter().map(Ok)).chain(tail).inspect(move |item| {
            let _alive = &alive;
            if let Ok(bytes) = item {
                yielded.fetch_add(bytes.len(), Ordering::SeqCst);
            }
        });
        Ok(Body { size, range, stream: Box::pin(stream) })
    }

    async fn passthrough(&self, origin: &Origin, tail: &str, query: Option<&str>) -> Result<Passed, Error> {
        self.note(format!("pass {origin} {tail} {query:?}"));
        self.silence().await;
        self.passed.lock().unwrap().clone().unwrap_or_else(|| Err(unavailable()))
    }
}
