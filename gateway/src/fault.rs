//! What a client is told when it cannot have what it asked for.
//!
//! What decides is who asks, since clients differ in what they do next (`seen` with containerd 1.6 to 2.4, podman, skopeo, dockerd):
//!
//! | what happened | `?ns=` or no registry named | registry in the path |
//! |---|---|---|
//! | does not exist | 404 | 404 |
//! | this node does not serve the registry | 404 | 404 |
//! | upstream denied | 404 | 403 |
//! | not open to all, and no credentials came | 401 over loopback, else 404 | 401 over loopback, else 403 |
//! | upstream does not take the credentials that came | 404 | 403 |
//! | no source, wrong bytes, local trouble, too late | 404 | 503 |
//!
//! With `?ns=` there is a next host, and containerd goes to it at once on 404; on HEAD a 403 costs it a request more. Docker asks
//! its next endpoint after two 404. Clients with the registry in the path (podman, skopeo, CRI-O) leave a mirror on any error to
//! a manifest, and have no other host for a blob whatever the status: they are told the truth.
//!
//! Lists of tags and of referrers, and tags `sha256-…` under which referrers are kept where the API lacks, are never 404 for
//! "don't know": a first 404 ends containerd's search and hides signatures that upstream has. They are 503, on which it goes on.
//!
//! 408 and 429 are never answered: containerd repeats them five times at once.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{ALLOW, CONTENT_RANGE, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use shoal_content::{Digest, Origin, Reference, Registry};
use shoal_fetch::Error;

use crate::{path, range, range::Unsatisfiable};

/// An error answer in the form of the distribution specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) status: StatusCode,
    code: &'static str,
    message: String,
    /// Size of the body, where the range asked for lies outside.
    outside: Option<u64>,
    /// The registry whose credentials are to be brought.
    wants_proof: Option<Registry>,
}

/// What a fault is about: it decides code and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// A manifest or index.
    Manifest,
    /// A tag that stands in for the referrers API, or the API itself, or a list of tags: only upstream's own word is 404.
    Upstream,
    /// A blob.
    Blob,
}

impl About {
    /// What a request for this manifest is about.
    pub(crate) fn manifest(reference: &Reference) -> Self {
        match reference {
            Reference::Tag(tag) if stands_for_referrers(tag.as_str()) => About::Upstream,
            _ => About::Manifest,
        }
    }

    fn unknown(self) -> &'static str {
        match self {
            About::Manifest | About::Upstream => "MANIFEST_UNKNOWN",
            About::Blob => "BLOB_UNKNOWN",
        }
    }
}

/// Whether a tag is `sha256-<hex>`, also with a suffix such as `.sig`.
fn stands_for_referrers(tag: &str) -> bool {
    let Some((algorithm, rest)) = tag.split_once('-') else { return false };
    let hash = rest.split_once('.').map_or(rest, |(hash, _)| hash);
    // Tags hold at most 128 characters, so the hash of sha512 comes cut.
    algorithm == "sha512" || format!("{algorithm}:{hash}").parse::<Digest>().is_ok()
}

/// Whether the client asks elsewhere when it is told that this host has nothing.
pub(crate) fn has_next_host(place: &path::Place) -> bool {
    !matches!(place, path::Place::Path(_))
}

