//! What the gateway and the command line ask of this crate.

use std::{ops::Range, pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use shoal_content::{Digest, Origin, Tag};
use shoal_upstream::{Credential, Item};

/// Where images are pulled from, seen from the gateway: store, swarm and upstream behind one face.
#[async_trait]
pub trait Pulls: Send + Sync + 'static {
    /// Whether who asks may read `origin`, and `item` is of it where it is a digest, by the word of upstream; `item` is what is asked for there, `caller` what the request proves itself
    /// with. To be asked before anything of it is given out.
    async fn admit(&self, origin: &Origin, item: &Item, caller: Option<&Credential>) -> Result<Admission, Error>;

    /// The digest that a tag names now. Upstream decides; only where upstream cannot answer, the last known digest, marked stale.
    async fn resolve(&self, origin: &Origin, tag: &Tag) -> Result<Resolved, Error>;

    /// A manifest or index by digest.
    async fn manifest(&self, origin: &Origin, digest: &Digest) -> Result<Manifest, Error>;

    /// Size of a blob, without fetching it.
    async fn blob_info(&self, origin: &Origin, digest: &Digest) -> Result<BlobInfo, Error>;

    /// The bytes `range` of a blob (`None`: all of it), as they are verified. Answers once size and a source are known.
    async fn blob(&self, origin: &Origin, digest: &Digest, range: Option<Range<u64>>) -> Result<Body, Error>;

    /// What upstream answers to a request that only it can answer: `referrers/<digest>` or `tags/list`, with the query as it came.
    async fn passthrough(&self, origin: &Origin, tail: &str, query: Option<&str>) -> Result<Passed, Error>;
}

/// Who may read a repository.
#[derive(Clone)]
pub enum Admission {
    /// Everybody.
    Open,
    /// Who asked, whose credentials upstream takes: this is where it is to be had, in the caller's name.
    Proven(Arc<dyn Pulls>),
    /// Not everybody, and the request proves nothing: ask for credentials.
    Unproven,
    /// Upstream does not take the credentials of who asked.
    Refused,
}

/// A tag's digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What the tag names.
    pub digest: Digest,
    /// Media type of the manifest or index.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// Upstream could not be asked: this is the last that was known.
    pub stale: bool,
}

/// A manifest or index, verified.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes, at most 4 MiB.
    pub bytes: Bytes,
}

/// What is known of a blob without fetching it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Part or all of a blob, on its way.
pub struct Body {
    /// Size of the whole blob in bytes.
    pub size: u64,
    /// The bytes of it that `stream` yields.
    pub range: Range<u64>,
    /// Verified bytes in order. An error, or an end before `range` is covered, means that the rest cannot be had:
    /// the response must then end short. An empty piece is a sign of life: what comes next is on its way. The leaf that completes the blob comes only after the whole digest has matched.
    pub stream: Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>,
}

/// An answer of upstream, passed on.
#[derive(Clone, Debug)]
pub struct Passed {
    /// HTTP status.
    pub status: u16,
    /// Headers that a client needs: Content-Type, Link, OCI-Filters-Applied.
    pub headers: Vec<(String, String)>,
    /// Body, bounded.
    pub body: Bytes,
}

/// Why something could not be had. Each names what was asked for and what the reason was.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Upstream says that it does not exist, and nobody else has it.
    #[error("{what} does not exist: {reason}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Who said so.
        reason: String,
    },
    /// This node does not serve that registry.
    #[error("registry {0} is not served by this node: add it to `registries` or allow any")]
    NotServed(shoal_content::Registry),
    /// Upstream refused the credentials that this node has, or it has none.
    #[error("upstream denied {what}: {reason}")]
    Denied {
        /// What was asked for.
        what: String,
        /// What upstream said.
        reason: String,
    },
    /// No source is left that could give it.
    #[error("no source for {what}: {reason}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// What each source said.
        reason: String,
    },
    /// What came did not match its digest.
    #[error("{what} does not match its digest: {reason}")]
    Corrupt {
        /// What was asked for.
        what: String,
        /// Where the bytes were from.
        reason: String,
    },
    /// The range asked for lies outside the blob.
    #[error("range {start}- is outside the blob of {size} bytes")]
    OutOfRange {
        /// First byte asked for.
        start: u64,
        /// Size of the blob.
        size: u64,
    },
    /// Something on this node failed.
    #[error("{what}: {reason}")]
    Local {
        /// What was being done.
        what: String,
        /// What failed.
        reason: Arc<str>,
    },
}
