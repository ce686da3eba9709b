//! A holder that is slow, silent or lies, over one that is not.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, bail};
use bytes::Bytes;
use shoal_content::{Algorithm, Cid, Digest, Outline};
use shoal_fetch::Shown;
use shoal_store::Partial;
use shoal_swarm::{Blocks, KnownTag, PeerId, Provides};
use tokio::sync::oneshot;

/// A holder that stalls says nothing for so long: longer than whatever waits for it.
const STALL: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Takes so long for each leaf, one after the other.
    Slow(Duration),
    Stalls,
    /// Sends other bytes.
    Lies,
}

impl Fault {
    pub(super) fn named(name: &str, pause: Duration) -> Result<Self> {
        Ok(match name {
            "none" => Fault::None,
            "slow" => Fault::Slow(pause),
            "stalls" => Fault::Stalls,
            "lies" => Fault::Lies,
            other => bail!("no such fault: {other}"),
        })
    }
}

/// What a node shows to its peers, with a fault put over it.
pub(super) struct Mask {
    shown: Shown,
    fault: Mutex<Fault>,
    /// Blocks that are still served faultlessly.
    good: AtomicU64,
    /// One at a time is slow.
    turn: Mutex<()>,
    /// Blocks read since the fault showed.
    since: AtomicU64,
}

impl Mask {
    pub(super) fn new(shown: Shown) -> Self {
        let (good, since) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { shown, fault: Mutex::new(Fault::None), good, turn: Mutex::new(()), since }
    }

    /// After `good` more blocks the node has this fault.
    pub(super) fn set(&self, fault: Fault, good: u64) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        self.good.store(good, Ordering::Relaxed);
        self.since.store(0, Ordering::Relaxed);
    }

    /// What comes of this blob is hashed as it is in a session: the digest of the whole beside the leaves.
    pub(super) fn move_on(&self, partial: &Arc<Partial>) {
        self.shown.move_on(partial);
    }

    /// Blocks that were asked for since the fault showed.
    pub(super) fn asked_since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }
}

impl Blocks for Mask {
    fn size(&self, cid: &Cid) -> Option<u64> {
        self.shown.size(cid)
    }

    #[allow(clippy::disallowed_methods, reason = "held up as by a slow disk, on a thread for that")]
    fn read(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = |good: u64| good.checked_sub(1);
        if fault == Fault::None || self.good.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_good).is_ok() {
            return self.shown.read(cid);
        }
        self.since.fetch_add(1, Ordering::Relaxed);
        match fault {
            Fault::None => {}
            Fault::Slow(pause) => {
                let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                std::thread::sleep(pause);
            }
            Fault::Stalls => std::thread::sleep(STALL),
            Fault::Lies => {
                let truth = self.shown.read(cid)?;
                return Ok(truth.map(|bytes| bytes.iter().map(|byte| !byte).collect()));
            }
        }
        self.shown.read(cid)
    }

    fn hash(&self, algorithm: Algorithm, block: &[u8]) -> Digest {
        self.shown.hash(algorithm, block)
    }
}

impl Provides for Mask {
    fn outline(&self, digest: &Digest) -> Option<Arc<Outline>> {
        self.shown.outline(digest)
    }

    fn coordinate(&self, peer: PeerId, request: Vec<u8>) -> Option<oneshot::Receiver<Vec<u8>>> {
        self.shown.coordinate(peer, request)
    }

    fn tag(&self, name: &str) -> Option<KnownTag> {
        self.shown.tag(name)
    }
}
