//! The face of the crate.

use std::{ops::Range, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, header};
use shoal_content::{Digest, Origin, Reference, Registry, Tag};

use crate::{
    auth::Access,
    blob::{self, BlobStream},
    config::Config,
    counters::Counters,
    error::{Asked, Error, Item},
    manifest::{self, Descriptor, MAX_MANIFEST, Manifest},
    passthrough::{self, MAX_PASSED, Passed},
    range,
    secret::Credential,
    site::{Site, Sites, authority},
    wire::{Answer, Request, Wire},
};

/// The header in which a registry names what it sends.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// All registries that this node may ask. Cheap to clone; clones share connections, tokens and counters.
#[derive(Clone, Debug)]
pub struct Upstream {
    sites: Arc<Sites>,
    wire: Arc<Wire>,
    access: Access,
}

impl Upstream {
    /// Reads certificates and prepares clients; nothing is asked yet.
    pub fn new(config: &Config) -> Result<Self, Error> {
        let sites = Arc::new(Sites::new(config)?);
        Ok(Self { sites, wire: Arc::new(Wire::new(config, Arc::default())), access: Access::Node })
    }

    /// The same registries, asked with `credential` and with nothing of the node's: for finding out what the caller may
    /// read.
    pub fn with_access(&self, credential: Credential) -> Self {
        Self { access: Access::Caller(credential), ..self.clone() }
    }

    /// The same registries, asked without any credentials.
    pub fn anonymous(&self) -> Self {
        Self { access: Access::Anonymous, ..self.clone() }
    }

    /// Whether this node asks `registry` at all.
    pub fn serves(&self, registry: &Registry) -> bool {
        self.sites.serves(registry)
    }

