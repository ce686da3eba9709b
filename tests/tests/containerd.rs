//! containerd on nodes with Shoal: Debian's of version 1, and one of today in each of the ways in which it pulls.
//!
//! Version 2 is built by `cargo xtask deps` where there is Go; where it is missing, its tests say so and pass, unless `CI` or `SHOAL_REQUIRE_E2E` is set.

use std::{fs, time::Duration};

use anyhow::{Result, anyhow, ensure};
use shoal_tests::{
    Host, Node, RealImage, Registry, Testbed,
    containerd::{CRI_NAMESPACE, CTR_NAMESPACE, Config, Programs},
    ipfs::missing,
    shoal, tree, wait_for,
};

/// What Bottlerocket sets: parallel layer fetch is off where nothing is said.
const CHUNK: u64 = 8 << 20;
/// Slow enough that a layer is under way for seconds.
const SLOW_MBIT: u32 = 160;
/// So much of the image has come when the fault happens.
const MIDDLE: u64 = 40 << 20;
const LIMIT: Duration = Duration::from_secs(60);

/// Version 2 with its defaults.
fn of_today() -> Result<Option<Config>> {
    let Some(programs) = Programs::of_today()? else { return missing("containerd 2").map(|()| None) };
    Ok(Some(Config::of(programs)))
}

/// A registry with the real image, and two nodes that know each other.
struct Bed {
    image: RealImage,
    registry: Registry,
    a: Node,
    b: Node,
    _bed: Testbed,
}

impl Bed {
    fn new(config: &Config) -> Result<Bed> {
        let bed = Testbed::new()?;
        let image = RealImage::get()?;
        let registry = Registry::start(&bed.host("registry")?, &image)?;
        let [a, b] = [bed.host("a")?, bed.host("b")?];
        let a = Node::start(&a, config, &registry, &[&b])?;
        let b = Node::start(&b, config, &registry, &[&a.containerd.host])?;
        b.shoal.wait_for_peers(1)?;
        Ok(Bed { image, registry, a, b, _bed: bed })
    }

    /// Bytes of an image that comes once, with what is asked beside it.
    fn limit(&self) -> u64 {
        self.image.size() * 101 / 100
    }

    /// The first node pulls as kubelet does, and all of it comes from upstream once.
    fn pull_once_from_upstream(&self) -> Result<()> {
        let by_tag = self.registry.by_tag();
        self.a.containerd.cri_pull(&by_tag)?;
        self.ensure_same(&self.a, CRI_NAMESPACE, &by_tag)?;
        let (size, sent) = (self.image.size(), self.registry.bytes_sent()?);
        ensure!((size..=self.limit()).contains(&sent), "upstream sent {sent} bytes of an image of {size}");
        let bytes = self.a.shoal.bytes()?;
        ensure!((self.image.blob_bytes()..=self.limit()).contains(&bytes.upstream), "{bytes:?}");
        Ok(())
    }

    /// Upstream is gone, and the second node pulls by this name: all of it comes from the first.
    fn pull_from_the_peer(&mut self, name: &str) -> Result<()> {
        self.registry.kill()?;
        let before = self.registry.host.traffic()?;
        self.b.containerd.cri_pull(name)?;
        self.ensure_same(&self.b, CRI_NAMESPACE, name)?;
        let bytes = self.b.shoal.bytes()?;
        ensure!(bytes.upstream == 0, "{bytes:?}");
        ensure!(
            (self.image.blob_bytes()..=self.limit()).contains(&bytes.peers),
            "{bytes:?} of {}",
            self.image.blob_bytes()
        );
        ensure!(self.a.containerd.host.traffic()?.sent >= self.image.blob_bytes());
        ensure!(self.registry.host.traffic()?.sent - before.sent < 1 << 20, "upstream is gone and sent");
        Ok(())
    }

    fn ensure_same(&self, node: &Node, namespace: &str, name: &str) -> Result<()> {
        tree::ensure_equal(&self.image.files, &node.containerd.files(namespace, name)?)
    }
}

