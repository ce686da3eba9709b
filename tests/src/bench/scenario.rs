//! Who pulls what, when, over which links; and the time that no system can beat.

use std::{fmt, time::Duration};

use super::{fault::Fault, options::Options, payload::Payload};

/// Between the starts of two nodes in [`Scenario::Staggered`].
const STAGGER: Duration = Duration::from_millis(300);
/// A slow node of [`Scenario::Uneven`] has this part of the bandwidth of another.
const SLOW: f64 = 0.1;
/// So many of them.
const SLOW_NODES: usize = 2;
/// The upstream of [`Scenario::Fast`] has this many times the bandwidth.
const FAST: f64 = 4.0;
/// The layer of [`Scenario::Huge`] has this many times the size: 4 GiB where the image has 100 MiB.
const HUGE: u32 = 41;
/// So many pull it.
const HUGE_NODES: usize = 4;

/// What is made to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    Stampede,
    Rollout,
    Alone,
    AloneDead,
    Staggered,
    Late,
    Uneven,
    Tiny,
    TinyStampede,
    TinyDead,
    Fast,
    Two,
    Huge,
}

/// Name on the command line, and what happens.
pub(crate) const SCENARIOS: &[(Scenario, &str, &str)] = &[
    (Scenario::Stampede, "stampede", "all nodes cold, all at once"),
    (Scenario::Rollout, "rollout", "one node has the image, all others want it at once"),
    (Scenario::Alone, "alone", "one node, cold, with no other in the swarm"),
    (Scenario::AloneDead, "alone-dead", "one node, cold; all its peers have just been unplugged"),
    (Scenario::Staggered, "staggered", "all nodes cold, 0.3 s apart"),
    (Scenario::Late, "late", "half of the nodes cold at once; the others when the first are at 50 %"),
    (
        Scenario::Uneven,
        "uneven",
        "a stampede where two nodes have a tenth of the bandwidth (bound and last: of the others)",
    ),
    (Scenario::Tiny, "tiny", "one node alone, 20 layers of 100 kB"),
    (Scenario::TinyStampede, "tiny-stampede", "a stampede for 20 layers of 100 kB"),
    (Scenario::TinyDead, "tiny-dead", "20 layers of 100 kB for one node; all its peers have just been unplugged"),
    (Scenario::Fast, "fast", "a stampede with four times the upstream"),
    (Scenario::Two, "two", "a stampede for two images with the same largest layer: half of the nodes pull either"),
    (
        Scenario::Huge,
        "huge",
        "four nodes, one layer 41 times the size (not in `all`; on disk: 37 times that must be free)",
    ),
];

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// Each node by itself.
    Direct,
    /// distribution's pull-through cache on a host of its own.
    Distribution,
    /// `shoal` on each node.
    Shoal,
}

/// Name on the command line.
pub(crate) const SYSTEMS: &[(System, &str)] =
    &[(System::Direct, "direct"), (System::Distribution, "distribution"), (System::Shoal, "shoal")];

/// When nodes begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    Together,
    Apart(Duration),
    /// The second half when the first has half of the image, on average.
    HalfAtHalf,
}

/// A scenario with all its numbers.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What is pulled.
    pub(crate) payload: Payload,
    /// Mbit/s of upstream, each way.
    pub(crate) upstream: f64,
    /// Mbit/s of each node, each way. Their number is that of the nodes.
    pub(crate) nodes: Vec<f64>,
    /// So many nodes, from the first on, have the image before.
    pub(crate) warm: usize,
    /// So many nodes pull, from the first cold one on.
    pub(crate) pulling: usize,
    /// The nodes that do not pull are unplugged before.
    pub(crate) unplugged: bool,
    /// When they begin.
    pub(crate) start: Start,
}

impl Scenario {
    /// Whether all that its nodes keep fits into memory.
    pub(crate) fn fits_memory(self) -> bool {
        self != Scenario::Huge
    }

    /// The scenario with the numbers of the command line.
    pub(crate) fn plan(self, options: &Options) -> Plan {
        let (upstream, node) = (options.upstream * options.scale, options.node * options.scale);
        let all = Plan {
            payload: Payload::Uneven { mib: options.mib },
            upstream,
            nodes: vec![node; options.nodes],
            warm: 0,
            pulling: options.nodes,
            unplugged: false,
            start: Start::Together,
        };
        let alone = Plan { nodes: vec![node], pulling: 1, ..all.clone() };
        match self {
            Scenario::Stampede => all,
            Scenario::Rollout => Plan { warm: 1, pulling: options.nodes - 1, ..all },
            Scenario::Alone => alone,
            Scenario::AloneDead => Plan { pulling: 1, unplugged: true, ..all },
            Scenario::Staggered => Plan { start: Start::Apart(STAGGER), ..all },
            Scenario::Late => Plan { start: Start::HalfAtHalf, ..all },
            Scenario::Uneven => {
                let fast = options.nodes.saturating_sub(SLOW_NODES).max(1);
                let nodes = (0..options.nodes).map(|index| if index < fast { node } else { node * SLOW }).collect();
                Plan { nodes, ..all }
            }
            Scenario::Tiny => Plan { payload: Payload::Tiny, ..alone },
            Scenario::TinyStampede => Plan { payload: Payload::Tiny, ..all },
            Scenario::TinyDead => Plan { payload: Payload::Tiny, pulling: 1, unplugged: true, ..all },
            Scenario::Two => Plan { payload: Payload::Two { mib: options.mib }, ..all },
            Scenario::Huge => {
                let payload = Payload::One { mib: options.mib.saturating_mul(HUGE) };
                Plan { payload, nodes: vec![node; HUGE_NODES], pulling: HUGE_NODES, ..all }
            }
            Scenario::Fast => Plan { upstream: upstream * FAST, ..all },
        }
    }
}