    /// What went to and came from registries so far.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.wire.dial.counters)
    }

    /// What `tag` names now.
    ///
    /// By HEAD; by GET where the registry has no HEAD, or says too little in it.
    pub async fn resolve(&self, origin: &Origin, tag: &Tag) -> Result<Descriptor, Error> {
        self.counted(self.resolve_uncounted(origin, tag).await)
    }

    /// A manifest or index, verified: against the digest where it is asked for by one, and against the one that is sent
    /// with it.
    pub async fn manifest(&self, origin: &Origin, reference: &Reference) -> Result<Manifest, Error> {
        self.counted(self.manifest_uncounted(origin, reference).await)
    }

    /// Whether `item` may be read there in this name: [`Error::Denied`] and [`Error::NotFound`] where not. What a tag names is told by the way.
    pub async fn readable(&self, origin: &Origin, item: &Item) -> Result<Option<Descriptor>, Error> {
        match item {
            Item::Manifest(Reference::Tag(tag)) => self.resolve(origin, tag).await.map(Some),
            Item::Manifest(reference) => self.counted(self.has_manifest(origin, reference).await).map(|()| None),
            Item::Blob(digest) => self.blob_size(origin, digest).await.map(|_| None),
            Item::Other(tail) => match self.passthrough(origin, tail, None).await? {
                passed if passed.status < 300 => Ok(None),
                passed => {
                    let what = Arc::new(Asked { origin: origin.clone(), item: item.clone() });
                    let host = authority(&self.sites.get(&origin.registry)?.endpoint);
                    Err(Error::NotFound { what, host, reason: format!("it answered {}", passed.status) })
                }
            },
            Item::Token => Ok(None),
        }
    }

    /// Size of a blob in bytes.
    pub async fn blob_size(&self, origin: &Origin, digest: &Digest) -> Result<u64, Error> {
        self.counted(self.blob_size_uncounted(origin, digest).await)
    }

    /// A blob from byte `offset` on, not verified.
    ///
    /// Answers once the registry has. Look at [`BlobStream::offset`]: a registry that ignores ranges sends from byte 0.
    /// An `offset` at the end gives an empty stream, one beyond it [`Error::OutOfRange`].
    pub async fn blob(&self, origin: &Origin, digest: &Digest, offset: u64) -> Result<BlobStream, Error> {
        self.counted(self.open(origin, digest, offset, None).await)
    }

    /// The bytes `range` of a blob, not verified; fewer where the blob ends before.
    ///
    /// A registry that ignores ranges gives the whole blob from byte 0: look at [`BlobStream::offset`] and
    /// [`BlobStream::ranged`].
    pub async fn blob_range(&self, origin: &Origin, digest: &Digest, range: Range<u64>) -> Result<BlobStream, Error> {
        if range.is_empty() {
            let what = Arc::new(Asked { origin: origin.clone(), item: Item::Blob(*digest) });
            return self.counted(Err(Error::OutOfRange { what, offset: range.start, size: range.end }));
        }
        self.counted(self.open(origin, digest, range.start, Some(range.end)).await)
    }

    /// What upstream answers to `tags/list` or `referrers/<digest>`, with the query as it came.
    pub async fn passthrough(&self, origin: &Origin, tail: &str, query: Option<&str>) -> Result<Passed, Error> {
        self.counted(self.passthrough_uncounted(origin, tail, query).await)
    }

    fn counted<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        self.wire.dial.counters.outcome(&result);
        result
    }

    async fn resolve_uncounted(&self, origin: &Origin, tag: &Tag) -> Result<Descriptor, Error> {
        let site = self.sites.get(&origin.registry)?;
        let reference = Reference::Tag(tag.clone());
        let request = manifest_request(&site, origin, &reference, Method::HEAD);
        let answer = self.wire.send(&site, &request, &self.access).await?;
        if answer.status.is_success() {
            if let Some(descriptor) = descriptor(&answer)? {
                return Ok(descriptor);
            }
        } else if !is_poor_at_head(&answer) {
            return Err(answer.into_error());
        }
        let manifest = self.manifest_uncounted(origin, &reference).await?;
        let size = manifest.bytes.len() as u64;
        Ok(Descriptor { digest: manifest.digest, media_type: manifest.media_type, size })
    }

    async fn has_manifest(&self, origin: &Origin, reference: &Reference) -> Result<(), Error> {
        let site = self.sites.get(&origin.registry)?;
        let request = manifest_request(&site, origin, reference, Method::HEAD);
        let answer = self.wire.send(&site, &request, &self.access).await?;
        match answer.status.is_success() {
            true => Ok(()),
            false if is_poor_at_head(&answer) => self.manifest_uncounted(origin, reference).await.map(drop),
            false => Err(answer.into_error()),
        }
    }

    async fn manifest_uncounted(&self, origin: &Origin, reference: &Reference) -> Result<Manifest, Error> {
        let site = self.sites.get(&origin.registry)?;
        let request = manifest_request(&site, origin, reference, Method::GET);
        let answer = self.wire.send(&site, &request, &self.access).await?;
        if !answer.status.is_success() {
            return Err(answer.into_error());
        }
        let asked = match reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(_) => None,
        };
        let (announced, content_type) = (answer.header(CONTENT_DIGEST), answer.header(header::CONTENT_TYPE));
        manifest::verify(answer.body.clone(), asked, announced, content_type).map_err(|reason| answer.invalid(reason))
    }

    async fn blob_size_uncounted(&self, origin: &Origin, digest: &Digest) -> Result<u64, Error> {
        let site = self.sites.get(&origin.registry)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let request = Request {
            what: Arc::new(Asked { origin: origin.clone(), item: Item::Blob(*digest) }),
            method: Method::HEAD,
            url: site.url(origin, &format!("blobs/{digest}"), None),
            headers,
            body_limit: None,
        };
        let answer = self.wire.send(&site, &request, &self.access).await?;
        if answer.status.is_success() {
            // Some servers answer any HEAD with a length of 0.
            let is_credible = |size: &u64| *size > 0 || *digest == Digest::of(digest.algorithm(), b"");
            if let Some(size) = answer.content_length().filter(is_credible) {
                return Ok(size);
            }
        } else if !is_poor_at_head(&answer) {
            return Err(answer.into_error());
        }
        self.blob_size_by_get(&site, request).await
    }

    /// One byte tells the size as well, where HEAD does not: signatures of object stores may cover the method.
    async fn blob_size_by_get(&self, site: &Arc<Site>, mut request: Request) -> Result<u64, Error> {
        request.method = Method::GET;
        request.headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        let answer = self.wire.send(site, &request, &self.access).await?;
        let total = answer.header(header::CONTENT_RANGE).and_then(range::read).and_then(|range| range.total);
        match (answer.status.as_u16(), total) {
            (206 | 416, Some(total)) => Ok(total),
            (200, _) if let Some(size) = answer.content_length() => Ok(size),
            (200 | 206 | 416, _) => Err(answer.invalid("it does not say how large the blob is")),
            _ => Err(answer.into_error()),
        }
    }

    async fn open(&self, origin: &Origin, digest: &Digest, start: u64, end: Option<u64>) -> Result<BlobStream, Error> {
        let site = self.sites.get(&origin.registry)?;
        blob::open(Arc::clone(&self.wire), site, self.access.clone(), origin, digest, start, end).await
    }

    async fn passthrough_uncounted(&self, origin: &Origin, tail: &str, query: Option<&str>) -> Result<Passed, Error> {
        let site = self.sites.get(&origin.registry)?;
        let what = Arc::new(Asked { origin: origin.clone(), item: Item::Other(tail.chars().take(100).collect()) });
        if let Err(reason) = passthrough::check(tail, query) {
            return Err(Error::Refused { what, host: authority(&site.endpoint), reason: reason.to_owned() });
        }
        let request = Request {
            what,
            method: Method::GET,
            url: site.url(origin, tail, query),
            headers: HeaderMap::new(),
            body_limit: Some(MAX_PASSED),
        };
        let answer = self.wire.send(&site, &request, &self.access).await?;
        match answer.status.as_u16() {
            200..=299 | 400 | 404 | 405 | 410 => Ok(passthrough::pass(answer, &site.endpoint)),
            _ => Err(answer.into_error()),
        }
    }
}

