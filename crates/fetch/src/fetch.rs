//! The face carried out: [`Fetch`] brings store, swarm and upstream together.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use shoal_content::{Digest, LEAF_SIZE, Origin, Tag};
use shoal_store::Blob;
use shoal_swarm::{PeerId, Swarm};
use shoal_upstream::{Credential, Item, Upstream};
use tokio::sync::Semaphore;

use crate::{
    belonging::{Belonging, Kind},
    config::Config,
    face::{Admission, BlobInfo, Body, Error, Manifest, Passed, Pulls, Resolved},
    flights::Flights,
    heard::Heard,
    manifests,
    ranges::RangesSeen,
    recall::lock,
    reputation::Reputation,
    rights::{Granted, Rights},
    roll_call::RollCall,
    session::{Env, Reader, ReaderStep, Session, Sharing, drive, local},
    shown::Shown,
    sizes::Sizes,
    tags::{self, Tags},
    through,
    trace::{Counted, Trace, add},
    upstream_error,
};

/// Pieces of a stored blob read ahead of a reader.
const READ_AHEAD: usize = 2;

/// Things of which it is known to which repository they belong: a thousand images of sixteen layers.
const BELONGING: usize = 16 * 1024;

/// All that this node can get, and how it gets it. Cheap to clone.
#[derive(Clone)]
pub struct Fetch {
    /// In whose name upstream is asked is part of it.
    env: Arc<Env>,
    inner: Arc<Inner>,
}

struct Inner {
    sessions: Mutex<HashMap<Digest, Arc<Session>>>,
    places: Arc<Semaphore>,
    tags: Arc<Tags>,
    resolving: Flights<(Origin, Tag), Result<Resolved, Error>>,
    manifests: Flights<(Origin, Digest), Result<Manifest, Error>>,
    belonging: Arc<Mutex<Belonging>>,
    rights: Rights,
}

impl Fetch {
    /// Brings the three sources together; `shown` is what `swarm` shows to peers. Sessions and coordination run on the tokio runtime that
    /// this is called on.
    pub fn new(config: Config, shown: Shown, swarm: Swarm, upstream: Upstream) -> Self {
        let places = Arc::new(Semaphore::new(config.max_sessions));
        let reputation = Arc::new(Reputation::new());
        let heard = Arc::new(Heard::new());
        shown.coordinators.begin(&swarm, &config.limits, &reputation, &heard);
        let env = Env {
            roll_call: RollCall::new(swarm.clone(), heard.clone(), config.limits.budget),
            config,
            store: shown.store.clone(),
            shown,
            swarm,
            upstream,
            reputation,
            heard,
            sharing: Sharing::default(),
            counters: Arc::default(),
            sizes: Arc::new(Sizes::new()),
            ranges: Arc::new(RangesSeen::new()),
            traces: Arc::default(),
        };
        let belonging = Arc::new(Mutex::new(Belonging::new(BELONGING, env.config.belongs_ttl)));
        let inner = Inner {
            sessions: Mutex::default(),
            places,
            tags: Arc::new(Tags::new()),
            resolving: Flights::new(),
            manifests: Flights::new(),
            rights: Rights::new(belonging.clone()),
            belonging,
        };
        Self { env: Arc::new(env), inner: Arc::new(inner) }
    }

    /// Bytes and events since the start.
    pub fn counters(&self) -> Counted {
        self.env.counters.read()
    }

    /// Sessions under way.
    pub fn sessions(&self) -> Vec<Trace> {
        self.inner.sessions().values().map(|session| session.trace()).collect()
    }

    /// The latest finished sessions, newest first.
    pub fn traces(&self) -> Vec<Trace> {
        self.env.traces.latest()
    }

    /// Peers that are avoided because they lied, each with what it did.
    pub fn avoided(&self) -> Vec<(PeerId, String)> {
        self.env.reputation.avoided()
    }

    /// What every session works with.
    pub(crate) fn env(&self) -> &Arc<Env> {
        &self.env
    }

    /// A place among the readers of a blob that is not in the store.
    async fn join(&self, origin: &Origin, digest: &Digest) -> Result<Reader, Error> {
        loop {
            let current = self.inner.sessions().get(digest).cloned();
            if let Some(session) = current {
                if let Some(reader) = session.join() {
                    return Ok(reader);
                }
                session.over().await;
                self.inner.forget(digest, &session);
                continue;
            }
            let place = self.inner.places.clone().acquire_owned().await;
            let place = place.map_err(|error| local(format!("blob {digest}"), &error))?;
            let session = Session::new(*digest, origin.clone());
            let Some(reader) = session.join() else { continue };
            {
                let mut sessions = self.inner.sessions();
                if sessions.contains_key(digest) {
                    continue;
                }
                sessions.insert(*digest, session.clone());
            }
            let (env, inner) = (self.env.clone(), self.inner.clone());
            tokio::spawn(async move {
                drive(session.clone(), env).await;
                inner.forget(&session.digest, &session);
                drop(place);
            });
            return Ok(reader);
        }
    }