impl Plan {
    /// The nodes that pull.
    pub(crate) fn cold(&self) -> std::ops::Range<usize> {
        self.warm..self.warm + self.pulling
    }

    /// The nodes that are timed as a whole: those that pull and are not slower than others by their links.
    pub(crate) fn timed(&self) -> Vec<usize> {
        let best = self.cold().map(|node| self.nodes[node]).fold(0.0, f64::max);
        self.cold().filter(|&node| self.nodes[node] >= best).collect()
    }

    /// Seconds from the first request to the last byte of the last timed node that no system can beat for `bytes`, where
    /// the last node began `last_start` seconds after the first: max(F/S, F/d, N·F/(S + N·u)), S being what gives the
    /// bytes at first: upstream, or those who have them.
    pub(crate) fn bound(&self, bytes: u64, last_start: f64) -> f64 {
        let bits = bytes as f64 * 8.0 / 1e6;
        let distinct = self.payload.distinct().max(bytes) as f64 * 8.0 / 1e6;
        let warm: f64 = self.nodes[..self.warm].iter().sum();
        let source = if self.warm > 0 { warm } else { self.upstream };
        let timed = self.timed();
        let down = timed.iter().map(|&node| self.nodes[node]).fold(f64::INFINITY, f64::min);
        let up: f64 = self.cold().map(|node| self.nodes[node]).sum();
        let all = timed.len() as f64 * bits / (source + up);
        (distinct / source).max(last_start + bits / down).max(all)
    }

    /// Seconds that a node needs at least with upstream all to itself.
    pub(crate) fn alone(&self, node: usize, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / 1e6 / self.upstream.min(self.nodes[node])
    }
}

impl System {
    /// Whether there is anything for a fault to hit.
    pub(crate) fn can_suffer(self, fault: Fault) -> bool {
        self == System::Shoal || !fault.is_of_peers()
    }

    /// Whether a program, as [`super::outcome::Run::cpu`] names it, carries bytes for this system and would not run without it.
    pub(crate) fn consists_of(self, program: &str) -> bool {
        match self {
            System::Direct => false,
            System::Distribution => program == "cache",
            System::Shoal => program == "shoal",
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = SCENARIOS.iter().find(|(scenario, ..)| scenario == self).map_or("?", |(_, name, _)| name);
        f.pad(name)
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(SYSTEMS.iter().find(|(system, _)| system == self).map_or("?", |(_, name)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::Scenario;
    use crate::bench::options::Options;

    const IMAGE: u64 = 100 << 20;

    fn bound(scenario: Scenario, options: &Options) -> f64 {
        (scenario.plan(options).bound(IMAGE, 0.0) * 100.0).round() / 100.0
    }

    #[test]
    fn the_bound_is_that_of_the_links_alone() {
        let options = Options::default();
        assert_eq!(bound(Scenario::Stampede, &options), 4.19);
        assert_eq!(bound(Scenario::Rollout, &options), 2.1);
        assert_eq!(bound(Scenario::Alone, &options), 4.19);
        assert_eq!(bound(Scenario::Fast, &options), 2.1);
        let quarter = Options { scale: 0.25, ..Options::default() };
        assert_eq!(bound(Scenario::Stampede, &quarter), 16.78);
        // Where uplinks are what there is least of.
        let narrow = Options { upstream: 200.0, node: 100.0, ..Options::default() };
        assert_eq!(bound(Scenario::Stampede, &narrow), 8.39);
    }

    #[test]
    fn slow_nodes_are_not_timed_and_late_ones_move_the_bound() {
        let plan = Scenario::Uneven.plan(&Options::default());
        assert_eq!(plan.timed(), [0, 1, 2, 3, 4, 5]);
        assert_eq!((plan.bound(IMAGE, 0.0) * 100.0).round(), 419.0);
        let plan = Scenario::Staggered.plan(&Options::default());
        assert!(plan.bound(IMAGE, 7.0) > 9.0);
    }
}
