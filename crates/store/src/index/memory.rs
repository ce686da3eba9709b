//! An index in memory: forgets everything when the store is closed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use shoal_content::{Digest, LeafHash};

use super::{BlockKey, Index, MAX_PLACES, Place, Record, TagRecord};
use crate::error::Result;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct MemoryIndex(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    blobs: BTreeMap<Digest, (Record, Vec<LeafHash>)>,
    leaves: HashMap<LeafHash, BTreeMap<Digest, u64>>,
    nodes: HashMap<[u8; 32], BTreeMap<Digest, u64>>,
    tags: BTreeMap<String, TagRecord>,
}

impl MemoryIndex {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index for MemoryIndex {
    fn insert(&self, record: &Record, leaves: &[LeafHash]) -> Result<()> {
        let mut held = self.held();
        held.remove(&record.digest);
        for (leaf, index) in leaves.iter().zip(0..) {
            held.leaves.entry(*leaf).or_default().insert(record.digest, index);
        }
        for (node, position) in record.nodes.iter().zip(0..) {
            held.nodes.entry(node.hash).or_default().insert(record.digest, position);
        }
        held.blobs.insert(record.digest, (record.clone(), leaves.to_vec()));
        Ok(())
    }

    fn remove(&self, digest: &Digest) -> Result<Option<Record>> {
        Ok(self.held().remove(digest))
    }

    fn record(&self, digest: &Digest) -> Result<Option<Record>> {
        Ok(self.held().blobs.get(digest).map(|(record, _)| record.clone()))
    }

    fn records(&self, each: &mut dyn FnMut(Record)) -> Result<()> {
        let records: Vec<_> = self.held().blobs.values().map(|(record, _)| record.clone()).collect();
        records.into_iter().for_each(each);
        Ok(())
    }

    fn leaves(&self, digest: &Digest) -> Result<Option<Vec<LeafHash>>> {
        Ok(self.held().blobs.get(digest).map(|(_, leaves)| leaves.clone()))
    }

    fn find(&self, key: &BlockKey) -> Result<Vec<Place>> {
        let held = self.held();
        let places = match key {
            BlockKey::Leaf(leaf) => held.leaves.get(leaf),
            BlockKey::Inner(hash) => held.nodes.get(hash),
        };
        let places = places.into_iter().flatten().take(MAX_PLACES);
        Ok(places.map(|(&digest, &position)| Place { digest, position }).collect())
    }

    fn touch(&self, uses: &[(Digest, u64)]) -> Result<()> {
        let mut held = self.held();
        for (digest, last_use) in uses {
            if let Some((record, _)) = held.blobs.get_mut(digest) {
                record.last_use = *last_use;
            }
        }
        Ok(())
    }

    fn update(&self, digest: &Digest, change: &mut dyn FnMut(&mut Record)) -> Result<bool> {
        let mut held = self.held();
        let Some((record, _)) = held.blobs.get_mut(digest) else { return Ok(false) };
        change(record);
        Ok(true)
    }

    fn tag(&self, key: &str) -> Result<Option<TagRecord>> {
        Ok(self.held().tags.get(key).cloned())
    }

    fn set_tag(&self, key: &str, tag: &TagRecord) -> Result<bool> {
        Ok(self.held().tags.insert(key.to_owned(), tag.clone()).is_none())
    }

    fn tags(&self, each: &mut dyn FnMut(&str, TagRecord)) -> Result<()> {
        let tags = self.held().tags.clone();
        tags.into_iter().for_each(|(key, tag)| each(&key, tag));
        Ok(())
    }

    fn remove_tag(&self, key: &str) -> Result<bool> {
        Ok(self.held().tags.remove(key).is_some())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

impl Held {
    fn remove(&mut self, digest: &Digest) -> Option<Record> {
        let (record, leaves) = self.blobs.remove(digest)?;
        for leaf in leaves {
            withdraw(&mut self.leaves, &leaf, digest);
        }
        for node in &record.nodes {
            withdraw(&mut self.nodes, &node.hash, digest);
        }
        Some(record)
    }
}

fn withdraw<K: Eq + std::hash::Hash>(places: &mut HashMap<K, BTreeMap<Digest, u64>>, key: &K, digest: &Digest) {
    if let Some(blobs) = places.get_mut(key) {
        blobs.remove(digest);
        if blobs.is_empty() {
            places.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_in_memory_does_what_an_index_does() {
        crate::index::conformance::run(|_| Box::new(MemoryIndex::default()), false);
    }
}
