//! `shoal install` and `shoal uninstall`: the gateway into the configuration of the container runtimes of this machine, and out again.
//!
//! What others wrote stays: our part is a block between marker lines ([`block`]), a file of somebody else is kept
//! aside before it is extended ([`containerd`]), and what cannot be done so is refused with the reason. Planning reads
//! ([`planner`]), and gives steps of which each leaves whole files behind it ([`ops`]); so `--dry-run` is the plan, and a
//! stop in the middle costs nothing that a second run does not mend. Install twice is install once; uninstall after install
//! is the tree as it was.

pub(crate) mod block;
pub(crate) mod containerd;
pub(crate) mod containerd_config;
pub(crate) mod containers;
pub(crate) mod ops;
pub(crate) mod planner;
pub mod report;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use shoal_content::{Registry, name::DOCKER_HUB};

use crate::{
    config::{self, Config, registries},
    output::Output,
};
use containerd_config::ContainerdConfig;
use ops::Op;
use planner::Planner;
pub use report::{Action, Report, Step};

/// Why an install or uninstall could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file could not be read or changed.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A path that is not gone into.
    #[error("{path} {reason}", path = path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// What is the matter with it.
        reason: &'static str,
    },
    /// There is nothing to install into.
    #[error("found neither /etc/containerd nor /etc/containers under {root}: name the runtime with --runtime", root = root.display())]
    NoRuntime {
        /// The tree that was looked at.
        root: PathBuf,
    },
    /// A `--registry` that cannot be read.
    #[error("--registry {text:?}: {reason}")]
    Registry {
        /// As it was given.
        text: String,
        /// What is the matter with it.
        reason: String,
    },
}

/// A family of runtimes that share a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Runtime {
    /// containerd: Kubernetes, nerdctl, and Docker with its containerd image store.
    Containerd,
    /// CRI-O, podman, buildah, skopeo.
    Containers,
}

/// Where to work.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Root of the machine's files: /host where they are mounted into a container
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// containerd's folder of hosts.toml files [default: its config_path, else /etc/containerd/certs.d]
    #[arg(long, value_name = "DIR")]
    pub certs_dir: Option<PathBuf>,
    /// Only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `shoal install`
#[derive(Clone, Debug, clap::Args)]
pub struct InstallArgs {
    #[command(flatten)]
    place: Place,
    /// The gateway's URL [default: http:// and gateway.listen]
    #[arg(long, value_name = "URL")]
    gateway: Option<String>,
    /// Registry to mirror, perhaps with the URL it is at; `_default` for every one (containerd only); may be repeated
    /// [default: those of the configuration; every one where none is listed or any is allowed]
    #[arg(long, value_name = "NAME[=URL]")]
    registry: Vec<String>,
    /// Runtime to configure; may be repeated [default: those that have a directory in /etc]
    #[arg(long, value_enum, value_name = "RUNTIME")]
    runtime: Vec<Runtime>,
    /// Make the data directory too, owned by this user, for a node that does not run as root
    #[arg(long, value_name = "UID[:GID]", value_parser = owner)]
    data_owner: Option<(u32, u32)>,
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// `1000` or `1000:1000`
fn owner(text: &str) -> Result<(u32, u32), String> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number"));
    Ok((number(user)?, number(group)?))
}

/// `shoal uninstall`
#[derive(Clone, Debug, clap::Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    place: Place,
}

/// A registry that is to be asked through the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// `None`: every one without a directory of its own.
    pub(crate) registry: Option<Registry>,
    /// URL of the registry itself, asked when the gateway does not answer.
    pub(crate) server: Option<String>,
}

/// What to install.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) gateway: String,
    pub(crate) targets: Vec<Target>,
    pub(crate) runtimes: Vec<Runtime>,
}

impl InstallArgs {
    /// Puts the gateway into the runtimes' configuration.
    pub fn run(&self) -> anyhow::Result<()> {
        let flags = config::Flags { file: self.config.clone(), ..config::Flags::default() };
        let config = config::load(&flags)?.config;
        let gateway = match &self.gateway {
            Some(url) => registries::endpoint(url).map_err(|reason| anyhow::anyhow!("--gateway {url}: {reason}"))?,
            None => format!("http://{}", reachable(config.gateway.listen)),
        };
        let wanted = Wanted {
            gateway,
            targets: targets(&self.registry, &config)?,
            runtimes: runtimes(&self.runtime, &self.place.root)?,
        };
        let (ops, report) = plan_install(&self.place, &wanted)?;
        if let Some(owner) = self.data_owner.filter(|_| !self.place.dry_run) {
            make_data_dir(&self.place.root, &config.data_dir, owner)?;
        }
        finish(&self.place, &ops, &report)
    }
}

impl UninstallArgs {
    /// Takes the gateway out of the runtimes' configuration.
    pub fn run(&self) -> anyhow::Result<()> {
        let (ops, report) = plan_uninstall(&self.place)?;
        finish(&self.place, &ops, &report)
    }
}

