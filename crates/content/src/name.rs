//! Names of images: registry, repository, tag, and references made of them.
//!
//! The grammars are those of the OCI distribution specification; a name is matched whole before it may touch a path or a URL.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{Digest, ParseDigestError};

const MAX_REGISTRY: usize = 255 + 6;
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// Docker Hub under the name that images have there.
pub const DOCKER_HUB: &str = "docker.io";

/// Docker Hub's older name, which runtimes take for [`DOCKER_HUB`].
const DOCKER_HUB_INDEX: &str = "index.docker.io";

/// Why a string is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `host` or `host:port`.
    #[error("registry {0:?} is not host[:port]")]
    Registry(String),
    /// Not a repository by the distribution specification's grammar.
    #[error("repository {0:?} is not lower-case path components joined by '/'")]
    Repository(String),
    /// Not a tag by the distribution specification's grammar.
    #[error("tag {0:?} is not [a-zA-Z0-9_][a-zA-Z0-9._-]{{0,127}}")]
    Tag(String),
    /// The part after `@` is not a digest.
    #[error("{0}")]
    Digest(#[from] ParseDigestError),
}

/// A registry, `host[:port]` without scheme, in lower case: what an image name starts with and what `ns` holds.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Registry(String);

/// A repository of a registry, such as `library/alpine`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(String);

/// A tag, such as `v1.2`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

/// Where a blob or manifest belongs: a repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The upstream registry.
    pub registry: Registry,
    /// The repository in it.
    pub repository: Repository,
}

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// By a name that upstream may move.
    Tag(Tag),
    /// By content.
    Digest(Digest),
}

/// A full image name: `registry/repository[:tag][@digest]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Image {
    /// Registry and repository.
    pub origin: Origin,
    /// The digest where the name has one, else the tag, else `latest`.
    pub reference: Reference,
}

impl Registry {
    /// The host, without the port, and without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        let host = match self.0.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => host,
            _ => &self.0,
        };
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, where the name has one.
    pub fn port(&self) -> Option<u16> {
        let (_, port) = self.0.rsplit_once(':')?;
        port.parse().ok()
    }

    /// `host[:port]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Registry {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = || NameError::Registry(shortened(text));
        if text.is_empty() || text.len() > MAX_REGISTRY {
            return Err(refuse());
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, rest) = rest.split_once(']').ok_or_else(refuse)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| refuse())?;
            match rest.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if rest.is_empty() => (None, None),
                None => return Err(refuse()),
            }
        } else {
            match text.split_once(':') {
                Some((host, port)) => (Some(host), Some(port)),
                None => (Some(text), None),
            }
        };
        if !host.is_none_or(is_host) {
            return Err(refuse());
        }
        if let Some(port) = port {
            // No zeros in front: one registry has one name.
            let is_number = !port.starts_with('0') && port.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number || port.parse::<u16>().is_err() {
                return Err(refuse());
            }
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Letters, digits and inner hyphens, joined by single dots.
fn is_host(host: &str) -> bool {
    host.split('.').all(|label| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

impl Repository {
    /// The repository's name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = NameError;

    /// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() <= MAX_REPOSITORY && text.split('/').all(is_component) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Repository(shortened(text)))
        }
    }
}

fn is_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_word(first) || !is_word(last) {
        return false;
    }
    bytes.split(|&byte| is_word(byte)).all(|separator| match separator {
        [] | b"." | b"_" | b"__" => true,
        other => other.iter().all(|&byte| byte == b'-'),
    })
}

impl Tag {
    /// The tag.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let is_rest = |byte: u8| is_first(byte) || byte == b'.' || byte == b'-';
        let fits = (1..=MAX_TAG).contains(&text.len());
        if fits && is_first(text.as_bytes()[0]) && text.bytes().all(is_rest) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Tag(shortened(text)))
        }
    }
}

impl FromStr for Reference {
    type Err = NameError;

