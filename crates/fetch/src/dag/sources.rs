//! Whom each block of a file is asked of: a state machine without I/O, clock or randomness.
//!
//! Whoever has one block of a file probably has the others, so peers that were found for any block are asked for all, the least busy first. A
//! peer that says no is not asked for that block again; one that fails is not asked at all until a search finds it again. When nobody is left to ask for a block, others are searched for
//! it, once; then it is lost. A peer that is asked and silent for the stall time keeps its wants, but each goes to another as well.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use shoal_content::Cid;
use shoal_swarm::PeerId;

/// Blocks asked of one peer at once. With leaves of 1 MiB far more than a pipe needs; with small ones what keeps it from draining.
const MAX_ASKED: usize = 32;

/// Peers that one file is fetched from.
const MAX_PEERS: usize = 64;

/// How often a peer may fail until it is not asked again, even where a search finds it: connections break and are made anew.
const MAX_FAILURES: u32 = 3;

/// Refusals that an error tells.
const MAX_TOLD: usize = 4;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask a peer for a block. Answered by `came` or `refused`.
    Ask {
        peer: PeerId,
        cid: Cid,
        /// Higher for what comes earlier in the file.
        priority: i32,
    },
    /// Look for who else has this block. Answered by any number of `found`, and `search_over`.
    Search(Cid),
    /// Nobody has this block.
    Lost { cid: Cid, refusals: Vec<String> },
}

/// Why a peer did not give a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It does not have it.
    DoesNotHave,
    /// It broke off, was silent, or broke the protocol.
    Failed(String),
}

#[derive(Debug)]
struct Source {
    /// Blocks asked of it and not answered.
    asked: usize,
    /// When it last gave something, or was first asked after it had nothing to do.
    heard: Instant,
}

#[derive(Debug)]
struct Block {
    cid: Cid,
    priority: i32,
    /// Peers that are asked for it now.
    asked: Vec<PeerId>,
    /// Peers that do not give it.
    refused: Vec<PeerId>,
    refusals: Vec<String>,
    is_searched: bool,
}

/// All peers that one file is fetched from, and all blocks that are to come from them.
#[derive(Debug)]
pub(super) struct Sources {
    stall: Duration,
    peers: HashMap<PeerId, Source>,
    /// How often peers have failed, whatever for.
    failures: HashMap<PeerId, u32>,
    /// In the order in which they were wanted; the reading bounds their number.
    blocks: Vec<Block>,
    searching: Option<Cid>,
    next_priority: i32,
}

impl Sources {
    /// `stall` is how long a peer that was asked may be silent before others are asked too.
    pub(super) fn new(stall: Duration) -> Self {
        Self {
            stall,
            peers: HashMap::new(),
            failures: HashMap::new(),
            blocks: Vec::new(),
            searching: None,
            next_priority: i32::MAX,
        }
    }

    /// A block is to come from peers.
    pub(super) fn wanted(&mut self, cid: Cid) {
        let priority = self.next_priority;
        self.next_priority = self.next_priority.saturating_sub(1);
        let block =
            Block { cid, priority, asked: Vec::new(), refused: Vec::new(), refusals: Vec::new(), is_searched: false };
        self.blocks.push(block);
    }

    /// A peer has a block of the file, or is said to.
    pub(super) fn found(&mut self, peer: PeerId, now: Instant) {
        let failures = self.failures.get(&peer).copied().unwrap_or(0);
        if self.peers.len() < MAX_PEERS && failures < MAX_FAILURES {
            self.peers.entry(peer).or_insert(Source { asked: 0, heard: now });
        }
    }

    /// The search that was begun last has named all that it will.
    pub(super) fn search_over(&mut self) {
        let searched = self.searching.take();
        if let Some(block) = self.blocks.iter_mut().find(|block| Some(block.cid) == searched) {
            block.is_searched = true;
        }
    }

    /// A peer gave a block.
    pub(super) fn came(&mut self, cid: &Cid, peer: PeerId, now: Instant) {
        self.answered(cid, peer);
        if let Some(source) = self.peers.get_mut(&peer) {
            source.heard = now;
        }
    }

