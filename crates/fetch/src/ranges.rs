//! What each registry does when it is asked for a part of a blob, as far as this node has seen.

use std::sync::{Mutex, PoisonError};

use shoal_content::Registry;
use shoal_coordination::Ranges;
use shoal_upstream::BlobStream;

use crate::bounded::BoundedMap;

/// Registries remembered.
const CAPACITY: usize = 256;

/// What registries did last. It is what a blob's members tell their coordinator from the start: whether one of them is to read for all.
#[derive(Debug)]
pub(crate) struct RangesSeen(Mutex<BoundedMap<Registry, Ranges>>);

impl RangesSeen {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(BoundedMap::new(CAPACITY)))
    }

    /// A registry was asked for a blob from byte `start` on, and this is its answer.
    ///
    /// One that sends the whole and does not say that it gives ranges is taken not to: were it asked by many for a leaf each to find out, it
    /// would send each of them all that comes before.
    pub(crate) fn learn(&self, registry: &Registry, start: u64, answer: &BlobStream) -> Ranges {
        let is_given = answer.ranged() && answer.offset() == start;
        let ranges = if is_given { Ranges::Given } else { Ranges::Ignored };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(registry.clone(), ranges);
        ranges
    }

    pub(crate) fn of(&self, registry: &Registry) -> Ranges {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(registry).copied().unwrap_or_default()
    }
}
