//! A real image: parts of this machine's Debian root file system in layers as a build would leave them.
//!
//! Its first layer has a shell and what it needs, its last one replaces a file and whites another out; between them are
//! libraries, programs and texts, compressed as registries have them. It is made once and kept beside the build; what its
//! files must be in a container is what umoci, which shares no code with what is tested, unpacks.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    process::run,
    testbed::work_folder,
    tree::{self, Tree},
};

/// Name of the image within its OCI layout.
pub const NAME: &str = "app";

/// Bytes of files in one of the large layers: about 60 MiB when compressed.
const LAYER_FILES: u64 = 150 << 20;
/// The image is large enough when its layers have this many bytes, compressed.
const LARGE_ENOUGH: u64 = 210 << 20;
/// Larger files would make a layer of their own.
const MAX_FILE: u64 = 40 << 20;
/// A machine with less than this many layers of files has not enough of them.
const MAX_LAYERS: usize = 16;

/// A shell and the programs that look at files, with what Debian keeps beside them.
const BASE: &[&str] = &[
    "bin",
    "lib",
    "lib64",
    "etc/debian_version",
    "etc/group",
    "etc/passwd",
    "usr/bin/cat",
    "usr/bin/dash",
    "usr/bin/ls",
    "usr/bin/sh",
    "usr/bin/sha256sum",
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
    "usr/lib/os-release",
    "usr/lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/x86_64-linux-gnu/libselinux.so.1",
    "usr/lib/x86_64-linux-gnu/libpcre2-8.so.0",
    "usr/lib/x86_64-linux-gnu/libcrypto.so.3",
];
/// Where the large layers' files are from, in this order.
const LARGE: &[&str] =
    &["usr/lib/x86_64-linux-gnu", "usr/bin", "usr/share", "usr/sbin", "usr/lib", "usr/local", "opt", "root/.rustup"];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// A blob of the image.
#[derive(Clone, Debug)]
pub struct Part {
    /// `sha256:…`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

/// The image, as an OCI layout and as the files of a container.
#[derive(Clone, Debug)]
pub struct RealImage {
    /// Folder of the OCI layout.
    pub layout: PathBuf,
    /// Its manifest.
    pub manifest: Part,
    /// Its configuration.
    pub config: Part,
    /// Its layers, lowest first.
    pub layers: Vec<Part>,
    /// The files that a container of it has.
    pub files: Tree,
}

impl RealImage {
    /// The image of this machine: made at the first call, the same at each later one. Call it with a testbed at hand, which keeps others from making it too.
    pub fn get() -> Result<RealImage> {
        let folder = work_folder()?.join("image");
        let layout = folder.join("layout");
        if !folder.join("complete").exists() {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::create_dir_all(layout.join("blobs/sha256"))?;
            build(&folder, &layout).context("making the real image")?;
            fs::write(folder.join("complete"), "")?;
        }
        let manifest = parts(&fs::read(layout.join("index.json"))?, "manifests")?.remove(0);
        let content = fs::read(blob_path(&layout, &manifest.digest))?;
        let config = part(&serde_json::from_slice::<serde_json::Value>(&content)?["config"])?;
        let layers = parts(&content, "layers")?;
        let files = serde_json::from_slice(&fs::read(folder.join("files.json"))?)?;
        Ok(RealImage { layout, manifest, config, layers, files })
    }

    /// Bytes of all blobs: manifest, configuration and layers.
    pub fn size(&self) -> u64 {
        self.manifest.size + self.blob_bytes()
    }

    /// Bytes of configuration and layers: what comes by digest as blobs.
    pub fn blob_bytes(&self) -> u64 {
        self.config.size + self.layers.iter().map(|layer| layer.size).sum::<u64>()
    }

    /// The largest layer.
    pub fn largest_layer(&self) -> &Part {
        self.layers.iter().max_by_key(|layer| layer.size).expect("the image has layers")
    }

    /// The bytes of a blob of it.
    pub fn read(&self, digest: &str) -> Result<Vec<u8>> {
        fs::read(blob_path(&self.layout, digest)).with_context(|| digest.to_owned())
    }
}

fn build(folder: &Path, layout: &Path) -> Result<()> {
    let mut layers = Vec::new();
    let root = Path::new("/");
    layers.push(add_layer(layout, root, &base_files(root))?);

    let mut taken: BTreeSet<PathBuf> = base_files(root).into_iter().collect();
    let mut files =
        LARGE.iter().flat_map(|start| walk(root, Path::new(start))).filter(move |(path, _)| taken.insert(path.clone()));
    while layers.len() < 4 || layers.iter().map(|(part, _)| part.size).sum::<u64>() < LARGE_ENOUGH {
        let mut bytes = 0;
        let mut list = Vec::new();
        while bytes < LAYER_FILES {
            let (path, size) = files.next().context("this machine has not enough files in /usr for a real image")?;
            bytes += size;
            list.push(path);
        }
        layers.push(add_layer(layout, root, &list)?);
        ensure!(layers.len() <= MAX_LAYERS, "the files of this machine compress too well for a real image");
    }

    let app = folder.join("app");
    fs::create_dir_all(app.join("etc"))?;
    fs::create_dir_all(app.join("app"))?;
    fs::write(app.join("app/hello.txt"), "hello from the topmost layer\n")?;
    fs::write(app.join("etc/debian_version"), "replaced by the topmost layer\n")?;
    fs::write(app.join("etc/.wh.group"), "")?;
    let list = ["app", "app/hello.txt", "etc", "etc/debian_version", "etc/.wh.group"].map(PathBuf::from);
    layers.push(add_layer(layout, &app, &list)?);

    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|(_, diff_id)| diff_id).collect::<Vec<_>>()},
    });
    let config = add_blob(layout, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": config.digest, "size": config.size},
        "layers": layers.iter().map(|(layer, _)| json!({"mediaType": LAYER, "digest": layer.digest, "size": layer.size})).collect::<Vec<_>>(),
    });
    let manifest = add_blob(layout, manifest.to_string().as_bytes())?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{"mediaType": MANIFEST, "digest": manifest.digest, "size": manifest.size,
            "annotations": {"org.opencontainers.image.ref.name": NAME}}],
    });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;

    let bundle = folder.join("bundle");
    run(Command::new("umoci").args(["unpack", "--image"]).arg(format!("{}:{NAME}", layout.display())).arg(&bundle))?;
    let files = tree::read(&bundle.join("rootfs"))?;
    fs::remove_dir_all(&bundle)?;
    ensure!(
        files.contains_key("app/hello.txt") && !files.contains_key("etc/group"),
        "the topmost layer does not count"
    );
    fs::write(folder.join("files.json"), serde_json::to_vec(&files)?)?;
    Ok(())
}