    /// The block is here; whoever else was asked for it no longer is. False when it was not wanted any more.
    pub(super) fn forget(&mut self, cid: &Cid) -> bool {
        let Some(at) = self.blocks.iter().position(|block| block.cid == *cid) else { return false };
        for peer in self.blocks.remove(at).asked {
            if let Some(source) = self.peers.get_mut(&peer) {
                source.asked -= 1;
            }
        }
        true
    }

    /// A peer did not give a block.
    pub(super) fn refused(&mut self, cid: &Cid, peer: PeerId, refusal: &Refusal) {
        self.answered(cid, peer);
        let reason = match refusal {
            Refusal::DoesNotHave => format!("{peer} does not have it"),
            Refusal::Failed(reason) => format!("{peer}: {reason}"),
        };
        if let Some(block) = self.blocks.iter_mut().find(|block| block.cid == *cid) {
            if *refusal == Refusal::DoesNotHave {
                block.refused.push(peer);
            }
            if block.refusals.len() < MAX_TOLD {
                block.refusals.push(reason);
            }
        }
        // The first of its wants to fail tells of all of them.
        if matches!(refusal, Refusal::Failed(_)) && self.peers.remove(&peer).is_some() {
            *self.failures.entry(peer).or_default() += 1;
            for block in &mut self.blocks {
                block.asked.retain(|asked| *asked != peer);
            }
        }
    }

    fn answered(&mut self, cid: &Cid, peer: PeerId) {
        let Some(block) = self.blocks.iter_mut().find(|block| block.cid == *cid) else { return };
        let Some(at) = block.asked.iter().position(|asked| *asked == peer) else { return };
        block.asked.swap_remove(at);
        if let Some(source) = self.peers.get_mut(&peer) {
            source.asked -= 1;
        }
    }

    /// What to do now; call until `None`, and again after whatever happens and at [`next_look`](Self::next_look).
    pub(super) fn next(&mut self, now: Instant) -> Option<Step> {
        for at in 0..self.blocks.len() {
            let block = &self.blocks[at];
            let is_stalled = |peer: &PeerId| {
                self.peers.get(peer).is_none_or(|source| now.saturating_duration_since(source.heard) >= self.stall)
            };
            if !block.asked.iter().all(is_stalled) {
                continue;
            }
            let could_be_asked =
                |(peer, _): &(&PeerId, &Source)| !block.refused.contains(peer) && !block.asked.contains(peer);
            let able: Vec<_> = self.peers.iter().filter(could_be_asked).collect();
            // Of a block that is asked for already, only somebody who works is worth a second copy.
            let fit = able.iter().filter(|(peer, source)| {
                source.asked < MAX_ASKED && (block.asked.is_empty() || source.asked == 0 || !is_stalled(peer))
            });
            if let Some((&peer, _)) = fit.min_by_key(|(peer, source)| (source.asked, **peer)).copied() {
                return Some(self.ask(at, peer, now));
            }
            if !able.is_empty() || !block.asked.is_empty() || self.searching.is_some() {
                continue;
            }
            if block.is_searched {
                return Some(Step::Lost { cid: block.cid, refusals: block.refusals.clone() });
            }
            self.searching = Some(block.cid);
            return Some(Step::Search(block.cid));
        }
        None
    }

    fn ask(&mut self, at: usize, peer: PeerId, now: Instant) -> Step {
        let block = &mut self.blocks[at];
        block.asked.push(peer);
        if let Some(source) = self.peers.get_mut(&peer) {
            if source.asked == 0 {
                source.heard = now;
            }
            source.asked += 1;
        }
        Step::Ask { peer, cid: block.cid, priority: block.priority }
    }

    /// When the next peer will have been silent for the stall time, if others could be asked then.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let busy = self.peers.values().filter(|source| source.asked > 0).map(|source| source.heard + self.stall);
        busy.filter(|at| *at > now && self.peers.len() > 1).min()
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