    async fn stored(&self, digest: &Digest) -> Option<Blob> {
        let (store, digest) = (self.env.store.clone(), *digest);
        match tokio::task::spawn_blocking(move || store.get(&digest)).await {
            Ok(Ok(blob)) => blob,
            Ok(Err(error)) => {
                tracing::warn!(%digest, %error, "a stored blob cannot be read: it is fetched anew");
                None
            }
            Err(error) => {
                tracing::error!(%digest, %error, "opening a stored blob failed");
                None
            }
        }
    }

    fn served(&self, origin: &Origin) -> Result<(), Error> {
        if self.env.upstream.serves(&origin.registry) { Ok(()) } else { Err(Error::NotServed(origin.registry.clone())) }
    }
}

impl Inner {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a session that is over out of the table, unless another has taken its place.
    fn forget(&self, digest: &Digest, session: &Arc<Session>) {
        let mut sessions = self.sessions();
        if sessions.get(digest).is_some_and(|current| Arc::ptr_eq(current, session)) {
            sessions.remove(digest);
        }
    }
}

#[async_trait]
impl Pulls for Fetch {
    async fn admit(&self, origin: &Origin, item: &Item, caller: Option<&Credential>) -> Result<Admission, Error> {
        self.served(origin)?;
        let granted = self.inner.rights.admit(&self.env, &self.inner.tags, origin, item, caller).await?;
        Ok(match granted {
            Granted::ToAll => Admission::Open,
            Granted::To(credential) => {
                // Whoever may read there reads there in his own name: the node may have no credentials of its own.
                let env = Env { upstream: self.env.upstream.with_access(credential), ..Env::clone(&self.env) };
                Admission::Proven(Arc::new(Self { env: Arc::new(env), inner: self.inner.clone() }))
            }
            Granted::ToNobody if caller.is_some() => Admission::Refused,
            Granted::ToNobody => Admission::Unproven,
        })
    }

    async fn resolve(&self, origin: &Origin, tag: &Tag) -> Result<Resolved, Error> {
        self.served(origin)?;
        let env = &self.env;
        env.roll_call.begin(&tags::key_of(&tags::name_of(origin, tag)));
        let known = self.inner.tags.fresh(&tags::name_of(origin, tag), env.config.tag_ttl);
        let resolved = match known {
            Some(resolved) => resolved,
            None => {
                let (env, tags, origin, tag) = (env.clone(), self.inner.tags.clone(), origin.clone(), tag.clone());
                let begin = || tags::resolve(env, tags, origin.clone(), tag.clone()).boxed();
                self.inner.resolving.join((origin.clone(), tag.clone()), begin).await?
            }
        };
        if !resolved.stale {
            let origin = Arc::new(origin.clone());
            lock(&self.inner.belonging).answered(&origin, Kind::Manifest, &resolved.digest, Some(Instant::now()));
        }
        Ok(resolved)
    }

    async fn manifest(&self, origin: &Origin, digest: &Digest) -> Result<Manifest, Error> {
        self.served(origin)?;
        let (env, belonging) = (self.env.clone(), self.inner.belonging.clone());
        let begin = || manifests::get(env, belonging, origin.clone(), *digest).boxed();
        self.inner.manifests.join((origin.clone(), *digest), begin).await
    }

    async fn blob_info(&self, origin: &Origin, digest: &Digest) -> Result<BlobInfo, Error> {
        if let Some(blob) = self.stored(digest).await {
            return Ok(BlobInfo { digest: *digest, size: blob.size() });
        }
        self.served(origin)?;
        if let Some(size) = self.env.sizes.get(origin, digest) {
            return Ok(BlobInfo { digest: *digest, size });
        }
        let size = match self.env.upstream.blob_size(origin, digest).await {
            Ok(size) => size,
            Err(error) => {
                let refusal = upstream_error(format!("blob {digest} of {origin}"), &error);
                if !matches!(refusal, Error::Unavailable { .. }) {
                    return Err(refusal);
                }
                // Upstream is out of reach: a holder's outline tells.
                let mut reader = self.join(origin, digest).await?;
                reader.size().await?
            }
        };
        Ok(BlobInfo { digest: *digest, size })
    }