impl Fault {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), outside: None, wants_proof: None }
    }

    /// The answer to an error of the face.
    pub(crate) fn from_error(error: &Error, about: About, next_host: bool) -> Self {
        let message = error.to_string();
        match (error, about) {
            (Error::NotFound { .. }, about) => Self::new(StatusCode::NOT_FOUND, about.unknown(), message),
            (Error::OutOfRange { size, .. }, _) => Self::outside(*size),
            (_, About::Upstream) => Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message),
            (Error::NotServed(_), _) => Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message),
            (_, about) if next_host => Self::new(StatusCode::NOT_FOUND, about.unknown(), message),
            (Error::Denied { .. }, _) => Self::new(StatusCode::FORBIDDEN, "DENIED", message),
            _ => Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message),
        }
    }

    /// What went wrong, for the log.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The range lies outside a body of `size` bytes.
    pub(crate) fn outside(size: u64) -> Self {
        let message = Unsatisfiable { size }.to_string();
        Self { outside: Some(size), ..Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID", message) }
    }

    /// The range header is not one, or asks for more than is answered at once.
    pub(crate) fn bad_range(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "RANGE_INVALID", message)
    }

    /// No registry is named, and none is configured.
    pub(crate) fn no_registry() -> Self {
        let message = "the request names no registry: send ?ns=<host[:port]>, put the registry first in the path, \
                       or set a default registry on this node";
        Self::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", message)
    }

    /// The body that this would resume was cut a moment ago.
    pub(crate) fn resume(digest: &Digest) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "BLOB_UNKNOWN",
            format!("{digest} was cut a moment ago: go on from the next host"),
        )
    }

    /// The repository is not open to all, and the request proves nothing.
    ///
    /// `Basic`, whatever the registry itself wants: user and password then come here with every request, and here they are checked. containerd
    /// repeats the request with the pod's own secret, where there is one, and asks upstream without where there is none.
    pub(crate) fn unproven(origin: &Origin) -> Self {
        let message = format!("{origin} is not open to all: bring the credentials that its registry takes");
        Self {
            wants_proof: Some(origin.registry.clone()),
            ..Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
        }
    }

    /// Who asks may not read the repository.
    pub(crate) fn denied(origin: &Origin, about: About, next_host: bool) -> Self {
        let reason = "its registry does not let who asks read it".to_owned();
        Self::from_error(&Error::Denied { what: origin.to_string(), reason }, about, next_host)
    }

    /// A method that changes something.
    pub(crate) fn read_only() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "this is a mirror: it can be read only; push to the registry",
        )
    }

    /// Upstream answered a request that is passed on in a way that says nothing about what was asked for.
    pub(crate) fn upstream_answered(status: u16) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", format!("upstream answered {status}"))
    }
}

impl From<path::Refused> for Fault {
    fn from(refused: path::Refused) -> Self {
        use path::Refused;
        let message = refused.to_string();
        match refused {
            Refused::NoRoute => Self::new(StatusCode::NOT_FOUND, "UNSUPPORTED", message),
            Refused::Path(_) | Refused::Registry(_) | Refused::TwoRegistries | Refused::Repository(_) => {
                Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", message)
            }
            // The conformance suite asks for a tag that cannot be and wants to hear that it is not.
            Refused::Tag(_) => Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", message),
            Refused::Digest(_) => Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message),
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let error = serde_json::json!({ "code": self.code, "message": self.message, "detail": null });
        let body = serde_json::json!({ "errors": [error] }).to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if let Some(registry) = &self.wants_proof
            && let Ok(value) = HeaderValue::try_from(format!("Basic realm=\"{registry}\""))
        {
            headers.insert(WWW_AUTHENTICATE, value);
        }
        if let Some(value) =
            self.outside.and_then(|size| HeaderValue::try_from(range::content_range_outside(size)).ok())
        {
            headers.insert(CONTENT_RANGE, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_stand_for_referrers_are_told_from_others() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for tag in [format!("sha256-{hex}"), format!("sha256-{hex}.sig"), format!("sha512-{hex}{hex}")] {
            assert!(stands_for_referrers(&tag), "{tag}");
        }
        for tag in ["sha256-abc", "latest", "v1-sha256", "sha256"] {
            assert!(!stands_for_referrers(tag), "{tag}");
        }
    }

    #[test]
    fn who_has_a_next_host_is_sent_there_and_who_has_none_is_told_the_truth() {
        let what = || "x".to_owned();
        let reason = || "y".to_owned();
        let denied = Error::Denied { what: what(), reason: reason() };
        let gone = Error::Unavailable { what: what(), reason: reason() };
        let corrupt = Error::Corrupt { what: what(), reason: reason() };
        let local = Error::Local { what: what(), reason: "y".into() };
        let missing = Error::NotFound { what: what(), reason: reason() };
        let foreign = Error::NotServed("a.b".parse().unwrap());
        for about in [About::Manifest, About::Blob] {
            let status = |error, next| Fault::from_error(error, about, next).status.as_u16();
            for error in [&denied, &gone, &corrupt, &local, &missing, &foreign] {
                assert_eq!(status(error, true), 404, "{error}");
            }
            assert_eq!(status(&denied, false), 403);
            for error in [&gone, &corrupt, &local] {
                assert_eq!(status(error, false), 503, "{error}");
            }
            for error in [&missing, &foreign] {
                assert_eq!(status(error, false), 404, "{error}");
            }
        }
        for next in [true, false] {
            let status = |error| Fault::from_error(error, About::Upstream, next).status.as_u16();
            assert_eq!(status(&missing), 404);
            for error in [&denied, &gone, &corrupt, &local, &foreign] {
                assert_eq!(status(error), 503, "{error}");
            }
        }
    }
}
