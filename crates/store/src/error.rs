//! What may fail.

use std::{io, path::PathBuf};

use shoal_content::Digest;

/// The result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process, or another `Store` of this one, has the directory.
    #[error(
        "the store in {directory} is in use by process {holder}: stop it, or give this node a directory of its own"
    )]
    Locked {
        /// The store's directory.
        directory: PathBuf,
        /// Process id as the holder wrote it, or `unknown`.
        holder: String,
    },
    /// Somebody else writes, or verifies, this blob now. It can be had without being stored.
    #[error("{0} is being written or verified by somebody else")]
    Busy(Digest),
    /// The blob is whole already: `get` it.
    #[error("{0} is held already")]
    Held(Digest),
    /// There is no room, and none can be made. The pull can go on without storing.
    #[error("no room for {needed} more bytes while {what}: raise the quota, unpin blobs or free the disk")]
    NoSpace {
        /// What was being done.
        what: String,
        /// Bytes that were needed.
        needed: u64,
    },
    /// Larger than any blob that is cut into leaves.
    #[error("{digest} has {size} bytes, more than {limit}", limit = shoal_content::outline::MAX_BLOB_SIZE)]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// The blob has no such leaf.
    #[error("{digest} has no leaf {index}")]
    NoSuchLeaf {
        /// The blob.
        digest: Digest,
        /// The leaf asked for.
        index: u64,
    },
    /// A leaf's bytes are not as many as the leaf has.
    #[error("leaf {index} of {digest} has {expected} bytes, {got} were given")]
    LeafLength {
        /// The blob.
        digest: Digest,
        /// The leaf.
        index: u64,
        /// Bytes that it has.
        expected: u64,
        /// Bytes that were given.
        got: u64,
    },
    /// Leaves are missing.
    #[error("{missing} leaves of {digest} are missing")]
    Incomplete {
        /// The blob.
        digest: Digest,
        /// How many leaves are missing.
        missing: u64,
    },
    /// The bytes are not the blob's. Of a partial nothing is lost: `forget_leaf` those that lied, and go on.
    #[error("content hashes to {actual}, not {expected}")]
    DigestMismatch {
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Box<Digest>,
    },
    /// A range was read of which not every leaf is there.
    #[error("byte {offset} of {digest} has not been written")]
    NotWritten {
        /// The blob.
        digest: Digest,
        /// First byte that is missing.
        offset: u64,
    },
    /// The partial was committed or discarded.
    #[error("the partial of {0} is closed")]
    Closed(Digest),
    /// It was there, and has been evicted or removed since.
    #[error("{0} is gone")]
    Gone(Digest),
    /// A file on disk does not match its name; it was moved to quarantine.
    #[error("the file of {0} was damaged on disk and has been moved to quarantine")]
    Damaged(Digest),
    /// A tag's key or a media type is longer than is kept.
    #[error("{what} is {len} bytes long, more than {limit}")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The longest that is kept, in bytes.
        limit: usize,
    },
    /// The index failed. Blobs can still be read; it is rebuilt when the store is next opened.
    #[error("index failed to {what}: {reason}")]
    Index {
        /// What was being done.
        what: &'static str,
        /// What the index said.
        reason: String,
    },
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// Whether there is no room: the pull can go on without storing.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Error::NoSpace { .. })
    }

    /// Turns an I/O error into one of ours; a full disk, a quota of the file system and a too large file become `NoSpace`.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, needed: u64) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match is_full(&source) {
            true => Error::NoSpace { what: format!("trying to {what} {}", path.display()), needed },
            false => Error::Io { what, path, source },
        }
    }
}

/// Whether the operating system says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
