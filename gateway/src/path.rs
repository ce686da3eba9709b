//! What a request's path and query ask for. Pure: nothing here touches a socket or a name server.
//!
//! The registry comes from `?ns=` (containerd), from the first component of the path where that looks like a host
//! (CRI-O, podman, skopeo), from a whole URL behind the first slash (overlaybd), or from nowhere, which leaves it to the
//! configuration. Every component is percent-decoded exactly once and then matched whole against its grammar, so that no
//! name that could leave its place in a path or a URL gets any further.
//!
//! The kind of a request is read from the end of the path: `blobs`, `manifests` and `tags` are legal parts of a repository's name.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use shoal_content::{Digest, Origin, Reference, Registry, Repository, Tag, digest::ParseDigestError, name::NameError};

/// Longest page of tags or referrers that upstream is asked for: what comes back is held in memory.
const MAX_PAGE: u64 = 1000;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `/v2/`: whether this is a registry at all.
    Ping,
    /// A manifest or index.
    Manifest(Name, Reference),
    /// A blob.
    Blob(Name, Digest),
    /// The tags of a repository, with the query that upstream is to see.
    Tags(Name, Option<String>),
    /// What refers to a manifest, with the query that upstream is to see.
    Referrers(Name, Digest, Option<String>),
}

/// A repository, and how its registry was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Where its registry was named.
    pub place: Place,
    /// The repository.
    pub repository: Repository,
}

/// Where a request names its registry. It tells clients apart: who sends `ns` has another host to ask, who puts the registry
/// into the path has bound the whole image to this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In `?ns=`: containerd, which asks its next host when this one has nothing.
    Ns(Registry),
    /// In the path: CRI-O, podman and skopeo, which ask one host for all of an image.
    Path(Registry),
    /// Nowhere: Docker's `registry-mirrors`, and lazy pullers.
    Unnamed,
}

/// Why a path or query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No route has this shape.
    #[error("no such endpoint")]
    NoRoute,
    /// The path holds what no name may hold.
    #[error("{0}")]
    Path(&'static str),
    /// `ns`, or the registry in the path, is not `host[:port]`.
    #[error("{0}")]
    Registry(NameError),
    /// The query names several registries.
    #[error("the query names more than one registry")]
    TwoRegistries,
    /// The repository does not follow its grammar.
    #[error("{0}")]
    Repository(NameError),
    /// The tag does not follow its grammar: no such manifest can exist.
    #[error("{0}")]
    Tag(NameError),
    /// The digest does not follow its grammar.
    #[error("{0}")]
    Digest(ParseDigestError),
}

impl Place {
    /// The registry that the request names.
    pub fn registry(&self) -> Option<&Registry> {
        match self {
            Place::Ns(registry) | Place::Path(registry) => Some(registry),
            Place::Unnamed => None,
        }
    }
}

impl Name {
    /// Registry and repository; `None` when neither the request nor the configuration names a registry.
    pub fn origin(&self, default: Option<&Registry>) -> Option<Origin> {
        let registry = self.place.registry().or(default)?.clone();
        Some(Origin { registry, repository: self.repository.clone() })
    }
}

impl Request {
    /// What the request names; `None` for a ping.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Request::Ping => None,
            Request::Manifest(name, _)
            | Request::Blob(name, _)
            | Request::Tags(name, _)
            | Request::Referrers(name, _, _) => Some(name),
        }
    }
}

