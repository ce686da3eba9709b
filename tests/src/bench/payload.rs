//! Images of noise, written into a registry's storage as distribution lays it out: no client has to push them.

use std::{
    collections::BTreeMap,
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
const OTHER_TAG: &str = "other";
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
    /// Two images, as `Uneven` each, whose largest layer is the same.
    Two {
        /// Bytes >> 20 of each.
        mib: u32,
    },
    /// One layer.
    One {
        /// Bytes >> 20.
        mib: u32,
    },
}

/// A layer: what its noise begins with, and its size in bytes.
type Layer = (u64, usize);

impl Payload {
    /// The layers of each image.
    fn images(self) -> Vec<Vec<Layer>> {
        let numbered = |sizes: Vec<usize>| -> Vec<Layer> { (1..).zip(sizes).collect() };
        match self {
            Payload::Two { .. } => {
                let one = numbered(self.layers());
                let mut other = one.clone();
                for layer in &mut other[1..] {
                    layer.0 += one.len() as u64;
                }
                vec![one, other]
            }
            _ => vec![numbered(self.layers())],
        }
    }

    /// Bytes of all layers of all images, each counted once: what upstream has to send.
    pub(crate) fn distinct(self) -> u64 {
        let all: BTreeMap<u64, usize> = self.images().into_iter().flatten().collect();
        all.values().map(|size| *size as u64).sum()
    }

    /// The tags of the images: nodes take one after the other.
    pub(crate) fn tags(self) -> &'static [&'static str] {
        &[TAG, OTHER_TAG][..self.images().len()]
    }

    fn layers(self) -> Vec<usize> {
        match self {
            Payload::One { mib } => vec![(mib as usize) << 20],
            Payload::Uneven { mib } | Payload::Two { mib } => {
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

    /// The first image, with all of them in the storage that [`crate::Registry::start`] serves it from. Their layers are noise: what
    /// unpacks them would fail, what fetches them does not look into them.
    pub(crate) fn stored(self) -> Result<RealImage> {
        let mut images = self.images().into_iter().zip(self.tags());
        let (layers, tag) = images.next().context("a payload has an image")?;
        let image = stored(&layers, tag, None)?;
        for (layers, tag) in images {
            stored(&layers, tag, Some(&storage(&image)?))?;
        }
        // The registry looks for it, and pushes what it is to serve by itself where it is missing.
        fs::write(storage(&image)?.join("complete"), "")?;
        Ok(image)
    }
}

/// One image of noise, in the storage of another where that is given, else in its own.
fn stored(layers: &[Layer], tag: &str, beside: Option<&Path>) -> Result<RealImage> {
    let layers: Vec<Vec<u8>> = layers.iter().map(|(seed, size)| noise(*seed, *size)).collect();
    let digests: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": digests},
    })
    .to_string();
    let descriptors = digests.iter().zip(&layers);
    let descriptors: Vec<_> =
        descriptors.map(|(digest, layer)| json!({"mediaType": LAYER, "digest": digest, "size": layer.len()})).collect();
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

    let storage = beside.map_or_else(|| storage(&image), |storage| Ok(storage.to_owned()))?;
    let complete = storage.join(format!("complete-{tag}"));
    if !complete.exists() {
        if beside.is_none() && storage.exists() {
            fs::remove_dir_all(&storage)?;
        }
        for (digest, layer) in digests.iter().zip(&layers) {
            store(&storage, digest, layer, "_layers")?;
        }
        store(&storage, &image.config.digest, config.as_bytes(), "_layers")?;
        store(&storage, &image.manifest.digest, manifest.as_bytes(), "_manifests/revisions")?;
        let tag = format!("_manifests/tags/{tag}");
        link(&storage, &format!("{tag}/current"), &image.manifest.digest)?;
        let index = format!("{tag}/index/sha256/{}", hex_of(&image.manifest.digest));
        link(&storage, &index, &image.manifest.digest)?;
        fs::write(complete, "")?;
    }
    Ok(image)
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
        assert_eq!((Payload::Tiny.distinct(), Payload::Tiny.tags().len()), (2_000_000, 1));
    }

    #[test]
    fn of_two_images_one_layer_is_the_same_and_counts_once() {
        let two = Payload::Two { mib: 100 };
        let images = two.images();
        assert_eq!((images.len(), two.tags().len()), (2, 2));
        let same: Vec<_> = images[0].iter().filter(|layer| images[1].contains(layer)).collect();
        assert_eq!(same, [&images[0][0]]);
        assert_eq!(two.distinct(), 2 * (100 << 20) - images[0][0].1 as u64);
    }
}
