//! A registry as this node talks to it: where it is, and the HTTP client that may go there and nowhere else.

use std::{collections::HashMap, sync::Arc};

use rustls::RootCertStore;
use shoal_content::{Origin, Registry};
use url::Url;

use crate::{
    config::{Config, RegistryConfig, canonical, default_endpoint},
    error::Error,
    guard::GuardedResolver,
    tls,
};

/// Idle connections kept to one host: what a node that reads leaves of several layers has under way at once.
const IDLE_CONNECTIONS: usize = 32;
/// How long they are kept: shorter than the idle time-outs of the usual balancers (60 s), which close without a word.
const IDLE_TIME: std::time::Duration = std::time::Duration::from_secs(50);

/// One registry.
#[derive(Debug)]
pub(crate) struct Site {
    /// Its canonical name.
    pub(crate) registry: Registry,
    /// Where `/v2/` is.
    pub(crate) endpoint: Url,
    pub(crate) client: reqwest::Client,
    pub(crate) rules: RegistryConfig,
}

/// All registries that this node serves.
#[derive(Debug)]
pub(crate) struct Sites {
    listed: HashMap<Registry, Arc<Site>>,
    /// For registries that are not listed, where any is allowed.
    any: Option<reqwest::Client>,
}

// === impl Sites ===

impl Sites {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let roots = tls::roots();
        let mut listed = HashMap::new();
        for (registry, rules) in &config.registries {
            let registry = canonical(registry);
            let site = Site::new(registry.clone(), rules.clone(), config, &roots)?;
            listed.insert(registry, Arc::new(site));
        }
        let any = match config.allow_any {
            true => Some(client(&RegistryConfig::default(), "", config, &roots)?),
            false => None,
        };
        Ok(Self { listed, any })
    }

    pub(crate) fn serves(&self, registry: &Registry) -> bool {
        self.any.is_some() || self.listed.contains_key(&canonical(registry))
    }

    pub(crate) fn get(&self, registry: &Registry) -> Result<Arc<Site>, Error> {
        let name = canonical(registry);
        if let Some(site) = self.listed.get(&name) {
            return Ok(Arc::clone(site));
        }
        let Some(client) = self.any.clone() else { return Err(Error::NotServed(registry.clone())) };
        let endpoint = default_endpoint(&name).map_err(|error| bad_endpoint(&name, &error.to_string()))?;
        Ok(Arc::new(Site { registry: name, endpoint, client, rules: RegistryConfig::default() }))
    }
}

// === impl Site ===

impl Site {
    fn new(registry: Registry, rules: RegistryConfig, config: &Config, roots: &RootCertStore) -> Result<Self, Error> {
        let endpoint = match rules.endpoint.clone() {
            Some(endpoint) => endpoint,
            None => default_endpoint(&registry).map_err(|error| bad_endpoint(&registry, &error.to_string()))?,
        };
        let host = match (endpoint.scheme(), endpoint.host_str()) {
            ("https" | "http", Some(host)) => host.to_owned(),
            _ => return Err(bad_endpoint(&registry, "it is not an http:// or https:// URL")),
        };
        if !endpoint.username().is_empty() || endpoint.password().is_some() || endpoint.query().is_some() {
            return Err(bad_endpoint(
                &registry,
                "it must have no user, password or query: credentials go in `docker_config`",
            ));
        }
        let client = client(&rules, &host, config, roots)?;
        Ok(Self { registry, endpoint, client, rules })
    }

    /// The URL of `tail` (such as `blobs/<digest>`) in a repository.
    pub(crate) fn url(&self, origin: &Origin, tail: &str, query: Option<&str>) -> Url {
        let mut url = self.endpoint.clone();
        // Every part has been matched against a grammar that needs no escaping, so this is the path as it will be sent.
        url.set_path(&format!("{}/v2/{}/{tail}", self.endpoint.path().trim_end_matches('/'), origin.repository));
        url.set_query(query);
        url
    }
}

