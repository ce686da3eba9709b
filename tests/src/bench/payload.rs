//! Images of noise, written into a registry's storage as distribution lays it out: no client has to push them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    blobs::noise,
    image::{Part, RealImage},
    registry::{REPOSITORY, TAG},
    testbed::work_folder,
    tree::Tree,
};

/// Shares of the layers of an image as programs have them: a large base, and less above it.
const SHARES: [f64; 4] = [0.52, 0.28, 0.14, 0.06];
/// Sizes of real layers are no multiples of a leaf.
const ODD: usize = 12_345;
const TINY_LAYERS: usize = 20;
const TINY_LAYER: usize = 100_000;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Four layers of together so many MiB.
    Uneven {
        /// Bytes >> 20.
        mib: u32,
    },
    /// Twenty layers of 100 kB.
    Tiny,
}

impl Payload {
    fn layers(self) -> Vec<usize> {
        match self {
            Payload::Uneven { mib } => {
                let all = (mib as usize) << 20;
                let mut layers: Vec<usize> =
                    SHARES[1..].iter().map(|share| (all as f64 * share) as usize / 2 * 2 + ODD).collect();
                let first = all.saturating_sub(layers.iter().sum());
                layers.insert(0, first.max(ODD));
                layers
            }
            Payload::Tiny => vec![TINY_LAYER; TINY_LAYERS],
        }
    }

    /// The image, in the storage that [`crate::Registry::start`] serves it from. Its layers are noise: what unpacks them
    /// would fail, what fetches them does not look into them.
    pub(crate) fn stored(self) -> Result<RealImage> {
        let layers: Vec<Vec<u8>> =
            self.layers().into_iter().enumerate().map(|(index, size)| noise(1 + index as u64, size)).collect();
        let digests: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": digests},
        })
        .to_string();
        let descriptors = digests.iter().zip(&layers);
        let descriptors: Vec<_> = descriptors
            .map(|(digest, layer)| json!({"mediaType": LAYER, "digest": digest, "size": layer.len()}))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": digest(config.as_bytes()), "size": config.len()},
            "layers": descriptors,
        })
        .to_string();
        let part = |content: &[u8]| Part { digest: digest(content), size: content.len() as u64 };
        let image = RealImage {
            layout: PathBuf::new(),
            manifest: part(manifest.as_bytes()),
            config: part(config.as_bytes()),
            layers: layers.iter().map(|layer| part(layer)).collect(),
            files: Tree::new(),
        };

        let storage = storage(&image)?;
        let complete = storage.join("complete");
        if !complete.exists() {
            if storage.exists() {
                fs::remove_dir_all(&storage)?;
            }
            for (digest, layer) in digests.iter().zip(&layers) {
                store(&storage, digest, layer, "_layers")?;
            }
            store(&storage, &image.config.digest, config.as_bytes(), "_layers")?;
            store(&storage, &image.manifest.digest, manifest.as_bytes(), "_manifests/revisions")?;
            let tag = format!("_manifests/tags/{TAG}");
            link(&storage, &format!("{tag}/current"), &image.manifest.digest)?;
            let index = format!("{tag}/index/sha256/{}", hex_of(&image.manifest.digest));
            link(&storage, &index, &image.manifest.digest)?;
            fs::write(complete, "")?;
        }
        Ok(image)
    }
}

/// Where [`crate::Registry`] looks for an image.
pub(crate) fn storage(image: &RealImage) -> Result<PathBuf> {
    Ok(work_folder()?.join(format!("registry-{}", hex_of(&image.manifest.digest))))
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

fn hex_of(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

fn store(storage: &Path, digest: &str, content: &[u8], kind: &str) -> Result<()> {
    let hex = hex_of(digest);
    let folder = storage.join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("data"), content).with_context(|| folder.display().to_string())?;
    link(storage, &format!("{kind}/sha256/{hex}"), digest)
}

fn link(storage: &Path, name: &str, digest: &str) -> Result<()> {
    let folder = storage.join("docker/registry/v2/repositories").join(REPOSITORY).join(name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("link"), digest).with_context(|| folder.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::Payload;

    #[test]
    fn four_uneven_layers_have_together_the_size_that_was_asked_for() {
        let layers = Payload::Uneven { mib: 100 }.layers();
        assert_eq!(layers.iter().sum::<usize>(), 100 << 20);
        assert!(layers.is_sorted_by(|a, b| a > b) && layers.len() == 4, "{layers:?}");
        assert_eq!(Payload::Tiny.layers().iter().sum::<usize>(), 2_000_000);
    }
}