/// Reads the path and query of a request, both as they stood in the request line.
pub fn parse(path: &str, query: Option<&str>) -> Result<Request, Refused> {
    let (whole_url, path) = match path.strip_prefix("/https://").or_else(|| path.strip_prefix("/http://")) {
        Some(url) => {
            let (authority, _) = url.split_once('/').ok_or(Refused::NoRoute)?;
            (Some(registry(&decoded(authority)?)?), &url[authority.len()..])
        }
        None => (None, path),
    };
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => return Ok(Request::Ping),
        Some(rest) => rest.strip_prefix('/').ok_or(Refused::NoRoute)?,
        None => return Err(Refused::NoRoute),
    };

    let components = rest.split('/').map(component).collect::<Result<Vec<_>, _>>()?;
    let [name @ .., kind, last] = components.as_slice() else { return Err(Refused::NoRoute) };
    if name.is_empty() {
        return Err(Refused::NoRoute);
    }

    let query = Query::read(query.unwrap_or_default())?;
    let named = |name: &[Cow<'_, str>]| resolve(name, whole_url.clone(), query.ns.clone());
    match (&**kind, &**last) {
        ("manifests", reference) => {
            // The repository first: it is what an operator would look at first.
            let name = named(name)?;
            let reference = if reference.contains(':') {
                Reference::Digest(reference.parse().map_err(Refused::Digest)?)
            } else {
                Reference::Tag(reference.parse::<Tag>().map_err(Refused::Tag)?)
            };
            Ok(Request::Manifest(name, reference))
        }
        ("blobs", digest) => Ok(Request::Blob(named(name)?, digest.parse().map_err(Refused::Digest)?)),
        ("referrers", digest) => {
            Ok(Request::Referrers(named(name)?, digest.parse().map_err(Refused::Digest)?, query.upstream))
        }
        ("tags", "list") => Ok(Request::Tags(named(name)?, query.upstream)),
        _ => Err(Refused::NoRoute),
    }
}

fn resolve(name: &[Cow<'_, str>], whole_url: Option<Registry>, ns: Option<Registry>) -> Result<Name, Refused> {
    let (place, name) = match (whole_url, ns, name) {
        (Some(_), Some(_), _) => return Err(Refused::TwoRegistries),
        (Some(url), None, name) => (Place::Path(url), name),
        (None, Some(ns), name) => (Place::Ns(ns), name),
        (None, None, [first, rest @ ..]) if !rest.is_empty() && looks_like_registry(first) => {
            (Place::Path(registry(first)?), rest)
        }
        (None, None, name) => (Place::Unnamed, name),
    };
    let repository = name.join("/").parse().map_err(Refused::Repository)?;
    Ok(Name { place, repository })
}

/// The rule by which runtimes tell `docker.io/library/alpine` from `library/alpine`.
fn looks_like_registry(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

fn registry(text: &str) -> Result<Registry, Refused> {
    text.parse().map_err(Refused::Registry)
}

/// One component of a path, decoded once. What decodes to a separator or climbs is refused here, whatever the grammars say later.
fn component(raw: &str) -> Result<Cow<'_, str>, Refused> {
    let text = decoded(raw)?;
    if text.is_empty() {
        return Err(Refused::Path("the path has an empty component"));
    }
    if text == "." || text == ".." {
        return Err(Refused::Path("the path has a component of dots"));
    }
    if text.contains(['/', '\\', '\0', '%']) {
        return Err(Refused::Path("the path holds an encoded slash, a backslash, a NUL or is encoded twice"));
    }
    Ok(text)
}

fn decoded(raw: &str) -> Result<Cow<'_, str>, Refused> {
    percent_decode_str(raw).decode_utf8().map_err(|_| Refused::Path("the path is not UTF-8"))
}

/// A query without what is for the gateway alone.
struct Query {
    ns: Option<Registry>,
    upstream: Option<String>,
}

impl Query {
    fn read(raw: &str) -> Result<Self, Refused> {
        let mut ns: Option<Registry> = None;
        let mut upstream = Vec::new();
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if decoded(key)? == "ns" {
                let named = registry(&decoded(value)?)?;
                if ns.as_ref().is_some_and(|earlier| *earlier != named) {
                    return Err(Refused::TwoRegistries);
                }
                ns = Some(named);
            } else if key == "n" {
                upstream.push(format!("n={}", clamped(value)));
            } else {
                upstream.push(pair.to_owned());
            }
        }
        let upstream = (!upstream.is_empty()).then(|| upstream.join("&"));
        Ok(Self { ns, upstream })
    }
}

