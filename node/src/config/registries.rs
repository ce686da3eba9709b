//! The registries that are served, and how each is reached.
//!
//! In the file a table for each, `[registries."registry.example.com"]`; in the environment and as a flag one text,
//! `registry.example.com=https://cache.example.com;allow_private;ca=/etc/ca.pem`. A later source replaces an earlier
//! one for the same registry and leaves the others.

use std::{fmt, path::PathBuf};

use serde::Serialize;
use shoal_content::Registry;

use super::value::quoted;

/// How a registry is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RegistryAccess {
    /// `http://host[:port][/path]` or `https://…`; `None`: HTTPS at the registry's own name. Plain HTTP is spoken only where it is written here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// A PEM file with authorities to trust for it besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Whether it may live at a loopback or private address. Without it such an address is refused, lest an image name reach into the node's network.
    pub allow_private: bool,
    /// Whether it may redirect from HTTPS to plain HTTP.
    pub allow_downgrade: bool,
    /// Whether its certificate goes unchecked.
    pub insecure_skip_verify: bool,
    /// Hosts of another domain that may give tokens for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token_hosts: Vec<String>,
}

/// The names inside a registry's table.
pub(crate) const FIELDS: &[&str] =
    &["endpoint", "ca", "allow_private", "allow_downgrade", "insecure_skip_verify", "token_hosts"];

impl RegistryAccess {
    /// The switch of this name.
    pub(crate) fn switch(&mut self, name: &str) -> Option<&mut bool> {
        match name {
            "allow_private" => Some(&mut self.allow_private),
            "allow_downgrade" => Some(&mut self.allow_downgrade),
            "insecure_skip_verify" => Some(&mut self.insecure_skip_verify),
            _ => None,
        }
    }
}

/// The entry's key in the file.
pub(crate) fn key(registry: &Registry) -> String {
    format!("registries.{}", quoted(registry.as_str()))
}

/// Checks an endpoint: a scheme, a host, perhaps a port and a path.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    let refuse = || "must be http://HOST[:PORT][/PATH] or https://HOST[:PORT][/PATH]".to_owned();
    let text = text.trim_end_matches('/');
    let (scheme, rest) = text.split_once("://").ok_or_else(refuse)?;
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let is_segment = |segment: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        !matches!(segment, "" | "." | "..") && segment.chars().all(plain)
    };
    if !matches!(scheme, "http" | "https") || !path.is_none_or(|path| path.split('/').all(is_segment)) {
        return Err(refuse());
    }
    let host: Registry = host.parse().map_err(|_| refuse())?;
    Ok(path.map_or_else(|| format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}")))
}

/// Checks the name of a host.
pub(crate) fn host(text: &str) -> Result<String, String> {
    let host: Registry = text.parse().map_err(|_| format!("{text:?} must be a host's name"))?;
    Ok(host.to_string())
}

/// `NAME[=ENDPOINT][;allow_private][;ca=FILE]…`
pub(crate) fn from_text(text: &str) -> Result<(Registry, RegistryAccess), String> {
    let refuse = |part: &str| {
        format!("{part:?} must be allow_private, allow_downgrade, insecure_skip_verify, ca=FILE or token_host=HOST")
    };
    let mut parts = text.split(';');
    let first = parts.next().unwrap_or_default();
    let (name, address) = match first.split_once('=') {
        Some((name, address)) => (name, Some(address)),
        None => (first, None),
    };
    let name: Registry = name.parse().map_err(|error: shoal_content::name::NameError| error.to_string())?;
    let mut access = RegistryAccess { endpoint: address.map(endpoint).transpose()?, ..RegistryAccess::default() };
    for part in parts {
        match part.split_once('=') {
            Some(("ca", path)) if !path.is_empty() => access.ca = Some(PathBuf::from(path)),
            Some(("token_host", name)) => access.token_hosts.push(host(name)?),
            None => match access.switch(part) {
                Some(switch) => *switch = true,
                None => return Err(refuse(part)),
            },
            Some(_) => return Err(refuse(part)),
        }
    }
    Ok((name, access))
}

/// As an inline table.
impl fmt::Display for RegistryAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{ ")?;
        if let Some(endpoint) = &self.endpoint {
            write!(f, "endpoint = {}, ", quoted(endpoint))?;
        }
        if let Some(ca) = &self.ca {
            write!(f, "ca = {}, ", quoted(&ca.to_string_lossy()))?;
        }
        if !self.token_hosts.is_empty() {
            write!(f, "token_hosts = {}, ", super::value::Value::List(self.token_hosts.clone()))?;
        }
        for (name, value) in
            [("allow_downgrade", self.allow_downgrade), ("insecure_skip_verify", self.insecure_skip_verify)]
        {
            if value {
                write!(f, "{name} = true, ")?;
            }
        }
        write!(f, "allow_private = {} }}", self.allow_private)
    }
}
