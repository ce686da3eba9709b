//! What is done about files that the index does not list, and about records without a file.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant, UNIX_EPOCH},
};

use shoal_content::Digest;

use crate::{
    error::{Error, Result},
    hash::hash_file,
    index::Record,
    layout::remove_file,
    map,
    shared::Shared,
    table::{Claim, Held, Slot},
};

/// Bytes of a file that the index does not list up to which it is verified when it is asked for: about a second. Whoever asks for a larger
/// one is told that it is not held, and can have it from elsewhere without storing it, while it is verified in the background.
const ON_DEMAND: u64 = 1 << 30;

/// How long to leave an index alone that would not open again.
const HEAL_EVERY: Duration = Duration::from_secs(2);

impl Shared {
    /// Compares files and index, both ways. Reads no file.
    pub(crate) fn reconcile(&self) -> Result<()> {
        let (files, strangers) = self.layout.list_blobs()?;
        for path in strangers {
            tracing::warn!(path = %path.display(), "a file among the blobs is not named by a digest: moving it to quarantine");
            self.quarantine(&path);
        }
        let mut listed = HashMap::new();
        self.index.records(&mut |record| {
            listed.insert(record.digest, Held { size: record.size, last_use: record.last_use, pinned: record.pinned });
        })?;
        for digest in files {
            let path = self.layout.blob(&digest);
            let metadata = fs::symlink_metadata(&path).map_err(Error::io("look at", &path, 0))?;
            match listed.remove(&digest) {
                _ if !metadata.is_file() => {
                    tracing::warn!(%digest, "what has a blob's name is not a file: moving it to quarantine");
                    self.quarantine(&path);
                }
                Some(held) if held.size == metadata.len() => self.table().add(digest, held),
                Some(held) => {
                    tracing::error!(%digest, size = held.size, found = metadata.len(), "a blob's file changed its length: moving it to quarantine");
                    self.quarantine(&path);
                    self.index.remove(&digest)?;
                }
                None => self.table().add_unverified(digest, metadata.len()),
            }
        }
        for digest in listed.keys() {
            tracing::info!(%digest, "the index lists a blob that is not there: dropping its record");
            self.index.remove(digest)?;
        }

        let (partials, strangers) = self.layout.list_partials()?;
        for path in strangers {
            remove_file(&path)?;
        }
        for digest in partials {
            let on_disk = fs::metadata(self.layout.part(&digest)).map_or(0, |metadata| metadata.blocks() * 512);
            match map::size_of(&self.layout.map(&digest), &digest) {
                Some(size) => {
                    let slot = Slot::new(size, on_disk.min(size), Some(Instant::now()));
                    self.table().slots.insert(digest, slot);
                }
                None => self.remove_partial(&digest)?,
            }
        }
        let mut tags = 0;
        self.index.tags(&mut |_, _| tags += 1)?;
        self.table().tags = tags;
        Ok(())
    }

    /// Verifies every file that the index does not list, the smallest first; ends early when the store is closed.
    pub(crate) fn verify_all(self: &Arc<Self>) {
        let mut tried = HashSet::new();
        loop {
            let table = self.table();
            let open =
                table.unverified.iter().filter(|(digest, _)| !tried.contains(*digest) && !table.is_claimed(digest));
            let Some((digest, _)) = open.min_by_key(|(_, size)| **size) else { return };
            let digest = *digest;
            drop(table);
            if self.closing.load(Ordering::Relaxed) {
                return;
            }
            tried.insert(digest);
            if let Err(error) = self.adopt(&digest) {
                tracing::warn!(%digest, %error, "cannot verify a file that the index does not list: not serving it");
            }
        }
    }

    /// Verifies the file if it is one that the index does not list, and not too large for whoever waits.
    pub(crate) fn adopt_on_demand(self: &Arc<Self>, digest: &Digest) {
        let size = self.table().unverified.get(digest).copied();
        if size.is_some_and(|size| size <= ON_DEMAND)
            && let Err(error) = self.adopt(digest)
        {
            tracing::warn!(%digest, %error, "cannot verify a file that the index does not list: not serving it");
        }
    }

    /// Whether the file is one that the index does not list.
    pub(crate) fn is_unverified(&self, digest: &Digest) -> bool {
        self.table().unverified.contains_key(digest)
    }

