//! A session: this node's effort to get one blob, shared by all its readers.
//!
//! [`Session`] is what readers and the driver have in common: which leaves are there, who waits for what, how it ended.
//! One task, the driver (`drive`), does all the work: it asks the blob's coordinator what to get from whom, and moves the bytes. Readers ([`reader`]) only wait for leaves and read them from the blob's file. When the last reader leaves, the
//! driver stops; what has come in stays in the store as a partial blob and the next session goes on from there.
//!
//! Never wrong bytes: a leaf that came from a peer is checked against the CID that the outline names; the outline is a hint until the
//! whole digest matches. The leaf that completes a blob is given to readers only then. Where an outline turns out to have lied,
//! its leaves are read anew from somebody else, and a reader that was given a wrong leaf ends short.

mod asking;
mod audit;
mod away;
mod coordination;
mod drive;
mod locate;
mod reader;
mod reads;
mod recover;
mod run;
mod sharing;
mod signs;

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use shoal_content::{
    Digest, LeafHash, LeafSet, Origin, Outline,
    leaf::{leaf_at, leaf_count},
};
use shoal_store::{Blob, Partial};
use tokio::sync::{Notify, watch};

pub(crate) use reader::{Reader, Step as ReaderStep, local};
pub(crate) use reads::chunks;
pub(crate) use run::{Env, drive};
pub(crate) use sharing::Sharing;

use crate::{face::Error, trace::Trace};

/// One blob on its way.
pub(crate) struct Session {
    pub(crate) digest: Digest,
    pub(crate) origin: Origin,
    state: Mutex<State>,
    /// Counts changes that readers may wait for.
    changed: watch::Sender<u64>,
    /// Told when readers come and go.
    demand: Notify,
    /// True when the driver has let go of everything.
    ended: watch::Sender<bool>,
}

struct State {
    size: Option<u64>,
    partial: Option<Arc<Partial>>,
    have: LeafSet,
    /// Leaves for which only peers vouch.
    from_peers: LeafSet,
    /// Leaves read anew because somebody lied, with the hash that they had before.
    suspects: BTreeMap<u64, LeafHash>,
    /// The whole does not match: what only peers vouch for is given to nobody before it does.
    in_doubt: bool,
    /// This node reads the blob from upstream, or has.
    reads: bool,
    /// Counts signs of life.
    alive: u64,
    end: Option<End>,
    readers: BTreeMap<u64, Demand>,
    next_reader: u64,
    closed: bool,
    trace: Trace,
}

/// What one reader waits for.
struct Demand {
    /// Leaves still to be read.
    leaves: Range<u64>,
    /// It reads to the end of the blob from its beginning: what it gets must have matched as a whole.
    whole: bool,
    /// Leaves that it may have been given.
    given: Range<u64>,
    /// A leaf that it was given and that turned out to be wrong.
    wronged: Option<u64>,
}

impl Demand {
    fn new(leaves: Range<u64>, whole: bool) -> Self {
        Self { given: leaves.start..leaves.start, leaves, whole, wronged: None }
    }
}

/// How a session ended.
#[derive(Clone)]
enum End {
    /// The blob is whole and verified.
    Whole(Blob),
    /// The blob cannot be stored for want of room: readers go on without the store.
    Unstored,
    /// No source is left.
    Failed(Error),
}

impl Session {
    pub(crate) fn new(digest: Digest, origin: Origin) -> Arc<Self> {
        let trace = Trace::new(digest, origin.to_string());
        Arc::new(Self {
            digest,
            origin,
            state: Mutex::new(State {
                size: None,
                partial: None,
                have: LeafSet::empty(0),
                from_peers: LeafSet::empty(0),
                suspects: BTreeMap::new(),
                in_doubt: false,
                reads: false,
                alive: 0,
                end: None,
                readers: BTreeMap::new(),
                next_reader: 0,
                closed: false,
                trace,
            }),
            changed: watch::Sender::new(0),
            demand: Notify::new(),
            ended: watch::Sender::new(false),
        })
    }

