//! From the configuration to the options of each part.

use std::{ffi::CString, fs, os::unix::ffi::OsStrExt, path::Path};

use anyhow::Context;
use prometheus_client::registry::Registry as Metrics;
use shoal_swarm::{Identity, Multiaddr, Seed};

use super::keys;
use crate::config::{Admission, Config, DirectWrites, Quota, Rights, ServeMode};

/// Makes the data directory, readable by its owner only: blobs of private images lie in it.
pub(super) fn make_data_dir(dir: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| format!("cannot make the data directory {}: data_dir says where", dir.display()))
}

pub(super) fn store(config: &Config) -> anyhow::Result<shoal_store::Options> {
    let mut options = shoal_store::Options::new(&config.data_dir);
    options.quota = match config.quota {
        Quota::Bytes(bytes) => bytes,
        Quota::Share(percent) => file_system_size(&config.data_dir)? / 100 * u64::from(percent),
    };
    options.high_watermark = config.high_watermark;
    options.low_watermark = config.low_watermark;
    options.keep_free = config.keep_free;
    options.direct = match config.direct_writes {
        DirectWrites::Auto => shoal_store::Direct::Auto,
        DirectWrites::Never => shoal_store::Direct::Never,
    };
    Ok(options)
}

/// Bytes of the file system that holds `path`.
fn file_system_size(path: &Path) -> anyhow::Result<u64> {
    let name = CString::new(path.as_os_str().as_bytes()).context("data_dir has a NUL byte in it")?;
    // SAFETY: `statvfs` is plain data, for which all zeroes is a value.
    let mut stats: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the name ends with NUL and the struct is ours; both outlive the call.
    if unsafe { libc::statvfs(name.as_ptr(), &raw mut stats) } != 0 {
        let error = std::io::Error::last_os_error();
        return Err(error).with_context(|| format!("cannot ask the size of the file system of {}", path.display()));
    }
    #[allow(clippy::unnecessary_cast, reason = "the types differ between targets")]
    Ok((stats.f_blocks as u64).saturating_mul(stats.f_frsize as u64))
}

pub(super) fn swarm(config: &Config, metrics: &mut Metrics) -> anyhow::Result<shoal_swarm::Config> {
    let wanted = &config.swarm;
    let key = keys::swarm_key(wanted.key_file.as_deref(), &config.data_dir)?;
    let identity = Identity::load(&config.data_dir)?;
    let admission = match wanted.admission {
        Admission::Noise => shoal_swarm::Admission::Noise(key),
        Admission::Pnet => shoal_swarm::Admission::Pnet(key),
    };
    let mut swarm = shoal_swarm::Config::new(identity, admission);
    swarm.listen = multiaddrs("swarm.listen", &wanted.listen)?;
    swarm.advertise = multiaddrs("swarm.advertise", &wanted.advertise)?;
    swarm.seeds = wanted
        .peers
        .iter()
        .map(|peer| peer.to_string().parse::<Seed>().with_context(|| format!("swarm.peers: {peer}")))
        .collect::<anyhow::Result<_>>()?;
    swarm.mdns = wanted.mdns;
    swarm.provider_ttl = wanted.provider_ttl;
    swarm.metrics = Some(shoal_swarm::Metrics::register(metrics));
    Ok(swarm)
}

fn multiaddrs(key: &str, texts: &[String]) -> anyhow::Result<Vec<Multiaddr>> {
    let parse = |text: &String| text.parse().with_context(|| format!("{key}: {text:?} is not a multiaddress"));
    texts.iter().map(parse).collect()
}

pub(super) fn upstream(config: &Config) -> anyhow::Result<shoal_upstream::Config> {
    let wanted = &config.upstream;
    let mut upstream = shoal_upstream::Config { allow_any: wanted.any_registry, ..shoal_upstream::Config::default() };
    upstream.docker_config.clone_from(&wanted.docker_config);
    for (name, access) in &wanted.registries {
        let endpoint = access.endpoint.as_ref().map(|url| url.parse().with_context(|| format!("registries: {url:?}")));
        let registry = shoal_upstream::RegistryConfig {
            endpoint: endpoint.transpose()?,
            ca: access.ca.clone(),
            insecure_skip_verify: access.insecure_skip_verify,
            allow_private: access.allow_private,
            allow_downgrade: access.allow_downgrade,
            token_hosts: access.token_hosts.clone(),
        };
        upstream.registries.insert(name.clone(), registry);
    }
    Ok(upstream)
}

pub(super) fn fetch(config: &Config) -> shoal_fetch::Config {
    let mut fetch = shoal_fetch::Config::default();
    fetch.serve = match config.fetch.serve {
        ServeMode::Stream => shoal_fetch::Serve::Stream,
        ServeMode::Verified => shoal_fetch::Serve::Verified,
    };
    fetch.rights = match config.gateway.rights {
        Rights::Caller => shoal_fetch::Rights::Caller,
        Rights::Strict => shoal_fetch::Rights::Strict,
        Rights::Node => shoal_fetch::Rights::Node,
    };
    fetch.limits.budget = config.fetch.swarm_budget;
    fetch.limits.stall = config.fetch.stall;
    fetch.tag_ttl = config.fetch.tag_ttl;
    fetch
}

pub(super) fn gateway(config: &Config) -> shoal_gateway::Config {
    shoal_gateway::Config {
        default_registry: config.gateway.default_registry.clone(),
        drain: config.stop_grace,
        ..shoal_gateway::Config::default()
    }
}
