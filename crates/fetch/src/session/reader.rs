//! Reading a blob while it comes in.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use shoal_content::leaf::{leaf_at, leaf_range};
use tokio::sync::watch;

use super::{Demand, End, Session, leaves_of};
use crate::{config::Serve, face::Error};

/// One reader of a session. Dropping it takes its demand away.
pub(crate) struct Reader {
    session: Arc<Session>,
    changed: watch::Receiver<u64>,
    id: u64,
    /// Signs of life that it has told of.
    alive: u64,
}

/// What the next step of a reader is.
pub(crate) enum Step {
    /// The next bytes.
    Bytes(Bytes),
    /// Nothing yet, but bytes are coming in.
    Alive,
    /// The blob cannot be stored: go on from here without it.
    Unstored,
}

impl Reader {
    pub(super) fn new(session: Arc<Session>, id: u64) -> Self {
        let changed = session.changed.subscribe();
        let alive = session.state().alive;
        Self { session, changed, id, alive }
    }

    /// The blob's size, once it is known.
    pub(crate) async fn size(&mut self) -> Result<u64, Error> {
        loop {
            self.changed.mark_unchanged();
            {
                let state = self.session.state();
                if let Some(size) = state.size {
                    return Ok(size);
                }
                match &state.end {
                    Some(End::Failed(error)) => return Err(error.clone()),
                    Some(End::Whole(blob)) => return Ok(blob.size()),
                    Some(End::Unstored) | None => {}
                }
            }
            self.wait().await?;
        }
    }

    /// Declares what this reader will read; `whole` when the last leaf must wait for the whole digest.
    pub(crate) fn demand(&self, range: &Range<u64>, whole: bool) {
        self.session.state().readers.insert(self.id, Demand::new(leaves_of(range), whole));
        self.session.demand.notify_one();
    }

    /// The bytes from `position` on, at most to the end of its leaf or of `range`, when they may be given out.
    pub(crate) async fn next(&mut self, range: &Range<u64>, position: u64, serve: Serve) -> Result<Step, Error> {
        let leaf = leaf_at(position);
        loop {
            self.changed.mark_unchanged();
            let source = {
                let mut state = self.session.state();
                let demand = state.readers.get(&self.id);
                if let Some(wrong) = demand.and_then(|demand| demand.wronged) {
                    return Err(Error::Corrupt {
                        what: format!("blob {}", self.session.digest),
                        reason: format!(
                            "a peer lied about leaf {wrong}, and it was sent already: the next attempt will be right"
                        ),
                    });
                }
                let whole = demand.is_some_and(|demand| demand.whole);
                match &state.end {
                    Some(End::Whole(blob)) => Some(Source::Blob(blob.clone())),
                    Some(End::Unstored) => return Ok(Step::Unstored),
                    Some(End::Failed(error)) => return Err(error.clone()),
                    None if state.may_be_read(leaf, whole, serve == Serve::Verified) => {
                        let partial = state.partial.clone();
                        if let Some(demand) = state.readers.get_mut(&self.id) {
                            demand.leaves.start = leaf;
                            demand.given.end = leaf + 1;
                        }
                        partial.map(Source::Partial)
                    }
                    None => None,
                }
            };
            let Some(source) = source else {
                let alive = self.session.state().alive;
                if std::mem::replace(&mut self.alive, alive) != alive {
                    return Ok(Step::Alive);
                }
                self.wait().await?;
                continue;
            };
            let size = source.size();
            let end = leaf_range(size, leaf).end.min(range.end);
            if let Some(bytes) = source.read_from_memory(position, end) {
                return Ok(Step::Bytes(bytes));
            }
            let digest = self.session.digest;
            let read = tokio::task::spawn_blocking(move || source.read(position, end)).await;
            break match read {
                Ok(Ok(bytes)) => Ok(Step::Bytes(bytes)),
                // It turned out to be doubtful at that very moment: it comes anew.
                Ok(Err(shoal_store::Error::NotWritten { .. })) => continue,
                Ok(Err(error)) => Err(local(format!("reading blob {digest}"), &error)),
                Err(error) => Err(local(format!("reading blob {digest}"), &error)),
            };
        }
    }

    async fn wait(&mut self) -> Result<(), Error> {
        let digest = self.session.digest;
        self.changed.changed().await.map_err(|error| local(format!("waiting for blob {digest}"), &error))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.session.state().readers.remove(&self.id);
        self.session.demand.notify_one();
    }
}

enum Source {
    Blob(shoal_store::Blob),
    Partial(Arc<shoal_store::Partial>),
}

impl Source {
    fn size(&self) -> u64 {
        match self {
            Source::Blob(blob) => blob.size(),
            Source::Partial(partial) => partial.size(),
        }
    }

    /// Bytes that have just come, without a word to the disk.
    fn read_from_memory(&self, from: u64, to: u64) -> Option<Bytes> {
        match self {
            Source::Blob(blob) => blob.read_from_memory(from..to),
            Source::Partial(partial) => partial.read_from_memory(from..to),
        }
    }

    fn read(&self, from: u64, to: u64) -> Result<Bytes, shoal_store::Error> {
        let len = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        match self {
            Source::Blob(blob) => blob.read_at(from, len),
            Source::Partial(partial) => partial.read_at(from, len),
        }
    }
}

pub(crate) fn local(what: String, error: &dyn std::error::Error) -> Error {
    Error::Local { what, reason: error.to_string().into() }
}
