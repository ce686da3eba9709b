//! What the behaviour tells its user.

use bytes::Bytes;
use libp2p::PeerId;
use shoal_content::Cid;

use crate::Failure;

/// An answer to a want, or news of a peer. Every want ends in exactly one of `Block`, `Have`, `DontHave` and `Failed`,
/// unless it is cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A wanted block came. Its bytes hash to the CID. A WANT-HAVE may be answered so, when the block is tiny.
    Block {
        /// Who sent it.
        peer: PeerId,
        /// As it was wanted.
        cid: Cid,
        /// The block.
        data: Bytes,
    },
    /// The peer says that it has the block.
    Have {
        /// Who says so.
        peer: PeerId,
        /// As it was wanted.
        cid: Cid,
    },
    /// The peer says that it has not the block. The want is over.
    DontHave {
        /// Who says so.
        peer: PeerId,
        /// As it was wanted.
        cid: Cid,
    },
    /// The want will not be answered.
    Failed {
        /// Who was asked.
        peer: PeerId,
        /// As it was wanted.
        cid: Cid,
        /// Why.
        reason: Failure,
    },
    /// The peer sent bytes that hash to nothing that was ever asked of it: it errs or lies. The blocks that it owes at that moment have failed
    /// ([`Failure::BadBlock`]); what is wanted of it from then on is wanted.
    BadBlock {
        /// Who sent them.
        peer: PeerId,
        /// Their size.
        bytes: usize,
        /// Such blocks of this peer since it connected.
        count: u64,
    },
}
