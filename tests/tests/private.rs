//! An image that not everybody may read, pulled by real containerds for pods with a secret, with a wrong one, and with none.

use std::time::Duration;

use anyhow::Result;
use shoal_tests::{
    Node, RealImage, Registry, Testbed,
    containerd::{CRI_NAMESPACE, Config, Programs},
    ipfs::missing,
    registry::POD,
    tree, wait_for,
};

#[test]
#[ignore = "needs root and Debian's containerd, docker-registry, skopeo, umoci"]
fn debians_containerd_gets_a_private_image_for_pods_that_may_have_it() -> Result<()> {
    a_private_image_is_for_pods_that_may_have_it(&Config::of(Programs::debian()?))
}

#[test]
#[ignore = "needs root, Go, and Debian's docker-registry, skopeo, umoci"]
fn a_containerd_of_today_gets_a_private_image_for_pods_that_may_have_it() -> Result<()> {
    match Programs::of_today()? {
        Some(programs) => a_private_image_is_for_pods_that_may_have_it(&Config::of(programs)),
        None => missing("containerd 2").map(drop),
    }
}

fn a_private_image_is_for_pods_that_may_have_it(config: &Config) -> Result<()> {
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    let mut registry = Registry::start_private(&bed.host("registry")?, &image)?;
    let [a, b] = [bed.host("a")?, bed.host("b")?];
    // No node has credentials of its own.
    let a = Node::start(&a, config, &registry, &[&b])?;
    let b = Node::start(&b, config, &registry, &[&a.containerd.host])?;
    b.shoal.wait_for_peers(1)?;
    let by_tag = registry.by_tag();

    assert!(a.containerd.cri_pull(&by_tag).is_err(), "a pod without a secret got it");
    assert!(a.containerd.cri_pull_with(&by_tag, (POD.0, "wrong")).is_err(), "a pod with a wrong secret got it");
    assert_eq!(a.shoal.bytes()?.upstream, 0);

    a.containerd.cri_pull_with(&by_tag, POD)?;
    tree::ensure_equal(&image.files, &a.containerd.files(CRI_NAMESPACE, &by_tag)?)?;
    let upstream = a.shoal.bytes()?.upstream;
    assert!((image.blob_bytes()..=image.size() * 101 / 100).contains(&upstream), "{upstream} bytes from upstream");

    b.containerd.cri_pull_with(&by_tag, POD)?;
    tree::ensure_equal(&image.files, &b.containerd.files(CRI_NAMESPACE, &by_tag)?)?;
    // Both have all of it now, and still nobody else may.
    for node in [&a, &b] {
        node.containerd.remove_all(CRI_NAMESPACE)?;
        assert!(node.containerd.cri_pull(&by_tag).is_err(), "a pod without a secret got what the node holds");
    }
    // What upstream granted a moment ago holds when it is gone, and what it refused stays refused.
    registry.kill()?;
    wait_for("the registry is gone", Duration::from_secs(5), || {
        Ok(b.containerd.host.connect(registry.address()).is_err().then_some(()))
    })?;
    b.containerd.cri_pull_with(&by_tag, POD)?;
    b.containerd.remove_all(CRI_NAMESPACE)?;
    assert!(b.containerd.cri_pull(&by_tag).is_err(), "a pod without a secret got it while upstream was gone");
    for node in [&a, &b] {
        assert!(!node.shoal.log()?.contains(POD.1), "the password is in the log");
    }
    Ok(())
}
