//! A node as a cluster has it: a containerd, and Shoal installed in front of its registries.

use anyhow::Result;

use crate::{Containerd, Host, Registry, Setup, Shoal, containerd::Config, shoal};

/// Both on one host.
#[derive(Debug)]
pub struct Node {
    /// The program under test.
    pub shoal: Shoal,
    /// The runtime that pulls through it.
    pub containerd: Containerd,
}

impl Node {
    /// Starts them; the node serves `registry` and dials `peers`.
    pub fn start(host: &Host, config: &Config, registry: &Registry, peers: &[&Host]) -> Result<Node> {
        Node::start_with_endpoint(host, config, registry, &registry.url(), peers)
    }

    /// The same with another endpoint for Shoal than containerd's own.
    pub fn start_with_endpoint(
        host: &Host,
        config: &Config,
        registry: &Registry,
        endpoint: &str,
        peers: &[&Host],
    ) -> Result<Node> {
        let setup = Setup {
            registries: vec![(registry.name(), endpoint.to_owned())],
            peers: peers.iter().map(|peer| shoal::swarm_address(peer)).collect(),
            ..Setup::default()
        };
        let shoal = Shoal::start(host, &setup)?;
        let containerd = Containerd::start_as(host, config)?;
        let certs = containerd.certs.display().to_string();
        let mirrored = format!("{}={}", registry.name(), registry.url());
        shoal.command(&["install", "--runtime", "containerd", "--certs-dir", &certs, "--registry", &mirrored])?;
        Ok(Node { shoal, containerd })
    }
}
