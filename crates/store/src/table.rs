//! What is held and who works on it, in memory.
//!
//! A claim makes one party the only one to change what is on disk of a digest. A partial holds its claim for as long as it is open;
//! removal, `put` and verification claim briefly, and others wait for those. Whoever holds a claim may ask for room;
//! whoever makes room takes only what nobody has claimed: so nobody waits in a circle.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use shoal_content::Digest;

use crate::{
    error::{Error, Result},
    eviction::{Candidate, Class},
    shared::Shared,
};

/// How long last uses may wait to be noted in the index.
const NOTE_EVERY: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    /// Whole, verified blobs.
    pub(crate) blobs: HashMap<Digest, Held>,
    /// Blobs in progress, open or not, and `put`s under way.
    pub(crate) slots: HashMap<Digest, Slot>,
    /// Files of blobs that the index did not list, and their lengths: not served before they have been verified.
    pub(crate) unverified: BTreeMap<Digest, u64>,
    claims: HashMap<Digest, Claim>,
    /// Blobs whose last use is not in the index yet.
    unnoted: HashSet<Digest>,
    noted_at: Instant,
    /// The latest last use given out.
    clock: u64,
    /// Bytes of `blobs` and `unverified`.
    bytes: u64,
    pub(crate) tags: usize,
    pub(crate) counts: Counts,
}

/// What happened since the store was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) evictions: u64,
    pub(crate) evicted_bytes: u64,
    pub(crate) dropped_partials: u64,
    pub(crate) quarantined: u64,
    pub(crate) refused: u64,
}

/// A whole blob.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) size: u64,
    pub(crate) last_use: u64,
    pub(crate) pinned: bool,
}

/// Room that a blob in progress takes.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) size: u64,
    /// Bytes of it that are on disk.
    pub(crate) written: Arc<AtomicU64>,
    /// Since when nobody has it open; `None` while somebody has.
    pub(crate) closed: Option<Instant>,
}

/// What somebody does with a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Over soon: others wait.
    Brief,
    /// It lasts: others are told that it is busy.
    Lasting,
}

/// A claim, given back when it is dropped.
pub(crate) struct Claimed {
    shared: Arc<Shared>,
    pub(crate) digest: Digest,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            blobs: HashMap::new(),
            slots: HashMap::new(),
            unverified: BTreeMap::new(),
            claims: HashMap::new(),
            unnoted: HashSet::new(),
            noted_at: Instant::now(),
            clock: 0,
            bytes: 0,
            tags: 0,
            counts: Counts::default(),
        }
    }

    /// The time, in milliseconds since 1970, but later than every time before: the wall clock may jump, the order of uses may not.
    pub(crate) fn tick(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.clock = now.max(self.clock.saturating_add(1));
        self.clock
    }

    /// Notes a use, and gives the blob's size.
    pub(crate) fn touch(&mut self, digest: &Digest) -> Option<u64> {
        let now = self.tick();
        let held = self.blobs.get_mut(digest)?;
        held.last_use = now;
        self.unnoted.insert(*digest);
        Some(held.size)
    }

    /// Last uses that are to be noted in the index now; none when that was done a short while ago, unless it is `final`.
    pub(crate) fn uses_to_note(&mut self, last: bool) -> Vec<(Digest, u64)> {
        if !last && self.noted_at.elapsed() < NOTE_EVERY {
            return Vec::new();
        }
        self.noted_at = Instant::now();
        let unnoted = std::mem::take(&mut self.unnoted);
        unnoted.into_iter().filter_map(|digest| Some((digest, self.blobs.get(&digest)?.last_use))).collect()
    }

    pub(crate) fn add(&mut self, digest: Digest, held: Held) {
        self.clock = self.clock.max(held.last_use);
        self.bytes += held.size;
        if let Some(before) = self.blobs.insert(digest, held) {
            self.bytes -= before.size;
        }
    }

    pub(crate) fn take(&mut self, digest: &Digest) -> Option<Held> {
        let held = self.blobs.remove(digest)?;
        self.bytes -= held.size;
        Some(held)
    }

    pub(crate) fn add_unverified(&mut self, digest: Digest, size: u64) {
        self.bytes += size;
        self.unverified.insert(digest, size);
    }

    pub(crate) fn take_unverified(&mut self, digest: &Digest) -> Option<u64> {
        let size = self.unverified.remove(digest)?;
        self.bytes -= size;
        Some(size)
    }

    /// Bytes of whole blobs, verified or not.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that blobs in progress take of the quota: their whole size while they are open, then what is on disk of them.
    pub(crate) fn reserved(&self) -> u64 {
        self.slots.values().map(Slot::charge).sum()
    }

    /// Bytes reserved by open partials that are not on disk yet.
    pub(crate) fn outstanding(&self) -> u64 {
        let open = self.slots.values().filter(|slot| slot.closed.is_none());
        open.map(|slot| slot.size.saturating_sub(slot.written.load(Ordering::Relaxed))).sum()
    }

    pub(crate) fn is_claimed(&self, digest: &Digest) -> bool {
        self.claims.contains_key(digest)
    }

    /// What could go, but for what somebody works on.
    pub(crate) fn candidates(&self, partial_ttl: Duration) -> Vec<Candidate<Digest>> {
        let blobs = self.blobs.iter().map(|(digest, held)| Candidate {
            id: *digest,
            class: Class::Blob,
            size: held.size,
            last_use: held.last_use,
            pinned: held.pinned,
        });
        let partials = self.slots.iter().filter_map(|(digest, slot)| {
            let closed_for = slot.closed?.elapsed();
            let class = if closed_for >= partial_ttl { Class::StalePartial } else { Class::RecentPartial };
            let last_use = u64::MAX - u64::try_from(closed_for.as_nanos()).unwrap_or(u64::MAX);
            Some(Candidate { id: *digest, class, size: slot.charge(), last_use, pinned: false })
        });
        // Of the unverified nothing is known, not even whether they are good: they are the first of the blobs to go.
        let unverified = self.unverified.iter().map(|(digest, size)| Candidate {
            id: *digest,
            class: Class::Blob,
            size: *size,
            last_use: 0,
            pinned: false,
        });
        blobs.chain(partials).chain(unverified).filter(|candidate| !self.is_claimed(&candidate.id)).collect()
    }
}

