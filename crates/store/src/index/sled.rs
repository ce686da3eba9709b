//! The index in sled 0.34.
//!
//! Its last release is of 2021 and damage after a stop has been reported, so it is opened, and every call made, such that a panic or a
//! damaged page is an error; a database that will not open is moved aside and begun anew.
//!
//! Trees: `blobs` (digest → record), `uses` (digest → last use; apart, because it changes most), `outlines` (digest, group → 64 leaf hashes:
//! small values, because a leaf of sled's tree is 16 entries and is read and written whole), `leaves` and `nodes` (hash, digest → position), `tags`.
//! A digest as a key is its algorithm's multihash code and its hash.
//!
//! A blob's record is written after, and removed before, its blocks: what an interruption leaves behind is found in no listed blob.

use std::{
    fs,
    io::ErrorKind,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use shoal_content::{Algorithm, Digest, LeafHash, leaf::leaf_count};
use sled::{Batch, Db, Tree};

use super::{BlockKey, Index, MAX_PLACES, Place, Record, TagRecord};
use crate::error::{Error, Result};

/// Leaf hashes kept in one value of `outlines`: 2 KiB.
const GROUP: usize = 64;

/// Changes that go to sled in one batch: it holds writers up for as long.
const BATCH: usize = 1024;

/// Milliseconds after which sled writes by itself what nobody flushed.
const FLUSH_EVERY_MS: u64 = 500;

/// Databases that would not open that are kept, for whoever wants to know why.
const KEPT_DAMAGED: usize = 2;

/// Errors after which a database is not to be moved aside.
const DISK_AT_FAULT: [ErrorKind; 4] =
    [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::ReadOnlyFilesystem, ErrorKind::PermissionDenied];

/// See the module.
pub(crate) struct SledIndex {
    path: PathBuf,
    cache: u64,
    /// `None` while it will not open again after a failure.
    open: RwLock<Option<Trees>>,
    /// A call failed since it was opened. sled writes nothing any more after the first failure to write, such as on a full disk.
    failing: AtomicBool,
}

struct Trees {
    db: Db,
    blobs: Tree,
    uses: Tree,
    outlines: Tree,
    leaves: Tree,
    nodes: Tree,
    tags: Tree,
}

impl SledIndex {
    /// Opens the database, or begins a new one when there is none or it is damaged. Fails where the disk is at fault, not the database.
    pub(crate) fn open(path: &Path, cache: u64) -> Result<Self> {
        let trees = match Trees::open(path, cache) {
            Err(error @ Error::Index { .. }) => {
                let aside = move_aside(path)?;
                tracing::error!(
                    %error,
                    moved_to = %aside.display(),
                    "the index would not open: beginning a new one, files are verified again; pins, media types and tags are lost"
                );
                Trees::open(path, cache)?
            }
            opened => opened?,
        };
        Ok(Self { path: path.to_owned(), cache, open: RwLock::new(Some(trees)), failing: AtomicBool::new(false) })
    }

    /// Makes an error of whatever sled does, panics included.
    fn with<T>(&self, what: &'static str, call: impl FnOnce(&Trees) -> sled::Result<T>) -> Result<T> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let result = match &*open {
            Some(trees) => guarded(what, || call(trees)),
            None => Err(failed(what, "it is not open")),
        };
        if result.is_err() {
            self.failing.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl Trees {
    fn open(path: &Path, cache: u64) -> Result<Self> {
        guarded("open", || {
            let config = sled::Config::new().path(path).cache_capacity(cache).flush_every_ms(Some(FLUSH_EVERY_MS));
            let db = config.open()?;
            let trees = Self {
                blobs: db.open_tree("blobs")?,
                uses: db.open_tree("uses")?,
                outlines: db.open_tree("outlines")?,
                leaves: db.open_tree("leaves")?,
                nodes: db.open_tree("nodes")?,
                tags: db.open_tree("tags")?,
                db,
            };
            // What cannot be read through is better found out now than when a pull needs it.
            for tree in [&trees.blobs, &trees.uses, &trees.tags] {
                for entry in tree {
                    entry?;
                }
            }
            Ok(trees)
        })
    }

    fn last_use(&self, key: &[u8]) -> sled::Result<u64> {
        let value = self.uses.get(key)?;
        Ok(value.and_then(|value| Some(u64::from_be_bytes(value.as_ref().try_into().ok()?))).unwrap_or(0))
    }

    fn record_of(&self, digest: &Digest) -> sled::Result<Option<Record>> {
        let key = digest_key(digest);
        let Some(value) = self.blobs.get(&key)? else { return Ok(None) };
        Ok(Record::decode(*digest, self.last_use(&key)?, &value))
    }

    fn leaves_of(&self, record: &Record) -> sled::Result<Option<Vec<LeafHash>>> {
        let mut leaves = Vec::new();
        for group in self.outlines.scan_prefix(digest_key(&record.digest)) {
            let (_, hashes) = group?;
            leaves.extend(hashes.chunks_exact(32).map(|hash| LeafHash(hash.try_into().expect("chunks of 32"))));
        }
        Ok((leaves.len() as u64 == leaf_count(record.size)).then_some(leaves))
    }
}

impl Index for SledIndex {
    fn insert(&self, record: &Record, leaves: &[LeafHash]) -> Result<()> {
        let digest = digest_key(&record.digest);
        self.with("insert a blob", |trees| {
            for (group, number) in leaves.chunks(GROUP).zip(0u32..) {
                let hashes: Vec<u8> = group.iter().flat_map(|leaf| leaf.0).collect();
                trees.outlines.insert(join(&digest, &number.to_be_bytes()), hashes)?;
            }
            let leaf = |(leaf, index): (&LeafHash, u64)| (join(&leaf.0, &digest), Some(index));
            apply(&trees.leaves, leaves.iter().zip(0..).map(leaf))?;
            let node = |(node, position): (&super::InnerNode, u64)| (join(&node.hash, &digest), Some(position));
            apply(&trees.nodes, record.nodes.iter().zip(0..).map(node))?;
            trees.uses.insert(&digest, &record.last_use.to_be_bytes())?;
            trees.blobs.insert(&digest, record.encode())?;
            Ok(())
        })
    }

    fn remove(&self, digest: &Digest) -> Result<Option<Record>> {
        let key = digest_key(digest);
        self.with("remove a blob", |trees| {
            let Some(record) = trees.record_of(digest)? else {
                trees.blobs.remove(&key)?;
                return Ok(None);
            };
            trees.blobs.remove(&key)?;
            trees.uses.remove(&key)?;
            if let Some(leaves) = trees.leaves_of(&record)? {
                apply(&trees.leaves, leaves.iter().map(|leaf| (join(&leaf.0, &key), None)))?;
            }
            apply(&trees.nodes, record.nodes.iter().map(|node| (join(&node.hash, &key), None)))?;
            for group in trees.outlines.scan_prefix(&key).keys() {
                trees.outlines.remove(group?)?;
            }
            Ok(Some(record))
        })
    }

    fn record(&self, digest: &Digest) -> Result<Option<Record>> {
        self.with("read a record", |trees| trees.record_of(digest))
    }

    fn records(&self, each: &mut dyn FnMut(Record)) -> Result<()> {
        self.with("read all records", |trees| {
            for entry in &trees.blobs {
                let (key, value) = entry?;
                let Some(digest) = parse_digest(&key) else { continue };
                if let Some(record) = Record::decode(digest, trees.last_use(&key)?, &value) {
                    each(record);
                }
            }
            Ok(())
        })
    }

    fn leaves(&self, digest: &Digest) -> Result<Option<Vec<LeafHash>>> {
        self.with("read an outline", |trees| {
            let Some(record) = trees.record_of(digest)? else { return Ok(None) };
            trees.leaves_of(&record)
        })
    }

    fn find(&self, key: &BlockKey) -> Result<Vec<Place>> {
        self.with("find a block", |trees| {
            let (tree, hash) = match key {
                BlockKey::Leaf(leaf) => (&trees.leaves, &leaf.0),
                BlockKey::Inner(hash) => (&trees.nodes, hash),
            };
            let mut places = Vec::new();
            for entry in tree.scan_prefix(hash).take(MAX_PLACES) {
                let (key, value) = entry?;
                let place =
                    || Some((parse_digest(key.get(32..)?)?, u64::from_be_bytes(value.as_ref().try_into().ok()?)));
                if let Some((digest, position)) = place() {
                    places.push(Place { digest, position });
                }
            }
            Ok(places)
        })
    }

    fn touch(&self, uses: &[(Digest, u64)]) -> Result<()> {
        self.with("note last uses", |trees| {
            for (digest, last_use) in uses {
                let key = digest_key(digest);
                if trees.blobs.contains_key(&key)? {
                    trees.uses.insert(key, &last_use.to_be_bytes())?;
                }
            }
            Ok(())
        })
    }

    fn update(&self, digest: &Digest, change: &mut dyn FnMut(&mut Record)) -> Result<bool> {
        self.with("change a record", |trees| {
            let Some(mut record) = trees.record_of(digest)? else { return Ok(false) };
            change(&mut record);
            let key = digest_key(digest);
            trees.uses.insert(&key, &record.last_use.to_be_bytes())?;
            trees.blobs.insert(&key, record.encode())?;
            Ok(true)
        })
    }

    fn tag(&self, key: &str) -> Result<Option<TagRecord>> {
        self.with("read a tag", |trees| Ok(trees.tags.get(key)?.and_then(|value| serde_json::from_slice(&value).ok())))
    }

    fn set_tag(&self, key: &str, tag: &TagRecord) -> Result<bool> {
        let value = serde_json::to_vec(tag).map_err(|error| failed("set a tag", &error))?;
        self.with("set a tag", |trees| Ok(trees.tags.insert(key, value)?.is_none()))
    }

    fn tags(&self, each: &mut dyn FnMut(&str, TagRecord)) -> Result<()> {
        self.with("read all tags", |trees| {
            for entry in &trees.tags {
                let (key, value) = entry?;
                if let (Ok(key), Ok(tag)) = (str::from_utf8(&key), serde_json::from_slice(&value)) {
                    each(key, tag);
                }
            }
            Ok(())
        })
    }

    fn remove_tag(&self, key: &str) -> Result<bool> {
        self.with("remove a tag", |trees| Ok(trees.tags.remove(key)?.is_some()))
    }

    fn flush(&self) -> Result<()> {
        self.with("write to disk", |trees| trees.db.flush().map(drop))
    }

    fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    fn reopen(&self) -> Result<()> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // sled holds a lock on its files until it is dropped, and may panic while it is.
        let closed = open.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(closed)));
        *open = Some(Trees::open(&self.path, self.cache)?);
        self.failing.store(false, Ordering::Relaxed);
        Ok(())
    }
}

