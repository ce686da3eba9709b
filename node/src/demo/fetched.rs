//! An image of a registry, brought into an OCI layout for the demonstration.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use serde_json::json;
use shoal_content::{Digest, Hasher, Image as Name, Origin, Reference};
use shoal_fetch::Parsed;
use shoal_upstream::{Config, RegistryConfig, Upstream};
use tokio::io::AsyncWriteExt as _;

use super::image::Image;

/// Fetches an image, of an index the one for this machine. A registry on this machine itself is spoken to in plain HTTP.
pub(super) async fn image(name: &str, layout: &Path) -> Result<Image> {
    let name: Name = name.parse().with_context(|| format!("--image {name}"))?;
    let upstream = Upstream::new(&config(&name.origin)?)?;
    tokio::fs::create_dir_all(layout.join("blobs/sha256")).await?;

    let reference = match &name.reference {
        Reference::Tag(tag) => upstream.resolve(&name.origin, tag).await?.digest,
        Reference::Digest(digest) => *digest,
    };
    let mut manifest = upstream.manifest(&name.origin, &Reference::Digest(reference)).await?;
    let mut parsed = Parsed::from_json(&manifest.bytes).with_context(|| format!("{name}: not a manifest"))?;
    if !parsed.manifests.is_empty() {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let fits = |descriptor: &&shoal_fetch::Descriptor| {
            descriptor.platform.as_ref().is_some_and(|at| at.os == "linux" && at.architecture == architecture)
        };
        let Some(image) = parsed.manifests.iter().find(fits) else {
            bail!("{name} has no image for linux/{architecture}")
        };
        manifest = upstream.manifest(&name.origin, &Reference::Digest(image.digest)).await?;
        parsed = Parsed::from_json(&manifest.bytes).with_context(|| format!("{name}: not a manifest"))?;
    }
    for blob in parsed.blobs() {
        fetch(&upstream, &name.origin, &blob.digest, layout).await?;
    }
    tokio::fs::write(Image::path(layout, &manifest.digest), &manifest.bytes).await?;
    let descriptor = json!({
        "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.bytes.len(),
    });
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
    tokio::fs::write(layout.join("index.json"), serde_json::to_vec(&index)?).await?;
    Image::open(layout)
}

fn config(origin: &Origin) -> Result<Config> {
    let mut config = Config { allow_any: true, ..Config::default() };
    let registry = &origin.registry;
    let is_here =
        registry.host() == "localhost" || registry.host().parse::<std::net::IpAddr>().is_ok_and(|at| at.is_loopback());
    if is_here {
        let endpoint = Some(format!("http://{registry}").parse().context("the registry's address")?);
        config
            .registries
            .insert(registry.clone(), RegistryConfig { endpoint, allow_private: true, ..RegistryConfig::default() });
    }
    Ok(config)
}

async fn fetch(upstream: &Upstream, origin: &Origin, digest: &Digest, layout: &Path) -> Result<()> {
    let mut blob = upstream.blob(origin, digest, 0).await?;
    let path = Image::path(layout, digest);
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let mut file = tokio::fs::File::create(&path).await.with_context(|| format!("writing {}", path.display()))?;
    let mut hasher = Hasher::new(digest.algorithm());
    while let Some(chunk) = blob.next().await {
        let chunk = chunk?;
        hasher.update(&chunk);
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    ensure!(hasher.finish() == *digest, "blob {digest} of {origin} came with other bytes");
    Ok(())
}
