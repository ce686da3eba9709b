//! [`Records`] as Kademlia wants them, and the keys that this node provides itself.
//!
//! Only providers are kept: nothing in Shoal reads values from the DHT, so a peer that puts some is refused.

use std::{
    borrow::Cow,
    collections::HashSet,
    iter,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};

use crate::records::{Limits, Records};

/// The record store of one node.
pub(crate) struct ProviderStore {
    local: PeerId,
    began: Instant,
    records: Records,
    /// Without a ceiling of its own: it is as large as the block store.
    provided: HashSet<RecordKey>,
    refused: u64,
}

impl ProviderStore {
    pub(crate) fn new(local: PeerId, limits: Limits) -> Self {
        Self { local, began: Instant::now(), records: Records::new(limits), provided: HashSet::new(), refused: 0 }
    }

    /// Answers for a key of our own from now on.
    pub(crate) fn provide(&mut self, key: RecordKey) {
        self.provided.insert(key);
    }

    /// No longer answers for a key of our own.
    pub(crate) fn withdraw(&mut self, key: &RecordKey) {
        self.provided.remove(key);
    }

    /// Number of own keys.
    pub(crate) fn provided_len(&self) -> usize {
        self.provided.len()
    }

    /// Number of keys that others provide.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Records refused so far because a bound was reached.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// Where a peer that has announced something was last said to be.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.records.addresses(peer)
    }

    pub(crate) fn peer_down(&mut self, peer: PeerId) {
        self.records.peer_down(peer);
    }

    pub(crate) fn peer_up(&mut self, peer: &PeerId) {
        self.records.peer_up(peer);
    }

    pub(crate) fn sweep(&mut self) {
        self.records.sweep(self.now());
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider == self.local {
            self.provided.insert(record.key);
            return Ok(());
        }
        let now = self.now();
        self.records.add(record.key.as_ref(), record.provider, record.addresses, now).map_err(|refused| {
            self.refused += 1;
            tracing::debug!(peer = %record.provider, ?refused, "provider record refused");
            Error::MaxProvidedKeys
        })
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        // Kademlia fills in the addresses that we listen on when it tells others of us.
        let own = self.provided.contains(key).then(|| ProviderRecord::new(key.clone(), self.local, Vec::new()));
        let others = self.records.providers(key.as_ref(), self.now()).into_iter().map(|provider| ProviderRecord {
            key: key.clone(),
            provider: provider.peer,
            expires: Some(Instant::now() + provider.remaining),
            addresses: provider.addresses,
        });
        own.into_iter().chain(others).collect()
    }

    /// Kademlia's own republishing is off: [`crate::announce`] decides when a key is announced again.
    fn provided(&self) -> Self::ProvidedIter<'_> {
        iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        if *peer == self.local {
            self.provided.remove(key);
        } else {
            self.records.remove(key.as_ref(), peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (PeerId, ProviderStore) {
        let local = PeerId::random();
        let limits = Limits { keys: 100, providers_per_key: 20, peers: 10, ttl: Duration::from_secs(600) };
        (local, ProviderStore::new(local, limits))
    }

    fn key(number: u32) -> RecordKey {
        RecordKey::new(&number.to_be_bytes())
    }

    #[test]
    fn ten_thousand_own_keys_are_answered_for() {
        let (local, mut store) = store();
        for number in 0..10_000 {
            store.add_provider(ProviderRecord::new(key(number), local, Vec::new())).unwrap();
        }
        for number in 0..10_000 {
            assert_eq!(store.providers(&key(number))[0].provider, local);
        }
        store.remove_provider(&key(7), &local);
        assert!(store.providers(&key(7)).is_empty());
        assert_eq!(store.provided_len(), 9_999);
    }

    #[test]
    fn values_are_refused_and_providers_kept_until_they_expire() {
        let (_, mut store) = store();
        assert!(store.put(Record::new(key(0), vec![1])).is_err());
        let other = PeerId::random();
        store.add_provider(ProviderRecord::new(key(0), other, Vec::new())).unwrap();
        let found = store.providers(&key(0));
        assert_eq!(found[0].provider, other);
        assert!(!found[0].is_expired(Instant::now()) && found[0].is_expired(Instant::now() + Duration::from_secs(601)));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_counted() {
        let (_, mut store) = store();
        let other = PeerId::random();
        for number in 0..100 {
            let _ = store.add_provider(ProviderRecord::new(key(number), other, Vec::new()));
        }
        assert_eq!((store.len(), store.refused()), (25, 75));
    }
}
