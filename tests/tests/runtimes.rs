//! Real runtimes, on nodes with Shoal.

use std::{fs, time::Duration};

use anyhow::Result;
use shoal_tests::{
    Containerd, Host, RealImage, Registry, Setup, Shoal, Testbed,
    containerd::{CRI_NAMESPACE, CTR_NAMESPACE},
    process::run,
    shoal,
    tree::{self, Tree},
};

const PULL: Duration = Duration::from_secs(180);

/// A node: Shoal and containerd, the one installed in front of the other.
struct Node {
    shoal: Shoal,
    containerd: Containerd,
}

impl Node {
    fn start(host: &Host, registry: &Registry, peers: &[&Host]) -> Result<Node> {
        let setup = Setup {
            registries: vec![(registry.name(), registry.url())],
            peers: peers.iter().map(|peer| shoal::swarm_address(peer)).collect(),
            ..Setup::default()
        };
        let shoal = Shoal::start(host, &setup)?;
        let containerd = Containerd::start(host)?;
        let certs = containerd.certs.display().to_string();
        let mirrored = format!("{}={}", registry.name(), registry.url());
        shoal.command(&["install", "--runtime", "containerd", "--certs-dir", &certs, "--registry", &mirrored])?;
        Ok(Node { shoal, containerd })
    }
}

