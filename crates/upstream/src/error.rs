//! Why upstream could not give something. Every error names what was asked for, of which repository, and who answered.

use std::{fmt, sync::Arc, time::Duration};

use shoal_content::{Digest, Origin, Reference, Registry};

/// What was asked of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The repository.
    pub origin: Origin,
    /// What of it.
    pub item: Item,
}

/// A thing that a repository has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// A manifest or index.
    Manifest(Reference),
    /// A blob.
    Blob(Digest),
    /// Anything else under the repository: `tags/list`, `referrers/<digest>`.
    Other(String),
    /// Leave to pull, from the registry's token endpoint.
    Token,
}

/// Why upstream could not give something.
///
/// `host` is who was talked to, which after a redirect is not the registry. It never holds more than host and port:
/// paths and queries of object stores carry signatures.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error("cannot set up access to registries: {0}")]
    Config(String),
    /// This node does not serve that registry.
    #[error("registry {0} is not served by this node: add it to `registries` or allow any")]
    NotServed(Registry),
    /// Upstream says that it does not exist.
    #[error("{host} does not have {what}: {reason}")]
    NotFound {
        /// What was asked for.
        what: Arc<Asked>,
        /// Who said so.
        host: String,
        /// In its words.
        reason: String,
    },
    /// Upstream wants other credentials than it was given, or any at all.
    #[error("{host} denied {what}: {reason}")]
    Denied {
        /// What was asked for.
        what: Arc<Asked>,
        /// Who said so.
        host: String,
        /// In its words, and what to do.
        reason: String,
    },
    /// Upstream answers 429, and waiting longer than allowed would be needed.
    #[error("{host} limits requests, {what} was refused: {reason}")]
    RateLimited {
        /// What was asked for.
        what: Arc<Asked>,
        /// Who said so.
        host: String,
        /// In its words.
        reason: String,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// No connection, no answer in time, or an answer of the 5xx kind, also after retries.
    #[error("{host} could not be reached for {what}: {reason}")]
    Unreachable {
        /// What was asked for.
        what: Arc<Asked>,
        /// Who did not answer.
        host: String,
        /// What happened.
        reason: String,
    },
    /// Shoal refuses to go where the request or the registry points: a forbidden address, a redirect without end,
    /// a token endpoint of somebody else.
    #[error("refused to ask {host} for {what}: {reason}")]
    Refused {
        /// What was asked for.
        what: Arc<Asked>,
        /// Where the request would have gone.
        host: String,
        /// Which rule forbids it, and the setting that lifts it.
        reason: String,
    },
    /// What came is not what was asked for: a wrong digest, size, range or type.
    #[error("{host} answered {what} wrongly: {reason}")]
    Invalid {
        /// What was asked for.
        what: Arc<Asked>,
        /// Who sent it.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The range asked for lies outside the blob.
    #[error("byte {offset} is outside {what}, which has {size} bytes")]
    OutOfRange {
        /// What was asked for.
        what: Arc<Asked>,
        /// First byte asked for.
        offset: u64,
        /// Size of the blob in bytes.
        size: u64,
    },
}

/// An error of one attempt, and whether another may fare better.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) again: Again,
    /// The host (and port) that gave no answer at all: what the circuit remembers.
    pub(crate) silent: Option<String>,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    Never,
    Soon,
    After(Duration),
}

// === impl Asked ===

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, item } = self;
        match item {
            Item::Manifest(reference) => write!(f, "manifest {reference} of {origin}"),
            Item::Blob(digest) => write!(f, "blob {digest} of {origin}"),
            Item::Other(tail) => write!(f, "{tail} of {origin}"),
            Item::Token => write!(f, "a token to pull {origin}"),
        }
    }
}

// === impl Error ===

impl Error {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::RateLimited { .. } | Self::Unreachable { .. })
    }

    /// A short, stable word for the kind, as used in metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::NotServed(_) => "not_served",
            Self::NotFound { .. } => "not_found",
            Self::Denied { .. } => "denied",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Invalid { .. } => "invalid",
            Self::OutOfRange { .. } => "out_of_range",
        }
    }
}

// === impl Failure ===

impl Failure {
    /// Trying again would give the same.
    pub(crate) fn last(error: Error) -> Self {
        Self { error, again: Again::Never, silent: None }
    }
}
