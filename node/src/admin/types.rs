//! What passes over the admin socket, and what `--json` prints.

use serde::{Deserialize, Serialize};
use shoal_content::Digest;

/// The node as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the running program.
    pub version: String,
    /// The node's name in the swarm.
    pub peer_id: String,
    /// Where peers are told to find it.
    pub addresses: Vec<String>,
    /// URL of the gateway.
    pub gateway: String,
    /// How long it has been running, in milliseconds.
    pub uptime_ms: u64,
    /// Connected peers.
    pub peers: u64,
    /// Blobs that are being fetched now.
    pub sessions: u64,
    /// The store.
    pub store: StoreStatus,
    /// Blob bytes by where they came from, since the node started.
    pub bytes: BytesBySource,
    /// Peers that are not asked because they lied, each with what it did.
    #[serde(default)]
    pub avoided: Vec<Avoided>,
}

/// A peer that lied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Avoided {
    /// Its name.
    pub peer_id: String,
    /// What it did.
    pub reason: String,
}

/// How full the store is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// The data directory.
    pub data_dir: String,
    /// Bytes that blobs may take.
    pub quota: u64,
    /// Bytes of whole blobs.
    pub bytes: u64,
    /// Whole blobs.
    pub blobs: u64,
    /// Bytes reserved for blobs in progress.
    pub partial_bytes: u64,
    /// Blobs in progress, those of earlier runs included.
    pub partials: u64,
    /// Blobs found on disk that are being verified before they are served.
    pub unverified: u64,
    /// Blobs evicted since the node started.
    pub evictions: u64,
}

/// Bytes by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BytesBySource {
    /// Read from this node's disk for a runtime.
    pub disk: u64,
    /// Received from peers.
    pub peers: u64,
    /// Received from registries.
    pub upstream: u64,
}

/// A connected peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub peer_id: String,
    /// Where it is.
    pub addresses: Vec<String>,
    /// Its program and version, as it says.
    pub agent: Option<String>,
    /// Last measured round trip, in microseconds.
    pub rtt_us: Option<u64>,
    /// How long it has been connected, in milliseconds.
    pub connected_ms: u64,
    /// Bytes of blocks that it sent.
    pub received: u64,
    /// Bytes of blocks that it was sent.
    pub sent: u64,
}

/// A blob of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldBlob {
    /// Its digest.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Root of its DAG: the CID that any IPFS peer finds it by.
    pub root: String,
    /// Its media type, where somebody said.
    pub media_type: Option<String>,
    /// When it was last used, in milliseconds since 1970.
    pub last_use: u64,
    /// It is never evicted.
    pub pinned: bool,
}

/// Where a blob is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The blob.
    pub digest: Digest,
    /// What it is of an image: `index`, `manifest`, `config`, `layer`; none where a digest was asked for.
    pub part: Option<String>,
    /// Bytes, where anybody knows.
    pub size: Option<u64>,
    /// This node holds it whole.
    pub held: bool,
    /// Who else was named or asked and has at least a part of it.
    pub holders: Vec<Holder>,
    /// Peers that a provider record names and that do not have it, or did not answer, each with the reason.
    pub gone: Vec<Gone>,
    /// Time to the first holder, in milliseconds.
    pub first_ms: Option<u64>,
    /// Time of the whole search, in milliseconds.
    pub took_ms: u64,
}

/// A peer that has a blob or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its name.
    pub peer_id: String,
    /// Where it is, if it is connected.
    pub addresses: Vec<String>,
    /// How it was found.
    pub found_by: FoundBy,
    /// Leaves of the blob that it knows.
    pub known: u64,
    /// Leaves of the blob.
    pub leaves: u64,
    /// It has the whole blob.
    pub whole: bool,
    /// When it had answered, in milliseconds since the search began.
    pub after_ms: u64,
}

/// How a holder was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// A provider record of the DHT.
    Record,
    /// It is connected and was asked.
    Asked,
}

/// A peer that does not have what it was named for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Its name.
    pub peer_id: String,
    /// What it answered.
    pub reason: String,
}

/// What to pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullRequest {
    /// An image's name.
    pub image: String,
    /// `os/architecture`; the node's own where there is none.
    #[serde(default)]
    pub platform: Option<String>,
}

/// How a pull goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum PullEvent {
    /// The image's manifest is known.
    Resolved {
        /// The image's full name.
        image: String,
        /// The manifest's digest.
        digest: Digest,
        /// Upstream could not be asked: this is what the tag named last.
        stale: bool,
        /// Config and layers, each with its size.
        blobs: Vec<(Digest, u64)>,
    },
    /// Bytes of a blob have come.
    Progress {
        /// The blob.
        digest: Digest,
        /// Bytes so far.
        done: u64,
    },
    /// A blob is whole and verified.
    Done {
        /// The blob.
        digest: Digest,
        /// How long it took, in milliseconds.
        took_ms: u64,
    },
    /// All blobs are there.
    Finished {
        /// Bytes of all blobs.
        bytes: u64,
        /// How long it took, in milliseconds.
        took_ms: u64,
        /// What this node received and read in that time, for other pulls too.
        by_source: BytesBySource,
    },
    /// It cannot be completed.
    Failed {
        /// What failed and why.
        reason: String,
    },
}

/// Body of an error.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One sentence.
    pub error: String,
}
