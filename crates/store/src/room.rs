//! Making room: what `eviction` decided is carried out here.

use std::{fs, sync::Arc, time::Instant};

use shoal_content::Digest;

use crate::{
    error::{Error, Result},
    eviction::{self, Room},
    layout::remove_file,
    options::Change,
    shared::Shared,
    table::{Claim, Claimed, Held, Slot, Table, lock},
};

/// Files kept in quarantine at most, for whoever wants to know what happened to them.
const MAX_QUARANTINED: usize = 16;

impl Shared {
    /// Reserves room for a blob in progress of which `written` bytes are on disk, and opens its slot. The caller has claimed the digest.
    pub(crate) fn reserve(self: &Arc<Self>, digest: &Digest, size: u64, written: u64) -> Result<Slot> {
        // One at a time: what another is about to free would otherwise be freed twice.
        let _making_room = lock(&self.making_room);
        let slot = Slot::new(size, written, None);
        let victims = {
            let mut table = self.table();
            let before = table.slots.remove(digest);
            match self.plan(&mut table, size, written) {
                Some(victims) => {
                    table.slots.insert(*digest, slot.clone());
                    victims
                }
                None => {
                    if let Some(before) = before {
                        table.slots.insert(*digest, before);
                    }
                    table.counts.refused += 1;
                    return Err(Error::NoSpace { what: format!("storing {digest}"), needed: size });
                }
            }
        };
        self.evict(victims);
        Ok(slot)
    }

    /// The disk was full although room had been reserved: somebody else uses it too. Frees `needed` bytes if that is possible.
    pub(crate) fn relieve(self: &Arc<Self>, needed: u64) {
        let _making_room = lock(&self.making_room);
        self.empty_quarantine();
        let victims = {
            let mut table = self.table();
            // What is needed is reserved already, so it is not asked of the quota again.
            let room = Room { used: 0, ..self.room(&table, needed, 0) };
            self.plan_for(&mut table, &room)
        };
        self.evict(victims.unwrap_or_default());
    }

    /// Takes a blob out of the store; false when it is not held.
    pub(crate) fn remove(self: &Arc<Self>, digest: &Digest) -> Result<bool> {
        let claim = match self.claim(digest, Claim::Brief) {
            Ok(claim) => claim,
            Err(Error::Busy(_)) => return Ok(false),
            Err(error) => return Err(error),
        };
        let Some(held) = self.table().take(digest) else { return Ok(false) };
        let removed = remove_file(&self.layout.blob(digest));
        if removed.is_err() {
            self.table().add(*digest, held);
            return removed.map(|()| false);
        }
        self.unlist(&claim);
        Ok(true)
    }

    /// Takes a blob out of the index and says so: its file is gone, and the table does not have it any more.
    pub(crate) fn unlist(&self, claim: &Claimed) {
        let digest = claim.digest;
        let record = self.index.remove(&digest).unwrap_or_else(|error| {
            tracing::warn!(%digest, %error, "a removed blob stays in the index until the store is next opened");
            None
        });
        self.tell(Change::Removed { digest, root: record.map(|record| record.root) });
    }

    /// Removes the files of a partial.
    pub(crate) fn remove_partial(&self, digest: &Digest) -> Result<()> {
        // The map first: bytes without a map are nothing, a map without bytes would have to be looked into.
        remove_file(&self.layout.map(digest))?;
        remove_file(&self.layout.part(digest))
    }

    /// Moves a file out of the way of whoever asks for the blob. The caller has taken it out of the table.
    pub(crate) fn quarantine(&self, path: &std::path::Path) {
        self.table().counts.quarantined += 1;
        let name = path.file_name().unwrap_or_default();
        let target = self.layout.quarantine().join(name);
        if let Err(error) = fs::rename(path, &target) {
            tracing::error!(path = %path.display(), %error, "a damaged file cannot be moved to quarantine: removing it");
            if let Err(error) = remove_file(path) {
                tracing::error!(path = %path.display(), %error, "a damaged file cannot be removed either: it is not served");
            }
        }
        self.keep_newest_quarantined(MAX_QUARANTINED);
    }

    pub(crate) fn tell(&self, change: Change) {
        if let Some(on_change) = &self.options.on_change {
            on_change(change);
        }
    }

