//! Negotiation of the bitswap version on a stream, either way.

use std::{
    array,
    convert::Infallible,
    future::{Ready, ready},
    iter::Flatten,
};

use libp2p::core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo};

use crate::wire::Version;

/// Offers the versions of [`Config::versions`](crate::Config::versions); the outcome is the stream as it is.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade {
    names: [Option<&'static str>; Version::ALL.len()],
}

impl Upgrade {
    pub(super) fn new(versions: &[Version]) -> Self {
        let mut names = [None; Version::ALL.len()];
        for (name, version) in names.iter_mut().zip(versions) {
            *name = Some(version.protocol());
        }
        Self { names }
    }
}

impl UpgradeInfo for Upgrade {
    type Info = &'static str;
    type InfoIter = Flatten<array::IntoIter<Option<&'static str>, { Version::ALL.len() }>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.names.into_iter().flatten()
    }
}

impl<S> InboundUpgrade<S> for Upgrade {
    type Output = (S, Version);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: S, name: &'static str) -> Self::Future {
        ready(Ok((stream, version(name))))
    }
}

impl<S> OutboundUpgrade<S> for Upgrade {
    type Output = (S, Version);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: S, name: &'static str) -> Self::Future {
        ready(Ok((stream, version(name))))
    }
}

fn version(name: &str) -> Version {
    let known = Version::ALL.into_iter().find(|version| version.protocol() == name);
    // Only names that were offered are negotiated.
    known.unwrap_or(Version::V1_2)
}
