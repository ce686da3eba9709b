//! The steps that change a tree, small enough that a stop between any two loses nothing.
//!
//! A file changes by a rename only, so a reader sees the old one or the new one. What a stop leaves behind are files and directories
//! that end in [`TEMPORARY`]; the next install or uninstall removes them.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use super::InstallError;

/// Ends the name of what is not yet in its place.
pub(crate) const TEMPORARY: &str = ".shoal-tmp";

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Removes what an earlier, stopped run left, be it a file or a directory.
    Discard(PathBuf),
    /// Makes a directory that is not there.
    MakeDir(PathBuf),
    /// Writes and syncs a file that is not there, with the owner and mode of `like`, or 0644.
    Write { path: PathBuf, bytes: Vec<u8>, like: Option<PathBuf> },
    /// Gives a file a second name; copies it where the file system has no links.
    Link { from: PathBuf, to: PathBuf },
    /// Puts a file or directory in its place.
    Rename { from: PathBuf, to: PathBuf },
    /// Removes a file.
    Remove(PathBuf),
    /// Removes a directory if nobody put anything into it.
    RemoveDirIfEmpty(PathBuf),
}

/// The name that a file or directory has before it is put in its place.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(path.file_name().unwrap_or_default());
    name.push(TEMPORARY);
    path.with_file_name(name)
}

/// Carries out the steps in order, up to the first that fails.
pub(crate) fn apply(ops: &[Op]) -> Result<(), InstallError> {
    ops.iter().try_for_each(step)
}

fn step(op: &Op) -> Result<(), InstallError> {
    let (doing, path, result) = match op {
        Op::Discard(path) => ("remove", path, discard(path)),
        Op::MakeDir(path) => ("make the directory", path, make_dir(path)),
        Op::Write { path, bytes, like } => ("write", path, write(path, bytes, like.as_deref())),
        Op::Link { from, to } => ("keep a copy as", to, link(from, to)),
        Op::Rename { from, to } => ("replace", to, rename(from, to)),
        Op::Remove(path) => ("remove", path, fs::remove_file(path).and_then(|()| sync_parent(path))),
        Op::RemoveDirIfEmpty(path) => ("remove", path, remove_dir_if_empty(path)),
    };
    result.map_err(|source| InstallError::Io { doing, path: path.clone(), source })
}

fn discard(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    // Whatever the umask: the runtime may run as somebody else.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn write(path: &Path, bytes: &[u8], like: Option<&Path>) -> io::Result<()> {
    // `create_new` also refuses a symbolic link laid in our way.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    let mode = match like {
        Some(like) => {
            let metadata = fs::metadata(like)?;
            if metadata.uid() != file.metadata()?.uid() || metadata.gid() != file.metadata()?.gid() {
                chown(path, Some(metadata.uid()), Some(metadata.gid()))?;
            }
            metadata.mode() & 0o7777
        }
        None => 0o644,
    };
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EOPNOTSUPP | libc::EMLINK)) => {
            let half = temporary(to);
            discard(&half)?;
            write(&half, &fs::read(from)?, Some(from))?;
            rename(&half, to)
        }
        Err(error) => Err(error),
        Ok(()) => sync_parent(to),
    }
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

fn remove_dir_if_empty(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => Ok(()),
        other => other,
    }
}

/// A name is on disk only when its directory is.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