    /// A new reader, which waits for nothing yet; `None` when the session has closed and another must be begun after [`Session::over`].
    pub(crate) fn join(self: &Arc<Self>) -> Option<Reader> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, Demand::new(0..0, false));
        drop(state);
        Some(Reader::new(self.clone(), id))
    }

    /// Waits until the driver has let go of everything.
    pub(crate) async fn over(&self) {
        // An error means that the sender is gone, which cannot be: `self` holds it.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// How the session stands.
    pub(crate) fn trace(&self) -> Trace {
        self.state().trace.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    /// Closes the session unless somebody reads; true when it is closed.
    fn close_if_unread(&self) -> bool {
        let mut state = self.state();
        state.closed |= state.readers.is_empty();
        state.closed
    }

    /// The leaves to get next: what the least advanced reader waits for; then what a reader of the whole has been given and what may
    /// have to be had anew, lest the whole never match. Empty when all that is waited for is there.
    fn wanted(&self, have: &LeafSet) -> Range<u64> {
        let state = self.state();
        let mut wanted: Vec<Range<u64>> = state.readers.values().map(|demand| demand.leaves.clone()).collect();
        wanted.sort_by_key(|leaves| leaves.start);
        let given = state.readers.values().filter(|demand| demand.whole).map(|demand| demand.leaves.start).max();
        wanted.extend(given.map(|given| 0..given));
        let missing = |leaves: Range<u64>| {
            let first = have.first_missing(leaves.start)?;
            (first < leaves.end).then_some(first..leaves.end)
        };
        wanted.into_iter().find_map(missing).unwrap_or(0..0)
    }

    /// The leaves that this node has read from upstream by itself: what it vouches for when a peer asks. `None` while it does not read.
    pub(crate) fn own_word(&self) -> Option<Outline> {
        let (partial, have, from_peers, reads) = {
            let state = self.state();
            (state.partial.clone()?, state.have.clone(), state.from_peers.clone(), state.reads)
        };
        let known = partial.outline();
        let mut word = Outline::growing(known.size())?;
        for leaf in have.iter().filter(|leaf| !from_peers.contains(*leaf)) {
            if let Some(hash) = known.leaf(leaf) {
                word.set(leaf, hash);
            }
        }
        (reads || word.known() > 0).then_some(word)
    }

    /// This node begins to read from upstream, or cannot.
    fn reads(&self, does: bool) {
        self.state().reads = does;
    }

    /// The whole does not match.
    fn doubt(&self) {
        self.state().in_doubt = true;
    }

    /// This node has read a leaf from upstream by itself and found it to be what peers said.
    fn confirmed(&self, leaf: u64) {
        self.state().from_peers.remove(leaf);
        self.bump();
    }

    /// A leaf is to be had anew; this is the hash that it had.
    fn doubted(&self, leaf: u64, hash: Option<LeafHash>) {
        let mut state = self.state();
        state.have.remove(leaf);
        state.from_peers.remove(leaf);
        if let Some(hash) = hash {
            state.suspects.entry(leaf).or_insert(hash);
        }
    }

    fn sized(&self, size: u64, partial: Arc<Partial>) {
        let mut state = self.state();
        state.size = Some(size);
        state.trace.size = size;
        state.have = partial.have();
        state.from_peers = state.have.clone();
        state.partial = Some(partial);
        drop(state);
        self.bump();
    }

    /// A leaf is in the file.
    fn landed(&self, leaf: u64, hash: LeafHash, by_peer: bool) {
        let mut state = self.state();
        if let Some(old) = state.suspects.remove(&leaf)
            && old != hash
        {
            for demand in state.readers.values_mut().filter(|demand| demand.given.contains(&leaf)) {
                demand.wronged = Some(leaf);
            }
        }
        state.have.insert(leaf);
        if by_peer {
            state.from_peers.insert(leaf);
        } else {
            state.from_peers.remove(leaf);
        }
        drop(state);
        self.bump();
    }

    /// Bytes are coming in, though nothing that a reader could be given yet.
    fn is_alive(&self) {
        self.state().alive += 1;
        self.bump();
    }

    fn ended_with(&self, end: End) {
        let mut state = self.state();
        if state.end.is_none() {
            state.end = Some(end);
        }
        state.closed = true;
        drop(state);
        self.bump();
    }
}

impl State {
    /// Whether a reader may be given this leaf now.
    fn may_be_read(&self, leaf: u64, whole: bool, only_verified: bool) -> bool {
        let Some(size) = self.size else { return false };
        let completes = whole && leaf + 1 == leaf_count(size);
        let hearsay = (only_verified || self.in_doubt) && self.from_peers.contains(leaf);
        self.have.contains(leaf) && !completes && !hearsay
    }
}

/// The leaves that hold bytes `range`.
fn leaves_of(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() {
        leaf_at(range.start)..leaf_at(range.start) + 1
    } else {
        leaf_at(range.start)..leaf_at(range.end - 1) + 1
    }
}
