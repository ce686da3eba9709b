//! What can go wrong in the swarm.

use std::{io, path::PathBuf};

use libp2p::{Multiaddr, PeerId};

/// Errors of the swarm.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The swarm key's file is not one.
    #[error("swarm key, line {line}: {reason}")]
    SwarmKey {
        /// Line of the file, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The peer key's file is damaged or open to others.
    #[error("peer key {}: {reason}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The noise handshake cannot be set up with this key.
    #[error("noise cannot use the peer key: {0}")]
    Noise(String),
    /// A text does not name peers to join.
    #[error("peer address {text:?}: {reason}")]
    Seed {
        /// The text, shortened.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The node cannot listen on an address.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system says.
        reason: String,
    },
    /// Discovery by mDNS cannot start.
    #[error("mDNS cannot start: {0}")]
    Mdns(io::Error),
    /// The swarm has been shut down.
    #[error("the swarm has been shut down")]
    Stopped,
    /// No connection to the peer could be made, or it ended before the answer.
    #[error("peer {0} is not reachable")]
    Unreachable(PeerId),
    /// The peer did not answer in time.
    #[error("peer {0} did not answer in time")]
    Timeout(PeerId),
    /// The peer has too much to do to answer now.
    #[error("peer {0} is busy")]
    Busy(PeerId),
    /// The peer does not speak the outline protocol: it is not Shoal.
    #[error("peer {0} does not speak of outlines")]
    Unsupported(PeerId),
    /// The peer's answer is not one.
    #[error("peer {peer} answered nonsense: {reason}")]
    BadAnswer {
        /// The peer.
        peer: PeerId,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a block did not come from a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The peer said that it does not have the block.
    #[error("the peer does not have the block")]
    DontHave,
    /// There is no connection to the peer, or it ended.
    #[error("the peer is not connected")]
    Disconnected,
    /// The peer did not answer in time.
    #[error("the peer did not answer in time")]
    Timeout,
    /// What the peer sent is not the block, or not bitswap.
    #[error("the peer broke the protocol: {0}")]
    Invalid(String),
    /// The swarm has been shut down.
    #[error("the swarm has been shut down")]
    Stopped,
}