fn manifest_request(site: &Site, origin: &Origin, reference: &Reference, method: Method) -> Request {
    let mut headers = HeaderMap::new();
    if let Ok(accept) = HeaderValue::from_str(&manifest::accept()) {
        headers.insert(header::ACCEPT, accept);
    }
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Request {
        what: Arc::new(Asked { origin: origin.clone(), item: Item::Manifest(reference.clone()) }),
        method,
        url: site.url(origin, &format!("manifests/{reference}"), None),
        headers,
        body_limit: Some(MAX_MANIFEST),
    }
}

/// What the HEAD of a manifest says; `None` where it does not say enough.
fn descriptor(answer: &Answer) -> Result<Option<Descriptor>, Error> {
    let Some(digest) = answer.header(CONTENT_DIGEST) else { return Ok(None) };
    let digest =
        digest.parse().map_err(|error| answer.invalid(format!("its Docker-Content-Digest is no digest: {error}")))?;
    let media_type = answer.header(header::CONTENT_TYPE).and_then(manifest::media_type);
    let size = answer.content_length().filter(|size| *size > 0);
    let (Some(media_type), Some(size)) = (media_type, size) else { return Ok(None) };
    if size > MAX_MANIFEST as u64 {
        return Err(answer.invalid(format!("the manifest has {size} bytes, more than {MAX_MANIFEST}")));
    }
    Ok(Some(Descriptor { digest, media_type, size }))
}

/// Answers to HEAD that say more of HEAD than of what was asked for.
fn is_poor_at_head(answer: &Answer) -> bool {
    matches!(answer.status.as_u16(), 400 | 403 | 405 | 501)
}