/// What [`BASE`] names, and what the links in it lead to.
fn base_files(root: &Path) -> Vec<PathBuf> {
    let mut list = Vec::new();
    for name in BASE {
        let mut path = PathBuf::from(name);
        while let Ok(about) = fs::symlink_metadata(root.join(&path)) {
            if !list.contains(&path) {
                list.push(path.clone());
            }
            if !about.is_symlink() {
                break;
            }
            let Ok(target) = fs::read_link(root.join(&path)) else { break };
            let target = path.parent().unwrap_or(Path::new("")).join(target);
            if root.join(&target).is_dir() {
                break;
            }
            path = target.strip_prefix("/").map(Path::to_owned).unwrap_or(target);
        }
    }
    list
}

/// All files, folders and links from `start` on, folders before what is in them, in the order of their names; with the bytes of each file.
fn walk(root: &Path, start: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut stack = vec![start.to_owned()];
    while let Some(path) = stack.pop() {
        let Ok(about) = fs::symlink_metadata(root.join(&path)) else { continue };
        let kind = about.file_type();
        if kind.is_dir() {
            let mut below: Vec<PathBuf> = fs::read_dir(root.join(&path))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| path.join(entry.file_name()))
                .collect();
            below.sort_by(|a, b| b.cmp(a));
            stack.extend(below);
            found.push((path, 0));
        } else if kind.is_symlink() || (kind.is_file() && about.size() <= MAX_FILE) {
            found.push((path, about.size()));
        }
    }
    found
}

/// Packs `list` (paths below `root`) and gives the layer and the digest of its tar.
fn add_layer(layout: &Path, root: &Path, list: &[PathBuf]) -> Result<(Part, String)> {
    let names = layout.join("list");
    fs::write(&names, list.iter().map(|path| path.to_string_lossy().into_owned()).collect::<Vec<_>>().join("\0"))?;
    let mut tar = Command::new("tar")
        .args(["--create", "--format=posix", "--no-recursion", "--null", "--numeric-owner", "--hard-dereference"])
        .arg("--directory")
        .arg(root)
        .arg("--files-from")
        .arg(&names)
        .stdout(Stdio::piped())
        .spawn()
        .context("starting tar")?;
    // Level 1: how fast the image is made matters here, and its ratio is near enough to that of real layers.
    let mut gzip = Command::new("gzip")
        .args(["-1", "--no-name"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting gzip")?;

    let compressed = gzip.stdout.take().context("gzip has an output")?;
    let partial = layout.join("partial");
    let storing = {
        let partial = partial.clone();
        std::thread::spawn(move || store(compressed, &partial))
    };
    let mut hash = Sha256::new();
    {
        let mut from = tar.stdout.take().context("tar has an output")?;
        let mut to = gzip.stdin.take().context("gzip has an input")?;
        let mut buffer = vec![0; 1 << 17];
        loop {
            let read = from.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            to.write_all(&buffer[..read])?;
        }
    }
    ensure!(tar.wait()?.success(), "tar failed");
    ensure!(gzip.wait()?.success(), "gzip failed");
    let layer = storing.join().expect("storing does not panic")?;
    fs::rename(&partial, blob_path(layout, &layer.digest))?;
    fs::remove_file(&names)?;
    Ok((layer, format!("sha256:{}", hex::encode(hash.finalize()))))
}

fn store(mut from: ChildStdout, path: &Path) -> Result<Part> {
    let mut file = File::create(path)?;
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 17];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            return Ok(Part { digest: format!("sha256:{}", hex::encode(hash.finalize())), size });
        }
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read])?;
        size += read as u64;
    }
}

fn add_blob(layout: &Path, content: &[u8]) -> Result<Part> {
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(content)));
    fs::write(blob_path(layout, &digest), content)?;
    Ok(Part { digest, size: content.len() as u64 })
}

fn blob_path(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
}

fn parts(json: &[u8], key: &str) -> Result<Vec<Part>> {
    let value: serde_json::Value = serde_json::from_slice(json)?;
    let parts: Vec<Part> =
        value[key].as_array().context("a list of descriptors")?.iter().map(part).collect::<Result<_>>()?;
    ensure!(!parts.is_empty(), "no {key}");
    Ok(parts)
}

fn part(descriptor: &serde_json::Value) -> Result<Part> {
    Ok(Part {
        digest: descriptor["digest"].as_str().context("a descriptor has a digest")?.to_owned(),
        size: descriptor["size"].as_u64().context("a descriptor has a size")?,
    })
}
