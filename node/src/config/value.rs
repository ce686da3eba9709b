//! From what is written to what is meant: sizes, times, shares, addresses.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use shoal_content::Registry;

use super::registries::RegistryAccess;

/// A value as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A string.
    Text(String),
    /// A switch.
    Bool(bool),
    /// An array of strings.
    List(Vec<String>),
    /// How a registry is reached.
    Registry(RegistryAccess),
}

/// How much disk blobs may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// In bytes.
    Bytes(u64),
    /// In percent of the file system that holds the data directory.
    Share(u8),
}

/// A peer that is dialled without having been found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// A multiaddress, with or without `/p2p/<peer id>`.
    Multiaddr(String),
    /// A DNS name or IP address and a port. A name stands for every address it resolves to, looked up again and again.
    HostPort(String, u16),
}

/// As it may be written in the file again.
impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAddress::Multiaddr(address) => f.write_str(address),
            PeerAddress::HostPort(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            PeerAddress::HostPort(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

type Read<T> = Result<T, String>;

fn as_text(value: &Value) -> Read<&str> {
    match value {
        Value::Text(text) if text.is_empty() => Err("is empty".to_owned()),
        Value::Text(text) if text.contains('\0') => Err("contains a NUL byte".to_owned()),
        Value::Text(text) => Ok(text),
        _ => Err("must be a string".to_owned()),
    }
}

pub(crate) fn boolean(value: &Value) -> Read<bool> {
    match value {
        Value::Bool(value) => Ok(*value),
        _ => Err("must be true or false".to_owned()),
    }
}

pub(crate) fn path(value: &Value) -> Read<PathBuf> {
    as_text(value).map(PathBuf::from)
}

/// The kernel's `sun_path` is 108 bytes with its NUL; the socket is made under a name with four more characters.
const MAX_SOCKET_PATH: usize = 107 - 4;

pub(crate) fn socket_path(value: &Value) -> Read<PathBuf> {
    let text = as_text(value)?;
    if text.len() > MAX_SOCKET_PATH {
        return Err(format!("is {} bytes, a unix socket's path may have {MAX_SOCKET_PATH}", text.len()));
    }
    Ok(PathBuf::from(text))
}

pub(crate) fn socket(value: &Value) -> Read<SocketAddr> {
    as_text(value)?.parse().map_err(|_| "must be IP:PORT, such as 127.0.0.1:5050 or [::1]:5050".to_owned())
}

pub(crate) fn registry(value: &Value) -> Read<Registry> {
    as_text(value)?.parse().map_err(|error: shoal_content::name::NameError| error.to_string())
}

pub(crate) fn choice<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Read<T> {
    let text = as_text(value)?;
    let chosen = choices.iter().find(|(name, _)| *name == text);
    chosen.map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("must be {}", names.join(" or "))
    })
}

pub(crate) fn log_filter(value: &Value) -> Read<String> {
    let text = as_text(value)?;
    let filter = tracing_subscriber::EnvFilter::builder().parse(text);
    filter.map_err(|error| format!("is no log filter: {error}"))?;
    Ok(text.to_owned())
}

/// `20GiB`, `500MB`, `1048576`. Binary and decimal units; a bare number is bytes.
pub fn size_text(text: &str) -> Read<u64> {
    const UNITS: &[(&str, u64)] = &[
        ("", 1),
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    let (number, unit) = number_and_unit(text).ok_or("must be a number with a unit, such as 20GiB or 500MB")?;
    let unit = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, factor) = unit.ok_or("has an unknown unit: KiB, MiB, GiB, TiB, KB, MB, GB, TB or none")?;
    number.checked_mul(*factor).ok_or_else(|| "is more bytes than there can be".to_owned())
}

pub(crate) fn size(value: &Value) -> Read<u64> {
    size_text(as_text(value)?)
}

pub(crate) fn quota(value: &Value) -> Read<Quota> {
    let text = as_text(value)?;
    if text.ends_with('%') {
        return percent(value).map(Quota::Share);
    }
    match size_text(text)? {
        0 => Err("must be more than nothing".to_owned()),
        bytes => Ok(Quota::Bytes(bytes)),
    }
}

pub(crate) fn percent(value: &Value) -> Read<u8> {
    let number = as_text(value)?.strip_suffix('%').and_then(|number| number.parse().ok());
    number.filter(|number| (1..=100).contains(number)).ok_or_else(|| "must be 1% to 100%".to_owned())
}

/// `50ms`, `1s`, `10m`, `2h`. A bare number has no unit that all would agree on, and is refused.
pub(crate) fn duration(value: &Value) -> Read<Duration> {
    const UNITS: &[(&str, u64)] = &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let parts = number_and_unit(as_text(value)?);
    let (number, unit) = parts.ok_or("must be a number with a unit, such as 50ms, 1s or 10m")?;
    let unit = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, factor) = unit.ok_or("must have a unit: ms, s, m, h or d")?;
    // A year: what is longer is a slip, and timers overflow far beyond it.
    const LONGEST: u64 = 365 * 86_400_000;
    match number.checked_mul(*factor) {
        Some(0) => Err("must be more than nothing".to_owned()),
        Some(milliseconds) if milliseconds <= LONGEST => Ok(Duration::from_millis(milliseconds)),
        _ => Err("must be at most 365d".to_owned()),
    }
}

/// The leading digits and the rest; `None` without digits or when they do not fit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn as_list(value: &Value) -> Read<&[String]> {
    match value {
        Value::List(list) => Ok(list),
        _ => Err("must be an array of strings".to_owned()),
    }
}

pub(crate) fn multiaddrs(value: &Value) -> Read<Vec<String>> {
    as_list(value)?.iter().map(|text| multiaddr(text)).collect()
}

/// The form only: whether it is an address that can be listened on or dialled is for the swarm to say.
fn multiaddr(text: &str) -> Read<String> {
    let mut parts = text.split('/');
    let is_multiaddr = parts.next() == Some("")
        && parts.clone().count() >= 2
        && parts.all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_graphic()));
    if is_multiaddr {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} must be a multiaddress, such as /ip4/0.0.0.0/tcp/5051"))
    }
}

pub(crate) fn peers(value: &Value) -> Read<Vec<PeerAddress>> {
    as_list(value)?.iter().map(|text| peer(text)).collect()
}

fn peer(text: &str) -> Read<PeerAddress> {
    if text.starts_with('/') {
        return multiaddr(text).map(PeerAddress::Multiaddr);
    }
    // The same grammar as a registry's `host[:port]`; the port is not optional here.
    let address: Option<Registry> = text.parse().ok();
    let parts = address.as_ref().and_then(|address| Some((address.host(), address.port()?)));
    let (host, port) = parts.ok_or_else(|| format!("{text:?} must be HOST:PORT or a multiaddress"))?;
    Ok(PeerAddress::HostPort(host.to_owned(), port))
}

/// As it would stand in the file.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(&quoted(text)),
            Value::Bool(value) => write!(f, "{value}"),
            Value::List(list) => {
                let items: Vec<_> = list.iter().map(|item| quoted(item)).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Value::Registry(access) => access.fmt(f),
        }
    }
}

/// A TOML basic string: one line whatever it holds.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

impl serde::Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::List(list) => list.serialize(serializer),
            Value::Registry(access) => access.serialize(serializer),
        }
    }
}
