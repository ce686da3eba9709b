//! What an operator sets about registries.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use shoal_content::{Registry, name::DOCKER_HUB};
use url::Url;

use crate::backoff::Backoff;

/// Where Docker Hub really is.
const DOCKER_HUB_ENDPOINT: &str = "https://registry-1.docker.io";
/// Other names for Docker Hub, which image names and old configurations use.
const DOCKER_HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// Which registries are asked, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Registries that this node serves, by the name that images have.
    pub registries: BTreeMap<Registry, RegistryConfig>,
    /// Serve every other registry too: over HTTPS, at public addresses.
    pub allow_any: bool,
    /// A docker `config.json` with the node's credentials, read when they are needed; its helpers are run.
    pub docker_config: Option<PathBuf>,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Redirects followed for one request.
    pub max_redirects: u32,
    /// When to try again.
    pub retry: Retry,
    /// How long a registry that gave no answer is left alone: after the first time, and at most.
    pub pause: (Duration, Duration),
    /// How long the place that a registry redirected a blob to is remembered, so that each range of a blob does not
    /// cost two round trips. Zero: not at all. Object stores sign their addresses for minutes.
    pub remember_redirects: Duration,
}

/// One registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Where it is, if not at `https://<name>`. `http://` is plain HTTP. A path is put before `/v2/`.
    pub endpoint: Option<Url>,
    /// A PEM file with certificates to trust for it beside the system's.
    pub ca: Option<PathBuf>,
    /// Do not check its certificate. Hosts that it redirects to are checked all the same.
    pub insecure_skip_verify: bool,
    /// It, or what it redirects to, may be at a loopback or private address.
    pub allow_private: bool,
    /// It may redirect from HTTPS to plain HTTP.
    pub allow_downgrade: bool,
    /// Hosts of another domain that may be its token endpoint.
    pub token_hosts: Vec<String>,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS included.
    pub connect: Duration,
    /// From the request to the answer's headers.
    pub headers: Duration,
    /// Between two pieces of a body.
    pub stall: Duration,
}

/// When to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Attempts for one request, the first included. A body that breaks has as many for each time that it gets on.
    pub attempts: u32,
    /// Waits between them.
    pub backoff: Backoff,
    /// No attempt starts later than this after the first, and no call takes longer than this and one
    /// [`Timeouts::headers`], tokens and redirects included, until there is an answer. Bodies of blobs take what they
    /// take.
    pub budget: Duration,
    /// The longest `Retry-After` that is waited for; a longer one ends the request.
    pub longest_retry_after: Duration,
}

// === impl Config ===

impl Default for Config {
    /// No registry at all, and limits for registries across the internet.
    fn default() -> Self {
        Self {
            registries: BTreeMap::new(),
            allow_any: false,
            docker_config: None,
            timeouts: Timeouts::default(),
            max_redirects: 5,
            retry: Retry::default(),
            pause: (Duration::from_secs(1), Duration::from_secs(30)),
            remember_redirects: Duration::from_secs(30),
        }
    }
}

impl Default for Timeouts {
    /// containerd gives a mirror 30 s for headers: all of our attempts have to fit into that.
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), headers: Duration::from_secs(10), stall: Duration::from_secs(10) }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 4,
            backoff: Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(2) },
            budget: Duration::from_secs(8),
            longest_retry_after: Duration::from_secs(5),
        }
    }
}

/// The name that a registry is configured and remembered under.
pub(crate) fn canonical(registry: &Registry) -> Registry {
    if DOCKER_HUB_ALIASES.contains(&registry.as_str()) {
        DOCKER_HUB.parse().expect("docker.io is a registry")
    } else {
        registry.clone()
    }
}

/// Where a registry is when the configuration says nothing.
pub(crate) fn default_endpoint(registry: &Registry) -> Result<Url, url::ParseError> {
    match registry.as_str() {
        DOCKER_HUB => DOCKER_HUB_ENDPOINT.parse(),
        name => format!("https://{name}").parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_is_found_under_all_of_its_names() {
        for name in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
            let registry = canonical(&name.parse().unwrap());
            assert_eq!(registry.as_str(), "docker.io");
            assert_eq!(default_endpoint(&registry).unwrap().as_str(), "https://registry-1.docker.io/");
        }
    }

    #[test]
    fn other_registries_are_at_their_own_name_over_https() {
        for (name, url) in [("ghcr.io", "https://ghcr.io/"), ("[::1]:5000", "https://[::1]:5000/")] {
            assert_eq!(default_endpoint(&name.parse().unwrap()).unwrap().as_str(), url);
        }
    }
}
