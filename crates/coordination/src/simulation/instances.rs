//! Nodes as coordinators: what surrounds a [`Coordinator`], as `crates/fetch` does it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    Peer,
    events::Event,
    links::Moment,
    swarm::{Swarm, at, nanos},
};
use crate::{Ask, Coordinator, Reply};

const TICK: Duration = Duration::from_millis(20);
const LINGER: Duration = Duration::from_secs(10);
const SEARCH_AGAIN: Duration = Duration::from_millis(200);

pub(super) struct Instance {
    pub id: u64,
    pub core: Coordinator<Peer>,
    /// Requests without an answer: who and which, and the asker's term.
    pub open: BTreeMap<(Peer, u64), u64>,
    is_searching: bool,
    searched: Moment,
    alone_since: Moment,
}

/// A peer's name as it is sent: as long as libp2p's.
fn name(peer: &Peer) -> Vec<u8> {
    let mut name = vec![0; 38];
    name[..4].copy_from_slice(&peer.to_be_bytes());
    name
}

impl Swarm<'_> {
    pub(super) fn asked(&mut self, to: Peer, from: Peer, blob: usize, term: u64, ask: Ask<Peer>) {
        if !self.nodes[at(to)].alive {
            return;
        }
        if self.nodes[at(to)].instances[blob].is_none() {
            self.begin_coordinating(to, blob);
        }
        let clock = self.clock(to);
        if from != to {
            self.outcome.asks += 1;
            if self.world.measured {
                self.outcome.ask_bytes += ask.encode(name).len() as u64;
            }
        }
        let Some(instance) = &mut self.nodes[at(to)].instances[blob] else { return };
        self.audit.asked(instance.id, from, &ask);
        instance.open.insert((from, ask.sequence), term);
        let began = self.world.measured.then(Instant::now);
        let replies = instance.core.ask(from, ask, clock);
        self.outcome.coordinating += began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        self.deliver(to, blob, replies);
    }

    fn begin_coordinating(&mut self, node: Peer, blob: usize) {
        let core = Coordinator::new(self.world.blobs[blob], self.world.limits.clone(), self.clock(node));
        self.instances_begun += 1;
        self.nodes[at(node)].instances[blob] = core.map(|core| Instance {
            id: self.instances_begun,
            core,
            open: BTreeMap::new(),
            is_searching: false,
            searched: self.now,
            alone_since: self.now,
        });
        self.audit.begun(self.instances_begun, node);
        self.search(node, blob);
        self.after(TICK, Event::CoordinatorTick { node, blob, instance: self.instances_begun });
    }

    fn search(&mut self, node: Peer, blob: usize) {
        let Some(instance) = &mut self.nodes[at(node)].instances[blob] else { return };
        instance.is_searching = true;
        instance.searched = self.now;
        let id = instance.id;
        let holders: Vec<Peer> = (0..)
            .zip(&self.nodes)
            .filter(|(peer, state)| {
                let is_whole = state.has[blob].is_full();
                let is_done = state.sessions[blob].as_ref().is_none_or(|session| session.is_done);
                is_whole && is_done && state.alive && self.links.reach(at(*peer), at(node))
            })
            .map(|(peer, _)| peer)
            .take(32)
            .collect();
        for holder in holders {
            let wait = if holder == node { Duration::from_micros(100) } else { self.world.search };
            self.after(wait, Event::Found { node, blob, instance: id, holder: Some(holder) });
        }
        self.after(self.world.search, Event::Found { node, blob, instance: id, holder: None });
    }

    fn instance(&mut self, node: Peer, blob: usize, id: u64) -> Option<&mut Instance> {
        self.nodes[at(node)].instances[blob].as_mut().filter(|instance| instance.id == id)
    }

    pub(super) fn found(&mut self, node: Peer, blob: usize, id: u64, holder: Option<Peer>) {
        let clock = self.clock(node);
        let outline = self.outlines[blob].clone();
        let Some(instance) = self.instance(node, blob, id) else { return };
        let replies = match holder {
            Some(holder) => instance.core.holder(holder, &outline, clock),
            None => {
                instance.is_searching = false;
                instance.core.search_over(clock)
            }
        };
        self.deliver(node, blob, replies);
    }

    pub(super) fn lost_member(&mut self, node: Peer, blob: usize, gone: Peer) {
        let clock = self.clock(node);
        let Some(instance) = &mut self.nodes[at(node)].instances[blob] else { return };
        self.audit.gone(instance.id, gone);
        let replies = instance.core.gone(gone, clock);
        instance.open.retain(|(member, _), _| *member != gone);
        self.deliver(node, blob, replies);
    }

    pub(super) fn coordinator_tick(&mut self, node: Peer, blob: usize, id: u64) {
        let (now, clock, is_measured) = (self.now, self.clock(node), self.world.measured);
        let Some(instance) = self.instance(node, blob, id) else { return };
        let began = is_measured.then(Instant::now);
        let replies = instance.core.tick(clock);
        let took = began.map_or(0.0, |began| began.elapsed().as_secs_f64());
        let memory = instance.core.memory();
        let searches =
            instance.core.is_stuck() && !instance.is_searching && now - instance.searched >= nanos(SEARCH_AGAIN);
        if searches {
            instance.core.search_begun();
        }
        if instance.core.members() > 0 {
            instance.alone_since = now;
        }
        let is_over = now - instance.alone_since > nanos(LINGER);
        self.outcome.coordinating += took;
        self.outcome.coordinator_memory = self.outcome.coordinator_memory.max(memory);
        self.deliver(node, blob, replies);
        if is_over {
            self.nodes[at(node)].instances[blob] = None;
            return;
        }
        if searches {
            self.search(node, blob);
        }
        self.after(TICK, Event::CoordinatorTick { node, blob, instance: id });
    }

    fn deliver(&mut self, node: Peer, blob: usize, replies: Vec<(Peer, Reply<Peer>)>) {
        if let Some(instance) = &self.nodes[at(node)].instances[blob] {
            self.audit.replied(instance.id, node, blob, &replies, self.now);
        }
        for (to, reply) in replies {
            let Some(instance) = &mut self.nodes[at(node)].instances[blob] else { return };
            let Some(term) = instance.open.remove(&(to, reply.sequence)) else { continue };
            self.outcome.grants += reply.grants.len() as u64;
            if node != to {
                self.outcome.replies += 1;
                if self.world.measured {
                    self.outcome.reply_bytes += reply.encode(name).len() as u64;
                }
            }
            if let Some(delay) = self.post(node, to) {
                self.after(delay, Event::Reply { to, blob, term, reply: Box::new(reply) });
            }
        }
    }
}
