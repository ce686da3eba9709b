//! How a store is opened.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use shoal_content::{Cid, Digest};

use crate::disk::{Disk, SystemDisk};

/// Told of every blob that comes or goes.
pub type OnChange = Arc<dyn Fn(Change) + Send + Sync>;

/// A blob has come or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is whole, verified and durable.
    Added {
        /// The blob.
        digest: Digest,
        /// Root of its DAG.
        root: Cid,
    },
    /// It was evicted, removed, or found to be damaged or missing.
    Removed {
        /// The blob.
        digest: Digest,
        /// Root of its DAG; `None` when the index no longer knew.
        root: Option<Cid>,
    },
}

/// Where the index is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Indexing {
    /// In sled, in the store's directory.
    Sled,
    /// In memory: every opening verifies all files again. For tests.
    Memory,
}

/// Whether leaves are written past the page cache, and read past it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direct {
    /// Where the file system takes that; written so where the disk is quick.
    #[default]
    Auto,
    /// Never.
    Never,
}

/// How a store is opened. Every bound of the store is here.
#[derive(Clone)]
pub struct Options {
    /// Where everything is kept; created when it is missing. One file system.
    pub directory: PathBuf,
    /// Bytes that blobs and partials may take.
    pub quota: u64,
    /// Eviction begins when more than this share of the quota would be in use, in percent.
    pub high_watermark: u8,
    /// Eviction goes on until no more than this share is in use, in percent.
    pub low_watermark: u8,
    /// Bytes of the file system that are left to others, whatever the quota says.
    pub keep_free: u64,
    /// Blobs held at most; each costs about 100 bytes of memory.
    pub max_blobs: usize,
    /// Tags remembered at most; those resolved longest ago are dropped first.
    pub max_tags: usize,
    /// A partial that nobody has had open for so long goes first when room is needed. Counts from opening the store, not across restarts.
    pub partial_ttl: Duration,
    /// Whether leaves are written past the page cache, and read past it.
    pub direct: Direct,
    /// Memory that the index may use for caching, in bytes.
    pub index_cache: u64,
    /// Where the index is kept.
    pub indexing: Indexing,
    /// Told of every blob that comes or goes, from the thread on which it happens and in order for each blob; must not call the store.
    /// Blobs that the index lists at opening are not told of: ask `Store::blobs`.
    pub on_change: Option<OnChange>,
    /// The calls that a full or failing disk fails: a seam for tests.
    pub disk: Arc<dyn Disk>,
}

impl Options {
    /// The defaults, for a store in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            quota: 64 << 30,
            // A pull reserves a layer at a time; a twentieth of the quota is more than most layers.
            high_watermark: 95,
            low_watermark: 85,
            // Below this, kubelet's own eviction and the node's logs suffer.
            keep_free: 1 << 30,
            max_blobs: 50_000,
            max_tags: 10_000,
            partial_ttl: Duration::from_secs(6 * 60 * 60),
            direct: Direct::Auto,
            // An idle node is to stay below 35 MB resident in all.
            index_cache: 4 << 20,
            indexing: Indexing::Sled,
            on_change: None,
            disk: Arc::new(SystemDisk),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("directory", &self.directory)
            .field("quota", &self.quota)
            .field("high_watermark", &self.high_watermark)
            .field("low_watermark", &self.low_watermark)
            .field("keep_free", &self.keep_free)
            .field("max_blobs", &self.max_blobs)
            .field("max_tags", &self.max_tags)
            .field("partial_ttl", &self.partial_ttl)
            .field("direct", &self.direct)
            .field("index_cache", &self.index_cache)
            .field("indexing", &self.indexing)
            .finish_non_exhaustive()
    }
}