#[test]
#[ignore = "needs root and Debian's containerd, docker-registry, skopeo, umoci"]
fn containerd_pulls_an_image_once_from_upstream_and_then_from_a_peer_while_upstream_is_gone() -> Result<()> {
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    let mut registry = Registry::start(&bed.host("registry")?, &image)?;
    let [a, b] = [bed.host("a")?, bed.host("b")?];
    let a = Node::start(&a, &registry, &[&b])?;
    let b = Node::start(&b, &registry, &[&a.containerd.host])?;
    b.shoal.wait_for_peers(1)?;
    let (by_tag, by_digest) = (registry.by_tag(), registry.by_digest(&image));

    a.containerd.cri_pull(&by_tag)?;
    tree::ensure_equal(&image.files, &a.containerd.files(CRI_NAMESPACE, &by_tag)?)?;
    let limit = image.size() * 101 / 100;
    let sent = registry.bytes_sent()?;
    assert!((image.size()..=limit).contains(&sent), "upstream sent {sent} bytes of an image of {}", image.size());
    let bytes = a.shoal.bytes()?;
    assert!((image.blob_bytes()..=limit).contains(&bytes.upstream), "{bytes:?}");

    a.containerd.remove_all(CRI_NAMESPACE)?;
    a.containerd.ctr_pull(&by_tag)?;
    tree::ensure_equal(&image.files, &a.containerd.files(CTR_NAMESPACE, &by_tag)?)?;
    assert_eq!(a.shoal.bytes()?.upstream, bytes.upstream, "what the node has came from upstream again");

    registry.kill()?;
    let before = registry.host.traffic()?;
    b.containerd.cri_pull(&by_tag)?;
    tree::ensure_equal(&image.files, &b.containerd.files(CRI_NAMESPACE, &by_tag)?)?;
    let bytes = b.shoal.bytes()?;
    assert_eq!(bytes.upstream, 0, "{bytes:?}");
    assert!((image.blob_bytes()..=limit).contains(&bytes.peers), "{bytes:?} of {}", image.blob_bytes());
    assert!(a.containerd.host.traffic()?.sent >= image.blob_bytes());
    assert!(registry.host.traffic()?.sent - before.sent < 1 << 20, "upstream is gone and sent");

    b.containerd.remove_all(CRI_NAMESPACE)?;
    b.containerd.ctr_pull(&by_digest)?;
    tree::ensure_equal(&image.files, &b.containerd.files(CTR_NAMESPACE, &by_digest)?)?;
    assert_eq!(b.shoal.bytes()?.peers, bytes.peers, "what the node has came from a peer again");
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's containerd, docker-registry, skopeo, umoci"]
fn a_newcomer_pulls_by_digest_alone_from_a_peer_while_upstream_is_gone() -> Result<()> {
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    let mut registry = Registry::start(&bed.host("registry")?, &image)?;
    let by_digest = registry.by_digest(&image);
    let a = Node::start(&bed.host("a")?, &registry, &[])?;
    a.containerd.ctr_pull(&by_digest)?;
    registry.kill()?;

    let b = Node::start(&bed.host("b")?, &registry, &[&a.containerd.host])?;
    b.shoal.wait_for_peers(1)?;
    b.containerd.ctr_pull(&by_digest)?;
    tree::ensure_equal(&image.files, &b.containerd.files(CTR_NAMESPACE, &by_digest)?)?;
    let bytes = b.shoal.bytes()?;
    assert_eq!(bytes.upstream, 0, "{bytes:?}");
    assert!(bytes.peers >= image.blob_bytes(), "{bytes:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's containerd, docker-registry, skopeo, umoci"]
fn a_node_whose_shoal_is_dead_pulls_from_upstream_and_uninstall_leaves_nothing() -> Result<()> {
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    let registry = Registry::start(&bed.host("registry")?, &image)?;
    let host = bed.host("a")?;
    let mut node = Node::start(&host, &registry, &[])?;
    node.shoal.kill()?;
    node.containerd.cri_pull(&registry.by_tag())?;
    tree::ensure_equal(&image.files, &node.containerd.files(CRI_NAMESPACE, &registry.by_tag())?)?;

    let certs = &node.containerd.certs;
    assert!(fs::read_dir(certs)?.next().is_some(), "install wrote nothing");
    shoal::on_host(&host, ["uninstall", "--certs-dir", &certs.display().to_string()])?;
    assert!(fs::read_dir(certs)?.next().is_none(), "uninstall left something in {}", certs.display());
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's docker-registry, skopeo, umoci"]
fn skopeo_copies_with_the_registry_in_the_path_from_a_peer_while_upstream_is_gone() -> Result<()> {
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    let mut registry = Registry::start_without_port(&bed.host("registry")?, &image)?;
    let [a, b] = [bed.host("a")?, bed.host("b")?];
    let registries = vec![(registry.name(), registry.url())];
    let first = Shoal::start(&a, &Setup { registries: registries.clone(), ..Setup::default() })?;
    let second = Shoal::start(&b, &Setup { registries, peers: vec![shoal::swarm_address(&a)], ..Setup::default() })?;
    second.wait_for_peers(1)?;
    let by_tag = registry.by_tag();
    let copy = |host: &Host| -> Result<()> {
        let layout = host.folder.join("copied");
        let source = format!("docker://127.0.0.1:{}/{by_tag}", shoal::GATEWAY_PORT);
        let mut skopeo = host.command_within(PULL, "skopeo");
        run(skopeo
            .args(["copy", "--quiet", "--src-tls-verify=false", &source])
            .arg(format!("oci:{}:app", layout.display())))?;
        for part in image.layers.iter().chain([&image.config, &image.manifest]) {
            let copied = fs::read(layout.join("blobs/sha256").join(part.digest.trim_start_matches("sha256:")))?;
            assert!(copied == image.read(&part.digest)?, "{} differs", part.digest);
        }
        Ok(())
    };

    copy(&a)?;
    assert!(first.bytes()?.upstream <= image.size() * 101 / 100);
    registry.kill()?;
    copy(&b)?;
    let bytes = second.bytes()?;
    assert!(bytes.upstream == 0 && bytes.peers >= image.blob_bytes(), "{bytes:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's docker-registry, podman, skopeo, umoci"]
fn podman_pulls_through_the_drop_in_that_install_writes() -> Result<()> {
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    let registry = Registry::start_without_port(&bed.host("registry")?, &image)?;
    let host = bed.host("a")?;
    let node = Shoal::start(&host, &Setup { registries: vec![(registry.name(), registry.url())], ..Setup::default() })?;
    let root = host.folder.join("root");
    fs::create_dir_all(root.join("etc/containers/registries.conf.d"))?;
    // A policy is what podman does not start without; everything else is its default.
    fs::write(root.join("etc/containers/policy.json"), r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)?;
    let shown = root.display().to_string();
    let mirrored = format!("{}={}", registry.name(), registry.url());
    node.command(&["install", "--runtime", "containers", "--root", &shown, "--registry", &mirrored])?;

    // The host has its own mounts, so what is mounted here is so for nobody else, and only as long as this runs.
    // podman takes no path of more than 50 characters for its state.
    let storage = host.folder.join("podman").display().to_string();
    fs::create_dir_all(&storage)?;
    let script = format!(
        "set -e; mount --bind {shown}/etc/containers /etc/containers; mount --bind {storage} /mnt
         podman() {{ command podman --root /mnt/root --runroot /mnt/run --storage-driver overlay \"$@\"; }}
         podman pull --quiet {image} >&2
         cd $(podman image mount {image})
         find . -type f -print0 | xargs -0 sha256sum",
        image = registry.by_tag()
    );
    let printed = run(host.command_within(PULL, "sh").args(["-c", &script]))?;
    let found: Tree = printed
        .lines()
        .filter_map(|line| line.split_once("  ./"))
        .map(|(hash, path)| (path.into(), hash.into()))
        .collect();
    let is_file = |what: &str| !what.starts_with("->");
    let hash = |what: &str| what.rsplit(' ').next().unwrap_or_default().to_owned();
    let expected: Tree =
        image.files.iter().filter(|(_, what)| is_file(what)).map(|(path, what)| (path.clone(), hash(what))).collect();
    tree::ensure_equal(&expected, &found)?;
    let bytes = node.bytes()?;
    assert!((image.blob_bytes()..=image.size() * 101 / 100).contains(&bytes.upstream), "{bytes:?}");
    Ok(())
}
