//! Whom a session asks who reads what: the nearest peer that is of use.
//!
//! A coordinator is believed in nothing, and can still waste time: give nothing, or name sources that have nothing. It cannot be seen from an
//! empty answer whether there is nothing to give: in a large swarm behind a slow upstream nothing lands for seconds. So a member that has nothing
//! to do asks its neighbours for their own word. Where nobody reads, or somebody has what is never granted, the next nearest peer is asked
//! from then on. As all members of that swarm find the same, they meet there again.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use shoal_content::Outline;
use shoal_swarm::PeerId;
use tokio::task::JoinHandle;

use super::drive::{Coordinator, Driver};
use crate::coordinators::{NEIGHBOURS, words};

/// Peers that may come to coordinate a blob where nearer ones are of no use.
pub(super) const CANDIDATES: usize = 8;

/// How long nothing may be under way here before the neighbours are asked, and between two times of that; at least.
const STARVED: Duration = Duration::from_millis(700);

/// Where leaves take longer, so many times what one takes: with many members it is long until each has its turn.
const STARVED_LEAVES: u32 = 2;

/// That the neighbours have what is not given here says little by itself: they may all be sending it to others. So it must be so, with the same
/// leaf, when they are asked again, and once more for each so many of them that have read something: the more there are, the longer it is
/// until each has its turn.
const CROWD: usize = 6;

/// Of fewer leaves it says nothing until it has been so many times: on slow links the first of them go from one to the next for seconds before
/// all have something to give.
const MANY: usize = 8;
const STARVED_AT_LAST: usize = 8;

/// Sources without what was granted, one after the other, after which the coordinator is of no use; and how long nothing has landed by then.
const MAX_IN_VAIN: u32 = 8;
const IN_VAIN_FOR: Duration = Duration::from_millis(500);

/// So many peers are meant, as one alone may have told the coordinator that it has what it has not; of fewer it takes longer.
const EMPTY_SOURCES: usize = 3;
const IN_VAIN_AT_LAST: Duration = Duration::from_millis(1500);

/// What a session sees of its coordinator.
#[derive(Default)]
pub(super) struct Watch {
    useless: BTreeSet<PeerId>,
    starving: Option<Instant>,
    asking: Option<JoinHandle<Vec<Outline>>>,
    /// Leaves that are lacking here and were there each time that the neighbours were asked, and how often that was.
    seen: BTreeSet<u64>,
    starved: usize,
    in_vain: u32,
    empty: BTreeSet<PeerId>,
    is_nonsense: bool,
}

impl Watch {
    /// A leaf has landed.
    pub(super) fn landed(&mut self) {
        self.in_vain = 0;
        self.empty.clear();
    }

    /// The coordinator says what cannot be.
    pub(super) fn nonsense(&mut self) {
        self.is_nonsense = true;
    }

    /// A source had not got what was granted.
    pub(super) fn missed(&mut self, source: PeerId) {
        self.in_vain += 1;
        self.empty.insert(source);
    }
}

/// How many times in a row so many leaves may be with others and not given here, where so many neighbours have read something.
fn may_starve(leaves: usize, readers: usize) -> usize {
    if leaves < MANY { STARVED_AT_LAST } else { readers / CROWD }
}

