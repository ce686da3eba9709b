//! From a request's head to its answer: the rules that every endpoint shares, and the endpoints that are not blobs.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{
        ACCEPT, ACCEPT_RANGES, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
        IF_RANGE, LINK, RANGE, WARNING,
    },
    request::Parts,
};
use shoal_content::{Digest, Origin, Reference};
use shoal_fetch::{Admission, Credential, Error, Item, Pulls};
use tokio::time::Instant;

use crate::{
    Config,
    deadline::Deadline,
    failed::Failed,
    fault::{About, Fault, has_next_host},
    line::Scissors,
    link,
    metrics::{Going, Kind, Metrics},
    path::{self, Name, Place, Request},
    range::{self, Asked},
};

pub(crate) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const DOCKER_API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// What upstream's answer may bring to a client of a request that is passed on.
const PASSED_HEADERS: [&str; 3] = ["content-type", "link", "oci-filters-applied"];

/// What is named by its digest does not change; `private`, since it may be of a private repository.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("private, max-age=31536000, immutable");

/// What all connections of a gateway share.
pub(crate) struct Shared {
    pub(crate) pulls: Arc<dyn Pulls>,
    pub(crate) config: Config,
    pub(crate) failed: Mutex<Failed>,
    pub(crate) metrics: Metrics,
}

/// One request, as far as its endpoint needs it.
pub(crate) struct Asking<'a> {
    pub(crate) head_only: bool,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) origin: Origin,
    /// From where it is to be had for who asks.
    pub(crate) pulls: Arc<dyn Pulls>,
    /// Whether the client asks elsewhere when it gets nothing here.
    pub(crate) next_host: bool,
    /// By when there must be something to answer with.
    pub(crate) deadline: Deadline,
    pub(crate) scissors: Scissors,
    pub(crate) going: Going,
}

impl Shared {
    /// Answers a request whose body, if it has one, nobody reads. `is_local`: it came over loopback.
    pub(crate) async fn answer(self: &Arc<Self>, parts: &Parts, is_local: bool, scissors: Scissors) -> Response {
        let going = self.metrics.begin_request();
        let began = Instant::now();
        let parsed = path::parse(parts.uri.path(), parts.uri.query());
        let kind = match &parsed {
            Ok(Request::Ping) => Kind::Ping,
            Ok(Request::Manifest(..)) => Kind::Manifest,
            Ok(Request::Blob(..)) => Kind::Blob,
            Ok(Request::Tags(..)) => Kind::Tags,
            Ok(Request::Referrers(..)) => Kind::Referrers,
            Err(_) => Kind::Other,
        };
        let ns = match parsed.as_ref().ok().and_then(Request::name) {
            Some(Name { place: Place::Ns(registry), .. }) => Some(registry.clone()),
            _ => None,
        };
        let result = match parts.method {
            Method::GET | Method::HEAD => match parsed {
                Ok(request) => self.route(parts, &request, is_local, scissors, going).await,
                Err(refused) => Err(refused.into()),
            },
            _ => Err(Fault::read_only()),
        };
        let mut response = result.unwrap_or_else(|fault| {
            tracing::debug!(?kind, reason = fault.message(), "refused");
            fault.into_response()
        });
        let headers = response.headers_mut();
        headers.insert(DOCKER_API_VERSION, HeaderValue::from_static("registry/2.0"));
        if let Some(registry) = ns {
            insert(headers, OCI_NAMESPACE, registry.as_str());
        }
        let status = response.status().as_u16();
        self.metrics.answered(kind, status);
        let (path, headers_ms) = (parts.uri.path(), began.elapsed().as_millis() as u64);
        tracing::debug!(method = %parts.method, path, status, headers_ms, "answered");
        response
    }

