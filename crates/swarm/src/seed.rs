//! Where to find the first peers: addresses and names.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use futures::future::BoxFuture;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::error::Error;

/// Peers to join. Read from `/ip4/10.0.0.7/tcp/4001`, `/dns/shoal.kube-system/tcp/4001` (either with `/p2p/…` behind when the peer's name is
/// known and must match), `10.0.0.7:4001`, `[2001:db8::1]:4001` or `shoal.kube-system:4001`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    pub(crate) place: Place,
    pub(crate) peer: Option<PeerId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Address(SocketAddr),
    /// Every address that the name stands for, now and later.
    Name {
        host: String,
        port: u16,
    },
}

/// Turns a name into addresses. The system's resolver is used unless another is configured.
pub trait Resolve: Send + Sync {
    /// All addresses that `host` has now, each with `port`.
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// The TCP address that a multiaddress begins with.
pub(crate) fn socket_address(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// The multiaddress of a TCP address.
pub(crate) fn multiaddress(address: SocketAddr) -> Multiaddr {
    Multiaddr::from(address.ip()).with(Protocol::Tcp(address.port()))
}

// === impl Seed ===

impl From<SocketAddr> for Seed {
    fn from(address: SocketAddr) -> Self {
        Self { place: Place::Address(address), peer: None }
    }
}

impl FromStr for Seed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason| Error::Seed { text: text.chars().take(80).collect(), reason };
        if text.starts_with('/') {
            return from_multiaddress(text).map_err(wrong);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(wrong("port 0 cannot be dialled")) } else { Ok(address.into()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or(wrong("it has no `:port`"))?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or(wrong("the port is not between 1 and 65535"))?;
        if !is_host_name(host) {
            return Err(wrong("the part before the port is neither an address nor a host name"));
        }
        Ok(Self { place: Place::Name { host: host.to_owned(), port }, peer: None })
    }
}

fn from_multiaddress(text: &str) -> Result<Seed, &'static str> {
    let address: Multiaddr = text.parse().map_err(|_| "it is not a multiaddress")?;
    let mut parts = address.iter();
    let host = match parts.next() {
        Some(Protocol::Ip4(ip)) => Ok(IpAddr::V4(ip)),
        Some(Protocol::Ip6(ip)) => Ok(IpAddr::V6(ip)),
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => Err(name.into_owned()),
        _ => return Err("it begins with neither /ip4, /ip6 nor /dns"),
    };
    let port = match parts.next() {
        Some(Protocol::Tcp(0)) => return Err("port 0 cannot be dialled"),
        Some(Protocol::Tcp(port)) => port,
        _ => return Err("/tcp does not follow the host; other transports are not spoken"),
    };
    let peer = match parts.next() {
        Some(Protocol::P2p(peer)) => Some(peer),
        Some(_) => return Err("only /p2p/… may follow the port"),
        None => None,
    };
    if parts.next().is_some() {
        return Err("nothing may follow /p2p/…");
    }
    let place = match host {
        Ok(ip) => Place::Address(SocketAddr::new(ip, port)),
        Err(host) if is_host_name(&host) => Place::Name { host, port },
        Err(_) => return Err("the name is not a host name"),
    };
    Ok(Seed { place, peer })
}

fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let text = text.strip_suffix('.').unwrap_or(text);
    (1..=253).contains(&text.len()) && text.split('.').all(is_label)
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Address(address) => multiaddress(*address).fmt(f)?,
            Place::Name { host, port } => write!(f, "/dns/{host}/tcp/{port}")?,
        }
        match &self.peer {
            Some(peer) => write!(f, "/p2p/{peer}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_read_in_every_form() {
        let peer = PeerId::random();
        let shown = |text: &str| text.parse::<Seed>().unwrap().to_string();
        assert_eq!(shown("10.0.0.7:4001"), "/ip4/10.0.0.7/tcp/4001");
        assert_eq!(shown("[2001:db8::1]:4001"), "/ip6/2001:db8::1/tcp/4001");
        assert_eq!(shown("shoal.kube-system.svc:4001"), "/dns/shoal.kube-system.svc/tcp/4001");
        for text in [format!("/ip4/10.0.0.7/tcp/4001/p2p/{peer}"), format!("/dns/shoal/tcp/4001/p2p/{peer}")] {
            assert_eq!(shown(&text), text);
        }
    }

    #[test]
    fn what_cannot_be_dialled_is_refused_with_the_reason() {
        for text in [
            "",
            "10.0.0.7",
            "10.0.0.7:0",
            "10.0.0.7:65536",
            "a b:1",
            "-a:1",
            "a..b:1",
            "http://a:1",
            "/ip4/10.0.0.7",
            "/ip4/10.0.0.7/udp/4001/quic-v1",
            "/ip4/10.0.0.7/tcp/0",
            "/ip4/10.0.0.7/tcp/1/ws",
            "/unix/a",
            "/ip4/10.0.0.777/tcp/1",
        ] {
            assert!(matches!(text.parse::<Seed>(), Err(Error::Seed { .. })), "{text}");
        }
    }
}
