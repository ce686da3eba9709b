//! Swarms in a simulated network: the very code that nodes run, with links that are shared, messages that take time or are lost, nodes
//! that join, leave and die, clocks that jump, and members that lie.
//!
//! A [`World`] says what there is and what happens; [`run`] plays it, event by event, and gives an [`Outcome`]. The same world gives the
//! same outcome, so a seed is all that is needed to see a failure again. What surrounds the core on a real node, whom a session asks and
//! what it does when nobody answers, is played by `session.rs` as `crates/fetch` does it.
//!
//! Left out: CPU, the shape of TCP (a flow has its share of a link at once), the disk. [`World::landing`], [`World::delay`],
//! [`World::queue`] and [`World::first_byte`] stand for what a leaf, a message and a read cost beside their bytes.

mod audit;
mod events;
mod instances;
mod liars;
mod links;
mod plan;
mod random;
mod session;
mod swarm;
mod transfers;

use std::time::Duration;

pub use plan::{Kind, REGROUPED, allowed, check, plan};
pub use random::Random;
pub use swarm::run;

use crate::Limits;

/// A node's name.
pub type Peer = u32;

/// What there is, and what happens.
#[derive(Clone, Debug)]
pub struct World {
    /// All chance comes from it.
    pub seed: u64,
    /// The blobs that every node wants: bytes of each.
    pub blobs: Vec<u64>,
    /// What upstream gives, in bytes a second.
    pub upstream: f64,
    /// Whether it gives parts of blobs; otherwise it sends every reader the whole from its beginning.
    pub ranges: bool,
    /// The nodes. Each one's number is its name.
    pub nodes: Vec<Node>,
    /// One way of a message: at least, and what it varies by.
    pub delay: (Duration, Duration),
    /// How long a message waits, at the most, behind what else flows out of its sender, and as long behind what flows to its receiver.
    pub queue: Duration,
    /// Messages lost, in percent, until `calm`.
    pub loss: u64,
    /// From when on no message is lost.
    pub calm: Duration,
    /// How long it takes to find the holders of a blob.
    pub search: Duration,
    /// Between a leaf's last byte and its being there for others: hashing and writing.
    pub landing: Duration,
    /// Between a request to upstream and the first byte.
    pub first_byte: Duration,
    /// What happens when.
    pub faults: Vec<(Duration, Fault)>,
    /// Coordination's numbers.
    pub limits: Limits,
    /// When the world ends, whoever has finished.
    pub end: Duration,
    /// Whether messages are written in their wire form, to count their bytes, and the coordinators' time is taken.
    pub measured: bool,
    /// Whether [`Outcome::story`] is written.
    pub told: bool,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Bytes a second that it sends.
    pub up: f64,
    /// Bytes a second that it receives.
    pub down: f64,
    /// When it begins to pull. It is in the swarm from the beginning.
    pub starts: Duration,
    /// It has all blobs from the beginning, and pulls nothing.
    pub holds: bool,
    /// What it does as a member.
    pub habit: Habit,
}

/// What a node does as a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// What it should.
    Honest,
    /// It takes leases and grants, and reads nothing.
    Hoards,
    /// It says that it has all leaves, and whatever it is told to get; it has nothing.
    Boasts,
    /// It says of all that it is granted that it is wrong.
    Disputes,
}

/// What befalls a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A node dies. Where it is `silent`, the others hear nothing of it for a while.
    Kill {
        /// Who.
        who: Victim,
        /// It vanishes without a word.
        silent: bool,
    },
    /// A node says goodbye.
    Leave(Peer),
    /// The nodes whose number is not a multiple of this are cut off from the others.
    Cut(u32),
    /// The cut is healed.
    Heal,
    /// A node's clock jumps by so many milliseconds.
    Jump(Peer, i64),
}

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// This node.
    Node(Peer),
    /// The node that the others take for the first blob's coordinator.
    Coordinator,
    /// Whoever has read most from upstream.
    Busiest,
}

/// What came of a world.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// When each node had all blobs; `None` for those that never did.
    pub finished: Vec<Option<Duration>>,
    /// Nodes that were to finish and did not: honest, alive at the end, and not holders.
    pub unfinished: Vec<Peer>,
    /// Bytes that upstream sent.
    pub upstream: f64,
    /// Of these, what nodes had read that died.
    pub lost: f64,
    /// Bytes that nodes sent which had the blobs from the beginning.
    pub holders: f64,
    /// Events played.
    pub events: u64,
    /// Requests that coordinators got.
    pub asks: u64,
    /// Replies that coordinators sent.
    pub replies: u64,
    /// Bytes of requests, in their wire form, where the world is measured.
    pub ask_bytes: u64,
    /// Bytes of replies.
    pub reply_bytes: u64,
    /// Leaves that were granted.
    pub grants: u64,
    /// Seconds of CPU in coordinators.
    pub coordinating: f64,
    /// The most bytes that one coordinator held.
    pub coordinator_memory: usize,
    /// Who asked whom, who read what, who died; and at last what each member and coordinator knew.
    pub story: Vec<String>,
    /// What should never be.
    pub broken: Vec<String>,
}

impl World {
    /// A calm world: `nodes` alike that want one blob of `leaves` leaves at once, rates in Mbit/s.
    pub fn calm(seed: u64, nodes: usize, leaves: u64, upstream: f64, node: f64) -> Self {
        let node =
            Node { up: mbit(node), down: mbit(node), starts: Duration::ZERO, holds: false, habit: Habit::Honest };
        Self {
            seed,
            blobs: vec![leaves * shoal_content::LEAF_SIZE],
            upstream: mbit(upstream),
            ranges: true,
            nodes: vec![node; nodes],
            delay: (Duration::from_millis(2), Duration::from_millis(2)),
            queue: Duration::ZERO,
            loss: 0,
            calm: Duration::ZERO,
            search: Duration::from_millis(5),
            landing: Duration::ZERO,
            first_byte: Duration::ZERO,
            faults: Vec::new(),
            limits: Limits::default(),
            end: Duration::from_secs(10_000),
            measured: false,
            told: false,
        }
    }

    /// The same with one more node, which has all blobs.
    pub fn with_holder(mut self) -> Self {
        let first = self.nodes[0].clone();
        self.nodes.push(Node { holds: true, ..first });
        self
    }

    /// Bytes of all blobs.
    pub fn size(&self) -> u64 {
        self.blobs.iter().sum()
    }

    /// What no scheme can beat, from the moment when all nodes pull: max(F/S, F/d, N·F/(S + N·u)), where S is what the holders send, or
    /// upstream where there are none; d is the slowest node's.
    pub fn bound(&self) -> Duration {
        let size = self.size() as f64;
        let pulling = || self.nodes.iter().filter(|node| !node.holds);
        let holders: f64 = self.nodes.iter().filter(|node| node.holds).map(|node| node.up).sum();
        let source = if holders > 0.0 { holders } else { self.upstream };
        let all_up: f64 = pulling().map(|node| node.up).sum();
        let slowest = pulling().map(|node| node.down).fold(f64::INFINITY, f64::min);
        let seconds = (size / source).max(size / slowest).max(pulling().count() as f64 * size / (source + all_up));
        Duration::from_secs_f64(seconds)
    }
}

impl Outcome {
    /// When the last node had all.
    pub fn last(&self) -> Duration {
        self.finished.iter().flatten().copied().max().unwrap_or_default()
    }
}

/// Mbit/s in bytes a second.
pub fn mbit(rate: f64) -> f64 {
    rate * 125_000.0
}