    async fn route(
        self: &Arc<Self>,
        parts: &Parts,
        request: &Request,
        is_local: bool,
        scissors: Scissors,
        going: Going,
    ) -> Result<Response, Fault> {
        let Some(name) = request.name() else { return Ok(pong()) };
        let Some(origin) = name.origin(self.config.default_registry.as_ref()) else { return Err(Fault::no_registry()) };
        let head_only = parts.method == Method::HEAD;
        let next_host = has_next_host(&name.place);
        let hasty = match request {
            Request::Blob(..) => self.config.first_byte_budget,
            _ => self.config.manifest_budget,
        };
        let budget = if next_host { hasty } else { self.config.patient_budget.max(hasty) };
        let deadline = Deadline::new(budget, self.config.patient_budget);
        let pulls = self.admit(parts, request, &origin, is_local, &deadline).await?;
        let asking = Asking { head_only, headers: &parts.headers, origin, pulls, next_host, deadline, scissors, going };
        match request {
            Request::Ping => Ok(pong()),
            Request::Manifest(_, reference) => self.manifest(&asking, reference).await,
            Request::Blob(_, digest) => self.blob(asking, *digest).await,
            Request::Tags(name, query) => self.pass(&asking, name, "tags/list", query.as_deref()).await,
            Request::Referrers(name, digest, query) => {
                self.pass(&asking, name, &format!("referrers/{digest}"), query.as_deref()).await
            }
        }
    }

    /// From where who asks may have what is asked for.
    async fn admit(
        &self,
        parts: &Parts,
        request: &Request,
        origin: &Origin,
        is_local: bool,
        deadline: &Deadline,
    ) -> Result<Arc<dyn Pulls>, Fault> {
        let (item, about) = match request {
            Request::Manifest(_, reference) => (Item::Manifest(reference.clone()), About::manifest(reference)),
            Request::Blob(_, digest) => (Item::Blob(*digest), About::Blob),
            Request::Tags(..) => (Item::Other("tags/list".to_owned()), About::Upstream),
            Request::Referrers(_, digest, _) => (Item::Other(format!("referrers/{digest}")), About::Upstream),
            Request::Ping => return Ok(self.pulls.clone()),
        };
        let next_host = request.name().is_some_and(|name| has_next_host(&name.place));
        // From elsewhere they came in clear over a network: they are not to be encouraged.
        let caller = parts.headers.get(AUTHORIZATION).filter(|_| is_local).and_then(|value| value.to_str().ok());
        let caller = caller.and_then(Credential::from_authorization);
        let admission =
            self.in_time(deadline, &origin.to_string(), self.pulls.admit(origin, &item, caller.as_ref())).await;
        match admission.map_err(|error| Fault::from_error(&error, about, next_host))? {
            Admission::Open => Ok(self.pulls.clone()),
            Admission::Proven(pulls) => Ok(pulls),
            Admission::Unproven if is_local => Err(Fault::unproven(origin)),
            Admission::Unproven | Admission::Refused => Err(Fault::denied(origin, about, next_host)),
        }
    }

