//! Links and what flows over them.
//!
//! A flow gets an equal share of each end of its way, and no more than the scarcer gives. Rates change only where a flow begins or
//! ends, so each flow has one time at which it will be done, which is looked at again when that time comes.

/// Nanoseconds since the world began.
pub(super) type Moment = u64;

/// A leaf on its way.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    /// The sending end: a node, or the one past the last, which is upstream.
    pub from: usize,
    /// The receiving node.
    pub to: usize,
    pub blob: usize,
    pub leaf: u64,
    bytes: f64,
    left: f64,
    rate: f64,
    at: Moment,
    /// When it is looked at next.
    scheduled: Moment,
    live: bool,
}

#[derive(Clone, Debug, Default)]
struct End {
    /// Bytes a nanosecond.
    capacity: f64,
    flows: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Links {
    flows: Vec<Flow>,
    free: Vec<usize>,
    up: Vec<End>,
    down: Vec<End>,
    /// Which side of a cut each end is on; upstream is on both.
    sides: Vec<u8>,
    /// Flows to be looked at, and when; the caller queues them.
    pub due: Vec<(Moment, usize)>,
}

impl Links {
    /// `up` and `down` are bytes a second; `up` has one end more, upstream.
    pub(super) fn new(up: &[f64], down: &[f64]) -> Self {
        let end = |rate: &f64| End { capacity: rate / 1e9, flows: Vec::new() };
        Self {
            flows: Vec::new(),
            free: Vec::new(),
            up: up.iter().map(end).collect(),
            down: down.iter().map(end).collect(),
            sides: vec![0; up.len()],
            due: Vec::new(),
        }
    }

    pub(super) fn flow(&self, id: usize) -> &Flow {
        &self.flows[id]
    }

    pub(super) fn open(&mut self, now: Moment, from: usize, to: usize, blob: usize, leaf: u64, bytes: u64) -> usize {
        let bytes = bytes.max(1) as f64;
        let flow =
            Flow { from, to, blob, leaf, bytes, left: bytes, rate: 0.0, at: now, scheduled: u64::MAX, live: true };
        let id = match self.free.pop() {
            Some(id) => {
                self.flows[id] = flow;
                id
            }
            None => {
                self.flows.push(flow);
                self.flows.len() - 1
            }
        };
        self.up[from].flows.push(id);
        self.down[to].flows.push(id);
        self.share(now, from, to);
        id
    }

    /// Ends a flow; gives the bytes that it has carried.
    pub(super) fn close(&mut self, now: Moment, id: usize) -> f64 {
        self.carry(now, id);
        let flow = &mut self.flows[id];
        flow.live = false;
        flow.scheduled = u64::MAX;
        let (from, to, carried) = (flow.from, flow.to, flow.bytes - flow.left.max(0.0));
        self.up[from].flows.retain(|other| *other != id);
        self.down[to].flows.retain(|other| *other != id);
        self.free.push(id);
        self.share(now, from, to);
        carried
    }

    /// Whether a flow that was due at `now` has arrived; otherwise it is due again later.
    pub(super) fn arrived(&mut self, now: Moment, id: usize) -> bool {
        if !self.flows[id].live || self.flows[id].scheduled != now {
            return false;
        }
        self.carry(now, id);
        let flow = &mut self.flows[id];
        // A tenth of a byte is what floating point may leave over.
        if flow.left < 0.1 {
            return true;
        }
        flow.scheduled = u64::MAX;
        self.schedule(now, id);
        false
    }

    /// Puts an end on a side of a cut.
    pub(super) fn side(&mut self, now: Moment, end: usize, side: u8) {
        self.sides[end] = side;
        let touched: Vec<usize> = self.up[end].flows.iter().chain(&self.down[end].flows).copied().collect();
        for id in touched {
            let (from, to) = (self.flows[id].from, self.flows[id].to);
            self.share(now, from, to);
        }
    }

    pub(super) fn reach(&self, from: usize, to: usize) -> bool {
        from == self.down.len() || self.sides[from] == self.sides[to]
    }

    /// Whether a node sends.
    pub(super) fn is_sending(&self, end: usize) -> bool {
        !self.up[end].flows.is_empty()
    }

    /// Whether a node receives.
    pub(super) fn is_receiving(&self, end: usize) -> bool {
        !self.down[end].flows.is_empty()
    }

    /// Whether bytes of a flow come in now.
    pub(super) fn is_moving(&self, id: usize) -> bool {
        self.flows[id].live && self.flows[id].rate > 0.0
    }

    /// Flows that a node sends or receives.
    pub(super) fn of(&self, end: usize) -> Vec<usize> {
        let mut all = self.up[end].flows.clone();
        all.extend(self.down.get(end).map(|down| down.flows.as_slice()).unwrap_or_default());
        all
    }

    fn carry(&mut self, now: Moment, id: usize) {
        let flow = &mut self.flows[id];
        flow.left -= flow.rate * (now - flow.at) as f64;
        flow.at = now;
    }

    fn share(&mut self, now: Moment, from: usize, to: usize) {
        for side in 0..2 {
            let count = if side == 0 { self.up[from].flows.len() } else { self.down[to].flows.len() };
            for at in 0..count {
                let id = if side == 0 { self.up[from].flows[at] } else { self.down[to].flows[at] };
                let flow = &self.flows[id];
                let (up, down) = (&self.up[flow.from], &self.down[flow.to]);
                let rate = (up.capacity / up.flows.len() as f64).min(down.capacity / down.flows.len() as f64);
                let rate = if self.reach(flow.from, flow.to) { rate } else { 0.0 };
                if rate != flow.rate {
                    self.carry(now, id);
                    self.flows[id].rate = rate;
                }
                self.schedule(now, id);
            }
        }
    }

    /// It is looked at when it may be done: no later, and perhaps in vain.
    fn schedule(&mut self, now: Moment, id: usize) {
        let flow = &mut self.flows[id];
        if flow.rate <= 0.0 {
            return;
        }
        let due = flow.at.max(now) + ((flow.left / flow.rate).max(0.0) as u64) + 1;
        if due < flow.scheduled {
            flow.scheduled = due;
            self.due.push((due, id));
        }
    }
}