/// All that one image and two nodes can show: by CRI and `ctr`, by tag and digest, from upstream, from a peer, from the node's own disk.
fn once_from_upstream_and_then_from_a_peer(config: &Config) -> Result<()> {
    let mut bed = Bed::new(config)?;
    let (by_tag, by_digest) = (bed.registry.by_tag(), bed.registry.by_digest(&bed.image));
    bed.pull_once_from_upstream()?;

    let bytes = bed.a.shoal.bytes()?;
    bed.a.containerd.remove_all(CRI_NAMESPACE)?;
    bed.a.containerd.ctr_pull(&by_tag)?;
    bed.ensure_same(&bed.a, CTR_NAMESPACE, &by_tag)?;
    ensure!(bed.a.shoal.bytes()?.upstream == bytes.upstream, "what the node has came from upstream again");

    bed.pull_from_the_peer(&by_tag)?;
    let bytes = bed.b.shoal.bytes()?;
    bed.b.containerd.remove_all(CRI_NAMESPACE)?;
    bed.b.containerd.ctr_pull(&by_digest)?;
    bed.ensure_same(&bed.b, CTR_NAMESPACE, &by_digest)?;
    ensure!(bed.b.shoal.bytes()?.peers == bytes.peers, "what the node has came from a peer again");
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's containerd, docker-registry, skopeo, umoci"]
fn version_1_pulls_an_image_once_from_upstream_and_then_from_a_peer_while_upstream_is_gone() -> Result<()> {
    once_from_upstream_and_then_from_a_peer(&Config::of(Programs::debian()?))
}

#[test]
#[ignore = "needs root, containerd 2 and Debian's docker-registry, skopeo, umoci"]
fn version_2_pulls_an_image_once_from_upstream_and_then_from_a_peer_while_upstream_is_gone() -> Result<()> {
    let Some(config) = of_today()? else { return Ok(()) };
    once_from_upstream_and_then_from_a_peer(&config)
}

/// Layers come from a slow upstream, so that chunks are asked for that are not there yet.
fn parallel_fetch(config: &Config) -> Result<()> {
    let mut bed = Bed::new(config)?;
    bed.registry.host.limit_upload(SLOW_MBIT)?;
    bed.pull_once_from_upstream()?;
    if !config.programs.version.starts_with("2.1.") {
        // A 200 to its first request is what makes it fetch the layer by that one request, which survives every break. Up to 2.1.4 it went on in parallel.
        let log = bed.a.containerd.log()?;
        ensure!(
            log.contains("forcing parallelism to 1"),
            "it did not ask in parallel, or was not told to stop:\n{log}"
        );
    }
    bed.pull_from_the_peer(&bed.registry.by_digest(&bed.image))
}

#[test]
#[ignore = "needs root, containerd 2 and Debian's docker-registry, skopeo, umoci"]
fn parallel_layer_fetch_of_the_transfer_service_costs_upstream_one_copy() -> Result<()> {
    let Some(config) = of_today()? else { return Ok(()) };
    parallel_fetch(&Config { chunk: CHUNK, ..config })
}

#[test]
#[ignore = "needs root, containerd 2 and Debian's docker-registry, skopeo, umoci"]
fn parallel_layer_fetch_without_the_transfer_service_costs_upstream_one_copy() -> Result<()> {
    let Some(config) = of_today()? else { return Ok(()) };
    parallel_fetch(&Config { chunk: CHUNK, by_client: true, ..config })
}

fn a_newcomer_pulls_by_digest(config: &Config) -> Result<()> {
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    let mut registry = Registry::start(&bed.host("registry")?, &image)?;
    let by_digest = registry.by_digest(&image);
    let a = Node::start(&bed.host("a")?, config, &registry, &[])?;
    a.containerd.ctr_pull(&by_digest)?;
    registry.kill()?;

    let b = Node::start(&bed.host("b")?, config, &registry, &[&a.containerd.host])?;
    b.shoal.wait_for_peers(1)?;
    b.containerd.ctr_pull(&by_digest)?;
    tree::ensure_equal(&image.files, &b.containerd.files(CTR_NAMESPACE, &by_digest)?)?;
    let bytes = b.shoal.bytes()?;
    ensure!(bytes.upstream == 0, "{bytes:?}");
    ensure!(bytes.peers >= image.blob_bytes(), "{bytes:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's containerd, docker-registry, skopeo, umoci"]
fn a_newcomer_pulls_by_digest_alone_from_a_peer_while_upstream_is_gone() -> Result<()> {
    a_newcomer_pulls_by_digest(&Config::of(Programs::debian()?))
}

fn a_dead_shoal_is_passed_by(config: &Config) -> Result<()> {
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    let registry = Registry::start(&bed.host("registry")?, &image)?;
    let host = bed.host("a")?;
    let mut node = Node::start(&host, config, &registry, &[])?;
    node.shoal.kill()?;
    node.containerd.cri_pull(&registry.by_tag())?;
    tree::ensure_equal(&image.files, &node.containerd.files(CRI_NAMESPACE, &registry.by_tag())?)?;

    let certs = &node.containerd.certs;
    ensure!(fs::read_dir(certs)?.next().is_some(), "install wrote nothing");
    shoal::on_host(&host, ["uninstall", "--certs-dir", &certs.display().to_string()])?;
    ensure!(fs::read_dir(certs)?.next().is_none(), "uninstall left something in {}", certs.display());
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's containerd, docker-registry, skopeo, umoci"]
fn a_node_whose_shoal_is_dead_pulls_from_upstream_and_uninstall_leaves_nothing() -> Result<()> {
    a_dead_shoal_is_passed_by(&Config::of(Programs::debian()?))
}

#[test]
#[ignore = "needs root, containerd 2 and Debian's docker-registry, skopeo, umoci"]
fn version_2_passes_a_dead_shoal_by_with_parallel_layer_fetch_too() -> Result<()> {
    let Some(config) = of_today()? else { return Ok(()) };
    a_dead_shoal_is_passed_by(&Config { chunk: CHUNK, ..config })
}

/// The pull goes on at upstream from the byte where Shoal was killed.
fn shoal_is_killed_in_the_middle(config: &Config) -> Result<()> {
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    let registry = Registry::start(&bed.host("registry")?, &image)?;
    let host = bed.host("a")?;
    let mut node = Node::start(&host, config, &registry, &[])?;
    registry.host.limit_upload(SLOW_MBIT)?;
    let by_tag = registry.by_tag();
    let Node { shoal, containerd } = &mut node;
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| containerd.cri_pull(&by_tag));
        middle_of(&host)?;
        shoal.kill()?;
        ensure!(!pulling.is_finished(), "the image came too fast for this test");
        pulling.join().map_err(|_| anyhow!("pulling panicked"))?
    })?;
    tree::ensure_equal(&image.files, &containerd.files(CRI_NAMESPACE, &by_tag)?)
}