    async fn manifest(&self, asking: &Asking<'_>, reference: &Reference) -> Result<Response, Fault> {
        let about = About::manifest(reference);
        let what = format!("{}/{reference}", asking.origin);
        let found = self.in_time(&asking.deadline, &what, self.find(asking, reference)).await;
        let found = found.map_err(|error| Fault::from_error(&error, about, asking.next_host))?;

        if let Reference::Tag(_) = reference
            && !accepts(asking.headers, &found.media_type)
        {
            let what = format!("{}:{reference} as {}", asking.origin, found.media_type);
            let error = Error::NotFound { what, reason: "the client does not accept that type".to_owned() };
            return Err(Fault::from_error(&error, About::Manifest, asking.next_host));
        }
        if found.stale {
            self.metrics.stale.inc();
            tracing::warn!(origin = %asking.origin, %reference, digest = %found.digest, "upstream cannot be asked: answering with the last digest known");
        }

        let mut response = match found.bytes {
            None => sized(Body::empty(), found.size),
            Some(bytes) if asking.head_only => sized(Body::empty(), bytes.len() as u64),
            Some(bytes) => self.cut_out(asking, bytes, &found.digest)?,
        };
        let headers = response.headers_mut();
        let media_type = HeaderValue::from_str(&found.media_type)
            .map_err(|_| local(&found.media_type, "a media type cannot be a header"))
            .map_err(|error| Fault::from_error(&error, about, asking.next_host))?;
        headers.insert(CONTENT_TYPE, media_type);
        name_content(headers, &found.digest);
        if let Reference::Digest(_) = reference {
            headers.insert(CACHE_CONTROL, IMMUTABLE);
        }
        if found.stale {
            headers.insert(WARNING, HeaderValue::from_static(r#"110 - "Response is Stale""#));
        }
        Ok(response)
    }

    /// Upstream's word for a tag is enough for a HEAD. A digest from memory is given out only together with its manifest:
    /// a HEAD that names what nobody has fails the pull.
    async fn find(&self, asking: &Asking<'_>, reference: &Reference) -> Result<Found, Error> {
        let origin = &asking.origin;
        let (digest, stale) = match reference {
            Reference::Digest(digest) => (*digest, false),
            Reference::Tag(tag) => {
                let resolved = asking.pulls.resolve(origin, tag).await?;
                if asking.head_only && !resolved.stale {
                    let shoal_fetch::Resolved { digest, media_type, size, stale } = resolved;
                    return Ok(Found { digest, media_type, size, stale, bytes: None });
                }
                (resolved.digest, resolved.stale)
            }
        };
        let manifest = asking.pulls.manifest(origin, &digest).await?;
        if manifest.digest != digest {
            return Err(local(&digest.to_string(), "another manifest came than was asked for"));
        }
        let size = manifest.bytes.len() as u64;
        Ok(Found { digest, media_type: manifest.media_type, size, stale, bytes: Some(manifest.bytes) })
    }

    /// A body that is in memory, whole or the one range asked for. Parallel fetch asks for manifests by range too.
    fn cut_out(&self, asking: &Asking<'_>, bytes: Bytes, digest: &Digest) -> Result<Response, Fault> {
        let size = bytes.len() as u64;
        let part = match asking.asked(digest)? {
            Asked::Whole => None,
            Asked::One(spec) => Some(spec.within(size).map_err(|outside| Fault::outside(outside.size))?),
            Asked::Several(_) => return Err(Fault::bad_range("a manifest is given in one range")),
        };
        let (bytes, part) = match part {
            // The range lies within what is in memory, so its ends are indices.
            Some(range) => (bytes.slice(range.start as usize..range.end as usize), Some(range)),
            None => (bytes, None),
        };
        self.metrics.sent(Kind::Manifest, bytes.len() as u64);
        let length = bytes.len() as u64;
        let mut response = sized(Body::from(bytes), length);
        if let Some(range) = part {
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            insert(response.headers_mut(), CONTENT_RANGE, &range::content_range(&range, size));
        }
        Ok(response)
    }

    async fn pass(&self, asking: &Asking<'_>, name: &Name, tail: &str, query: Option<&str>) -> Result<Response, Fault> {
        let what = format!("{}/{tail}", asking.origin);
        let passed = asking.pulls.passthrough(&asking.origin, tail, query);
        let passed = self.in_time(&asking.deadline, &what, passed).await;
        let passed = passed.map_err(|error| Fault::from_error(&error, About::Upstream, asking.next_host))?;
        let status = match StatusCode::from_u16(passed.status) {
            Ok(status @ (StatusCode::OK | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)) => status,
            // Refusals, redirects, rate limits and failures say nothing about what was asked for.
            _ => return Err(Fault::upstream_answered(passed.status)),
        };
        let length = passed.body.len() as u64;
        let body = if asking.head_only { Body::empty() } else { Body::from(passed.body) };
        let mut response = sized(body, length);
        *response.status_mut() = status;
        for (key, value) in &passed.headers {
            let Ok(key) = HeaderName::from_bytes(key.as_bytes()) else { continue };
            if key == LINK {
                if let Some(link) = link::turned(value, name, tail) {
                    insert(response.headers_mut(), LINK, &link);
                }
            } else if PASSED_HEADERS.contains(&key.as_str()) {
                insert(response.headers_mut(), key, value);
            }
        }
        Ok(response)
    }

    /// An answer of the face by its deadline, or the error that it is late.
    pub(crate) async fn in_time<T>(
        &self,
        deadline: &Deadline,
        what: &str,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match deadline.keep(asked).await {
            Some(result) => result,
            None => {
                self.metrics.late.inc();
                tracing::warn!(what, "not there within its budget");
                Err(Error::Unavailable {
                    what: what.to_owned(),
                    reason: "it was not there within its budget".to_owned(),
                })
            }
        }
    }

    pub(crate) fn failed(&self) -> std::sync::MutexGuard<'_, Failed> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A manifest that was found; without bytes where only its facts were asked for.
struct Found {
    digest: Digest,
    media_type: String,
    size: u64,
    stale: bool,
    bytes: Option<Bytes>,
}

impl Asking<'_> {
    /// What the request wants of the content with this digest. A HEAD has no range, and a range under `If-Range` holds only
    /// for the very content that it names.
    pub(crate) fn asked(&self, digest: &Digest) -> Result<Asked, Fault> {
        let Some(range) = self.headers.get(RANGE).filter(|_| !self.head_only) else { return Ok(Asked::Whole) };
        if let Some(condition) = self.headers.get(IF_RANGE)
            && condition.as_bytes() != etag(digest).as_bytes()
        {
            return Ok(Asked::Whole);
        }
        let range = range.to_str().map_err(|_| Fault::bad_range(range::Malformed.to_string()))?;
        range::parse(range).map_err(|malformed| Fault::bad_range(malformed.to_string()))
    }
}

/// Whether the Accept lines, taken as one list, have room for `media_type`. None at all accept everything.
///
/// Only tags are held against it, as in the reference implementation: who asks for a digest knows what it is.
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let essence = |text: &str| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let wanted = essence(media_type);
    let mut any = false;
    for item in headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')) {
        let item = essence(item);
        if item.is_empty() {
            continue;
        }
        any = true;
        let fits = match item.strip_suffix("/*") {
            Some("*") => true,
            Some(kind) => wanted.split('/').next() == Some(kind),
            None => item == wanted,
        };
        if fits {
            return true;
        }
    }
    !any
}

