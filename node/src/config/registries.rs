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
    /// `http://host[:port]` or `https://host[:port]`; `None`: HTTPS at the registry's own name. Plain HTTP is spoken only where it is written here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Whether it may live at a loopback or private address. Without it such an address is refused, lest an image name reach into the node's network.
    pub allow_private: bool,
    /// A PEM file with authorities to trust for it besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

/// The names inside a registry's table.
pub(crate) const FIELDS: &[&str] = &["endpoint", "allow_private", "ca"];

/// The entry's key in the file.
pub(crate) fn key(registry: &Registry) -> String {
    format!("registries.{}", quoted(registry.as_str()))
}

/// Checks an endpoint: a scheme, a host, perhaps a port.
pub(crate) fn endpoint(text: &str) -> Result<String, String> {
    let refuse = || "must be http://HOST[:PORT] or https://HOST[:PORT]".to_owned();
    let text = text.strip_suffix('/').unwrap_or(text);
    let (scheme, host) = text.split_once("://").ok_or_else(refuse)?;
    if !matches!(scheme, "http" | "https") {
        return Err(refuse());
    }
    let host: Registry = host.parse().map_err(|_| refuse())?;
    Ok(format!("{scheme}://{host}"))
}

/// `NAME[=ENDPOINT][;allow_private][;ca=FILE]`
pub(crate) fn from_text(text: &str) -> Result<(Registry, RegistryAccess), String> {
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
            None if part == "allow_private" => access.allow_private = true,
            _ => return Err(format!("{part:?} must be allow_private or ca=FILE")),
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
        write!(f, "allow_private = {} }}", self.allow_private)
    }
}
