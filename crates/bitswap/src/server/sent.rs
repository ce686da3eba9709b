//! How often this node has sent each block.

use std::collections::{HashMap, VecDeque};

use shoal_content::Cid;

/// Counts for the blocks sent first among the last `limit` different ones; what is older counts as never sent.
#[derive(Debug)]
pub(crate) struct SentCounts {
    counts: HashMap<Cid, u32>,
    order: VecDeque<Cid>,
    limit: usize,
}

impl SentCounts {
    pub(crate) fn new(limit: usize) -> Self {
        Self { counts: HashMap::new(), order: VecDeque::new(), limit }
    }

    pub(crate) fn get(&self, cid: &Cid) -> u32 {
        self.counts.get(cid).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, cid: &Cid) {
        if let Some(count) = self.counts.get_mut(cid) {
            *count = count.saturating_add(1);
            return;
        }
        if self.limit == 0 {
            return;
        }
        if self.order.len() >= self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.counts.remove(&oldest);
        }
        self.counts.insert(*cid, 1);
        self.order.push_back(*cid);
    }

    /// Takes back one [`SentCounts::add`]: the block did not reach the stream after all.
    pub(crate) fn take_back(&mut self, cid: &Cid) {
        if let Some(count) = self.counts.get_mut(cid) {
            *count = count.saturating_sub(1);
        }
    }
}
