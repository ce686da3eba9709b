//! What is counted: for each peer, and in all.

use std::sync::atomic::{AtomicU64, Ordering};

/// What passed between this node and one connected peer since it connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Bytes of blocks that the stream to the peer accepted.
    pub bytes_sent: u64,
    /// Blocks that the stream to the peer accepted.
    pub blocks_sent: u64,
    /// Bytes of blocks that we asked for, checked.
    pub bytes_received: u64,
    /// Blocks that we asked for, checked.
    pub blocks_received: u64,
    /// Wants of ours that the peer has not answered.
    pub wants_sent: usize,
    /// Wants of the peer that we keep: to be answered, or waiting for a block to arrive here.
    pub wants_received: usize,
    /// Wants of the peer whose block is here and waits for its turn.
    pub queue_depth: usize,
    /// Bytes of blocks read or being sent that the stream has not accepted.
    pub bytes_outstanding: usize,
    /// Blocks that came after we had withdrawn the want, or twice.
    pub late_blocks: u64,
    /// Blocks that hashed to nothing we had asked the peer for.
    pub bad_blocks: u64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the engine did, dropped and refused since it was made.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The counters as the network tasks share them.
        #[derive(Debug, Default)]
        pub(crate) struct Tally {
            $(pub(crate) $name: Count,)*
        }

        impl Tally {
            pub(crate) fn snapshot(&self) -> Counters {
                Counters { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// Messages read.
    messages_received,
    /// Messages written.
    messages_sent,
    /// Blocks that were asked for and came.
    blocks_received,
    /// Bytes of them.
    bytes_received,
    /// Blocks sent.
    blocks_sent,
    /// Bytes of them.
    bytes_sent,
    /// Blocks that came after their want was withdrawn or answered.
    late_blocks,
    /// Blocks that hashed to nothing we asked for, or came when nothing was wanted.
    bad_blocks,
    /// HAVEs and DONT_HAVEs that nobody asked for.
    unasked_presences,
    /// Messages skipped unread because they were long and nothing was wanted of their sender.
    skipped_messages,
    /// Wants of peers refused because they had too many.
    refused_wants,
    /// Answers dropped because a peer does not take those it has asked for.
    dropped_presences,
    /// Entries of messages left out because they broke a limit.
    ignored_entries,
    /// Frames that were not bitswap or too long; the stream was closed.
    bad_frames,
    /// Streams of peers refused because they had too many.
    refused_streams,
    /// Streams closed because the peer stalled in reading or sending a message.
    stalled_streams,
    /// Streams of ours that failed or could not be opened.
    failed_streams,
    /// Reads of blocks that failed on the disk.
    failed_reads,
    /// Our wants that came to nothing.
    failed_wants,
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
