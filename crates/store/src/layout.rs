//! Paths in the store's directory, made of digests alone, and its lock.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use shoal_content::{Algorithm, Digest};

use crate::error::{Error, Result};

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// Where things are.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Creates what is missing.
    pub(crate) fn create(&self) -> Result<()> {
        let blobs = ALGORITHMS.map(|algorithm| self.blobs(algorithm));
        for directory in blobs.iter().chain([&self.partials(), &self.quarantine()]) {
            fs::create_dir_all(directory).map_err(Error::io("create", directory, 0))?;
        }
        for directory in [&self.root, &self.root.join("blobs")] {
            File::open(directory).and_then(|open| open.sync_all()).map_err(Error::io("sync", directory, 0))?;
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of the whole blobs of one algorithm.
    pub(crate) fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.as_str())
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    pub(crate) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(crate) fn part(&self, digest: &Digest) -> PathBuf {
        self.partial(digest, "part")
    }

    pub(crate) fn map(&self, digest: &Digest) -> PathBuf {
        self.partial(digest, "map")
    }

    /// A small blob on its way to its place.
    pub(crate) fn incoming(&self, digest: &Digest) -> PathBuf {
        self.partial(digest, "put")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// Digests that files in `blobs/` are named by; and the files there with any other name.
    pub(crate) fn list_blobs(&self) -> Result<(Vec<Digest>, Vec<PathBuf>)> {
        let mut blobs = Vec::new();
        let mut strangers = Vec::new();
        for algorithm in ALGORITHMS {
            for path in list(&self.blobs(algorithm))? {
                let hex = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                match format!("{}:{hex}", algorithm.as_str()).parse() {
                    Ok(digest) => blobs.push(digest),
                    Err(_) => strangers.push(path),
                }
            }
        }
        Ok((blobs, strangers))
    }

    /// Digests of which there is both a `.part` and a `.map`; and the files in `partial/` that belong to none.
    pub(crate) fn list_partials(&self) -> Result<(Vec<Digest>, Vec<PathBuf>)> {
        let mut partials = Vec::new();
        let mut strangers = Vec::new();
        for path in list(&self.partials())? {
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let extension = path.extension().and_then(|name| name.to_str()).unwrap_or_default();
            let digest = name.replacen('-', ":", 1).parse::<Digest>().ok();
            match (digest, extension) {
                (Some(digest), "part") if self.map(&digest).is_file() => partials.push(digest),
                (Some(digest), "map") if self.part(&digest).is_file() => {}
                _ => strangers.push(path),
            }
        }
        Ok((partials, strangers))
    }

    /// Takes the directory for this process until the file is closed.
    pub(crate) fn lock(&self) -> Result<File> {
        fs::create_dir_all(&self.root).map_err(Error::io("create", &self.root, 0))?;
        let path = self.root.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("open", &path, 0))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = (&mut file).take(20).read_to_string(&mut holder);
                let holder = if holder.trim().is_empty() { "unknown" } else { holder.trim() };
                return Err(Error::Locked { directory: self.root.clone(), holder: holder.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(Error::io("lock", &path, 0)(source)),
        }
        // The id is only for the message above: a full disk must not keep the store from opening.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(file)
    }

    fn partial(&self, digest: &Digest, extension: &str) -> PathBuf {
        self.partials().join(format!("{}-{}.{extension}", digest.algorithm().as_str(), digest.hex()))
    }
}

fn list(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).map_err(Error::io("list", directory, 0))?;
    let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
    paths.map_err(Error::io("list", directory, 0))
}

/// Removes a file; that it is gone already is as good.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path, 0)(error)),
        _ => Ok(()),
    }
}