/// A page length within bounds. What is not a number is left for upstream to refuse.
fn clamped(n: &str) -> Cow<'_, str> {
    let is_number = !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit());
    match n.parse::<u64>() {
        Ok(n) if n <= MAX_PAGE => Cow::Owned(n.to_string()),
        _ if is_number => Cow::Owned(MAX_PAGE.to_string()),
        _ => Cow::Borrowed(n),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn blob(path: &str, query: Option<&str>) -> Result<(Place, String), Refused> {
        match parse(&format!("{path}/blobs/{DIGEST}"), query)? {
            Request::Blob(name, digest) => {
                assert_eq!(digest.to_string(), DIGEST);
                Ok((name.place, name.repository.as_str().to_owned()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn host(text: &str) -> Registry {
        text.parse().unwrap()
    }

    #[test]
    fn the_base_is_a_ping_with_and_without_its_slash() {
        assert_eq!(parse("/v2/", None), Ok(Request::Ping));
        assert_eq!(parse("/v2", None), Ok(Request::Ping));
        for other in ["/", "", "/v1/", "/v2x", "/v3/", "v2/", "//v2/"] {
            assert_eq!(parse(other, None), Err(Refused::NoRoute), "{other}");
        }
    }

    #[test]
    fn ns_names_the_registry_percent_encoded_or_not() {
        for query in ["ns=127.0.0.1%3A5000", "ns=127.0.0.1:5000", "x=y&ns=127.0.0.1%3a5000"] {
            assert_eq!(
                blob("/v2/lib/app", Some(query)),
                Ok((Place::Ns(host("127.0.0.1:5000")), "lib/app".into())),
                "{query}"
            );
        }
        // With ns, all of the path is the repository, even where it looks like a host.
        assert_eq!(blob("/v2/quay.io/app", Some("ns=ghcr.io")), Ok((Place::Ns(host("ghcr.io")), "quay.io/app".into())));
    }

    #[test]
    fn ns_is_exactly_a_host_and_a_port() {
        for bad in [
            "ns=",
            "ns",
            "ns=http://a.b",
            "ns=a.b/c",
            "ns=a.b%2Fc",
            "ns=a.b%00",
            "ns=user@a.b",
            "ns=a.b:0",
            "ns=a.b%253A1",
            "ns=..",
            "ns=%20a.b",
            "ns=a.b+",
            "ns=a.b%0d%0a",
            "ns=a.b%23",
            "ns=%ff",
        ] {
            assert!(blob("/v2/app", Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(blob("/v2/app", Some("ns=a.b&ns=c.d")), Err(Refused::TwoRegistries));
        assert!(blob("/v2/app", Some("ns=a.b&n%73=a.b")).is_ok());
    }

    #[test]
    fn without_ns_a_first_component_that_looks_like_a_host_is_the_registry() {
        for (path, registry, repository) in [
            ("/v2/docker.io/library/alpine", "docker.io", "library/alpine"),
            ("/v2/127.0.0.1:5000/app", "127.0.0.1:5000", "app"),
            ("/v2/127.0.0.1%3A5000/app", "127.0.0.1:5000", "app"),
            ("/v2/localhost/a/b", "localhost", "a/b"),
            ("/v2/%5B::1%5D:5000/a", "[::1]:5000", "a"),
        ] {
            assert_eq!(blob(path, None), Ok((Place::Path(host(registry)), repository.into())), "{path}");
        }
        assert_eq!(blob("/v2/library/alpine", None), Ok((Place::Unnamed, "library/alpine".into())));
        // Alone it cannot be a registry: there would be no repository.
        assert_eq!(blob("/v2/a.b", None), Ok((Place::Unnamed, "a.b".into())));
    }

    #[test]
    fn a_whole_url_behind_the_slash_names_its_own_registry() {
        let expected = Ok((Place::Path(host("registry.example:5000")), "lib/app".into()));
        assert_eq!(blob("/https://registry.example:5000/v2/lib/app", None), expected);
        assert_eq!(blob("/http://registry.example:5000/v2/lib/app", None), expected);
        assert_eq!(blob("/https://registry.example/v2/a", Some("ns=b.c")), Err(Refused::TwoRegistries));
        for bad in ["/https:///v2/a", "/https://u@h.x/v2/a", "/https://h.x", "/https://h.x//v2/a", "/ftp://h.x/v2/a"] {
            assert!(blob(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_routes_may_be_part_of_a_repository() {
        assert_eq!(blob("/v2/a/blobs/b/manifests/tags/list", None).unwrap().1, "a/blobs/b/manifests/tags/list");
    }

    #[test]
    fn manifests_are_named_by_tag_or_by_digest() {
        let Ok(Request::Manifest(_, Reference::Tag(tag))) = parse("/v2/a/manifests/v1.0_x", None) else { panic!() };
        assert_eq!(tag.as_str(), "v1.0_x");
        let path = format!("/v2/a/manifests/{}", DIGEST.replace(':', "%3A"));
        assert!(matches!(parse(&path, None), Ok(Request::Manifest(_, Reference::Digest(_)))));
        assert!(matches!(parse("/v2/a/manifests/.bad", None), Err(Refused::Tag(_))));
        assert!(matches!(parse("/v2/a/manifests/sha256:0", None), Err(Refused::Digest(_))));
        assert!(matches!(parse("/v2/a/blobs/sha256:0", None), Err(Refused::Digest(_))));
        assert!(matches!(parse("/v2/a/blobs/uploads", None), Err(Refused::Digest(_))));
        assert!(matches!(parse("/v2/a/referrers/x", None), Err(Refused::Digest(_))));
    }

    #[test]
    fn whatever_climbs_or_hides_a_separator_is_refused() {
        for bad in [
            "/v2/../app",
            "/v2/a/../app",
            "/v2/a/./app",
            "/v2/a//app",
            "/v2//app",
            "/v2/a%2fapp",
            "/v2/a%2Fapp",
            "/v2/%2e%2e/app",
            "/v2/a%00",
            "/v2/a%5capp",
            "/v2/a\\app",
            "/v2/a%252fapp",
            "/v2/%ff",
            "/v2/A",
            "/v2/a%20b",
            "/v2/a..b/c..d",
            "/v2/a.b:1:2/c",
        ] {
            assert!(blob(bad, None).is_err(), "{bad}");
            assert!(blob(bad, Some("ns=a.b")).is_err(), "{bad}");
        }
        assert!(parse("/v2/a/manifests/..", None).is_err());
        assert!(parse("/v2/a/manifests/x%2f..%2fy", None).is_err());
        assert!(parse(&format!("/v2/a/blobs/{DIGEST}/"), None).is_err());
    }

    #[test]
    fn upstream_sees_the_query_without_ns_and_with_a_bounded_page() {
        let upstream = |query| match parse("/v2/a/tags/list", Some(query)) {
            Ok(Request::Tags(_, query)) => query,
            other => panic!("{other:?}"),
        };
        assert_eq!(upstream("n=5&last=a%20b&ns=a.b").as_deref(), Some("n=5&last=a%20b"));
        assert_eq!(upstream("n=99999999999999999999999").as_deref(), Some("n=1000"));
        assert_eq!(upstream("n=1001").as_deref(), Some("n=1000"));
        assert_eq!(upstream("n=-1").as_deref(), Some("n=-1"));
        assert_eq!(upstream("ns=a.b"), None);
    }

    proptest! {
        #[test]
        fn no_path_panics_and_what_is_accepted_cannot_climb(path in "(/v2/|/https://)?[a-z.:/%0-9A-F\\\\]{0,40}(/blobs/|/manifests/|/tags/list)?[a-z:.%0-9]{0,20}",
                                                           query in proptest::option::of("(ns=|n=|x)[a-z.:%0-9&=]{0,30}")) {
            if let Ok(request) = parse(&path, query.as_deref()) && let Some(name) = request.name() {
                let repository = name.repository.as_str();
                prop_assert!(!repository.contains("..") && !repository.contains("//") && !repository.contains(['%', '\\', ':', '\0']));
                prop_assert!(!repository.starts_with('/') && !repository.ends_with('/'));
            }
        }
    }
}
