//! The hosts of the bench, and what runs on them: made anew for each run, so that none finds anything of the one before.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, anyhow};

use super::{
    admin, link,
    options::Options,
    payload::Payload,
    pull,
    quirky::Quirk,
    scenario::{Plan, System},
    stop,
    upstream::Upstream,
};
use crate::{
    Containerd, Daemon, Host, Setup, Shoal, Testbed,
    containerd::Config,
    process::run,
    shoal::{GATEWAY_PORT, swarm_address},
    wait_for,
};

/// As for upstream.
const CACHE_PORT: u16 = 5000;
const READY: Duration = Duration::from_secs(20);
/// For a swarm to be whole, and for a holder to be found in it.
const SWARM: Duration = Duration::from_secs(60);
/// For a pull at the speed of this machine.
const UNSHAPED: Duration = Duration::from_secs(120);

/// The hosts, which stay, and upstream.
pub(crate) struct Bed {
    /// Upstream's host.
    pub(crate) upstream: Host,
    /// The host of a cache for all.
    pub(crate) cache: Host,
    /// The nodes' hosts: as many as any scenario needs.
    pub(crate) nodes: Vec<Host>,
    registry: Option<Upstream>,
    quirk: Quirk,
    containerd: Config,
    /// Bytes a second of upstream's link.
    rate: f64,
    // Dropped last: it removes what the others stand on.
    _testbed: Testbed,
}

/// What runs for one run.
pub(crate) struct Fleet {
    /// One for each node of the plan.
    pub(crate) containerds: Vec<Containerd>,
    /// The same, where the system is Shoal.
    pub(crate) shoals: Vec<Shoal>,
    /// Where the system is distribution's cache.
    pub(crate) cache: Option<Daemon>,
}

impl Bed {
    /// Hosts for all scenarios of the command line.
    pub(crate) fn new(options: &Options, containerd: &Config) -> Result<Bed> {
        let testbed = Testbed::new()?;
        let upstream = testbed.host("upstream")?;
        let cache = testbed.host("cache")?;
        let most = options.scenarios.iter().map(|scenario| scenario.plan(options).nodes.len()).max();
        let mut nodes = Vec::new();
        for number in 0..most.unwrap_or(0) {
            nodes.push(testbed.host(&format!("node{number}"))?);
        }
        let in_memory = options.scenarios.iter().all(|scenario| scenario.fits_memory());
        for host in nodes.iter().chain([&cache]).filter(|_| in_memory) {
            // The disk of one machine is not what many nodes have.
            run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=16g", "shoal-bench"]).arg(&host.folder))?;
        }
        if let Some(name) = &options.tcp {
            for host in nodes.iter().chain([&cache, &upstream]) {
                link::set_congestion_control(host, name)?;
            }
        }
        Ok(Bed {
            upstream,
            cache,
            nodes,
            registry: None,
            quirk: options.quirk,
            containerd: containerd.clone(),
            rate: options.upstream * options.scale * 1e6 / 8.0,
            _testbed: testbed,
        })
    }

    /// Upstream with this image, started where it does not run.
    pub(crate) fn registry(&mut self, payload: Payload) -> Result<&mut Upstream> {
        if self.registry.as_ref().is_none_or(|upstream| upstream.payload != payload) {
            // The one before is gone before the next one takes its port.
            self.registry = None;
            self.registry = Some(Upstream::start(&self.upstream, payload, self.quirk, self.rate)?);
        }
        self.registry.as_mut().context("it was started above")
    }

    /// Upstream is started anew for the next run.
    pub(crate) fn drop_registry(&mut self) {
        self.registry = None;
    }

    /// Hosts of a plan's nodes.
    pub(crate) fn hosts(&self, plan: &Plan) -> &[Host] {
        &self.nodes[..plan.nodes.len()]
    }

    /// Starts what a run needs, unshaped, and lets the warm nodes pull.
    pub(crate) fn start(&mut self, options: &Options, plan: &Plan, system: System) -> Result<Fleet> {
        for host in self.nodes.iter().chain([&self.cache, &self.upstream]) {
            link::unshape(host);
        }
        let registry = self.registry(plan.payload)?;
        let (name, url) = (registry.name(), registry.url());
        let images: Vec<String> = (0..plan.warm).map(|node| registry.by_tag(node)).collect();
        let largest = registry.image.largest_layer().digest.clone();
        let hosts = self.hosts(plan);
        for host in hosts.iter().chain([&self.cache]) {
            empty(&host.folder)?;
            host.plug_in()?;
        }
        let containerds = together(hosts, |host| Containerd::start_as(host, &self.containerd))?;
        let mut fleet = Fleet { containerds, shoals: Vec::new(), cache: None };
        let mirror = match system {
            System::Direct => None,
            System::Distribution => {
                fleet.cache = Some(start_cache(&self.cache, &url)?);
                Some(format!("http://{}:{CACHE_PORT}", self.cache.address))
            }
            System::Shoal => {
                fleet.shoals = start_shoals(hosts, &name, &url, &options.config)?;
                Some(format!("http://127.0.0.1:{GATEWAY_PORT}"))
            }
        };
        for containerd in &fleet.containerds {
            write_hosts(containerd, &name, &url, mirror.as_deref())?;
        }
        for (node, image) in images.iter().enumerate() {
            pull::pull_now(&fleet.containerds[node], image, UNSHAPED)?;
        }
        if plan.warm > 0 && system == System::Shoal {
            wait_for_holder(&hosts[plan.warm..], &largest)?;
        }
        Ok(fleet)
    }