/// Makes the data directory under `root` and gives it away; what is in it is not touched. Uninstalling leaves it: it is the cache.
fn make_data_dir(root: &Path, data_dir: &Path, (user, group): (u32, u32)) -> Result<(), InstallError> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let path = Planner::new(root).under_root(data_dir)?;
    let doing = |doing| {
        let path = path.clone();
        move |source| InstallError::Io { doing, path, source }
    };
    std::fs::create_dir_all(&path).map_err(doing("make"))?;
    // The mode first: who gives a directory away cannot change it any more without being root over everything.
    let metadata = std::fs::metadata(&path).map_err(doing("read"))?;
    if (metadata.uid(), metadata.gid()) != (user, group) {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).map_err(doing("change the mode of"))?;
        std::os::unix::fs::chown(&path, Some(user), Some(group)).map_err(doing("change the owner of"))?;
    }
    Ok(())
}

fn finish(place: &Place, ops: &[Op], report: &Report) -> anyhow::Result<()> {
    if !place.dry_run {
        ops::apply(ops)?;
    }
    let mut out = Output::stdout();
    if place.json {
        out.json(report)?;
    } else {
        report.print(&mut out, place.dry_run)?;
    }
    match report.refused() {
        0 => Ok(()),
        count => anyhow::bail!("{count} of {} files left as they were, see above", report.steps.len()),
    }
}

pub(crate) fn plan_install(place: &Place, wanted: &Wanted) -> Result<(Vec<Op>, Report), InstallError> {
    let mut planner = Planner::new(&place.root);
    let mut report = Report::default();
    if wanted.runtimes.contains(&Runtime::Containerd) {
        let config = ContainerdConfig::read(&planner, Path::new(containerd_config::FILE))?;
        let certs_dir = place.certs_dir.clone().unwrap_or_else(|| config.certs_dir());
        containerd::install(&mut planner, &certs_dir, &wanted.targets, &wanted.gateway, &mut report)?;
        config.advise(&certs_dir, &mut report);
    }
    if wanted.runtimes.contains(&Runtime::Containers) {
        containers::install(&mut planner, &wanted.targets, &wanted.gateway, &mut report)?;
    }
    Ok((planner.finish(), report))
}

pub(crate) fn plan_uninstall(place: &Place) -> Result<(Vec<Op>, Report), InstallError> {
    let mut planner = Planner::new(&place.root);
    let mut report = Report::default();
    let config = ContainerdConfig::read(&planner, Path::new(containerd_config::FILE))?;
    let certs_dir = place.certs_dir.clone().unwrap_or_else(|| config.certs_dir());
    containerd::uninstall(&mut planner, &certs_dir, &mut report)?;
    containers::uninstall(&mut planner, &mut report)?;
    Ok((planner.finish(), report))
}

/// An address that a client on this machine can connect to.
fn reachable(listen: std::net::SocketAddr) -> std::net::SocketAddr {
    let mut address = listen;
    if listen.ip().is_unspecified() {
        address.set_ip(if listen.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

fn targets(named: &[String], config: &Config) -> Result<Vec<Target>, InstallError> {
    let every = Target { registry: None, server: None };
    let of = |registry: &Registry| {
        let endpoint = config.upstream.registries.get(registry).and_then(|access| access.endpoint.clone());
        Target { registry: Some(registry.clone()), server: Some(endpoint.unwrap_or_else(|| server(registry))) }
    };
    if named.is_empty() {
        let listed: Vec<_> = config.upstream.registries.keys().map(of).collect();
        return Ok(if config.upstream.any_registry || listed.is_empty() { vec![every] } else { listed });
    }
    let mut targets = Vec::new();
    for text in named {
        let target = if text == containerd::EVERY {
            every.clone()
        } else {
            let (registry, access) =
                registries::from_text(text).map_err(|reason| InstallError::Registry { text: text.clone(), reason })?;
            Target { server: access.endpoint.or_else(|| of(&registry).server), registry: Some(registry) }
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

/// Docker Hub's API lives at another host than its images' names say.
fn server(registry: &Registry) -> String {
    match registry.as_str() {
        DOCKER_HUB => "https://registry-1.docker.io".to_owned(),
        name => format!("https://{name}"),
    }
}

fn runtimes(named: &[Runtime], root: &Path) -> Result<Vec<Runtime>, InstallError> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let homes = [(Runtime::Containerd, "etc/containerd"), (Runtime::Containers, "etc/containers")];
    let found: Vec<_> = homes.iter().filter(|(_, dir)| root.join(dir).is_dir()).map(|(runtime, _)| *runtime).collect();
    if found.is_empty() { Err(InstallError::NoRuntime { root: root.to_owned() }) } else { Ok(found) }
}
