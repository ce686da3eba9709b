//! What went to and came from registries, counted. Whoever exports metrics reads [`Counters::snapshot`].

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::error::Error;

/// Counts since the start; shared by all clones of an [`Upstream`](crate::Upstream).
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) bytes: AtomicU64,
    pub(crate) discarded: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) redirects: AtomicU64,
    pub(crate) tokens: AtomicU64,
    pub(crate) blocked: AtomicU64,
    ok: AtomicU64,
    not_found: AtomicU64,
    denied: AtomicU64,
    rate_limited: AtomicU64,
    unreachable: AtomicU64,
    refused: AtomicU64,
    invalid: AtomicU64,
}

/// The counts of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Body bytes received, of manifests, blobs and what is passed through.
    pub bytes: u64,
    /// Of these, bytes thrown away because a registry ignored a range.
    pub discarded: u64,
    /// HTTP requests sent, retries, redirects and token requests included.
    pub sent: u64,
    /// Requests sent again after a failure.
    pub retries: u64,
    /// Bodies that broke or stalled and were taken up again.
    pub resumed: u64,
    /// Redirects followed.
    pub redirects: u64,
    /// Tokens fetched.
    pub tokens: u64,
    /// Requests not sent because the host had just given no answer.
    pub blocked: u64,
    /// Calls that succeeded.
    pub ok: u64,
    /// Calls that ended in [`Error::NotFound`].
    pub not_found: u64,
    /// Calls that ended in [`Error::Denied`].
    pub denied: u64,
    /// Calls that ended in [`Error::RateLimited`].
    pub rate_limited: u64,
    /// Calls that ended in [`Error::Unreachable`].
    pub unreachable: u64,
    /// Calls that ended in [`Error::Refused`] or [`Error::NotServed`].
    pub refused: u64,
    /// Calls that ended in [`Error::Invalid`] or [`Error::OutOfRange`].
    pub invalid: u64,
}

impl Counters {
    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            bytes: self.bytes.load(Relaxed),
            discarded: self.discarded.load(Relaxed),
            sent: self.sent.load(Relaxed),
            retries: self.retries.load(Relaxed),
            resumed: self.resumed.load(Relaxed),
            redirects: self.redirects.load(Relaxed),
            tokens: self.tokens.load(Relaxed),
            blocked: self.blocked.load(Relaxed),
            ok: self.ok.load(Relaxed),
            not_found: self.not_found.load(Relaxed),
            denied: self.denied.load(Relaxed),
            rate_limited: self.rate_limited.load(Relaxed),
            unreachable: self.unreachable.load(Relaxed),
            refused: self.refused.load(Relaxed),
            invalid: self.invalid.load(Relaxed),
        }
    }

    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Relaxed);
    }

    /// Counts how a call ended.
    pub(crate) fn outcome<T>(&self, result: &Result<T, Error>) {
        let counter = match result {
            Ok(_) => &self.ok,
            Err(Error::NotFound { .. }) => &self.not_found,
            Err(Error::Denied { .. }) => &self.denied,
            Err(Error::RateLimited { .. }) => &self.rate_limited,
            Err(Error::Unreachable { .. }) => &self.unreachable,
            Err(Error::Refused { .. } | Error::NotServed(_) | Error::Config(_)) => &self.refused,
            Err(Error::Invalid { .. } | Error::OutOfRange { .. }) => &self.invalid,
        };
        Self::add(counter, 1);
    }
}
