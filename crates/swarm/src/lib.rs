//! The libp2p host: a node's place in the swarm.
//!
//! [`Swarm::start`] makes this node a peer and gives a handle, `Clone`, to ask through:
//!
//! ```text
//!  providers(digest) ──► Kademlia: who holds it          announce(digest, root) ──► those nearest to it are told
//!  outline(peer, digest) ──► /shoal/outline/1            block(peer, cid, priority) ──► bitswap
//! ```
//!
//! One task ([`event_loop`](self)) owns libp2p's swarm. What decides stands beside it as plain state machines, each with time passed in:
//! which addresses are dialled (`discovery`), which keys are announced when (`announce`), what is kept of what others announce (`records`).
//!
//! A peer joins by the swarm key ([`Admission`]) and keeps its name over restarts ([`Identity`]). Beyond admission nothing that a peer says
//! is believed: blocks are checked against their CIDs by bitswap, outlines and provider records are hints.
//!
//! All state is soft. A peer that is gone, or silent for [`Config::dead_after`], is forgotten at once: it leaves Kademlia's table, its
//! records are hidden, and its address is dialled every few seconds, so that it is found again when it is back, under whatever name.

mod announce;
mod behaviour;
mod config;
mod coordinate;
mod discovery;
mod error;
mod event_loop;
mod host;
mod identity;
mod key;
mod metrics;
mod muxer;
#[cfg(test)]
mod other_peers;
mod outlines;
mod peers;
mod provided;
mod record_store;
mod records;
mod seed;
mod tell;
mod transport;
mod wants;

use std::sync::Arc;

pub use config::{Admission, Config};
pub use error::{BlockError, Error};
pub use host::Swarm;
pub use identity::{FILE_NAME as IDENTITY_FILE_NAME, Identity};
pub use key::SwarmKey;
pub use libp2p::{Multiaddr, PeerId};
pub use metrics::Metrics;
pub use outlines::{KnownTag, MAX_ANSWER as MAX_OUTLINE_ANSWER};
pub use peers::PeerInfo;
pub use seed::{Resolve, Seed, SystemResolver};
pub use shoal_bitswap::{Blocks, Ledger};
use shoal_content::{Digest, Outline};
use tokio::sync::oneshot;
#[doc(hidden)]
pub use transport::build as transport;

/// What this node shows to peers: its blocks, and the outlines of its blobs. All calls may block; none is made on the network task.
pub trait Provides: Blocks {
    /// The outline of a blob, as far as it is known; `None` when nothing of the blob is here.
    fn outline(&self, digest: &Digest) -> Option<Arc<Outline>>;

    /// A member of a blob that this node coordinates asks; its answer may come later. `None`: this node does not coordinate.
    /// Unlike the others this is called on the network task, and must not block.
    fn coordinate(&self, peer: PeerId, request: Vec<u8>) -> Option<oneshot::Receiver<Vec<u8>>> {
        let _ = (peer, request);
        None
    }

    /// What this node knows of a tag, by its full name `registry/repository:tag`.
    fn tag(&self, name: &str) -> Option<KnownTag> {
        let _ = name;
        None
    }
}
