//! The world's events, one after another.

use std::{
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use shoal_content::{LeafHash, LeafSet, Outline, leaf::leaf_count};

use super::{
    Fault, Habit, Outcome, Peer, Random, Victim, World,
    audit::Audit,
    events::{Entry, Event},
    instances::Instance,
    liars::Liar,
    links::{Links, Moment},
    session::Session,
};
use crate::Ranges;

/// How long it takes until the others give up a node that vanished without a word.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(8);

/// Nodes that no fault takes.
const LEAST_LIVING: usize = 2;

/// What clocks show when the world begins: they may jump back.
const EPOCH: i64 = 1_000_000_000_000_000;

pub(super) struct State {
    pub alive: bool,
    /// Everybody knows that it is gone.
    pub gone: bool,
    /// What its clock differs by.
    pub offset: i64,
    pub upstream: f64,
    pub has: Vec<LeafSet>,
    pub sessions: Vec<Option<Session>>,
    pub instances: Vec<Option<Instance>>,
    pub liars: Vec<Option<Liar>>,
    /// What it has seen upstream do with ranges.
    pub ranges: Ranges,
    /// Coordinators that did not answer, and when.
    pub silent: BTreeMap<Peer, Moment>,
    /// When another node answered or gave something last, and when one that was asked did not.
    pub heard: Option<Moment>,
    pub unheard: Option<Moment>,
}

pub(super) struct Swarm<'a> {
    pub world: &'a World,
    pub random: Random,
    pub now: Moment,
    pub links: Links,
    pub nodes: Vec<State>,
    pub outlines: Vec<Outline>,
    /// For each blob, nodes by their nearness to it.
    pub ranks: Vec<Vec<Peer>>,
    pub outcome: Outcome,
    pub audit: Audit,
    pub instances_begun: u64,
    queue: BinaryHeap<Entry>,
    order: u64,
    waited_for: usize,
}

/// Plays a world.
pub fn run(world: &World) -> Outcome {
    let mut swarm = Swarm::new(world);
    swarm.play();
    swarm.close()
}

/// The hash of a leaf.
pub(super) fn hash(blob: usize, leaf: u64) -> LeafHash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&leaf.to_be_bytes());
    bytes[8..16].copy_from_slice(&(blob as u64).to_be_bytes());
    LeafHash(bytes)
}

