//! Blocks and presences that callers wait for, by peer and CID.
//!
//! Several callers may want one block of one peer; bitswap hears of the first and of the last to give up.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use libp2p::PeerId;
use shoal_content::Cid;
use tokio::sync::{Notify, oneshot};

use crate::error::BlockError;

/// Names one caller's want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WantId(pub(crate) u64);

/// Wants whose callers have given up. Dropping a future cannot wait for room in a channel; this holds no more than one entry for each
/// want that was made and not yet forgotten.
#[derive(Debug, Default)]
pub(crate) struct Abandoned {
    ids: Mutex<Vec<WantId>>,
    wake: Notify,
}

impl Abandoned {
    pub(crate) fn push(&self, id: WantId) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).push(id);
        self.wake.notify_one();
    }

    /// Returns when some were abandoned since the last time.
    pub(crate) async fn changed(&self) {
        self.wake.notified().await;
    }

    pub(crate) fn take(&self) -> Vec<WantId> {
        std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is wanted, and who waits for it.
#[derive(Debug)]
pub(crate) enum Reply {
    Block(oneshot::Sender<Result<Bytes, BlockError>>),
    Have(oneshot::Sender<Result<bool, BlockError>>),
}

impl Reply {
    /// Whether nobody waits any longer.
    pub(crate) fn is_abandoned(&self) -> bool {
        match self {
            Reply::Block(reply) => reply.is_closed(),
            Reply::Have(reply) => reply.is_closed(),
        }
    }

    /// Says why nothing comes. Who no longer waits has given up: nothing is lost.
    pub(crate) fn fail(self, error: BlockError) {
        match self {
            Reply::Block(reply) => drop(reply.send(Err(error))),
            Reply::Have(reply) => drop(reply.send(Err(error))),
        }
    }
}

/// What bitswap must be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) cid: Cid,
    /// The block itself, not only whether it is there.
    pub(crate) block: bool,
    pub(crate) priority: i32,
}

#[derive(Debug)]
struct Want {
    id: WantId,
    priority: i32,
    reply: Reply,
}

/// All wants.
#[derive(Debug, Default)]
pub(crate) struct Wants {
    by_block: HashMap<(PeerId, Cid), Vec<Want>>,
    by_id: HashMap<WantId, (PeerId, Cid)>,
}

impl Wants {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Enters a want. Returns what to ask the peer, unless it has been asked for as much already.
    pub(crate) fn add(&mut self, id: WantId, peer: PeerId, cid: Cid, priority: i32, reply: Reply) -> Option<Ask> {
        let block = matches!(reply, Reply::Block(_));
        let wants = self.by_block.entry((peer, cid)).or_default();
        let is_asked =
            wants.iter().any(|want| want.priority >= priority && (matches!(want.reply, Reply::Block(_)) || !block));
        wants.push(Want { id, priority, reply });
        self.by_id.insert(id, (peer, cid));
        (!is_asked).then_some(Ask { cid, block, priority })
    }

    /// A caller has given up. Returns the peer and the block when nobody else waits for it.
    pub(crate) fn cancel(&mut self, id: WantId) -> Option<(PeerId, Cid)> {
        let key = self.by_id.remove(&id)?;
        let wants = self.by_block.get_mut(&key)?;
        wants.retain(|want| want.id != id);
        if !wants.is_empty() {
            return None;
        }
        self.by_block.remove(&key);
        Some(key)
    }

    /// All that is wanted of a peer, as when it has just connected.
    pub(crate) fn of(&self, peer: &PeerId) -> Vec<Ask> {
        let of_peer = self.by_block.iter().filter(|((other, _), _)| other == peer);
        of_peer
            .map(|((_, cid), wants)| Ask {
                cid: *cid,
                block: wants.iter().any(|want| matches!(want.reply, Reply::Block(_))),
                priority: wants.iter().map(|want| want.priority).max().unwrap_or(0),
            })
            .collect()
    }

    /// The block has come.
    pub(crate) fn block(&mut self, peer: PeerId, cid: Cid, data: &Bytes) {
        for want in self.take(peer, cid) {
            // A receiver that is gone has given up: nothing is lost.
            match want.reply {
                Reply::Block(reply) => drop(reply.send(Ok(data.clone()))),
                Reply::Have(reply) => drop(reply.send(Ok(true))),
            }
        }
    }

