//! The bed itself, before anything of Shoal's is in it.

use anyhow::Result;
use shoal_tests::{
    Containerd, RealImage, Registry, Testbed,
    containerd::{CRI_NAMESPACE, CTR_NAMESPACE},
    tree,
};

#[test]
#[ignore = "needs root and Debian's containerd, docker-registry, skopeo, umoci"]
fn two_containerds_pull_from_the_registry_alone_and_what_they_unpack_is_what_umoci_does() -> Result<()> {
    let bed = Testbed::new()?;
    let image = RealImage::get()?;
    assert!(
        image.size() >= 200 << 20 && image.layers.len() >= 4,
        "{} bytes in {} layers",
        image.size(),
        image.layers.len()
    );
    let mut registry = Registry::start(&bed.host("registry")?, &image)?;
    let [a, b] = [Containerd::start(&bed.host("a")?)?, Containerd::start(&bed.host("b")?)?];
    for containerd in [&a, &b] {
        containerd.pull_directly(&registry.name())?;
    }

    a.cri_pull(&registry.by_tag())?;
    tree::ensure_equal(&image.files, &a.files(CRI_NAMESPACE, &registry.by_tag())?)?;
    let once = registry.bytes_sent()?;
    assert!(once >= image.size() && once <= image.size() * 101 / 100, "{once} bytes for an image of {}", image.size());

    b.ctr_pull(&registry.by_digest(&image))?;
    tree::ensure_equal(&image.files, &b.files(CTR_NAMESPACE, &registry.by_digest(&image))?)?;
    assert!(b.host.traffic()?.received >= image.size());

    registry.kill()?;
    b.remove_all(CTR_NAMESPACE)?;
    assert!(b.ctr_pull(&registry.by_digest(&image)).is_err(), "a registry that was killed still answers");
    Ok(())
}