    /// A digest where there is a `:`, which no tag has; a tag otherwise.
    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl FromStr for Image {
    type Err = NameError;

    /// Names without a registry are Docker Hub's, as in every runtime: `alpine` is `docker.io/library/alpine:latest`.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (registry, rest) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first.eq_ignore_ascii_case("localhost") => {
                (first.parse()?, rest)
            }
            _ => (Registry(DOCKER_HUB.to_owned()), name),
        };
        let registry = if registry.0 == DOCKER_HUB_INDEX { Registry(DOCKER_HUB.to_owned()) } else { registry };
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, tag.parse()?),
            None => (rest, Tag("latest".into())),
        };
        let repository: Repository = if registry.0 == DOCKER_HUB && !repository.contains('/') {
            format!("library/{repository}").parse()?
        } else {
            repository.parse()?
        };
        let reference = digest.map_or(Reference::Tag(tag), Reference::Digest);
        Ok(Self { origin: Origin { registry, repository }, reference })
    }
}

/// What an error quotes of a name from outside: enough to find it, never a page of it.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(f, "{}{separator}{}", self.origin, self.reference)
    }
}

impl Serialize for Registry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Registry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_host_and_port_and_nothing_else() {
        for good in ["docker.io", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "[2001:db8::1]", "a-b.example"] {
            assert_eq!(good.parse::<Registry>().unwrap().as_str(), good);
        }
        for bad in [
            "", "http://a", "a/b", "a:0", "a:080", "a:99999", "a:", "a:+1", "user@a", "a b", "-a", "a..b", "[::1",
            "[x]", "[::1]x", "a:1:2", "..", "a%2f",
        ] {
            assert!(bad.parse::<Registry>().is_err(), "{bad}");
        }
        let registry: Registry = "[::1]:5000".parse().unwrap();
        assert_eq!((registry.host(), registry.port()), ("::1", Some(5000)));
        let registry: Registry = "[::1]".parse().unwrap();
        assert_eq!((registry.host(), registry.port()), ("::1", None));
        let registry: Registry = "Example.COM".parse().unwrap();
        assert_eq!((registry.host(), registry.port()), ("example.com", None));
    }

    #[test]
    fn repositories_follow_the_grammar_of_the_specification() {
        for good in ["alpine", "library/alpine", "a/b/c", "a.b", "a_b", "a__b", "a---b", "0/1"] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        for bad in
            ["", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a.-b", ".a", "a.", "a/../b", "a%2fb", "a\\b", "a\0"]
        {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
        assert!("a".repeat(256).parse::<Repository>().is_err());
    }

    #[test]
    fn tags_follow_the_grammar_of_the_specification() {
        for good in ["latest", "V1.2-x_y", "_a", &"t".repeat(128)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", "ä", &"t".repeat(129)] {
            assert!(bad.parse::<Tag>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_image_name_is_completed_as_runtimes_do() {
        let full = |text: &str| text.parse::<Image>().unwrap().to_string();
        assert_eq!(full("alpine"), "docker.io/library/alpine:latest");
        assert_eq!(full("Docker.IO/alpine"), "docker.io/library/alpine:latest");
        assert_eq!(full("index.docker.io/alpine:3"), "docker.io/library/alpine:3");
        assert_eq!(full("LOCALHOST/app"), "localhost/app:latest");
        assert_eq!(full("grafana/grafana:11"), "docker.io/grafana/grafana:11");
        assert_eq!(full("localhost/app"), "localhost/app:latest");
        assert_eq!(full("127.0.0.1:5000/app:v1"), "127.0.0.1:5000/app:v1");
        let digest = Digest::of(crate::Algorithm::Sha256, b"");
        assert_eq!(full(&format!("ghcr.io/a/b:v1@{digest}")), format!("ghcr.io/a/b@{digest}"));
        assert!("ghcr.io/a/b@sha256:0".parse::<Image>().is_err());
        assert!("ghcr.io/a/B".parse::<Image>().is_err());
    }
}
