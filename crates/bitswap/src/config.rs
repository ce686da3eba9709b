//! Every limit and deadline of the engine.

use std::time::Duration;

use crate::wire::{self, Version};

/// Limits and deadlines. The defaults suit a data centre; all of them may be changed before the behaviour is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The protocol versions offered and accepted, the best first. Default all three.
    pub versions: Vec<Version>,
    /// The largest message that is read, in bytes. A longer one closes its stream. Default 4 MiB, the limit of
    /// go-bitswap and Helia.
    pub max_message_len: usize,
    /// The largest block that is served, in bytes. Default 2 MiB, by the specification. Larger ones are treated as
    /// absent; incoming ones are dropped by the decoder.
    pub max_block_len: usize,
    /// Wants that are kept of one peer, and that may be outstanding at one peer. Default 1024, as in boxo. A want
    /// over it is refused, with DONT_HAVE where that was asked for.
    pub max_wants: usize,
    /// A WANT-HAVE of a block of at most so many bytes is answered with the block. Default 1 KiB, as in boxo.
    pub have_replace_len: usize,
    /// Bytes of blocks read or sent, but not yet accepted by the stream, for one peer. Default 4 MiB: what keeps a
    /// 10 Gbit/s pipe with 2 ms of delay full. A peer begins with one block and earns the rest by accepting what it
    /// is sent, so that peers which stall hold little. The last block may go over it.
    pub peer_send_budget: usize,
    /// The same for all peers together that take blocks promptly; a single block may always be outstanding. Default
    /// 4 MiB: enough to keep a link busy, and so little that the choice of whom to send what next is made late. Between
    /// eight askers on loopback who were equally eager, 4 MiB gave shares within 2 %, 24 MiB shares of 1 : 10, at the
    /// same throughput in all.
    pub upload_budget: usize,
    /// The same for all peers, those included that do not take blocks promptly, who get one at a time beside
    /// [`Config::upload_budget`]. Default 24 MiB.
    pub send_budget: usize,
    /// Bytes of messages received from one connection, but not yet checked and handed on. When they are used up the
    /// stream is not read further, and the peer feels it. Default 8 MiB, at least [`Config::max_message_len`].
    pub peer_receive_budget: usize,
    /// A message of more than so many bytes is skipped without being stored when no block is wanted from its sender.
    /// Default 256 KiB: more than the largest honest wantlist.
    pub max_unasked_message_len: usize,
    /// Streams that a peer may have open to us on one connection. Default 32: go-bitswap opens one for each message.
    pub max_inbound_streams: usize,
    /// Calls of [`Blocks`](crate::Blocks) in flight. Default 4.
    pub max_reads: usize,
    /// Blocks hashed at once. Default 4.
    pub max_hashes: usize,
    /// CIDs whose count of sent copies is remembered. Default 16384, about 2 MiB of memory.
    pub max_sent_counts: usize,
    /// For opening a stream, negotiation included. Default 5 s.
    pub open_timeout: Duration,
    /// For a write, a flush, a close or a message half read to move at least one byte. Default 10 s.
    pub progress_timeout: Duration,
    /// For a whole message, either way. Default 120 s: a block of 1 MiB at 9 KiB/s.
    pub message_timeout: Duration,
    /// After so long without a message our stream to a peer is closed and opened again when needed. Default 3 s: Helia
    /// resets streams that were quiet for 10 s, and what was written to a reset stream is lost.
    pub stream_idle: Duration,
    /// A want fails when the peer has sent nothing at all for so long. Default 30 s; whoever needs to be faster
    /// cancels and asks another peer. A want that is still unanswered after [`Config::want_lifetime`] fails anyhow.
    pub want_timeout: Duration,
    /// The longest that a want may be outstanding. Default 10 min.
    pub want_lifetime: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            versions: Version::ALL.to_vec(),
            max_message_len: wire::MAX_MESSAGE_LEN,
            max_block_len: wire::MAX_BLOCK_LEN,
            max_wants: 1024,
            have_replace_len: 1 << 10,
            peer_send_budget: 4 << 20,
            upload_budget: 4 << 20,
            send_budget: 24 << 20,
            peer_receive_budget: 8 << 20,
            max_unasked_message_len: 256 << 10,
            max_inbound_streams: 32,
            max_reads: 4,
            max_hashes: 4,
            max_sent_counts: 16_384,
            open_timeout: Duration::from_secs(5),
            progress_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(120),
            stream_idle: Duration::from_secs(3),
            want_timeout: Duration::from_secs(30),
            want_lifetime: Duration::from_secs(600),
        }
    }
}