pub(super) fn nanos(duration: Duration) -> Moment {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn at(peer: Peer) -> usize {
    peer as usize
}

impl<'a> Swarm<'a> {
    fn new(world: &'a World) -> Self {
        let mut random = Random::new(world.seed);
        let count = world.nodes.len();
        let mut up: Vec<f64> = world.nodes.iter().map(|node| node.up).collect();
        up.push(world.upstream);
        let down: Vec<f64> = world.nodes.iter().map(|node| node.down).collect();
        let outlines: Vec<Outline> = (0..)
            .zip(&world.blobs)
            .map(|(blob, size)| {
                let hashes: Vec<LeafHash> = (0..leaf_count(*size)).map(|leaf| hash(blob, leaf)).collect();
                Outline::complete(*size, &hashes).expect("as many hashes as leaves")
            })
            .collect();
        let peers: Vec<Peer> = (0..).take(count).collect();
        let ranks = outlines
            .iter()
            .map(|_| {
                let mut rank = peers.clone();
                for last in (1..count).rev() {
                    let other = usize::try_from(random.below(last as u64 + 1)).unwrap_or(0);
                    rank.swap(last, other);
                }
                rank
            })
            .collect();
        let nodes = world
            .nodes
            .iter()
            .map(|node| State {
                alive: true,
                gone: false,
                offset: EPOCH,
                upstream: 0.0,
                has: outlines
                    .iter()
                    .map(|outline| match node.holds {
                        true => LeafSet::full(outline.leaf_count()),
                        false => LeafSet::empty(outline.leaf_count()),
                    })
                    .collect(),
                sessions: outlines.iter().map(|_| None).collect(),
                instances: outlines.iter().map(|_| None).collect(),
                liars: outlines.iter().map(|_| None).collect(),
                ranges: Ranges::Unknown,
                silent: BTreeMap::new(),
                heard: None,
                unheard: None,
            })
            .collect();
        let mut swarm = Self {
            world,
            random,
            now: 0,
            links: Links::new(&up, &down),
            nodes,
            outlines,
            ranks,
            outcome: Outcome { finished: vec![None; count], ..Outcome::default() },
            audit: Audit::new(world.ranges),
            instances_begun: 0,
            queue: BinaryHeap::new(),
            order: 0,
            waited_for: 0,
        };
        for (peer, node) in (0..).zip(&world.nodes) {
            if !node.holds {
                swarm.at(nanos(node.starts), Event::Start(peer));
                swarm.waited_for += usize::from(node.habit == Habit::Honest);
            }
        }
        for (index, (when, _)) in world.faults.iter().enumerate() {
            swarm.at(nanos(*when), Event::Fault(index));
        }
        swarm
    }

    fn play(&mut self) {
        let end = nanos(self.world.end);
        while self.waited_for > 0
            && let Some(Entry { at, event, .. }) = self.queue.pop()
        {
            if at > end {
                break;
            }
            self.now = at;
            self.outcome.events += 1;
            self.happen(event);
            for (due, flow) in std::mem::take(&mut self.links.due) {
                self.at(due, Event::Flow(flow));
            }
        }
    }

    fn close(mut self) -> Outcome {
        let pulls = |peer: usize| !self.world.nodes[peer].holds && self.world.nodes[peer].habit == Habit::Honest;
        self.outcome.unfinished = (0..)
            .zip(&self.nodes)
            .filter(|(peer, node)| node.alive && pulls(at(*peer)) && self.outcome.finished[at(*peer)].is_none())
            .map(|(peer, _)| peer)
            .collect();
        for (peer, node) in self.nodes.iter().enumerate().filter(|_| self.world.told) {
            let at_last = |blob: usize, what: &dyn std::fmt::Debug| format!("at last, {peer}, blob {blob}: {what:?}");
            let members = node.sessions.iter().flatten().map(|session| &session.member).enumerate();
            let cores = node.instances.iter().enumerate().filter_map(|(blob, one)| Some((blob, &one.as_ref()?.core)));
            self.outcome.story.extend(members.map(|(blob, member)| at_last(blob, member)));
            self.outcome.story.extend(cores.map(|(blob, core)| at_last(blob, core)));
        }
        self.outcome.broken = self.audit.broken;
        self.outcome
    }

    pub(super) fn at(&mut self, at: Moment, event: Event) {
        self.order += 1;
        self.queue.push(Entry { at, order: self.order, event });
    }

    pub(super) fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + nanos(wait), event);
    }

    /// Something for the story, where it is told.
    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.world.told {
            self.outcome.story.push(format!("{:?}: {}", Duration::from_nanos(self.now), what()));
        }
    }

    /// A message's time; `None` when it is lost.
    pub(super) fn post(&mut self, from: Peer, to: Peer) -> Option<Duration> {
        if from == to {
            return Some(Duration::from_micros(50));
        }
        let is_lost = nanos(self.world.calm) > self.now && self.random.chance(self.world.loss);
        if is_lost || !self.links.reach(at(from), at(to)) {
            return None;
        }
        let queues = [self.links.is_sending(at(from)), self.links.is_receiving(at(to))];
        let behind = queues.into_iter().filter(|is_busy| *is_busy && !self.world.queue.is_zero());
        let waits: u64 = behind.map(|_| self.random.below(nanos(self.world.queue) + 1)).sum();
        let varies = self.random.below(nanos(self.world.delay.1) + 1);
        Some(self.world.delay.0 + Duration::from_nanos(varies + waits))
    }

    /// What a node's clock shows.
    pub(super) fn clock(&self, peer: Peer) -> Duration {
        let shown = self.nodes[at(peer)].offset.saturating_add_unsigned(self.now);
        Duration::from_nanos(u64::try_from(shown).unwrap_or(0))
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(peer) => self.start(peer),
            Event::Fault(index) => self.fault(self.world.faults[index].1),
            Event::Gone(peer) => self.noticed(peer),
            Event::Ask { to, from, blob, term, ask } => self.asked(to, from, blob, term, *ask),
            Event::Reply { to, blob, term, reply } => self.replied(to, blob, term, *reply),
            Event::Refused { to, blob, term, sequence } => self.unanswered(to, blob, term, sequence, true),
            Event::Timeout { node, blob, term, sequence } => self.unanswered(node, blob, term, sequence, false),
            Event::Want { to, from, blob, grant } => self.wanted(to, from, blob, *grant),
            Event::DontHave { to, from, blob, leaf } => self.dont_have(to, from, blob, leaf),
            Event::Flow(id) => {
                if self.links.arrived(self.now, id) {
                    self.arrived(id);
                }
            }
            Event::FirstByte { node, blob, read } => self.first_byte(node, blob, read),
            Event::Landed { node, blob, leaf, from } => self.landed(node, blob, leaf, from),
            Event::Tick { node, blob } => self.tick(node, blob),
            Event::Tell { node, blob } => self.turn(node, blob),
            Event::Found { node, blob, instance, holder } => self.found(node, blob, instance, holder),
            Event::CoordinatorTick { node, blob, instance } => self.coordinator_tick(node, blob, instance),
            Event::Lie { node, blob } => self.lie(node, blob),
        }
    }

    fn start(&mut self, peer: Peer) {
        if !self.nodes[at(peer)].alive {
            return;
        }
        for blob in 0..self.outlines.len() {
            match self.world.nodes[at(peer)].habit {
                Habit::Honest => self.begin(peer, blob),
                habit => self.begin_lying(peer, blob, habit),
            }
        }
    }

    /// A blob is whole on a node.
    pub(super) fn finished(&mut self, peer: Peer) {
        let is_done = |session: &Option<Session>| session.as_ref().is_some_and(|session| session.is_done);
        if self.nodes[at(peer)].sessions.iter().all(is_done) && self.outcome.finished[at(peer)].is_none() {
            self.outcome.finished[at(peer)] = Some(Duration::from_nanos(self.now));
            self.waited_for -= 1;
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Kill { who, silent } => {
                let Some(peer) = self.victim(who) else { return };
                self.kill(peer, silent);
            }
            Fault::Leave(peer) => {
                if self.nodes[at(peer)].alive && self.living() > LEAST_LIVING {
                    for blob in 0..self.outlines.len() {
                        self.give_up(peer, blob);
                    }
                    self.kill(peer, false);
                }
            }
            Fault::Cut(by) => {
                for peer in 0..self.world.nodes.len() {
                    self.links.side(self.now, peer, u8::from(peer % (by.max(2) as usize) != 0));
                }
            }
            Fault::Heal => {
                for peer in 0..self.world.nodes.len() {
                    self.links.side(self.now, peer, 0);
                }
            }
            Fault::Jump(peer, by) => {
                let node = &mut self.nodes[at(peer)];
                node.offset = (node.offset + by * 1_000_000).max(0);
                self.audit.jumped(peer, self.now);
            }
        }
    }

    fn victim(&self, who: Victim) -> Option<Peer> {
        let living = (0..).zip(&self.nodes).filter(|(_, node)| node.alive);
        match who {
            Victim::Node(peer) => Some(peer),
            Victim::Coordinator => self.nearest(0, 0),
            Victim::Busiest => living.max_by(|a, b| a.1.upstream.total_cmp(&b.1.upstream)).map(|(peer, _)| peer),
        }
    }

    fn living(&self) -> usize {
        self.nodes.iter().filter(|node| node.alive).count()
    }

    /// A node vanishes. At least two stay: a world of one has nobody to coordinate with.
    fn kill(&mut self, peer: Peer, silent: bool) {
        if !self.nodes[at(peer)].alive || self.living() <= LEAST_LIVING {
            return;
        }
        let was_waited_for = !self.world.nodes[at(peer)].holds
            && self.world.nodes[at(peer)].habit == Habit::Honest
            && self.outcome.finished[at(peer)].is_none();
        self.waited_for -= usize::from(was_waited_for);
        self.note(|| format!("{peer} is gone{}", if silent { " without a word" } else { "" }));
        let node = &mut self.nodes[at(peer)];
        node.alive = false;
        node.sessions.iter_mut().for_each(|session| *session = None);
        node.liars.iter_mut().for_each(|liar| *liar = None);
        let open: Vec<(Peer, usize, u64, u64)> = (0..)
            .zip(&node.instances)
            .filter_map(|(blob, instance)| Some((blob, instance.as_ref()?)))
            .flat_map(|(blob, instance)| {
                instance.open.iter().map(move |((from, sequence), term)| (*from, blob, *term, *sequence))
            })
            .collect();
        node.instances.iter_mut().for_each(|instance| *instance = None);
        for id in self.links.of(at(peer)) {
            // What it was reading is lost with the rest.
            self.broken_off(peer, id, silent);
        }
        self.outcome.lost += self.nodes[at(peer)].upstream;
        if silent {
            self.after(KEEP_ALIVE, Event::Gone(peer));
        } else {
            for (to, blob, term, sequence) in open {
                self.after(self.world.delay.0, Event::Refused { to, blob, term, sequence });
            }
            self.after(self.world.delay.0, Event::Gone(peer));
        }
    }

    fn noticed(&mut self, peer: Peer) {
        self.nodes[at(peer)].gone = true;
        for node in (0..).take(self.nodes.len()) {
            for blob in 0..self.outlines.len() {
                self.lost_source(node, blob, peer);
                self.lost_member(node, blob, peer);
            }
        }
    }

    /// Whom a node takes for a blob's coordinator: the nearest of those who, as far as it knows, live.
    pub(super) fn nearest(&self, blob: usize, skip: usize) -> Option<Peer> {
        self.ranks[blob].iter().copied().filter(|peer| !self.nodes[at(*peer)].gone).nth(skip)
    }
}
