//! Why a peer's bytes are not bitswap, and why a want came to nothing.

/// What is wrong with a frame that a peer sent. The stream it came on is closed; nothing else follows.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number of more than 64 bits.
    #[error("bitswap frame holds a varint of more than 64 bits")]
    Varint,
    /// A field ends after its frame.
    #[error("bitswap frame ends within a field")]
    Truncated,
    /// A protobuf wire type that bitswap does not use.
    #[error("bitswap frame holds a field of wire type {0}")]
    WireType(u8),
    /// The announced length is over the limit.
    #[error("bitswap frame of {len} bytes is over the limit of {limit}")]
    TooLong {
        /// What the peer announced, in bytes.
        len: u64,
        /// [`Config::max_message_len`](crate::Config::max_message_len).
        limit: usize,
    },
    /// The peer moved no byte of a message under way for [`Config::progress_timeout`](crate::Config::progress_timeout),
    /// or did not finish it within [`Config::message_timeout`](crate::Config::message_timeout).
    #[error("peer stalled within a bitswap message")]
    Stalled,
    /// The stream failed below bitswap.
    #[error("bitswap stream failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Why a want will not be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The peer is not connected, or no longer.
    Disconnected,
    /// No stream for our wants could be opened or kept: the peer stalls, resets, or refuses.
    Stream,
    /// Nothing came for the time that [`Config::want_timeout`](crate::Config::want_timeout) allows.
    TimedOut,
    /// The peer does not speak bitswap, or not the version that this want needs; or the CID's hash is not one that
    /// Shoal can check.
    Unsupported,
    /// [`Config::max_wants`](crate::Config::max_wants) wants of this peer are outstanding already.
    TooMany,
    /// The peer sent bytes that are nothing it was asked for: it errs or lies, and for which want it did cannot be told.
    BadBlock,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Failure::Disconnected => "peer is not connected",
            Failure::Stream => "no bitswap stream to the peer",
            Failure::TimedOut => "peer did not answer in time",
            Failure::Unsupported => "not supported by the peer's bitswap version or our hash functions",
            Failure::TooMany => "too many wants outstanding at the peer",
            Failure::BadBlock => "peer sent bytes that it was not asked for",
        })
    }
}