impl Slot {
    /// A slot of which `written` bytes are on disk.
    pub(crate) fn new(size: u64, written: u64, closed: Option<Instant>) -> Self {
        Self { size, written: Arc::new(AtomicU64::new(written)), closed }
    }

    fn charge(&self) -> u64 {
        match self.closed {
            None => self.size,
            Some(_) => self.written.load(Ordering::Relaxed).min(self.size),
        }
    }
}

impl Shared {
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Claims a digest; waits for brief claims of others.
    pub(crate) fn claim(self: &Arc<Self>, digest: &Digest, claim: Claim) -> Result<Claimed> {
        let mut table = self.table();
        loop {
            match table.claims.get(digest) {
                None => return Ok(self.claim_in(&mut table, digest, claim)),
                Some(Claim::Lasting) => return Err(Error::Busy(*digest)),
                Some(Claim::Brief) => {
                    table = self.released.wait(table).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Claims a digest that is known not to be claimed, under the table's lock.
    pub(crate) fn claim_in(self: &Arc<Self>, table: &mut Table, digest: &Digest, claim: Claim) -> Claimed {
        table.claims.insert(*digest, claim);
        Claimed { shared: Arc::clone(self), digest: *digest }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.shared.table().claims.remove(&self.digest);
        self.shared.released.notify_all();
    }
}

/// Locks; a panic of another holder does not spread: every change of what is locked here is a single step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use shoal_content::Algorithm;

    use super::*;

    #[test]
    fn a_use_is_later_than_every_one_before_even_if_the_clock_was_ahead() {
        let mut table = Table::new();
        let digest = Digest::of(Algorithm::Sha256, b"");
        let ahead = u64::MAX / 2;
        table.add(digest, Held { size: 7, last_use: ahead, pinned: false });
        assert_eq!(table.tick(), ahead + 1);
        assert_eq!(table.touch(&digest), Some(7));
        assert_eq!(table.uses_to_note(false), []);
        assert_eq!(table.uses_to_note(true), [(digest, ahead + 2)]);
        assert_eq!(table.uses_to_note(true), []);
    }

    #[test]
    fn an_open_partial_counts_whole_and_a_closed_one_as_far_as_it_is_written() {
        let mut table = Table::new();
        let digest = |name: &str| Digest::of(Algorithm::Sha256, name.as_bytes());
        table.slots.insert(digest("open"), Slot::new(100, 30, None));
        table.slots.insert(digest("closed"), Slot::new(100, 20, Some(Instant::now())));
        assert_eq!((table.reserved(), table.outstanding()), (120, 70));
        let candidates = table.candidates(Duration::from_secs(3600));
        assert_eq!(candidates.len(), 1);
        assert_eq!(
            (candidates[0].id, candidates[0].class, candidates[0].size),
            (digest("closed"), Class::RecentPartial, 20)
        );
        assert_eq!(table.candidates(Duration::ZERO)[0].class, Class::StalePartial);
    }
}
