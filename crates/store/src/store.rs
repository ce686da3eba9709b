//! The face of the crate.

use std::{
    fmt,
    fs::{self, File},
    io,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use shoal_content::{Cid, Digest, LeafHash, Outline, leaf::leaf_range};

use crate::{
    blob::Blob,
    block::Block,
    error::{Error, Result},
    index::{Index, MemoryIndex, SledIndex, TagRecord},
    layout::{Layout, remove_file},
    options::{Indexing, Options},
    partial::Partial,
    table::{Claim, Claimed, Table, lock},
};

/// The longest key of a tag, in bytes: a registry, a repository and a tag of the longest kind fit.
const MAX_TAG_KEY: usize = 1024;

/// The longest media type, in bytes (RFC 6838, section 4.2: twice 127 and a slash).
const MAX_MEDIA_TYPE: usize = 255;

/// Tags that are dropped at once when there are too many, as a part of all: looking for the oldest reads all of them.
const DROPPED_TAGS: usize = 10;

/// A store of blobs. Cheap to clone; all clones are the same store, which is closed when the last of them and of its blobs and partials is dropped.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
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
}

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
    /// Keeps other processes out. Last, so that it is given back when all else is closed.
    _lock: File,
}

/// The thread that verifies what the index did not list.
struct Verifier {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
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
            options,
            layout,
            index,
            table: Mutex::new(Table::new()),
            released: Condvar::new(),
            making_room: Mutex::new(()),
            closing: AtomicBool::new(false),
            healed_at: Mutex::new(None),
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
        let actual = Digest::of(digest.algorithm(), content);
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
        if let Some(blob) = self.shared.open_blob(digest)? {
            return Ok(blob);
        }
        self.shared.remove_partial(digest)?;
        self.shared.table().slots.remove(digest);
        let size = content.len() as u64;
        self.shared.reserve(digest, size, 0)?;
        let stored = self.store_whole(&claim, content);
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
        }
    }

    /// What was last set for a tag. Keys are the caller's, such as `docker.io/library/alpine:3`.
    pub fn tag(&self, key: &str) -> Result<Option<TagRecord>> {
        self.shared.index.tag(key)
    }

    /// Sets a tag. When there are more than `Options::max_tags`, those resolved longest ago are dropped.
    pub fn set_tag(&self, key: &str, tag: &TagRecord) -> Result<()> {
        check_len("a tag's key", key, MAX_TAG_KEY)?;
        check_len("a media type", &tag.media_type, MAX_MEDIA_TYPE)?;
        self.shared.heal_index();
        if !self.shared.index.set_tag(key, tag)? {
            return Ok(());
        }
        let excess = {
            let mut table = self.shared.table();
            table.tags += 1;
            table.tags.saturating_sub(self.shared.options.max_tags)
        };
        if excess > 0 { self.drop_oldest_tags(excess) } else { Ok(()) }
    }

    /// The media type of a held blob, where somebody said.
    pub fn media_type(&self, digest: &Digest) -> Result<Option<String>> {
        Ok(self.shared.index.record(digest)?.and_then(|record| record.media_type))
    }

    /// Says of which media type a held blob is; false when it is not held.
    pub fn set_media_type(&self, digest: &Digest, media_type: &str) -> Result<bool> {
        check_len("a media type", media_type, MAX_MEDIA_TYPE)?;
        self.shared.index.update(digest, &mut |record| record.media_type = Some(media_type.to_owned()))
    }

    /// Writes to disk what only memory and the index's buffers know: last uses, tags. Done by itself now and then, and on closing.
    pub fn flush(&self) -> Result<()> {
        self.shared.heal_index();
        self.shared.note_uses(true);
        self.shared.index.flush()
    }

    fn store_whole(&self, claim: &Claimed, content: &[u8]) -> Result<Blob> {
        let size = content.len() as u64;
        let path = self.shared.layout.incoming(&claim.digest);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = Arc::new(file.map_err(Error::io("create", &path, size))?);
        let write = || self.shared.options.disk.write_at(&file, content, 0).map_err(Error::io("write", &path, size));
        let written = match write() {
            Err(error) if error.is_no_space() => {
                self.shared.relieve(size);
                write()
            }
            written => written,
        };
        let leaf = |index| {
            let range = leaf_range(size, index);
            LeafHash::of(&content[range.start as usize..range.end as usize])
        };
        let leaves: Vec<_> = (0..shoal_content::leaf::leaf_count(size)).map(leaf).collect();
        let durable = written.and_then(|()| self.shared.make_durable(&file, &path, size));
        let blob = durable.and_then(|()| self.shared.publish(claim, &file, &path, size, &leaves));
        if blob.is_err() {
            let _ = remove_file(&path);
        }
        blob
    }

    fn drop_oldest_tags(&self, excess: usize) -> Result<()> {
        let mut tags = Vec::new();
        self.shared.index.tags(&mut |key, tag| tags.push((tag.resolved_at, key.to_owned())))?;
        tags.sort();
        let dropped = excess.max(self.shared.options.max_tags / DROPPED_TAGS);
        for (_, key) in tags.iter().take(dropped) {
            self.shared.index.remove_tag(key)?;
        }
        self.shared.table().tags = tags.len().saturating_sub(dropped);
        tracing::debug!(dropped, "too many tags: dropped those resolved longest ago");
        Ok(())
    }
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

    /// What is put off until somebody uses the store: last uses, and an index that failed.
    fn catch_up(self: &Arc<Self>) {
        self.note_uses(false);
        self.heal_index();
    }

    fn note_uses(&self, last: bool) {
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
    fn start(&self) -> Result<()> {
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

    fn join(&self) {
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

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("directory", &self.shared.options.directory).finish_non_exhaustive()
    }
}

fn check_len(what: &'static str, text: &str, limit: usize) -> Result<()> {
    if text.len() > limit {
        return Err(Error::TooLong { what, len: text.len(), limit });
    }
    Ok(())
}
