//! A real image out of files of this machine: an OCI layout of gzip-compressed layers.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use shoal_content::{Algorithm, Digest, Hasher};

/// Where files are taken from, first come first served. What is missing on a machine is passed over.
const SOURCES: &[&str] =
    &["/usr/bin", "/usr/lib", "/usr/share", "/usr/local", "/bin", "/lib", "/opt", "/System/Library"];

/// Files above this size, in bytes, are passed over: one of them would be a layer by itself.
const MAX_FILE: u64 = 32 << 20;

/// How the layers divide the whole, in percent: uneven, as real images are.
const SHARES: [u64; 5] = [45, 25, 15, 10, 5];

/// An image in an OCI layout on disk.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// Folder with `index.json` and `blobs/`.
    pub(super) layout: PathBuf,
    /// The image's manifest, or index of manifests.
    pub(super) manifest: Digest,
    /// Its media type.
    pub(super) media_type: String,
    /// Config and layers: digest and size in bytes.
    pub(super) blobs: Vec<(Digest, u64)>,
}

impl Image {
    /// Size of config and layers in bytes.
    pub(super) fn size(&self) -> u64 {
        self.blobs.iter().map(|(_, size)| size).sum()
    }

    /// The file of a blob of the layout.
    pub(super) fn path(layout: &Path, digest: &Digest) -> PathBuf {
        layout.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// Makes an image of about `size` bytes, compressed, in `layout`.
    pub(super) fn build(layout: &Path, size: u64) -> Result<Self> {
        std::fs::create_dir_all(layout.join("blobs/sha256"))?;
        let mut files = Files::new();
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for share in SHARES {
            let layer = build_layer(layout, &mut files, size * share / 100)?;
            diff_ids.push(layer.diff_id.to_string());
            layers.push(layer);
        }
        if layers.iter().map(|layer| layer.size).sum::<u64>() < size / 2 {
            bail!(
                "this machine has not enough readable files for an image of {size} bytes: ask for a smaller one with --size"
            );
        }

        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let (config, config_size) = put(layout, &serde_json::to_vec(&config)?)?;
        let descriptor =
            |kind: &str, digest: &Digest, size: u64| json!({ "mediaType": kind, "digest": digest, "size": size });
        let layer_descriptors: Vec<Value> = layers
            .iter()
            .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer.digest, layer.size))
            .collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config, config_size),
            "layers": layer_descriptors,
        });
        let (manifest, manifest_size) = put(layout, &serde_json::to_vec(&manifest)?)?;
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor(media_type, &manifest, manifest_size)] });
        std::fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
        std::fs::write(layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Self::open(layout)
    }

    /// Reads an OCI layout: its first manifest; of an index the first image in it.
    pub(super) fn open(layout: &Path) -> Result<Self> {
        let read = |path: &Path| -> Result<Value> {
            let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))
        };
        let index = read(&layout.join("index.json"))?;
        let (manifest, media_type) = descriptor_at(&index["manifests"][0])
            .with_context(|| format!("{} names no manifest", layout.join("index.json").display()))?;
        let mut content = read(&Self::path(layout, &manifest))?;
        if let Some((image, _)) = descriptor_at(&content["manifests"][0]) {
            content = read(&Self::path(layout, &image))?;
        }
        let mut blobs = Vec::new();
        let layers = content["layers"].as_array().cloned().unwrap_or_default();
        for descriptor in std::iter::once(&content["config"]).chain(&layers) {
            let (digest, _) = descriptor_at(descriptor)
                .with_context(|| format!("manifest {manifest} names a blob without digest"))?;
            let path = Self::path(layout, &digest);
            let size = path.metadata().with_context(|| format!("blob {}", path.display()))?.len();
            blobs.push((digest, size));
        }
        Ok(Self { layout: layout.to_owned(), manifest, media_type, blobs })
    }
}

fn descriptor_at(value: &Value) -> Option<(Digest, String)> {
    let digest = value["digest"].as_str()?.parse().ok()?;
    Some((digest, value["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json").to_owned()))
}

fn put(layout: &Path, content: &[u8]) -> Result<(Digest, u64)> {
    let digest = Digest::of(Algorithm::Sha256, content);
    std::fs::write(Image::path(layout, &digest), content)?;
    Ok((digest, content.len() as u64))
}

struct Layer {
    digest: Digest,
    diff_id: Digest,
    size: u64,
}

/// Packs files until the compressed layer has about `size` bytes.
fn build_layer(layout: &Path, files: &mut Files, size: u64) -> Result<Layer> {
    let unnamed = layout.join("layer");
    let compressed = Hashing::new(BufWriter::new(File::create(&unnamed)?));
    let gzip = GzEncoder::new(compressed, Compression::fast());
    let mut archive = tar::Builder::new(Hashing::new(gzip));
    archive.follow_symlinks(false);
    while archive.get_ref().inner.get_ref().count < size
        && let Some((path, len)) = files.next()
    {
        let Ok(file) = File::open(&path) else { continue };
        let mut header = tar::Header::new_gnu();
        header.set_size(len);
        header.set_mode(0o644);
        let name = path.strip_prefix("/").unwrap_or(&path).to_owned();
        // A file that shrinks meanwhile is filled up, lest the archive be damaged.
        let content = file.chain(io::repeat(0)).take(len);
        archive.append_data(&mut header, name, content).with_context(|| format!("packing {}", path.display()))?;
    }
    let tar = archive.into_inner()?;
    let diff_id = tar.hasher.finish();
    let gzip = tar.inner.finish()?;
    let (digest, size) = (gzip.hasher.finish(), gzip.count);
    gzip.inner.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
    std::fs::rename(&unnamed, Image::path(layout, &digest))?;
    Ok(Layer { digest, diff_id, size })
}

/// Readable plain files of this machine, in a fixed order.
struct Files {
    folders: Vec<PathBuf>,
    files: Vec<(PathBuf, u64)>,
}

impl Files {
    fn new() -> Self {
        Self { folders: SOURCES.iter().rev().map(PathBuf::from).collect(), files: Vec::new() }
    }
}

impl Iterator for Files {
    type Item = (PathBuf, u64);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(file) = self.files.pop() {
                return Some(file);
            }
            let folder = self.folders.pop()?;
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            let mut entries: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            entries.sort();
            for path in entries.into_iter().rev() {
                let Ok(metadata) = path.symlink_metadata() else { continue };
                if metadata.is_dir() {
                    self.folders.push(path);
                } else if metadata.is_file() && metadata.len() <= MAX_FILE {
                    self.files.push((path, metadata.len()));
                }
            }
        }
    }
}

/// Passes bytes on, hashes and counts them.
struct Hashing<W> {
    inner: W,
    hasher: Hasher,
    count: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(Algorithm::Sha256), count: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_this_machine_is_a_layout_whose_digests_are_right() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::build(folder.path(), 2 << 20).unwrap();
        assert_eq!(image.blobs.len(), SHARES.len() + 1);
        assert!(image.size() >= 1 << 20);
        for (digest, size) in &image.blobs {
            let content = std::fs::read(Image::path(folder.path(), digest)).unwrap();
            assert_eq!((content.len() as u64, Digest::of(Algorithm::Sha256, &content)), (*size, *digest));
        }
    }
}
