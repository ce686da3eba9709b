//! The bitswap wire format: protobuf in length-prefixed frames, written and read by hand, so that no length that a
//! peer announces is believed and no block is copied.

mod decode;
mod encode;
mod message;
pub(crate) mod varint;

pub(crate) use decode::block_at;
pub use encode::Frame;
pub use message::{Block, Entry, Message, Prefix, Presence, Version, WantType};

/// The largest message, without its length prefix, in bytes: what go-bitswap and Helia accept.
pub const MAX_MESSAGE_LEN: usize = 4 << 20;

/// The largest block in bytes, by the bitswap specification.
pub const MAX_BLOCK_LEN: usize = 2 << 20;

/// The longest CID in bytes that is read, as in boxo.
pub const MAX_CID_LEN: usize = 168;

/// The shortest hash in bytes that is believed, as in boxo's verified CIDs.
pub const MIN_HASH_LEN: usize = 20;

/// The longest hash in bytes, as in boxo. The `Cid` type holds 64, so longer ones are left out as well.
pub const MAX_HASH_LEN: usize = 128;

/// How many entries of a kind (wants, presences, blocks) are taken from one message. A peer may have 1024 wants with
/// us, and cancel as many in the same message; an empty entry takes two bytes on the wire and a hundred in memory, so
/// the length of a frame is no bound.
pub const MAX_ENTRIES: usize = 4096;

#[cfg(test)]
mod tests;
