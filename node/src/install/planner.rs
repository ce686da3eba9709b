//! Reads the tree as it is and collects the steps that change it; changes nothing itself.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::{
    InstallError,
    ops::{Op, temporary},
};

/// More than any file that an administrator writes for a runtime.
const MAX_FILE: u64 = 4 << 20;

/// The steps so far, and what will be there after them.
pub(crate) struct Planner {
    root: PathBuf,
    pub(crate) ops: Vec<Op>,
    made: BTreeSet<PathBuf>,
    emptied: Vec<PathBuf>,
}

/// A file as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Missing,
    Text(String),
    /// Something that must not be written over, and why.
    Untouchable(&'static str),
}

impl Planner {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), ops: Vec::new(), made: BTreeSet::new(), emptied: Vec::new() }
    }

    /// An absolute path of the tree as a path of this process.
    pub(crate) fn under_root(&self, path: &Path) -> Result<PathBuf, InstallError> {
        let mut out = self.root.clone();
        let is_other_root = self.root != Path::new("/");
        for component in path.components() {
            match component {
                Component::RootDir | Component::CurDir => continue,
                Component::Normal(name) => out.push(name),
                _ => return Err(InstallError::Path { path: path.to_owned(), reason: "has `..` in it" }),
            }
            // An absolute link inside a mounted tree would lead out of it, into the files of this container.
            if is_other_root && out.is_symlink() {
                return Err(InstallError::Path {
                    path: out,
                    reason: "is a symbolic link: name the directory that it leads to",
                });
            }
        }
        Ok(out)
    }

    /// Whether the path is there, or will be.
    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.made.contains(path) || path.symlink_metadata().is_ok()
    }

    /// What stands at the path.
    pub(crate) fn read(&self, path: &Path) -> Result<Found, InstallError> {
        let io = |source| InstallError::Io { doing: "read", path: path.to_owned(), source };
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Found::Missing);
            }
            Err(error) => return Err(io(error)),
        };
        if metadata.is_symlink() {
            return Ok(Found::Untouchable("is a symbolic link: its target is somebody else's"));
        }
        if !metadata.is_file() {
            return Ok(Found::Untouchable("is not a file"));
        }
        if metadata.len() > MAX_FILE {
            return Ok(Found::Untouchable("is larger than 4 MiB"));
        }
        let bytes = fs::read(path).map_err(io)?;
        Ok(String::from_utf8(bytes).map_or(Found::Untouchable("is not UTF-8"), Found::Text))
    }

    /// The entries of a directory in order of their names; none when it is not there.
    pub(crate) fn list(&self, dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
        let io = |source| InstallError::Io { doing: "list", path: dir.to_owned(), source };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(io(error)),
        };
        let mut paths =
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>().map_err(io)?;
        paths.sort();
        Ok(paths)
    }

    /// How many directories above the file are missing.
    pub(crate) fn missing_directories(&self, file: &Path) -> usize {
        file.ancestors().skip(1).take_while(|dir| !self.exists(dir)).count()
    }

    /// A file that is not there, with the directories that it needs: all of it appears at once.
    pub(crate) fn create(&mut self, file: &Path, text: &str) {
        let missing = self.missing_directories(file);
        let top = file.ancestors().nth(missing).unwrap_or(file).to_owned();
        let half = temporary(&top);
        self.ops.push(Op::Discard(half.clone()));
        for dir in (1..=missing).rev().filter_map(|level| file.ancestors().nth(level)) {
            self.ops.push(Op::MakeDir(moved(dir, &top, &half)));
            self.made.insert(dir.to_owned());
        }
        self.ops.push(Op::Write { path: moved(file, &top, &half), bytes: text.as_bytes().to_vec(), like: None });
        self.ops.push(Op::Rename { from: half, to: top });
        self.made.insert(file.to_owned());
    }

    /// Another content for a file that is there.
    pub(crate) fn replace(&mut self, file: &Path, text: &str) {
        let half = temporary(file);
        self.ops.push(Op::Discard(half.clone()));
        self.ops.push(Op::Write { path: half.clone(), bytes: text.as_bytes().to_vec(), like: Some(file.to_owned()) });
        self.ops.push(Op::Rename { from: half, to: file.to_owned() });
    }

    /// Removes a file for which `made` directories were made.
    pub(crate) fn remove(&mut self, file: &Path, made: usize) {
        self.ops.push(Op::Remove(file.to_owned()));
        self.emptied.extend(file.ancestors().skip(1).take(made).map(Path::to_owned));
    }

    /// Removes what a stopped run left for this path.
    pub(crate) fn discard_temporary(&mut self, path: &Path) {
        let half = temporary(path);
        if half.symlink_metadata().is_ok() {
            self.ops.push(Op::Discard(half));
        }
    }

    /// Removes what a stopped run left for this path and for the directories above it.
    pub(crate) fn discard_temporaries(&mut self, path: &Path) {
        let root = self.root.clone();
        for path in path.ancestors().take_while(|path| **path != root) {
            self.discard_temporary(path);
        }
    }

    /// All steps; directories that were made for files now gone come last, the deepest first.
    pub(crate) fn finish(mut self) -> Vec<Op> {
        self.emptied.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
        self.emptied.dedup();
        self.ops.extend(self.emptied.into_iter().map(Op::RemoveDirIfEmpty));
        self.ops
    }
}

/// The path with its beginning `from` replaced by `to`.
fn moved(path: &Path, from: &Path, to: &Path) -> PathBuf {
    match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
        Ok(rest) => to.join(rest),
        Err(_) => path.to_owned(),
    }
}
