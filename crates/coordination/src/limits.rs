//! The numbers that coordination works by.

use std::time::Duration;

/// Limits of a coordinator and its members.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Leaves that a source sends at once. Fewer leave its uplink idle between two, more make every leaf late.
    pub uploads: u32,
    /// Leaves that a member takes from peers at once.
    pub downloads: u32,
    /// Leaves that a member is lent at once while others read too, at the most: where upstream is far away or slow to begin.
    pub lease: usize,
    /// Members that usually read from upstream at once, of all the blobs that they are getting. More would share its link so thinly that no
    /// leaf comes in soon.
    pub readers: usize,
    /// How long a coordinator keeps a request open that it has nothing for.
    pub hold: Duration,
    /// How long after a blob was first asked for holders are looked for before upstream is read.
    pub budget: Duration,
    /// How long nothing may land before a source counts as stalled, at the least.
    pub stall: Duration,
    /// How long the first leaf of all may take: nothing is known of the links then.
    pub first: Duration,
    /// How long a reader may wait for one leaf before that leaf comes first, however many have it.
    pub urgent: Duration,
    /// How many times the usual time of a leaf it may take before its source counts as stalled.
    pub patience: u32,
    /// How long a member may be silent before it counts as gone. It asks at least every `hold`.
    pub silence: Duration,
    /// How long a source that failed is passed over.
    pub avoid: Duration,
    /// Members of one blob. More are turned away and go on by themselves.
    pub members: usize,
}

impl Limits {
    /// What a leap of the clock counts as. Clocks are looked at far more often; and what is fresh does not stall for a leap.
    pub(crate) fn leap(&self) -> Duration {
        self.stall / 4
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            uploads: 4,
            downloads: 4,
            lease: 8,
            readers: 8,
            hold: Duration::from_millis(300),
            budget: Duration::from_millis(80),
            stall: Duration::from_secs(1),
            first: Duration::from_secs(10),
            urgent: Duration::from_secs(2),
            patience: 6,
            silence: Duration::from_secs(3),
            avoid: Duration::from_secs(5),
            members: 4096,
        }
    }
}