fn failed(what: &'static str, reason: &(impl ToString + ?Sized)) -> Error {
    Error::Index { what, reason: reason.to_string() }
}

fn guarded<T>(what: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| match error {
            // The disk's fault: the database is as good as it was.
            sled::Error::Io(error) if DISK_AT_FAULT.contains(&error.kind()) => Error::io(what, "the index", 0)(error),
            error => failed(what, &error),
        }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(failed(what, text.unwrap_or("panicked")))
        }
    }
}

fn apply(tree: &Tree, changes: impl Iterator<Item = (Vec<u8>, Option<u64>)>) -> sled::Result<()> {
    let mut batch = Batch::default();
    let mut pending = 0;
    for (key, position) in changes {
        match position {
            Some(position) => batch.insert(key, &position.to_be_bytes()),
            None => batch.remove(key),
        }
        pending += 1;
        if pending == BATCH {
            tree.apply_batch(std::mem::take(&mut batch))?;
            pending = 0;
        }
    }
    tree.apply_batch(batch)
}

fn digest_key(digest: &Digest) -> Vec<u8> {
    join(&[digest.algorithm().multihash_code() as u8], digest.hash())
}

fn parse_digest(key: &[u8]) -> Option<Digest> {
    let (code, hash) = key.split_first()?;
    let algorithm = [Algorithm::Sha256, Algorithm::Sha512];
    let algorithm = algorithm.into_iter().find(|algorithm| algorithm.multihash_code() == u64::from(*code))?;
    Digest::new(algorithm, hash)
}