impl Driver<'_> {
    /// The nearest peer that is of use and not silent for the moment; `None` where that is this node, or where nobody answers at all.
    pub(super) async fn candidate(&mut self, despite_silence: bool) -> Option<PeerId> {
        if !despite_silence && self.env.heard.are_all_silent(Instant::now()) {
            return None;
        }
        self.nearest_of_use(despite_silence).await
    }

    /// The same, however many are silent.
    pub(super) async fn nearest_of_use(&mut self, despite_silence: bool) -> Option<PeerId> {
        let nearest = self.env.swarm.nearest(&self.session.digest, CANDIDATES).await.unwrap_or_default();
        let now = Instant::now();
        // Who does not answer is passed by for the next nearest: all that find so meet there, and do not each read upstream.
        let is_silent = |peer: &PeerId| self.env.reputation.is_silent(peer) || self.env.heard.is_silent(peer, now);
        let may_be_asked = |peer: &PeerId| self.is_of_use(peer) && (despite_silence || !is_silent(peer));
        nearest.into_iter().find(|peer| peer.as_ref().is_none_or(may_be_asked)).flatten()
    }

    pub(super) fn is_of_use(&self, peer: &PeerId) -> bool {
        let reputation = &self.env.reputation;
        !reputation.is_avoided(peer)
            && !reputation.is_mute(peer)
            && !reputation.is_useless(peer)
            && !self.watch.useless.contains(peer)
    }

    /// Looks whether the coordinator is of use.
    pub(super) async fn watch_coordinator(&mut self) {
        let Coordinator::Peer(coordinator) = self.coordinator else { return };
        if self.watch.is_nonsense {
            self.leave(coordinator, "it says that nobody can give what can be read from upstream").await;
            return;
        }
        let (empty, idle) = (self.watch.empty.len(), self.progress_at.elapsed());
        let is_in_vain = idle > IN_VAIN_AT_LAST || (empty >= EMPTY_SOURCES && idle > IN_VAIN_FOR);
        if self.watch.in_vain >= MAX_IN_VAIN && is_in_vain {
            self.leave(coordinator, "it names sources that have nothing").await;
            return;
        }
        let is_starving = self.has_answered && !self.has_work() && !self.member.wanted().is_empty();
        if !is_starving {
            self.watch.starving = None;
            self.watch.asking = None;
            self.watch.seen.clear();
            self.watch.starved = 0;
            return;
        }
        let since = *self.watch.starving.get_or_insert_with(Instant::now);
        let starved = self.member.usual().map_or(STARVED, |usual| STARVED.max(usual * STARVED_LEAVES));
        match self.watch.asking.take() {
            Some(asking) if asking.is_finished() => {
                self.watch.starving = Some(Instant::now());
                let words = asking.await.unwrap_or_default();
                let have = self.member.have();
                let lacking: BTreeSet<u64> = (0..have.capacity())
                    .filter(|leaf| !have.contains(*leaf))
                    .filter(|leaf| words.iter().any(|word| word.leaf(*leaf).is_some()))
                    .collect();
                if words.is_empty() {
                    self.leave(coordinator, "it gives nothing, and nobody reads").await;
                    return;
                }
                let still: BTreeSet<u64> = lacking.intersection(&self.watch.seen).copied().collect();
                (self.watch.seen, self.watch.starved) =
                    if still.is_empty() { (lacking, 0) } else { (still, self.watch.starved + 1) };
                if self.watch.starved > may_starve(self.watch.seen.len(), words.len()) {
                    self.leave(coordinator, "it does not give what others have").await;
                }
            }
            None if since.elapsed() >= starved => self.watch.asking = Some(self.ask_neighbours()),
            asking => self.watch.asking = asking,
        }
    }

    fn ask_neighbours(&self) -> JoinHandle<Vec<Outline>> {
        let (swarm, digest, size) = (self.env.swarm.clone(), self.session.digest, self.size);
        tokio::spawn(async move {
            let peers = swarm.nearest(&digest, NEIGHBOURS + 1).await.unwrap_or_default();
            let words = words(&swarm, digest, peers.into_iter().flatten().collect()).await;
            words.into_iter().map(|(_, word)| word).filter(|word| word.size() == size).collect()
        })
    }

    /// Another is asked from now on.
    pub(super) async fn leave(&mut self, coordinator: PeerId, why: &str) {
        self.env.reputation.useless(coordinator, format!("as coordinator of {}: {why}", self.session.digest));
        self.watch.useless.insert(coordinator);
        self.watch = Watch { useless: std::mem::take(&mut self.watch.useless), ..Watch::default() };
        match self.candidate(false).await {
            Some(next) => self.ask_from_now_on(Coordinator::Peer(next)),
            None => self.ask_from_now_on(Coordinator::Itself),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_leaves_are_waited_for_longer_than_many_and_in_a_crowd_all_are() {
        assert_eq!(may_starve(1, 2), STARVED_AT_LAST, "the first leaves go from one to the next");
        assert_eq!(may_starve(MANY, 1), 0, "one reads all, and nothing is passed on");
        assert!(may_starve(MANY, 16) > may_starve(MANY, 2));
    }
}
