//! What members are told to do, and what comes of it: leaves from peers and from upstream.

use std::time::Duration;

use shoal_content::leaf::{leaf_count, leaf_range};

use super::{
    Peer,
    events::Event,
    swarm::{Swarm, at, hash},
};
use crate::{Action, Failure, Grant, Ranges, Source};

/// A leaf that is had from a peer.
pub(super) enum Fetch {
    Asked,
    Coming(usize),
    /// Its source vanished without a word.
    Silent,
}

/// A run of leaves that is read from upstream.
pub(super) struct Read {
    id: u64,
    next: u64,
    end: u64,
    flow: Option<usize>,
}

impl Swarm<'_> {
    pub(super) fn act(&mut self, peer: Peer, blob: usize, action: Action<Peer>) {
        match action {
            Action::Fetch(grant) => self.fetch(peer, blob, grant),
            Action::Cancel { leaf, from } => {
                let fetch = self.session(peer, blob).and_then(|session| session.fetches.remove(&(from, leaf)));
                if let Some(Fetch::Coming(flow)) = fetch {
                    self.end_flow(flow);
                }
            }
            Action::Read { first, end } => {
                let first_byte = self.world.first_byte;
                self.note(|| format!("{peer} reads leaves {first}..{end} of blob {blob}"));
                let Some(session) = self.session(peer, blob) else { return };
                session.reads += 1;
                let id = session.reads;
                // What it was reading has come from a peer meanwhile.
                let earlier = session.read.replace(Read { id, next: first, end, flow: None });
                if let Some(flow) = earlier.and_then(|read| read.flow) {
                    self.end_flow(flow);
                }
                self.after(first_byte + self.world.delay.0, Event::FirstByte { node: peer, blob, read: id });
            }
            Action::Cut(end) => {
                let Some(session) = self.session(peer, blob) else { return };
                let Some(read) = &mut session.read else {
                    session.member.read_cut();
                    return;
                };
                read.end = read.end.min(end);
                if read.next >= read.end {
                    let flow = read.flow;
                    session.read = None;
                    session.member.read_cut();
                    if let Some(flow) = flow {
                        self.end_flow(flow);
                    }
                }
            }
        }
    }

    fn fetch(&mut self, peer: Peer, blob: usize, grant: Grant<Peer>) {
        let Some(session) = self.session(peer, blob) else { return };
        session.fetches.insert((grant.from, grant.leaf), Fetch::Asked);
        if self.nodes[at(grant.from)].gone {
            self.after(
                Duration::from_micros(100),
                Event::DontHave { to: peer, from: grant.from, blob, leaf: grant.leaf },
            );
        } else if let Some(delay) = self.post(peer, grant.from) {
            self.after(delay, Event::Want { to: grant.from, from: peer, blob, grant: Box::new(grant) });
        }
    }

    /// A request for a leaf has come to its source.
    pub(super) fn wanted(&mut self, source: Peer, from: Peer, blob: usize, grant: Grant<Peer>) {
        let leaf = grant.leaf;
        let is_asked = self
            .session(from, blob)
            .is_some_and(|session| matches!(session.fetches.get(&(source, leaf)), Some(Fetch::Asked)));
        if !is_asked || !self.nodes[at(source)].alive {
            return;
        }
        // It is asked for by its hash: what is not that leaf cannot be sent.
        let has_it = self.nodes[at(source)].has[blob].contains(leaf) && grant.hash == hash(blob, leaf);
        if !has_it {
            if let Some(delay) = self.post(source, from) {
                self.after(delay, Event::DontHave { to: from, from: source, blob, leaf });
            }
            return;
        }
        let bytes = leaf_range(self.world.blobs[blob], leaf);
        let flow = self.links.open(self.now, at(source), at(from), blob, leaf, bytes.end - bytes.start);
        if let Some(session) = self.session(from, blob) {
            session.fetches.insert((source, leaf), Fetch::Coming(flow));
        }
    }

    pub(super) fn dont_have(&mut self, peer: Peer, source: Peer, blob: usize, leaf: u64) {
        let is_gone = self.nodes[at(source)].gone;
        let Some(session) = self.session(peer, blob) else { return };
        if session.fetches.remove(&(source, leaf)).is_some() {
            let why = if is_gone { Failure::Stalled } else { Failure::Missing };
            session.member.failed(leaf, Source::Peer(source), why);
            self.turn(peer, blob);
        }
    }

    pub(super) fn first_byte(&mut self, peer: Peer, blob: usize, id: u64) {
        let upstream = self.nodes.len();
        let (size, gives_ranges) = (self.world.blobs[blob], self.world.ranges);
        let ranges = if gives_ranges { Ranges::Given } else { Ranges::Ignored };
        let Some(session) = self.session(peer, blob) else { return };
        let Some(read) = session.read.as_mut().filter(|read| read.id == id) else { return };
        session.member.ranges(ranges);
        if !gives_ranges && (read.next, read.end) != (0, leaf_count(size)) {
            (read.next, read.end) = (0, leaf_count(size));
            session.member.whole_body();
        }
        let leaf = read.next;
        self.nodes[at(peer)].ranges = ranges;
        let bytes = leaf_range(size, leaf);
        let flow = self.links.open(self.now, upstream, at(peer), blob, leaf, bytes.end - bytes.start);
        if let Some(read) = self.session(peer, blob).and_then(|session| session.read.as_mut()) {
            read.flow = Some(flow);
        }
        self.turn(peer, blob);
    }

    /// A leaf's last byte has come.
    pub(super) fn arrived(&mut self, id: usize) {
        let upstream = self.nodes.len();
        let (source, peer, blob, leaf) = {
            let flow = self.links.flow(id);
            (flow.from, flow.to as Peer, flow.blob, flow.leaf)
        };
        self.end_flow(id);
        let Some(session) = self.session(peer, blob) else { return };
        let from = (source != upstream).then_some(source as Peer);
        match from {
            Some(source) => {
                session.fetches.remove(&(source, leaf));
            }
            None => {
                let Some(read) = &mut session.read else { return };
                read.next = leaf + 1;
                if read.next >= read.end {
                    session.read = None;
                } else {
                    let next = read.next;
                    let bytes = leaf_range(self.world.blobs[blob], next);
                    let flow = self.links.open(self.now, upstream, at(peer), blob, next, bytes.end - bytes.start);
                    if let Some(read) = self.session(peer, blob).and_then(|session| session.read.as_mut()) {
                        read.flow = Some(flow);
                    }
                }
            }
        }
        self.after(self.world.landing, Event::Landed { node: peer, blob, leaf, from });
    }

    pub(super) fn landed(&mut self, peer: Peer, blob: usize, leaf: u64, from: Option<Peer>) {
        let (now, clock) = (self.now, self.clock(peer));
        let node = &mut self.nodes[at(peer)];
        if !node.alive {
            return;
        }
        if from.is_some() {
            node.heard = Some(now);
        }
        if !node.has[blob].insert(leaf) && from.is_none() {
            // It has passed because upstream sends all.
            return;
        }
        let Some(session) = &mut node.sessions[blob] else { return };
        session.progress_at = now;
        let source = from.map_or(Source::Upstream, Source::Peer);
        if let Some(action) = session.member.landed(leaf, hash(blob, leaf), source, clock) {
            self.act(peer, blob, action);
        }
        self.turn(peer, blob);
    }

    /// A flow is over: what it has carried is counted.
    fn end_flow(&mut self, id: usize) {
        let (from, to) = (self.links.flow(id).from, self.links.flow(id).to);
        let carried = self.links.close(self.now, id);
        if from == self.nodes.len() {
            self.outcome.upstream += carried;
            self.nodes[to].upstream += carried;
        } else if self.world.nodes[from].holds {
            self.outcome.holders += carried;
        }
    }

    /// A node at one end of a flow has vanished.
    pub(super) fn broken_off(&mut self, gone: Peer, id: usize, silent: bool) {
        let (source, to, blob, leaf) = {
            let flow = self.links.flow(id);
            (flow.from, flow.to as Peer, flow.blob, flow.leaf)
        };
        self.end_flow(id);
        if to == gone || source == self.nodes.len() {
            return;
        }
        let Some(session) = self.session(to, blob) else { return };
        if silent {
            session.fetches.insert((gone, leaf), Fetch::Silent);
        } else {
            session.fetches.remove(&(gone, leaf));
            session.member.failed(leaf, Source::Peer(gone), Failure::Stalled);
            self.after(Duration::ZERO, Event::Tell { node: to, blob });
        }
    }
}
