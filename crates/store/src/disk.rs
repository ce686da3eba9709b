//! The calls that a full or failing disk fails, as a seam: what is written goes through [`Disk`].

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, OpenOptionsExt},
    },
    path::Path,
};

/// Writing, making durable, and asking for room.
pub trait Disk: Send + Sync + 'static {
    /// Opens a file for writes that go past the page cache. Place, length and memory of what is written to it have to be aligned.
    fn open_direct(&self, path: &Path) -> io::Result<File>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes a file's content and length durable.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
    /// Bytes that the file system of `directory` has left for us.
    fn free(&self, directory: &Path) -> io::Result<u64>;
}

/// The operating system's disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn open_direct(&self, path: &Path) -> io::Result<File> {
        File::options().write(true).custom_flags(libc::O_DIRECT).open(path)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }

    fn free(&self, directory: &Path) -> io::Result<u64> {
        let path = CString::new(directory.as_os_str().as_bytes())?;
        let mut figures = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: `path` ends with NUL and outlives the call; `statvfs` fills `figures` when it returns 0.
        let figures = unsafe {
            if libc::statvfs(path.as_ptr(), figures.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            figures.assume_init()
        };
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }
}
