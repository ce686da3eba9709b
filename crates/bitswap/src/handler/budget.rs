//! Memory that one connection may fill with messages not yet dealt with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Context,
};

use futures::task::AtomicWaker;

/// Hands out [`Permit`]s for up to `limit` bytes. Only the handler takes, whoever holds a permit gives back.
#[derive(Debug)]
pub(super) struct Budget {
    shared: Arc<Shared>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Shared {
    used: AtomicUsize,
    waiting: AtomicWaker,
}

/// Leave to hold some bytes of a received message; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { shared: Arc::default(), limit }
    }

    /// A permit, or `None` when too much is in use: the task is woken when some is given back.
    pub(super) fn take(&self, bytes: usize, cx: &Context<'_>) -> Option<Permit> {
        if !self.has_room(bytes) {
            self.shared.waiting.register(cx.waker());
            // Room may have been made before the waker was there.
            if !self.has_room(bytes) {
                return None;
            }
        }
        self.shared.used.fetch_add(bytes, Ordering::AcqRel);
        Some(Permit { shared: Arc::clone(&self.shared), bytes })
    }

    fn has_room(&self, bytes: usize) -> bool {
        let used = self.shared.used.load(Ordering::Acquire);
        used == 0 || used + bytes <= self.limit
    }
}

impl Permit {
    /// For how many bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.shared.waiting.wake();
    }
}