fn pong() -> Response {
    let mut response = sized(Body::from("{}"), 2);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer 200 whose length is that of a GET, also for a HEAD.
pub(crate) fn sized(body: Body, length: u64) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// The headers that name content by its digest.
pub(crate) fn name_content(headers: &mut HeaderMap, digest: &Digest) {
    insert(headers, DOCKER_CONTENT_DIGEST, &digest.to_string());
    insert(headers, ETAG, &etag(digest));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// The headers of content that was asked for by digest.
pub(crate) fn name_immutable(headers: &mut HeaderMap, digest: &Digest) {
    name_content(headers, digest);
    headers.insert(CACHE_CONTROL, IMMUTABLE);
}

fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Sets a header from text; text that no header can hold sets none.
pub(crate) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

pub(crate) fn local(what: &str, reason: &str) -> Error {
    Error::Local { what: what.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn headers(lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (ACCEPT, HeaderValue::from_static(line))).collect()
    }

    #[test]
    fn accept_lines_are_read_as_one_list() {
        assert!(accepts(&headers(&[]), INDEX));
        assert!(accepts(&headers(&["application/json", "application/vnd.oci.image.index.v1+json"]), INDEX));
        assert!(accepts(&headers(&["application/json, application/vnd.OCI.image.index.v1+json; q=0.5"]), INDEX));
        assert!(accepts(&headers(&["application/json", "*/*"]), INDEX));
        assert!(accepts(&headers(&["application/*"]), INDEX));
        assert!(accepts(&headers(&[""]), INDEX));
        assert!(!accepts(&headers(&["application/json", "text/*"]), INDEX));
    }
}
