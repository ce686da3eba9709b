//! What a bitswap message says, free of its encoding.

use bytes::Bytes;
use shoal_content::Cid;

/// The protocol versions that Shoal speaks; newer ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// `/ipfs/bitswap/1.0.0`: blocks are bare bytes, their CIDs are version 0.
    V1_0,
    /// `/ipfs/bitswap/1.1.0`: blocks carry a CID prefix.
    V1_1,
    /// `/ipfs/bitswap/1.2.0`: adds WANT-HAVE, HAVE, DONT_HAVE.
    V1_2,
}

impl Version {
    /// All of them, the best first: the order in which they are offered.
    pub const ALL: [Version; 3] = [Version::V1_2, Version::V1_1, Version::V1_0];

    /// The libp2p protocol name.
    pub const fn protocol(self) -> &'static str {
        match self {
            Version::V1_0 => "/ipfs/bitswap/1.0.0",
            Version::V1_1 => "/ipfs/bitswap/1.1.0",
            Version::V1_2 => "/ipfs/bitswap/1.2.0",
        }
    }

    /// Whether WANT-HAVE and presences exist.
    pub const fn has_presences(self) -> bool {
        matches!(self, Version::V1_2)
    }
}

/// What is asked for of a CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WantType {
    /// The block's bytes.
    Block,
    /// Whether the peer has it.
    Have,
}

/// One line of a wantlist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is wanted, or no longer.
    pub cid: Cid,
    /// Greater is sooner.
    pub priority: i32,
    /// The want is withdrawn; the other fields say nothing.
    pub cancel: bool,
    /// The block or news of it.
    pub want: WantType,
    /// Whether the asker wants to be told when the block is not there.
    pub send_dont_have: bool,
}

/// Whether a peer has a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presence {
    /// Of what.
    pub cid: Cid,
    /// HAVE, or else DONT_HAVE.
    pub have: bool,
}

/// A CID without its hash: with the bytes, it gives the CID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// CID version, 0 or 1.
    pub version: u64,
    /// Multicodec of the content.
    pub codec: u64,
    /// Multicodec of the hash function.
    pub hash_code: u64,
    /// Bytes of the hash.
    pub hash_len: u64,
}

impl Prefix {
    /// The prefix of a CIDv0: what a block of version 1.0.0 has, which carries none.
    pub const V0: Prefix = Prefix { version: 0, codec: 0x70, hash_code: 0x12, hash_len: 32 };

    /// The prefix of `cid`.
    pub fn of(cid: &Cid) -> Self {
        let hash = cid.hash();
        Self {
            version: u64::from(cid.version()),
            codec: cid.codec(),
            hash_code: hash.code(),
            hash_len: u64::from(hash.size()),
        }
    }
}

/// A block as it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// What its CID is made of, beside the hash. `None` in the form of version 1.0.0.
    pub prefix: Option<Prefix>,
    /// The bytes: a slice of the frame that they came in, not a copy.
    pub data: Bytes,
}

/// A bitswap message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Changes of the sender's wantlist, or all of it.
    pub wants: Vec<Entry>,
    /// `wants` is the whole wantlist and replaces what was known before.
    pub full: bool,
    /// Blocks.
    pub blocks: Vec<Block>,
    /// HAVEs and DONT_HAVEs.
    pub presences: Vec<Presence>,
    /// Bytes that the sender has queued for the receiver.
    pub pending_bytes: i32,
    /// Entries of the frame that were left out: a CID out of bounds, a block or a count too large.
    pub ignored: usize,
}

impl Message {
    /// Nothing would be sent.
    pub fn is_empty(&self) -> bool {
        self.wants.is_empty() && !self.full && self.blocks.is_empty() && self.presences.is_empty()
    }
}
