//! The one way in which a file becomes a blob: `fsync(file)`, `rename`, `fsync(directory)`, and only then the index.
//! The caller has seen the whole digest match.
//!
//! A file of which `fsync` failed once must never become a blob: the kernel may have dropped pages that it could not write and call the next
//! `fsync` a success (fsync(2), "ERRORS"; PostgreSQL's findings of 2018).

use std::{fs::File, path::Path, sync::Arc};

use shoal_content::{Digest, LeafHash, Outline};

use crate::{
    blob::Blob,
    error::{Error, Result},
    index::Record,
    layout::remove_file,
    options::Change,
    shared::Shared,
    table::{Claimed, Held},
};

/// From this size on the index is made durable at once: verifying the blob again after a crash would take longer.
const FLUSH_FROM: u64 = 32 << 20;

impl Shared {
    /// Makes a file's bytes durable. When it fails, the caller gives the file up.
    pub(crate) fn make_durable(&self, file: &File, path: &Path, size: u64) -> Result<()> {
        self.options.disk.sync(file).map_err(Error::io("sync", path, size))
    }

    /// Makes a blob of the durable file at `from`. When it fails, the file is where it was.
    pub(crate) fn publish(
        self: &Arc<Self>,
        claim: &Claimed,
        file: &Arc<File>,
        from: &Path,
        size: u64,
        leaves: &[LeafHash],
    ) -> Result<Blob> {
        let digest = claim.digest;
        let disk = &self.options.disk;
        let to = self.layout.blob(&digest);
        let directory = self.layout.blobs(digest.algorithm());
        disk.rename(from, &to).map_err(Error::io("rename", from, 0))?;
        if let Err(error) = disk.sync_directory(&directory) {
            // The name may not be durable, so the index must not say that it is.
            if let Err(error) = disk.rename(&to, from) {
                tracing::error!(%digest, %error, "a blob whose name is not durable stays: it is verified when the store is next opened");
            }
            return Err(Error::io("sync", directory, 0)(error));
        }
        self.list(claim, size, leaves, None);
        let outline = Outline::complete(size, leaves).map(Arc::new);
        Ok(Blob::new(Arc::clone(self), digest, size, Arc::clone(file), outline))
    }

    /// Makes a blob of bytes that the caller has hashed, verified and reserved room for; leaves no file behind when it fails.
    pub(crate) fn publish_bytes(
        self: &Arc<Self>,
        claim: &Claimed,
        content: &[u8],
        leaves: &[LeafHash],
    ) -> Result<Blob> {
        let size = content.len() as u64;
        let path = self.layout.incoming(&claim.digest);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = Arc::new(file.map_err(Error::io("create", &path, size))?);
        let write = || self.options.disk.write_at(&file, content, 0).map_err(Error::io("write", &path, size));
        let written = match write() {
            Err(error) if error.is_no_space() => {
                self.relieve(size);
                write()
            }
            written => written,
        };
        let durable = written.and_then(|()| self.make_durable(&file, &path, size));
        let blob = durable.and_then(|()| self.publish(claim, &file, &path, size, leaves));
        if blob.is_err() {
            let _ = remove_file(&path);
        }
        blob
    }

    /// Adds a whole, verified and durable blob to index and table, and says so. It was last used at `last_use`, or now.
    pub(crate) fn list(self: &Arc<Self>, claim: &Claimed, size: u64, leaves: &[LeafHash], last_use: Option<u64>) {
        let digest: Digest = claim.digest;
        let last_use = last_use.unwrap_or_else(|| self.table().tick());
        let record = Record::new(digest, size, leaves, last_use);
        self.heal_index();
        let inserted = self.index.insert(&record, leaves);
        let inserted = inserted.and_then(|()| if size >= FLUSH_FROM { self.index.flush() } else { Ok(()) });
        if let Err(error) = inserted {
            // It can be read, though not found by block; the next opening verifies and lists it.
            tracing::warn!(%digest, %error, "a blob is not in the index");
        }
        let mut table = self.table();
        table.slots.remove(&digest);
        table.take_unverified(&digest);
        table.add(digest, Held { size, last_use, pinned: false });
        drop(table);
        tracing::debug!(%digest, size, "added");
        self.tell(Change::Added { digest, root: record.root });
    }
}