fn middle_of(host: &Host) -> Result<()> {
    let before = host.traffic()?.received;
    wait_for("the middle of an image", LIMIT, || Ok((host.traffic()?.received > before + MIDDLE).then_some(())))
}

#[test]
#[ignore = "needs root and Debian's containerd, docker-registry, skopeo, umoci"]
fn a_pull_survives_that_shoal_is_killed_in_its_middle() -> Result<()> {
    shoal_is_killed_in_the_middle(&Config::of(Programs::debian()?))
}

#[test]
#[ignore = "needs root, containerd 2 and Debian's docker-registry, skopeo, umoci"]
fn a_pull_in_parallel_survives_that_shoal_is_killed_in_its_middle() -> Result<()> {
    let Some(config) = of_today()? else { return Ok(()) };
    shoal_is_killed_in_the_middle(&Config { chunk: CHUNK, ..config })
}

#[test]
#[ignore = "needs root, containerd 2 and Debian's docker-registry, skopeo, umoci"]
fn what_shoal_cannot_have_comes_from_upstream() -> Result<()> {
    let Some(config) = of_today()? else { return Ok(()) };
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    let registry = Registry::start(&bed.host("registry")?, &image)?;
    // Nothing listens there.
    let endpoint = format!("http://{}:1", registry.host.address);
    let node = Node::start_with_endpoint(&bed.host("a")?, &config, &registry, &endpoint, &[])?;
    node.containerd.cri_pull(&registry.by_tag())?;
    tree::ensure_equal(&image.files, &node.containerd.files(CRI_NAMESPACE, &registry.by_tag())?)?;
    ensure!(node.shoal.bytes()?.upstream == 0, "Shoal had a way to upstream");
    Ok(())
}