    fn plan(self: &Arc<Self>, table: &mut Table, needed: u64, on_disk: u64) -> Option<Vec<(Claimed, Victim)>> {
        let room = self.room(table, needed, on_disk);
        if room.fits() {
            return Some(Vec::new());
        }
        if let Some(victims) = self.plan_for(table, &room) {
            return Some(victims);
        }
        self.empty_quarantine();
        let room = self.room(table, needed, on_disk);
        self.plan_for(table, &room)
    }

    /// Claims, and takes out of the table, what has to go.
    fn plan_for(self: &Arc<Self>, table: &mut Table, room: &Room) -> Option<Vec<(Claimed, Victim)>> {
        let going = eviction::plan(room, table.candidates(self.options.partial_ttl))?;
        let mut victims = Vec::with_capacity(going.len());
        for digest in going {
            let victim = if let Some(held) = table.take(&digest) {
                Victim::Blob(held)
            } else if let Some(size) = table.take_unverified(&digest) {
                Victim::Unverified(size)
            } else {
                table.slots.remove(&digest);
                Victim::Partial
            };
            victims.push((self.claim_in(table, &digest, Claim::Brief), victim));
        }
        Some(victims)
    }

    fn evict(&self, victims: Vec<(Claimed, Victim)>) {
        for (claim, victim) in victims {
            let digest = claim.digest;
            let removed = match victim {
                Victim::Blob(_) | Victim::Unverified(_) => remove_file(&self.layout.blob(&digest)),
                Victim::Partial => self.remove_partial(&digest),
            };
            match (victim, removed) {
                (Victim::Blob(held), Ok(())) => {
                    tracing::info!(%digest, bytes = held.size, "evicted");
                    let mut table = self.table();
                    table.counts.evictions += 1;
                    table.counts.evicted_bytes += held.size;
                    drop(table);
                    self.unlist(&claim);
                }
                (Victim::Blob(held), Err(error)) => {
                    tracing::error!(%digest, %error, "cannot evict");
                    self.table().add(digest, held);
                }
                (Victim::Unverified(size), Ok(())) => {
                    tracing::info!(%digest, bytes = size, "removed a file that was not verified yet, to make room");
                    let mut table = self.table();
                    table.counts.evictions += 1;
                    table.counts.evicted_bytes += size;
                }
                (Victim::Unverified(size), Err(error)) => {
                    tracing::error!(%digest, %error, "cannot evict");
                    self.table().add_unverified(digest, size);
                }
                (Victim::Partial, Ok(())) => {
                    tracing::info!(%digest, "dropped a partial to make room");
                    self.table().counts.dropped_partials += 1;
                }
                (Victim::Partial, Err(error)) => {
                    tracing::error!(%digest, %error, "cannot drop a partial");
                    self.table().slots.insert(digest, Slot::new(0, 0, Some(Instant::now())));
                }
            }
        }
    }

    fn room(&self, table: &Table, needed: u64, on_disk: u64) -> Room {
        let quota = self.options.quota;
        let share = |percent: u8| quota / 100 * u64::from(percent.min(100));
        let free = self.options.disk.free(self.layout.root()).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot ask the file system for its free space: going by the quota alone");
            u64::MAX
        });
        Room {
            used: table.bytes() + table.reserved(),
            needed,
            on_disk,
            quota,
            high: share(self.options.high_watermark),
            low: share(self.options.low_watermark.min(self.options.high_watermark)),
            free,
            keep_free: self.options.keep_free,
            outstanding: table.outstanding(),
            blobs: table.blobs.len() + table.unverified.len(),
            max_blobs: self.options.max_blobs,
        }
    }

    fn empty_quarantine(&self) {
        self.keep_newest_quarantined(0);
    }

    fn keep_newest_quarantined(&self, count: usize) {
        let Ok(entries) = fs::read_dir(self.layout.quarantine()) else { return };
        let mut files: Vec<_> = entries
            .flatten()
            .map(|entry| (entry.metadata().and_then(|metadata| metadata.modified()).ok(), entry.path()))
            .collect();
        files.sort_by_key(|(modified, _)| std::cmp::Reverse(*modified));
        for (_, path) in files.into_iter().skip(count) {
            if let Err(error) = remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove from quarantine");
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Victim {
    Blob(Held),
    /// And its bytes.
    Unverified(u64),
    Partial,
}
