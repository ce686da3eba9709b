//! What all handles of a store share, and how it is closed.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use bytes::Bytes;
use shoal_content::{Digest, LEAF_SIZE};

use crate::{
    blob::Blob,
    error::{Error, Result},
    first_reads::FirstReads,
    index::Index,
    layout::Layout,
    options::Options,
    partial::Writing,
    recent::Recent,
    table::{Table, lock},
};

/// What all handles of a store share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) layout: Layout,
    pub(crate) index: Box<dyn Index>,
    pub(crate) table: Mutex<Table>,
    /// Told when a claim is given back.
    pub(crate) released: Condvar,
    /// Held while room is made.
    pub(crate) making_room: Mutex<()>,
    /// Nobody has the store any more.
    pub(crate) closing: AtomicBool,
    /// When the index was last opened again.
    pub(crate) healed_at: Mutex<Option<Instant>>,
    /// Leaves that have just landed.
    pub(crate) recent: Recent,
    /// How leaves are written.
    pub(crate) writing: Writing,
    /// How they are read back.
    pub(crate) first_reads: FirstReads,
    /// Keeps other processes out. Last, so that it is given back when all else is closed.
    pub(crate) _lock: File,
}

/// The thread that verifies what the index did not list.
pub(crate) struct Verifier {
    pub(crate) shared: Arc<Shared>,
    pub(crate) thread: Mutex<Option<JoinHandle<()>>>,
}

impl Shared {
    /// Opens a held blob's file, and counts that as a use. What is not as it was written is not held any more.
    pub(crate) fn open_blob(self: &Arc<Self>, digest: &Digest) -> Result<Option<Blob>> {
        let Some(size) = self.table().touch(digest) else { return Ok(None) };
        self.catch_up();
        let path = self.layout.blob(digest);
        match File::open(&path) {
            Ok(file) => {
                if file.metadata().map_err(Error::io("look at", &path, 0))?.len() == size {
                    return Ok(Some(Blob::new(Arc::clone(self), *digest, size, Arc::new(file), None)));
                }
                self.damaged(digest, "a blob's file changed its length")?;
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Evicted between the look at the table and here, or taken away by somebody else.
                if self.table().blobs.contains_key(digest) && !fs::exists(&path).unwrap_or(true) {
                    self.damaged(digest, "a blob's file is gone")?;
                }
                Ok(None)
            }
            Err(error) => Err(Error::io("open", path, 0)(error)),
        }
    }

    /// What is asked of a blob's file, which `path_of` names, if it is a whole leaf that is to be read otherwise than the rest: see `first_reads`.
    pub(crate) fn read_leaf(
        &self,
        digest: &Digest,
        file: &File,
        offset: u64,
        len: usize,
        path_of: fn(&Layout, &Digest) -> PathBuf,
    ) -> Option<Bytes> {
        let is_leaf = len as u64 == LEAF_SIZE && offset.is_multiple_of(LEAF_SIZE);
        is_leaf.then(|| self.first_reads.read(digest, &path_of(&self.layout, digest), file, offset))?
    }

    /// What is put off until somebody uses the store: last uses, and an index that failed.
    fn catch_up(self: &Arc<Self>) {
        self.note_uses(false);
        self.heal_index();
    }

    pub(crate) fn note_uses(&self, last: bool) {
        let uses = self.table().uses_to_note(last);
        if uses.is_empty() {
            return;
        }
        if let Err(error) = self.index.touch(&uses) {
            tracing::warn!(%error, blobs = uses.len(), "last uses are not noted: eviction may choose worse after a restart");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.note_uses(true);
        if let Err(error) = self.index.flush() {
            tracing::warn!(%error, "the index is not written: it is made good from the files when the store is next opened");
        }
    }
}

impl Verifier {
    pub(crate) fn start(&self) -> Result<()> {
        if self.shared.table().unverified.is_empty() {
            return Ok(());
        }
        let files = self.shared.table().unverified.len();
        tracing::info!(files, "verifying files that the index does not list");
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name("store-verify".into()).spawn(move || shared.verify_all());
        *lock(&self.thread) = Some(thread.map_err(Error::io("start a thread for", self.shared.layout.root(), 0))?);
        Ok(())
    }

    pub(crate) fn join(&self) {
        let mut thread = lock(&self.thread);
        if let Some(thread) = thread.take_if(|thread| thread.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            tracing::error!("verifying files ended in a panic: those left are not served");
        }
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.join();
    }
}
