//! What this node vouches for of blobs that are coming in.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use shoal_content::{Digest, Outline};

use crate::session::Session;

/// The sessions under way, by blob: no more than there may be sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words(Arc<Mutex<HashMap<Digest, Weak<Session>>>>);

impl Words {
    /// A session begins.
    pub(crate) fn begin(&self, session: &Arc<Session>) {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.strong_count() > 0);
        sessions.insert(session.digest, Arc::downgrade(session));
    }

    /// The leaves of a blob that this node has read from upstream by itself, while it is at it.
    pub(crate) fn of(&self, digest: &Digest) -> Option<Outline> {
        let session = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest)?.upgrade()?;
        session.own_word()
    }
}
