//! What members and coordinators say to one another.

use shoal_content::{LeafHash, LeafSet};

/// Where a leaf is had from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source<P> {
    /// The registry.
    Upstream,
    /// A peer.
    Peer(P),
}

/// What upstream does when it is asked for a part of a blob, as far as a member has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ranges {
    /// It has not been asked.
    #[default]
    Unknown,
    /// It gives the part.
    Given,
    /// It sends the whole from its beginning, or does not say that it could do otherwise.
    Ignored,
}

/// What a member asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask<P> {
    /// Counts the member's requests; the reply carries it back.
    pub sequence: u64,
    /// The blob's size in bytes, where the member knows it.
    pub size: Option<u64>,
    /// All that it has, when it asks for the first time or was asked to say it again.
    pub full: Option<Full<P>>,
    /// What has landed since the last request, with its hash where it is not the one that the coordinator granted; and hashes that the
    /// coordinator asked for.
    pub landed: Vec<(u64, Option<LeafHash>)>,
    /// What was granted and did not come.
    pub failed: Vec<(u64, Source<P>, Failure)>,
    /// Leaves from peers that it takes at once, those under way among them.
    pub slots: u32,
    /// Blobs that its node is getting at this time, this one among them: they share its links.
    pub blobs: u32,
    /// Whether it can read from upstream.
    pub upstream: bool,
    /// What upstream does with ranges.
    pub ranges: Ranges,
    /// Leaves that it wants, as a range; all for a whole blob.
    pub wanted: (u64, u64),
    /// Others want the blob too, as far as it was ever told: any number, another for each member. A coordinator that knows of nobody else
    /// has it read from a place that depends on this, rather than what the others, who may have lost their coordinator too, read as well.
    pub crowd: Option<u64>,
}

/// All that a member has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full<P> {
    /// Its leaves.
    pub leaves: LeafSet,
    /// The hashes of those that it read from upstream itself, and nobody else may know. The coordinator asks for others that it lacks.
    pub hashes: Vec<(u64, LeafHash)>,
    /// Leaves that it is getting, and from whom, by the word of another coordinator.
    pub fetching: Vec<(u64, P)>,
    /// Leaves that it is reading from upstream by itself, as a range; empty when it is not.
    pub reading: (u64, u64),
}

/// Why a leaf did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The source has not got it.
    Missing,
    /// The source did not send it in time, or is gone.
    Stalled,
    /// The leaf's hash is not believed: who reported it lied before, or the leaf that it names cannot be one.
    Wrong,
    /// The member has it, or is getting it, already: nobody is to blame.
    Needless,
}

/// What a coordinator answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<P> {
    /// The request that this answers.
    pub sequence: u64,
    /// The blob's size in bytes, where it is known.
    pub size: Option<u64>,
    /// The coordinator does not know the member: it is to say all that it has.
    pub restate: bool,
    /// Leaves to get.
    pub grants: Vec<Grant<P>>,
    /// Leaves to read from upstream, in order, as a range.
    pub read: Option<(u64, u64)>,
    /// The read under way ends before this leaf.
    pub cut: Option<u64>,
    /// Nobody that the coordinator knows of can give what the member lacks.
    pub hopeless: bool,
    /// Leaves whose hashes the member is to tell, as ranges.
    pub tell: Vec<(u64, u64)>,
    /// Others want the blob too.
    pub crowd: bool,
}

/// A leaf to be had from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<P> {
    /// The leaf.
    pub leaf: u64,
    /// Its hash, as `witness` reported it.
    pub hash: LeafHash,
    /// Whom to ask.
    pub from: P,
    /// Who said what the leaf's hash is.
    pub witness: P,
}

impl<P> Reply<P> {
    /// A reply that gives nothing.
    pub fn empty(sequence: u64, size: Option<u64>) -> Self {
        Self {
            sequence,
            size,
            restate: false,
            grants: Vec::new(),
            read: None,
            cut: None,
            hopeless: false,
            tell: Vec::new(),
            crowd: false,
        }
    }

    /// Whether there is anything in it that the member has not known.
    pub fn is_empty(&self) -> bool {
        !self.restate
            && !self.hopeless
            && self.grants.is_empty()
            && self.read.is_none()
            && self.cut.is_none()
            && self.tell.is_empty()
    }
}