fn join(head: &[u8], tail: &[u8]) -> Vec<u8> {
    [head, tail].concat()
}

/// Gives the directory of a database that will not open the first free name `<name>.damaged-<number>`.
fn move_aside(path: &Path) -> Result<PathBuf> {
    let numbered = |number: usize| path.with_extension(format!("damaged-{number}"));
    let number = (1..=KEPT_DAMAGED).find(|&number| !numbered(number).exists()).unwrap_or(KEPT_DAMAGED);
    let aside = numbered(number);
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(Error::io("remove", &aside, 0))?;
    }
    fs::rename(path, &aside).map_err(Error::io("move aside", path, 0))?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: u64 = 4 << 20;

    #[test]
    fn the_index_in_sled_does_what_an_index_does() {
        crate::index::conformance::run(|path| Box::new(SledIndex::open(path, CACHE).unwrap()), true);
    }

    #[test]
    fn a_database_that_will_not_open_is_moved_aside_and_no_more_than_two_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        for _ in 0..4 {
            drop(SledIndex::open(&path, CACHE).unwrap());
            for name in ["db", "conf"] {
                fs::write(path.join(name), [0xa5; 100_000]).unwrap();
            }
        }
        let index = SledIndex::open(&path, CACHE).unwrap();
        assert_eq!(index.find(&BlockKey::Leaf(LeafHash([0; 32]))).unwrap(), []);
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["index", "index.damaged-1", "index.damaged-2"]);
    }
}
