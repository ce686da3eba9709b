//! Runtimes of containers/image, on nodes with Shoal.

use std::{fs, time::Duration};

use anyhow::Result;
use shoal_tests::{
    Host, RealImage, Registry, Setup, Shoal, Testbed,
    process::run,
    shoal,
    tree::{self, Tree},
};

const PULL: Duration = Duration::from_secs(180);

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
