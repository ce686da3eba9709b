//! The face of the crate.

use std::{
    fmt,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use shoal_content::{Cid, Digest, Outline};

use crate::{
    blob::Blob,
    block::Block,
    error::{Error, Result},
    first_reads::FirstReads,
    hash::hash_bytes,
    index::{Index, MemoryIndex, SledIndex},
    layout::Layout,
    options::{Indexing, Options},
    partial::{Partial, Writing},
    recent::Recent,
    shared::{Shared, Verifier},
    table::{Claim, Table},
};

/// A store of blobs. Cheap to clone; all clones are the same store, which is closed when the last of them and of its blobs and partials is dropped.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    verifier: Arc<Verifier>,
}

/// What the operator sees of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Root of its DAG.
    pub root: Cid,
    /// When it was last used: milliseconds since 1970, as the wall clock was then.
    pub last_use: u64,
    /// It is never evicted.
    pub pinned: bool,
    /// Its media type, where somebody said.
    pub media_type: Option<String>,
}

/// How full the store is, and what happened since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that blobs and partials may take.
    pub quota: u64,
    /// Bytes of whole blobs, those being verified included.
    pub bytes: u64,
    /// Whole, verified blobs.
    pub blobs: u64,
    /// Bytes that partials take: an open one its whole size, another what is on disk of it.
    pub partial_bytes: u64,
    /// Partials, open or not.
    pub partials: u64,
    /// Blobs that the index did not list, and that are not verified yet.
    pub unverified: u64,
    /// Blobs evicted.
    pub evictions: u64,
    /// Bytes evicted.
    pub evicted_bytes: u64,
    /// Partials dropped to make room.
    pub dropped_partials: u64,
    /// Files moved to quarantine.
    pub quarantined: u64,
    /// Blobs for which no room could be made.
    pub refused: u64,
    /// Tags remembered.
    pub tags: u64,
    /// Leaves written past the page cache.
    pub direct_writes: u64,
    /// Leaves written through the page cache; those of small blobs that are stored at once do not count.
    pub cached_writes: u64,
}

impl Store {
    /// Opens the store in `options.directory`, or begins it. Reads no blob: what the index does not list is verified on a thread of its own.
    pub fn open(options: Options) -> Result<Self> {
        let layout = Layout::new(options.directory.clone());
        let held = layout.lock()?;
        layout.create()?;
        let index: Box<dyn Index> = match options.indexing {
            Indexing::Sled => match SledIndex::open(&layout.index(), options.index_cache) {
                Ok(index) => Box::new(index),
                Err(error) => {
                    tracing::error!(%error, "the index cannot be opened: going on without, all files are verified; changes of pins and tags last until the store is closed");
                    Box::new(MemoryIndex::default())
                }
            },
            Indexing::Memory => Box::new(MemoryIndex::default()),
        };
        let shared = Arc::new(Shared {
            writing: Writing::new(options.direct),
            first_reads: FirstReads::new(options.direct),
            options,
            layout,
            index,
            table: Mutex::new(Table::new()),
            released: Condvar::new(),
            making_room: Mutex::new(()),
            closing: AtomicBool::new(false),
            healed_at: Mutex::new(None),
            recent: Recent::default(),
            _lock: held,
        });
        shared.reconcile()?;
        let verifier = Arc::new(Verifier { shared: Arc::clone(&shared), thread: Mutex::new(None) });
        verifier.start()?;
        Ok(Self { shared, verifier })
    }

    /// Waits until every file that the index did not list at opening has been verified.
    pub fn wait_verified(&self) {
        self.verifier.join();
    }

    /// A whole, verified blob. Counts as a use of it.
    pub fn get(&self, digest: &Digest) -> Result<Option<Blob>> {
        self.shared.adopt_on_demand(digest);
        self.shared.open_blob(digest)
    }