    /// The peer has the block. Those who want the block itself wait on.
    pub(crate) fn have(&mut self, peer: PeerId, cid: Cid) {
        let (blocks, presences): (Vec<Want>, Vec<Want>) =
            self.take(peer, cid).into_iter().partition(|want| matches!(want.reply, Reply::Block(_)));
        for want in presences {
            if let Reply::Have(reply) = want.reply {
                let _ = reply.send(Ok(true));
            }
        }
        if !blocks.is_empty() {
            self.by_id.extend(blocks.iter().map(|want| (want.id, (peer, cid))));
            self.by_block.insert((peer, cid), blocks);
        }
    }

    /// The peer does not have the block.
    pub(crate) fn dont_have(&mut self, peer: PeerId, cid: Cid) {
        for want in self.take(peer, cid) {
            match want.reply {
                Reply::Block(reply) => drop(reply.send(Err(BlockError::DontHave))),
                Reply::Have(reply) => drop(reply.send(Ok(false))),
            }
        }
    }

    /// The want has come to nothing.
    pub(crate) fn fail(&mut self, peer: PeerId, cid: Cid, error: &BlockError) {
        for want in self.take(peer, cid) {
            want.reply.fail(error.clone());
        }
    }

    /// Nothing will come from this peer.
    pub(crate) fn fail_peer(&mut self, peer: PeerId, error: &BlockError) {
        for ask in self.of(&peer) {
            self.fail(peer, ask.cid, error);
        }
    }

    fn take(&mut self, peer: PeerId, cid: Cid) -> Vec<Want> {
        let wants = self.by_block.remove(&(peer, cid)).unwrap_or_default();
        for want in &wants {
            self.by_id.remove(&want.id);
        }
        wants
    }
}

#[cfg(test)]
mod tests {
    use shoal_content::LeafHash;

    use super::*;

    fn cid() -> Cid {
        LeafHash::of(b"leaf").cid()
    }

    #[test]
    fn a_block_is_asked_for_once_and_given_to_all_who_want_it() {
        let mut wants = Wants::default();
        let peer = PeerId::random();
        let (have, mut is_there) = oneshot::channel();
        let (first, mut one) = oneshot::channel();
        let (second, mut two) = oneshot::channel();
        let presence = Ask { cid: cid(), block: false, priority: 1 };
        let block = Ask { cid: cid(), block: true, priority: 2 };
        assert_eq!(wants.add(WantId(0), peer, cid(), 1, Reply::Have(have)), Some(presence));
        assert_eq!(wants.add(WantId(1), peer, cid(), 2, Reply::Block(first)), Some(block));
        assert_eq!(wants.add(WantId(2), peer, cid(), 1, Reply::Block(second)), None);
        assert_eq!(wants.of(&peer), [block]);
        assert!(wants.of(&PeerId::random()).is_empty());

        wants.have(peer, cid());
        assert_eq!(is_there.try_recv().unwrap(), Ok(true));
        assert!(one.try_recv().is_err());
        wants.block(peer, cid(), &Bytes::from_static(b"leaf"));
        assert_eq!(one.try_recv().unwrap().unwrap(), "leaf");
        assert_eq!(two.try_recv().unwrap().unwrap(), "leaf");
        assert_eq!((wants.len(), wants.by_block.len()), (0, 0));
    }

    #[test]
    fn the_last_to_give_up_withdraws_the_want() {
        let mut wants = Wants::default();
        let peer = PeerId::random();
        wants.add(WantId(1), peer, cid(), 0, Reply::Block(oneshot::channel().0));
        wants.add(WantId(2), peer, cid(), 0, Reply::Block(oneshot::channel().0));
        assert_eq!(wants.cancel(WantId(1)), None);
        assert_eq!(wants.cancel(WantId(1)), None);
        assert_eq!(wants.cancel(WantId(2)), Some((peer, cid())));
        assert_eq!((wants.len(), wants.by_block.len()), (0, 0));
    }

    #[test]
    fn who_waits_is_told_why_nothing_comes() {
        let mut wants = Wants::default();
        let peer = PeerId::random();
        let (block, mut refused) = oneshot::channel();
        wants.add(WantId(1), peer, cid(), 0, Reply::Block(block));
        wants.dont_have(peer, cid());
        assert_eq!(refused.try_recv().unwrap(), Err(BlockError::DontHave));

        let (block, mut failed) = oneshot::channel();
        wants.add(WantId(2), peer, cid(), 0, Reply::Block(block));
        wants.fail_peer(peer, &BlockError::Disconnected);
        assert_eq!(failed.try_recv().unwrap(), Err(BlockError::Disconnected));
        assert_eq!(wants.len(), 0);
    }
}
