//! What a run has shown, and the figures that follow from it.

use std::collections::BTreeMap;

use super::{admin, scenario::Plan};

/// What one run has shown.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Bytes of the image.
    pub(crate) bytes: u64,
    /// Bytes that upstream has to send once: more than the image where nodes pull several.
    pub(crate) distinct: u64,
    /// The time that no system can beat, in seconds.
    pub(crate) bound: f64,
    /// Of each node that pulled.
    pub(crate) nodes: Vec<NodeRun>,
    /// What upstream's link sent.
    pub(crate) upstream_sent: u64,
    /// What upstream's access log says of bodies of blobs.
    pub(crate) upstream_blobs: u64,
    /// Requests in that log.
    pub(crate) upstream_requests: u64,
    /// CPU seconds: of programs on the nodes by their names, of `upstream` and of `cache`.
    pub(crate) cpu: BTreeMap<String, f64>,
    /// CPU seconds in interrupts, of the whole machine.
    pub(crate) interrupts: f64,
    /// Share of all cores' time that was busy.
    pub(crate) busy: f64,
    /// Share of all cores' time that others than this bench took.
    pub(crate) others: f64,
    /// The most memory that a node of the system had resident, in bytes.
    pub(crate) peak: u64,
    /// Counters over time.
    pub(crate) samples: Vec<Sample>,
    /// When the fault happened, in seconds.
    pub(crate) fault_at: Option<f64>,
}

/// A node in a run. Times are in seconds since the first began.
#[derive(Clone, Debug)]
pub(crate) struct NodeRun {
    /// Its number.
    pub(crate) node: usize,
    /// When it began.
    pub(crate) began: f64,
    /// When it ended.
    pub(crate) over: f64,
    /// What `ctr` said where it failed.
    pub(crate) failed: Option<String>,
    /// The fault killed it.
    pub(crate) died: bool,
}

/// Counters at a moment, since the run began.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Seconds.
    pub(crate) at: f64,
    /// What upstream has sent.
    pub(crate) upstream: u64,
    /// What each node of the plan has received over its link.
    pub(crate) received: Vec<u64>,
    /// What each node says that it has from upstream and from peers; empty where it is not asked.
    pub(crate) sources: Vec<admin::Sources>,
}

impl Run {
    /// Nodes that the fault has left alive.
    fn living(&self) -> impl Iterator<Item = &NodeRun> {
        self.nodes.iter().filter(|node| !node.died)
    }

    /// Seconds until the last of the living nodes that count had all; none where one of them failed.
    pub(crate) fn last(&self, plan: &Plan) -> Option<f64> {
        let timed = plan.timed();
        let counted = self.living().filter(|node| timed.contains(&node.node));
        counted
            .map(|node| node.failed.is_none().then_some(node.over))
            .try_fold(0.0, |last, at| at.map(|at| f64::max(last, at)))
    }

    /// The slowest of the living nodes' own times, each beside what it needs at least with upstream to itself.
    pub(crate) fn slowest(&self, plan: &Plan) -> f64 {
        let own = |node: &NodeRun| (node.over - node.began) / plan.alone(node.node, self.bytes);
        self.living().map(own).fold(0.0, f64::max)
    }

    /// How many of the living have all, and how many live.
    pub(crate) fn whole(&self) -> (usize, usize) {
        (self.living().filter(|node| node.failed.is_none()).count(), self.living().count())
    }

    /// Copies of the image, or of all images together, that upstream's link sent.
    pub(crate) fn copies(&self) -> f64 {
        self.upstream_sent as f64 / self.distinct as f64
    }

    /// When the nodes that pulled had a quarter, a half, three quarters and all that they received, on average, in seconds: whether a
    /// large layer slows down as it grows.
    pub(crate) fn quarters(&self) -> Vec<f64> {
        let received = |sample: &Sample| self.nodes.iter().map(|node| sample.received[node.node]).sum::<u64>();
        let all = self.samples.last().map_or(0, received);
        (1..=4)
            .filter_map(|quarter| {
                self.samples.iter().find(|sample| received(sample) >= all / 4 * quarter).map(|sample| sample.at)
            })
            .collect()
    }

    /// CPU seconds for each GB that a runtime was given, by those whose names are asked for.
    pub(crate) fn cpu_per_gb(&self, of: impl Fn(&str) -> bool) -> f64 {
        let whole = self.nodes.iter().filter(|node| node.failed.is_none() && !node.died).count();
        let seconds = self.cpu.iter().filter(|(name, _)| of(name)).fold(0.0, |sum, (_, seconds)| sum + seconds);
        seconds / (whole.max(1) as f64 * self.bytes as f64 / 1e9)
    }

    /// What `ctr` said on a node that failed.
    pub(crate) fn failure(&self) -> Option<String> {
        let failed = self.living().find_map(|node| node.failed.as_ref().map(|words| (node.node, words)));
        failed.map(|(node, words)| format!("node{node}: {words}"))
    }
}