    /// Whether the blob is held, whole and verified. Does not count as a use.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.shared.table().blobs.contains_key(digest)
    }

    /// Begins a blob of `size` bytes, or resumes it, and reserves its room. One at a time for each digest.
    ///
    /// `Error::Busy` while somebody else has it, or while a large file of that name that the index did not list is verified;
    /// `Error::Held` when the blob is whole; `Error::NoSpace` when no room can be made.
    /// Resuming hashes what is there, about a second for each GiB.
    pub fn partial(&self, digest: &Digest, size: u64) -> Result<Partial> {
        self.shared.adopt_on_demand(digest);
        if self.shared.is_unverified(digest) {
            return Err(Error::Busy(*digest));
        }
        Partial::open(&self.shared, digest, size)
    }

    /// Stores a small blob at once: verified, synced, renamed. One that is held is left as it is.
    pub fn put(&self, digest: &Digest, content: &[u8]) -> Result<Blob> {
        let (actual, leaves) = hash_bytes(digest.algorithm(), content);
        if actual != *digest {
            return Err(Error::DigestMismatch { expected: *digest, actual: Box::new(actual) });
        }
        if let Some(blob) = self.get(digest)? {
            return Ok(blob);
        }
        if self.shared.is_unverified(digest) {
            return Err(Error::Busy(*digest));
        }
        let claim = self.shared.claim(digest, Claim::Brief)?;
        if self.contains(digest) {
            // Somebody else was faster. Reading may claim too.
            drop(claim);
            return self.get(digest)?.ok_or(Error::Busy(*digest));
        }
        self.shared.remove_partial(digest)?;
        self.shared.table().slots.remove(digest);
        let size = content.len() as u64;
        self.shared.reserve(digest, size, 0)?;
        let stored = self.shared.publish_bytes(&claim, content, &leaves);
        self.shared.table().slots.remove(digest);
        stored
    }

    /// A block of a whole blob: a leaf, an inner node of its DAG, or all of a blob of at most [`crate::MAX_BLOCK_SIZE`] by the raw CID of its digest.
    pub fn block(&self, cid: &Cid) -> Result<Option<Block>> {
        self.shared.heal_index();
        Block::find(&self.shared, cid)
    }

    /// The outline of a whole blob.
    pub fn outline(&self, digest: &Digest) -> Result<Option<Arc<Outline>>> {
        if !self.contains(digest) {
            return Ok(None);
        }
        if let Ok(Some(leaves)) = self.shared.index.leaves(digest) {
            let size = self.shared.table().blobs.get(digest).map(|held| held.size);
            return Ok(size.and_then(|size| Outline::complete(size, &leaves)).map(Arc::new));
        }
        match self.shared.open_blob(digest)? {
            Some(blob) => blob.outline().map(Some),
            None => Ok(None),
        }
    }

    /// Takes a blob away, pinned or not; false when it was not held. Who has it open can go on reading it.
    pub fn remove(&self, digest: &Digest) -> Result<bool> {
        self.shared.remove(digest)
    }

    /// Pins a blob, so that it is never evicted, or lets go of it; false when it is not held.
    pub fn pin(&self, digest: &Digest, pinned: bool) -> Result<bool> {
        if !self.contains(digest) {
            return Ok(false);
        }
        let known = self.shared.index.update(digest, &mut |record| record.pinned = pinned)?;
        let mut table = self.shared.table();
        let Some(held) = table.blobs.get_mut(digest) else { return Ok(false) };
        held.pinned = pinned;
        drop(table);
        self.shared.index.flush()?;
        Ok(known)
    }

    /// Reads a blob again from the disk. True when it is what it should be; when it is not, it goes to quarantine, and it is false.
    pub fn verify(&self, digest: &Digest) -> Result<bool> {
        self.shared.verify(digest)
    }

    /// Every blob that is held.
    pub fn blobs(&self) -> Result<Vec<BlobInfo>> {
        let mut blobs = Vec::new();
        self.shared.index.records(&mut |record| {
            blobs.push(BlobInfo {
                digest: record.digest,
                size: record.size,
                root: record.root,
                last_use: record.last_use,
                pinned: record.pinned,
                media_type: record.media_type,
            });
        })?;
        let table = self.shared.table();
        blobs.retain_mut(|blob| match table.blobs.get(&blob.digest) {
            Some(held) => {
                blob.last_use = held.last_use;
                true
            }
            None => false,
        });
        Ok(blobs)
    }

    /// How full the store is, and what happened since it was opened.
    pub fn usage(&self) -> Usage {
        let table = self.shared.table();
        let counts = table.counts;
        Usage {
            quota: self.shared.options.quota,
            bytes: table.bytes(),
            blobs: table.blobs.len() as u64,
            partial_bytes: table.reserved(),
            partials: table.slots.len() as u64,
            unverified: table.unverified.len() as u64,
            evictions: counts.evictions,
            evicted_bytes: counts.evicted_bytes,
            dropped_partials: counts.dropped_partials,
            quarantined: counts.quarantined,
            refused: counts.refused,
            tags: table.tags as u64,
            direct_writes: self.shared.writing.direct.load(Ordering::Relaxed),
            cached_writes: self.shared.writing.cached.load(Ordering::Relaxed),
        }
    }

    /// Gives back memory: leaves that landed long ago. To be called every few seconds.
    pub fn trim(&self) {
        self.shared.recent.trim();
    }

    /// Writes to disk what only memory and the index's buffers know: last uses, tags. Done by itself now and then, and on closing.
    pub fn flush(&self) -> Result<()> {
        self.shared.heal_index();
        self.shared.note_uses(true);
        self.shared.index.flush()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("directory", &self.shared.options.directory).finish_non_exhaustive()
    }
}
