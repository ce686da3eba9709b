//! What this node announces, shared between those who store blobs and the event loop.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shoal_content::{Cid, Digest};
use tokio::sync::Notify;

use crate::announce::{Announcer, Key};

/// Announcing never waits and never fails: the store tells of every blob, from whatever thread, and the event loop follows.
/// It holds a key or two for each blob in the store, so it is as bounded as the store is.
#[derive(Debug)]
pub(crate) struct Provided {
    inner: Mutex<Inner>,
    wake: Notify,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) announcer: Announcer,
    /// The keys of each blob: its digest, and its root where that is another.
    blobs: HashMap<Digest, (Key, Option<Key>)>,
    /// Keys withdrawn that are still answered for.
    withdrawn: Vec<Key>,
}

impl Provided {
    pub(crate) fn new(ttl: Duration, max_under_way: usize, seed: u64) -> Self {
        let announcer = Announcer::new(ttl, max_under_way, seed);
        Self {
            inner: Mutex::new(Inner { announcer, blobs: HashMap::new(), withdrawn: Vec::new() }),
            wake: Notify::new(),
        }
    }

    pub(crate) fn announce(&self, digest: &Digest, root: &Cid) {
        let key = digest.multihash();
        let root = Some(*root.hash()).filter(|root| *root != key);
        let mut inner = self.lock();
        if inner.blobs.contains_key(digest) {
            return;
        }
        inner.blobs.insert(*digest, (key, root));
        inner.announcer.announce(key);
        if let Some(root) = root {
            inner.announcer.announce(root);
        }
        drop(inner);
        self.wake.notify_one();
    }

    pub(crate) fn withdraw(&self, digest: &Digest) {
        let mut inner = self.lock();
        let Some((key, root)) = inner.blobs.remove(digest) else { return };
        for key in std::iter::once(key).chain(root) {
            if inner.announcer.withdraw(&key) {
                inner.withdrawn.push(key);
            }
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Returns when something was announced or withdrawn since the last time.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Nothing panics while it holds the lock in the middle of a change, so what a panicking caller left is whole.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Keys that are no longer to be answered for.
    pub(crate) fn take_withdrawn(&mut self) -> Vec<Key> {
        let mut keys = std::mem::take(&mut self.withdrawn);
        // It may have come back since.
        keys.retain(|key| !self.announcer.wants(key));
        keys
    }
}

#[cfg(test)]
mod tests {
    use shoal_content::{Algorithm, LeafHash};

    use super::*;

    #[test]
    fn a_blob_is_announced_by_its_digest_and_by_its_root_where_that_differs() {
        let provided = Provided::new(Duration::from_secs(60), 8, 0);
        let small = Digest::of(Algorithm::Sha256, b"small");
        provided.announce(&small, &LeafHash::of(b"small").cid());
        provided.announce(&small, &LeafHash::of(b"small").cid());
        assert_eq!(provided.lock().announcer.len(), 1);

        let large = Digest::of(Algorithm::Sha256, b"large");
        let root = LeafHash::of(b"its root").cid();
        provided.announce(&large, &root);
        assert_eq!(provided.lock().announcer.len(), 3);

        provided.withdraw(&large);
        provided.withdraw(&large);
        let mut withdrawn = provided.lock().take_withdrawn();
        withdrawn.sort_unstable();
        let mut expected = vec![large.multihash(), *root.hash()];
        expected.sort_unstable();
        assert_eq!(withdrawn, expected);
        provided.withdraw(&small);
        provided.announce(&small, &LeafHash::of(b"small").cid());
        assert!(provided.lock().take_withdrawn().is_empty());
    }
}
