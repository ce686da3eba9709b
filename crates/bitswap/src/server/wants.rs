//! The wantlist that we keep of one peer.

use std::collections::HashMap;

use shoal_content::Cid;

use super::JobId;
use crate::wire::WantType;

/// One want of a peer.
#[derive(Debug)]
pub(super) struct Want {
    pub(super) want: WantType,
    pub(super) priority: i32,
    /// The peer is to be told when the block is not here; once.
    pub(super) send_dont_have: bool,
    /// Order of arrival over all peers.
    pub(super) sequence: u64,
    pub(super) state: State,
}

/// Where a want stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Waits for its lookup.
    Unknown,
    /// Being looked up. When the block has arrived in the meantime, a lookup that missed it is repeated.
    Looking { arrived: bool },
    /// The block is not here; kept in case that it comes.
    Missing,
    /// The block is here, of this size, and waits for its turn.
    Ready { size: usize },
    /// Being read or sent.
    Sending(JobId),
}

/// A peer's wants, with the number of those in [`State::Ready`].
#[derive(Debug, Default)]
pub(super) struct Wants {
    all: HashMap<Cid, Want>,
    ready: usize,
}

impl Wants {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn ready(&self) -> usize {
        self.ready
    }

    pub(super) fn get(&self, cid: &Cid) -> Option<&Want> {
        self.all.get(cid)
    }

    /// The want, except its state: that changes by [`Wants::set_state`].
    pub(super) fn get_mut(&mut self, cid: &Cid) -> Option<&mut Want> {
        self.all.get_mut(cid)
    }

    pub(super) fn insert(&mut self, cid: Cid, want: Want) {
        debug_assert_eq!(want.state, State::Unknown);
        self.all.insert(cid, want);
    }

    pub(super) fn set_state(&mut self, cid: &Cid, state: State) {
        if let Some(want) = self.all.get_mut(cid) {
            self.ready -= usize::from(matches!(want.state, State::Ready { .. }));
            self.ready += usize::from(matches!(state, State::Ready { .. }));
            want.state = state;
        }
    }

    pub(super) fn remove(&mut self, cid: &Cid) -> Option<Want> {
        let want = self.all.remove(cid)?;
        self.ready -= usize::from(matches!(want.state, State::Ready { .. }));
        Some(want)
    }

    pub(super) fn cids(&self) -> impl Iterator<Item = &Cid> {
        self.all.keys()
    }

    /// The want to serve next: of the highest priority the block sent least, and of these the want that came first.
    pub(super) fn next(&self, sent: impl Fn(&Cid) -> u32) -> Option<(Cid, usize)> {
        let ready = || {
            self.all.iter().filter_map(|(cid, want)| match want.state {
                State::Ready { size } => Some((cid, want, size)),
                _ => None,
            })
        };
        let priority = ready().map(|(_, want, _)| want.priority).max()?;
        ready()
            .filter(|(_, want, _)| want.priority == priority)
            .min_by_key(|(cid, want, _)| (sent(cid), want.sequence))
            .map(|(cid, _, size)| (*cid, size))
    }
}