    /// Hashes a file that the index does not list, and lists it, or moves it to quarantine.
    fn adopt(self: &Arc<Self>, digest: &Digest) -> Result<()> {
        let Some(size) = self.table().unverified.get(digest).copied() else { return Ok(()) };
        let claim = self.claim(digest, if size <= ON_DEMAND { Claim::Brief } else { Claim::Lasting })?;
        if !self.is_unverified(digest) {
            return Ok(());
        }
        let path = self.layout.blob(digest);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.table().take_unverified(digest);
                return Ok(());
            }
            Err(error) => return Err(Error::io("open", path, 0)(error)),
        };
        let hashed = hash_file(&file, digest.algorithm(), &|| self.closing.load(Ordering::Relaxed));
        let Some((actual, leaves)) = hashed.map_err(Error::io("read", &path, 0))? else { return Ok(()) };
        if actual != *digest || metadata.len() != size {
            tracing::error!(%digest, %actual, "a file does not match its digest: moving it to quarantine");
            self.table().take_unverified(digest);
            self.quarantine(&path);
            return Ok(());
        }
        let written = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let last_use = written.and_then(|time| u64::try_from(time.as_millis()).ok());
        // A clock that was ahead when it was written must not make it the last to go for ever.
        let now = self.table().tick();
        // The file may have been renamed and the crash have come before its name was durable.
        let directory = self.layout.blobs(digest.algorithm());
        self.options.disk.sync_directory(&directory).map_err(Error::io("sync", &directory, 0))?;
        self.list(&claim, size, &leaves, Some(last_use.unwrap_or(0).min(now)));
        Ok(())
    }

    /// Opens an index again that fails, such as after the disk was full, and lists in it what it has lost; not more often than is of use.
    pub(crate) fn heal_index(self: &Arc<Self>) {
        if !self.index.is_failing() {
            return;
        }
        {
            let Ok(mut tried) = self.healed_at.try_lock() else { return };
            if tried.is_some_and(|at| at.elapsed() < HEAL_EVERY) {
                return;
            }
            *tried = Some(Instant::now());
            if let Err(error) = self.index.reopen() {
                tracing::warn!(%error, "the index fails and will not open again yet: blobs are served, though not found by block");
                return;
            }
        }
        tracing::info!("the index failed and was opened again");
        let shared = Arc::downgrade(self);
        let relist = move || {
            let Some(held) = shared.upgrade().map(|shared| shared.table().blobs.keys().copied().collect::<Vec<_>>())
            else {
                return;
            };
            for digest in held {
                // Upgraded for each: the thread must not keep a store open that everybody has let go.
                let Some(shared) = shared.upgrade() else { return };
                if let Err(error) = shared.relist(&digest) {
                    tracing::warn!(%digest, %error, "cannot list a blob again");
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("store-relist".into()).spawn(relist) {
            tracing::warn!(%error, "cannot start a thread: what the index has lost is found by block after the next opening only");
        }
    }

    /// Lists a held blob again if the index has lost it.
    fn relist(self: &Arc<Self>, digest: &Digest) -> Result<()> {
        if self.index.record(digest)?.is_some() {
            return Ok(());
        }
        let claim = self.claim(digest, Claim::Brief)?;
        let Some(held) = self.table().blobs.get(digest).copied() else { return Ok(()) };
        let path = self.layout.blob(digest);
        let file = File::open(&path).map_err(Error::io("open", &path, 0))?;
        let hashed = hash_file(&file, digest.algorithm(), &|| self.closing.load(Ordering::Relaxed));
        let Some((actual, leaves)) = hashed.map_err(Error::io("read", &path, 0))? else { return Ok(()) };
        if actual != *digest {
            drop(claim);
            return self.damaged(digest, "a blob does not match its digest any more");
        }
        let record = Record { pinned: held.pinned, ..Record::new(*digest, held.size, &leaves, held.last_use) };
        self.index.insert(&record, &leaves)
    }

    /// Reads a held blob again; one that does not match its digest any more goes to quarantine. False when it did, or is not held.
    pub(crate) fn verify(self: &Arc<Self>, digest: &Digest) -> Result<bool> {
        let Some(held) = self.table().blobs.get(digest).copied() else { return Ok(false) };
        let path = self.layout.blob(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.damaged(digest, "a blob's file is gone")?;
                return Ok(false);
            }
            Err(error) => return Err(Error::io("open", path, 0)(error)),
        };
        let hashed = hash_file(&file, digest.algorithm(), &|| false).map_err(Error::io("read", &path, 0))?;
        let length = file.metadata().map_err(Error::io("look at", &path, 0))?.len();
        if length == held.size && hashed.is_some_and(|(actual, _)| actual == *digest) {
            return Ok(true);
        }
        self.damaged(digest, "a blob does not match its digest any more")?;
        Ok(false)
    }

    /// Takes a blob that is not what it should be out of the store.
    pub(crate) fn damaged(self: &Arc<Self>, digest: &Digest, what: &str) -> Result<()> {
        let claim = self.claim(digest, Claim::Brief)?;
        if self.table().take(digest).is_none() {
            return Ok(());
        }
        let path: &Path = &self.layout.blob(digest);
        tracing::error!(%digest, path = %path.display(), "{what}: not serving it");
        if path.exists() {
            self.quarantine(path);
        }
        self.unlist(&claim);
        Ok(())
    }
}