fn bad_endpoint(registry: &Registry, reason: &str) -> Error {
    Error::Config(format!("endpoint of registry {registry}: {reason}"))
}

fn client(
    rules: &RegistryConfig,
    host: &str,
    config: &Config,
    roots: &RootCertStore,
) -> Result<reqwest::Client, Error> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls::client_config(roots, rules, host)?)
        .dns_resolver(Arc::new(GuardedResolver { allow_private: rules.allow_private }))
        // Redirects are followed by hand, where Authorization and addresses are looked at.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        // A proxy would be dialled in place of the address that the guard has checked.
        .no_proxy()
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(config.timeouts.connect)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .pool_idle_timeout(IDLE_TIME)
        .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| Error::Config(format!("HTTP client: {error}")))
}

/// `host[:port]` of a URL: all of it that may be shown.
pub(crate) fn authority(url: &Url) -> String {
    match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => "?".to_owned(),
    }
}

/// Whether credentials for one of these URLs may go to the other: same scheme, host and port.
pub(crate) fn same_place(left: &Url, right: &Url) -> bool {
    left.scheme() == right.scheme()
        && left.host() == right.host()
        && left.port_or_known_default() == right.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(name: &str, endpoint: Option<&str>, allow_any: bool) -> Result<Sites, Error> {
        let rules = RegistryConfig { endpoint: endpoint.map(|url| url.parse().unwrap()), ..Default::default() };
        let registries = [(name.parse().unwrap(), rules)].into();
        Sites::new(&Config { registries, allow_any, ..Default::default() })
    }

    fn origin(registry: &str) -> Origin {
        Origin { registry: registry.parse().unwrap(), repository: "library/app".parse().unwrap() }
    }

    #[test]
    fn urls_keep_the_endpoints_path_and_port() {
        let url = |endpoint, query| {
            let origin = origin("a.example");
            let site = sites("a.example", endpoint, false).unwrap().get(&origin.registry).unwrap();
            site.url(&origin, "tags/list", query).to_string()
        };
        assert_eq!(url(None, None), "https://a.example/v2/library/app/tags/list");
        let proxied = url(Some("http://proxy.example:8080/cache/"), Some("n=5"));
        assert_eq!(proxied, "http://proxy.example:8080/cache/v2/library/app/tags/list?n=5");
    }

    #[test]
    fn only_listed_registries_are_served_unless_any_is_allowed() {
        let some = sites("docker.io", None, false).unwrap();
        for (name, served) in [("docker.io", true), ("index.docker.io", true), ("ghcr.io", false)] {
            assert_eq!(some.serves(&name.parse().unwrap()), served, "{name}");
            assert_eq!(some.get(&name.parse().unwrap()).is_ok(), served, "{name}");
        }
        let any = sites("docker.io", None, true).unwrap();
        assert!(any.serves(&"ghcr.io".parse().unwrap()));
        assert_eq!(any.get(&"ghcr.io".parse().unwrap()).unwrap().endpoint.as_str(), "https://ghcr.io/");
    }

    #[test]
    fn an_endpoint_that_is_no_place_to_ask_is_a_configuration_error() {
        for endpoint in ["ftp://a.example", "https://user:pw@a.example", "https://a.example/?q", "unix:/socket"] {
            assert!(matches!(sites("a.example", Some(endpoint), false), Err(Error::Config(_))), "{endpoint}");
        }
    }

    #[test]
    fn the_same_place_is_scheme_host_and_port() {
        let same = |left: &str, right: &str| same_place(&left.parse().unwrap(), &right.parse().unwrap());
        assert!(same("https://a.example/x", "https://A.example:443/y"));
        assert!(!same("https://a.example/", "http://a.example/"));
        assert!(!same("https://a.example/", "https://a.example:444/"));
        assert!(!same("https://a.example/", "https://b.a.example/"));
    }
}
