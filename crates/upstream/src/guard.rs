//! Which addresses may be dialled: the rule against being used to reach what only this node can reach.
//!
//! A name is judged by what it resolves to, at the moment of dialling: [`GuardedResolver`] sits inside the HTTP client,
//! so a name that changes its address between check and connection gains nothing. Literal addresses never reach a
//! resolver and are checked by [`check_literal`] before every request, the redirected ones too.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

/// Why an address may not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Loopback, private, shared: allowed where the operator says so.
    Private,
    /// Link-local, metadata services, multicast, unspecified, reserved: never a registry.
    Never,
}

/// A name or address that may not be dialled.
#[derive(Clone, Debug)]
pub(crate) struct Forbidden {
    address: IpAddr,
    class: Class,
}

/// Addresses of cloud metadata services that the ranges below do not cover.
const METADATA_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(168, 63, 129, 16),   // Azure's host agent
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba Cloud
];
/// AWS's metadata service over IPv6: it lies in a unique local range.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

/// The class of an address, `None` for a public one.
pub(crate) fn classify(address: IpAddr) -> Option<Class> {
    match address {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => classify_v6(address),
    }
}

fn classify_v4(address: Ipv4Addr) -> Option<Class> {
    let [a, b, c, _] = address.octets();
    let never = a == 0 // "this network", RFC 1122
        || a >= 224 // multicast, reserved, broadcast
        || address.is_link_local()
        || METADATA_V4.contains(&address);
    let private = address.is_loopback()
        || address.is_private()
        || (a == 100 && (64..128).contains(&b)) // shared address space, RFC 6598
        || (a == 198 && (b == 18 || b == 19)) // benchmarking, RFC 2544
        || (a == 192 && b == 0 && (c == 0 || c == 2)) // IETF protocol assignments, documentation
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113);
    match (never, private) {
        (true, _) => Some(Class::Never),
        (_, true) => Some(Class::Private),
        _ => None,
    }
}

fn classify_v6(address: Ipv6Addr) -> Option<Class> {
    if address.is_loopback() {
        return Some(Class::Private);
    }
    if let Some(inner) = embedded_v4(address) {
        return classify_v4(inner);
    }
    let first = address.segments()[0];
    let never = address.is_unspecified()
        || address.is_multicast()
        || (first & 0xffc0) == 0xfe80 // link-local
        || (first & 0xffc0) == 0xfec0 // site-local, deprecated
        || address == METADATA_V6;
    let private = (first & 0xfe00) == 0xfc00 // unique local
        || (first == 0x2001 && address.segments()[1] == 0xdb8); // documentation
    match (never, private) {
        (true, _) => Some(Class::Never),
        (_, true) => Some(Class::Private),
        _ => None,
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped, compatible, NAT64 (RFC 6052), 6to4 (RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let segments = address.segments();
    let from = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match segments {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low] if !(high == 0 && low <= 1) => Some(from(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(from(high, low)),
        [0x2002, high, low, ..] => Some(from(high, low)),
        _ => None,
    }
}

/// Whether `address` may be dialled; private ones only with `allow_private`.
pub(crate) fn check(address: IpAddr, allow_private: bool) -> Result<(), Forbidden> {
    match classify(address) {
        None => Ok(()),
        Some(Class::Private) if allow_private => Ok(()),
        Some(class) => Err(Forbidden { address, class }),
    }
}

/// Checks the address of a URL that names one; names are left to [`GuardedResolver`].
pub(crate) fn check_literal(url: &Url, allow_private: bool) -> Result<(), Forbidden> {
    match url.host() {
        Some(Host::Ipv4(address)) => check(address.into(), allow_private),
        Some(Host::Ipv6(address)) => check(address.into(), allow_private),
        Some(Host::Domain(_)) | None => Ok(()),
    }
}

impl Forbidden {
    /// The rule, and the setting that lifts it where one does.
    pub(crate) fn advice(&self, registry: &str) -> String {
        let address = self.address;
        match self.class {
            Class::Private => format!(
                "{address} is a loopback, private or documentation address: if it is right, set `allow_private` for registry {registry}"
            ),
            Class::Never => {
                format!("{address} is a link-local, metadata, multicast or reserved address, which no registry has")
            }
        }
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} may not be dialled", self.address)
    }
}

impl std::error::Error for Forbidden {}

/// Resolves names by the system and gives only addresses that may be dialled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuardedResolver {
    pub(crate) allow_private: bool,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let mut forbidden = None;
            let mut allowed = Vec::with_capacity(found.len());
            for address in found {
                match check(address.ip(), allow_private) {
                    Ok(()) => allowed.push(address),
                    Err(error) => forbidden = Some(error),
                }
            }
            match forbidden {
                Some(error) if allowed.is_empty() => Err(error.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(text: &str) -> Option<Class> {
        classify(text.parse().unwrap())
    }

    #[test]
    fn public_addresses_may_be_dialled() {
        for address in ["8.8.8.8", "1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808"] {
            assert_eq!(class(address), None, "{address}");
        }
    }

    #[test]
    fn loopback_and_private_addresses_need_leave_in_every_disguise() {
        for address in [
            "127.0.0.1",
            "127.255.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "203.0.113.1",
            "::1",
            "fc00::1",
            "fd12::1",
            "2001:db8::1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
        ] {
            assert_eq!(class(address), Some(Class::Private), "{address}");
            assert!(check(address.parse().unwrap(), false).is_err());
            assert!(check(address.parse().unwrap(), true).is_ok());
        }
    }

    #[test]
    fn metadata_link_local_and_multicast_addresses_are_never_dialled() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "168.63.129.16",
            "100.100.100.200",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
        ] {
            assert_eq!(class(address), Some(Class::Never), "{address}");
            assert!(check(address.parse().unwrap(), true).is_err());
        }
    }

    #[test]
    fn a_url_that_writes_an_address_oddly_is_still_an_address() {
        for url in ["https://2130706433/", "https://127.1/", "https://0x7f.0.0.1/", "https://[::ffff:7f00:1]/"] {
            assert!(check_literal(&url.parse().unwrap(), false).is_err(), "{url}");
        }
        assert!(check_literal(&"https://registry.example/".parse().unwrap(), false).is_ok());
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_loopback_is_refused_where_it_is_dialled() {
        let resolve = |allow_private| GuardedResolver { allow_private }.resolve("localhost".parse().unwrap());
        let Err(error) = resolve(false).await else { panic!("localhost was let through") };
        assert!(error.downcast_ref::<Forbidden>().is_some(), "{error}");
        assert!(resolve(true).await.unwrap().next().is_some());
    }
}
