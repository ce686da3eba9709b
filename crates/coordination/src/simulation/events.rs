//! What happens in a world, and when.

use std::cmp::Ordering;

use super::{Peer, links::Moment};
use crate::{Ask, Grant, Reply};

pub(super) enum Event {
    Start(Peer),
    Fault(usize),
    /// Everybody has noticed that a node is gone.
    Gone(Peer),
    Ask {
        to: Peer,
        from: Peer,
        blob: usize,
        term: u64,
        ask: Box<Ask<Peer>>,
    },
    Reply {
        to: Peer,
        blob: usize,
        term: u64,
        reply: Box<Reply<Peer>>,
    },
    /// No answer came, for a reason that shows at once.
    Refused {
        to: Peer,
        blob: usize,
        term: u64,
        sequence: u64,
    },
    /// No answer has come for so long.
    Timeout {
        node: Peer,
        blob: usize,
        term: u64,
        sequence: u64,
    },
    /// A request for a leaf reaches its source.
    Want {
        to: Peer,
        from: Peer,
        blob: usize,
        grant: Box<Grant<Peer>>,
    },
    DontHave {
        to: Peer,
        from: Peer,
        blob: usize,
        leaf: u64,
    },
    Flow(usize),
    FirstByte {
        node: Peer,
        blob: usize,
        read: u64,
    },
    Landed {
        node: Peer,
        blob: usize,
        leaf: u64,
        from: Option<Peer>,
    },
    Tick {
        node: Peer,
        blob: usize,
    },
    Tell {
        node: Peer,
        blob: usize,
    },
    Found {
        node: Peer,
        blob: usize,
        instance: u64,
        holder: Option<Peer>,
    },
    CoordinatorTick {
        node: Peer,
        blob: usize,
        instance: u64,
    },
    Lie {
        node: Peer,
        blob: usize,
    },
}

/// An event and its time.
pub(super) struct Entry {
    pub at: Moment,
    pub order: u64,
    pub event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    // The earliest is the greatest: the heap gives it first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}
