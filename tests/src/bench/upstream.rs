//! Upstream: distribution's registry, or one with a quirk.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{
    payload::{self, Payload},
    quirky::{self, Quirk},
};
use crate::{
    Daemon, Host, RealImage, Registry,
    registry::{REPOSITORY, Request, parse_access},
};

/// As docker-registry's own default.
const PORT: u16 = 5000;
const READY: Duration = Duration::from_secs(10);

/// A running upstream, and the image that it has.
pub(crate) struct Upstream {
    /// What it has.
    pub(crate) payload: Payload,
    /// The same in detail.
    pub(crate) image: RealImage,
    host: Host,
    kind: Kind,
}

enum Kind {
    Registry(Registry),
    Quirky(Daemon),
}

impl Upstream {
    /// Starts it. `bytes_per_second` is what its link gives.
    pub(crate) fn start(host: &Host, payload: Payload, quirk: Quirk, bytes_per_second: f64) -> Result<Upstream> {
        let image = payload.stored()?;
        let kind = if quirk == Quirk::None {
            Kind::Registry(Registry::start(host, &image)?)
        } else {
            let program = std::env::current_exe().context("the path of this program")?;
            let share = (bytes_per_second / quirky::SHARES) as u64;
            let mut command = host.command(program);
            command.args(quirky::arguments(quirk, &payload::storage(&image)?, host.address, share));
            let mut daemon = Daemon::start("quirky registry", &mut command, &host.folder.join("quirky.log"))?;
            let address = (host.address, PORT).into();
            daemon.wait_until("listening", READY, || Ok(host.connect(address).ok().map(drop)))?;
            Kind::Quirky(daemon)
        };
        Ok(Upstream { payload, image, host: host.clone(), kind })
    }

    /// What image names start with.
    pub(crate) fn name(&self) -> String {
        format!("{}:{PORT}", self.host.address)
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.name())
    }

    /// The name of the image that a node takes.
    pub(crate) fn by_tag(&self, node: usize) -> String {
        let tags = self.payload.tags();
        format!("{}/{REPOSITORY}:{}", self.name(), tags[node % tags.len()])
    }

    /// All requests so far that have ended.
    pub(crate) fn requests(&self) -> Result<Vec<Request>> {
        match &self.kind {
            Kind::Registry(registry) => registry.requests(),
            Kind::Quirky(daemon) => Ok(daemon.log()?.lines().filter_map(parse_access).collect()),
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Registry(registry) => registry.kill(),
            Kind::Quirky(daemon) => daemon.kill(),
        }
    }
}