    async fn blob(&self, origin: &Origin, digest: &Digest, range: Option<Range<u64>>) -> Result<Body, Error> {
        if let Some(blob) = self.stored(digest).await {
            let range = clip(range, blob.size())?;
            let env = self.env.clone();
            let stream = pieces(blob.clone(), range.clone()).inspect(move |piece| {
                if let Ok(bytes) = piece {
                    add(&env.counters.from_disk, bytes.len() as u64);
                }
            });
            return Ok(Body { size: blob.size(), range, stream: Box::pin(stream) });
        }
        self.served(origin)?;
        let mut reader = self.join(origin, digest).await?;
        let size = reader.size().await?;
        // Only who reads a blob to its end from its beginning, or asks for all of it, relies on the whole being right.
        let whole = range.as_ref().is_none_or(|range| range.start == 0 && range.end >= size);
        let range = clip(range, size)?;
        reader.demand(&range, whole);
        let stream = live(self.env.clone(), origin.clone(), *digest, size, reader, range.clone());
        Ok(Body { size, range, stream: Box::pin(stream) })
    }

    async fn passthrough(&self, origin: &Origin, tail: &str, query: Option<&str>) -> Result<Passed, Error> {
        self.served(origin)?;
        let passed = self.env.upstream.passthrough(origin, tail, query).await;
        let passed = passed.map_err(|error| upstream_error(format!("{tail} of {origin}"), &error))?;
        Ok(Passed { status: passed.status, headers: passed.headers, body: passed.body })
    }
}

fn clip(range: Option<Range<u64>>, size: u64) -> Result<Range<u64>, Error> {
    let Some(range) = range else { return Ok(0..size) };
    if range.start >= size || range.is_empty() {
        return Err(Error::OutOfRange { start: range.start, size });
    }
    Ok(range.start..range.end.min(size))
}

/// A stored blob, in pieces of a leaf, read ahead.
fn pieces(blob: Blob, range: Range<u64>) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    let step = usize::try_from(LEAF_SIZE).unwrap_or(usize::MAX);
    let starts = (range.start..range.end).step_by(step);
    futures::stream::iter(starts)
        .map(move |from| {
            let blob = blob.clone();
            let len = usize::try_from((range.end - from).min(LEAF_SIZE)).unwrap_or(usize::MAX);
            async move {
                let what = format!("reading blob {}", blob.digest());
                match tokio::task::spawn_blocking(move || blob.read_at(from, len)).await {
                    Ok(Ok(bytes)) => Ok(bytes),
                    Ok(Err(error)) => Err(local(what, &error)),
                    Err(error) => Err(local(what, &error)),
                }
            }
        })
        .buffered(READ_AHEAD)
}

/// A blob on its way: what its session has, and, where it cannot be stored, what comes without the store.
fn live(
    env: Arc<Env>,
    origin: Origin,
    digest: Digest,
    size: u64,
    reader: Reader,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    type Rest = std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;
    enum Live {
        Session(Reader, u64),
        Through(Rest),
    }
    let serve = env.config.serve;
    let begin = Live::Session(reader, range.start);
    futures::stream::try_unfold(begin, move |mut live| {
        let (env, origin, range) = (env.clone(), origin.clone(), range.clone());
        async move {
            loop {
                live = match live {
                    Live::Session(_, position) if position >= range.end && !(size == 0 && position == 0) => {
                        return Ok(None);
                    }
                    Live::Session(mut reader, position) => match reader.next(&range, position, serve).await? {
                        ReaderStep::Alive => return Ok(Some((Bytes::new(), Live::Session(reader, position)))),
                        ReaderStep::Bytes(bytes) if bytes.is_empty() => return Ok(None),
                        ReaderStep::Bytes(bytes) => {
                            let position = position + bytes.len() as u64;
                            return Ok(Some((bytes, Live::Session(reader, position))));
                        }
                        ReaderStep::Unstored => {
                            // The whole can only be seen to match from its beginning on.
                            let from = if range == (0..size) { 0 } else { position };
                            let rest = through::stream(env.clone(), origin.clone(), digest, size, from..range.end);
                            Live::Through(Box::pin(skip(rest, position - from)))
                        }
                    },
                    Live::Through(mut rest) => {
                        return Ok(rest.next().await.transpose()?.map(|bytes| (bytes, Live::Through(rest))));
                    }
                };
            }
        }
    })
}

/// A stream without its first bytes, which have been given out already.
fn skip(
    stream: impl Stream<Item = Result<Bytes, Error>> + Send,
    mut count: u64,
) -> impl Stream<Item = Result<Bytes, Error>> + Send {
    stream.filter_map(move |piece| {
        let piece = piece.map(|mut bytes| {
            let skipped = count.min(bytes.len() as u64);
            count -= skipped;
            bytes.split_off(usize::try_from(skipped).unwrap_or(usize::MAX))
        });
        let keep = piece.as_ref().map_or(true, |bytes| !bytes.is_empty());
        futures::future::ready(keep.then_some(piece))
    })
}