    /// Shapes all links as planned, and unplugs who shall be.
    pub(crate) fn shape(&self, plan: &Plan) -> Result<()> {
        link::shape(&self.upstream, plan.upstream)?;
        let best = plan.nodes.iter().copied().fold(0.0, f64::max);
        link::shape(&self.cache, best)?;
        for (host, megabits) in self.hosts(plan).iter().zip(&plan.nodes) {
            link::shape(host, *megabits)?;
        }
        if plan.unplugged {
            for host in &self.hosts(plan)[plan.cold().end..] {
                host.unplug()?;
            }
        }
        Ok(())
    }
}

/// Whatever the folder has in it, and what is mounted there, goes.
fn empty(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Starts one thing on each host, side by side.
fn together<T: Send>(hosts: &[Host], start: impl Fn(&Host) -> Result<T> + Sync) -> Result<Vec<T>> {
    stop::check()?;
    std::thread::scope(|scope| {
        let starting: Vec<_> = hosts.iter().map(|host| scope.spawn(|| start(host))).collect();
        // All are waited for before the first error is told, so that nothing is left running unseen.
        let started: Vec<Result<T>> =
            starting.into_iter().map(|one| one.join().map_err(|_| anyhow!("starting panicked"))?).collect();
        started.into_iter().collect()
    })
}

fn start_shoals(hosts: &[Host], registry: &str, url: &str, config: &str) -> Result<Vec<Shoal>> {
    let shoals = together(hosts, |host| {
        let others = hosts.iter().filter(|other| other.address != host.address);
        let setup = Setup {
            registries: vec![(registry.to_owned(), url.to_owned())],
            peers: others.map(swarm_address).collect(),
            more: config.to_owned(),
            ..Setup::default()
        };
        Shoal::start(host, &setup)
    })?;
    let others = hosts.len() as u64 - 1;
    for host in hosts {
        let socket = admin::socket(host);
        wait_for(&format!("{others} peers of {}", host.name), SWARM, || {
            stop::check()?;
            // A busy node may answer late: that is no reason to end.
            Ok(admin::peers(&socket).is_ok_and(|peers| peers >= others).then_some(()))
        })?;
    }
    Ok(shoals)
}

fn wait_for_holder(hosts: &[Host], digest: &str) -> Result<()> {
    for host in hosts {
        let socket = admin::socket(host);
        wait_for(&format!("{} finds a holder", host.name), SWARM, || {
            stop::check()?;
            Ok(admin::finds_holder(&socket, digest).is_ok_and(|found| found).then_some(()))
        })?;
    }
    Ok(())
}

/// distribution as a pull-through cache, as its own documentation sets it up.
fn start_cache(host: &Host, upstream: &str) -> Result<Daemon> {
    let config = host.folder.join("cache.yml");
    fs::write(
        &config,
        format!(
            "version: 0.1\n\
             log:\n  accesslog:\n    disabled: true\n  level: warn\n\
             storage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 0.0.0.0:{CACHE_PORT}\n\
             proxy:\n  remoteurl: {upstream}\n",
            host.folder.join("cache").display()
        ),
    )?;
    let mut command = host.command("docker-registry");
    command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
    let mut daemon = Daemon::start("cache", &mut command, &host.folder.join("cache.log"))?;
    let address = (host.address, CACHE_PORT).into();
    daemon.wait_until("listening", READY, || Ok(host.connect(address).ok().map(drop)))?;
    Ok(daemon)
}

/// Tells containerd of the mirror, and of upstream for when the mirror fails.
fn write_hosts(containerd: &Containerd, registry: &str, url: &str, mirror: Option<&str>) -> Result<()> {
    let folder = containerd.certs.join(registry);
    fs::create_dir_all(&folder)?;
    let first = mirror.unwrap_or(url);
    fs::write(
        folder.join("hosts.toml"),
        format!("server = \"{url}\"\n[host.\"{first}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"),
    )?;
    Ok(())
}
