//! A swarm with the bitswap behaviour, and what tests do with it.

use std::{collections::HashSet, sync::Arc};

use futures::StreamExt;
use libp2p::{
    PeerId, Swarm,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use shoal_bitswap::{Behaviour, Config, Event};
use shoal_content::Cid;
use tokio::{task::JoinHandle, time::timeout};

use super::{DEADLINE, Memory, cid_of, raw::Raw, swarm};

pub type Node = Swarm<Behaviour>;

pub fn node(blocks: &Arc<Memory>, config: Config) -> Node {
    swarm(Behaviour::new(Arc::clone(blocks) as _, config))
}

pub fn peer<B: NetworkBehaviour>(node: &Swarm<B>) -> PeerId {
    *node.local_peer_id()
}

/// Polls a swarm in the background, as long as the handle lives.
pub fn run<B: NetworkBehaviour<ConnectionHandler: Send> + Send>(mut node: Swarm<B>) -> Running {
    Running(tokio::spawn(async move {
        loop {
            node.select_next_some().await;
        }
    }))
}

pub struct Running(JoinHandle<()>);

impl Running {
    /// Polls a peer without manners, and keeps the streams that it is offered, unread.
    pub fn keeping(mut raw: Swarm<Raw>) -> Self {
        Self(tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                if let SwarmEvent::Behaviour(opened) = raw.select_next_some().await {
                    kept.push(opened);
                }
            }
        }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The next event of the behaviour.
pub async fn next<B: NetworkBehaviour>(node: &mut Swarm<B>) -> B::ToSwarm {
    let event = async {
        loop {
            if let SwarmEvent::Behaviour(event) = node.select_next_some().await {
                return event;
            }
        }
    };
    timeout(DEADLINE, event).await.expect("an event within the deadline")
}

/// Polls the node until what is asked of it holds.
pub async fn until(node: &mut Node, holds: impl Fn(&Behaviour) -> bool) {
    let wait = async {
        let mut look = tokio::time::interval(std::time::Duration::from_millis(2));
        while !holds(node.behaviour()) {
            tokio::select! {
                _ = node.select_next_some() => {}
                _ = look.tick() => {}
            }
        }
    };
    timeout(DEADLINE, wait).await.expect("within the deadline");
}

/// Fetches all of it from one peer, `window` wants at a time.
pub async fn fetch(node: &mut Node, from: PeerId, cids: &[Cid], window: usize) {
    let mut left = cids.iter().copied();
    let mut outstanding: HashSet<Cid> = left.by_ref().take(window).collect();
    for cid in &outstanding {
        node.behaviour_mut().want_block(from, *cid, 1);
    }
    while !outstanding.is_empty() {
        match next(node).await {
            Event::Block { peer, cid, data } => {
                assert_eq!(peer, from);
                assert_eq!(cid_of(&data).hash(), cid.hash());
                assert!(outstanding.remove(&cid), "an answer that nobody waits for");
            }
            other => panic!("{other:?}"),
        }
        if let Some(cid) = left.next() {
            outstanding.insert(cid);
            node.behaviour_mut().want_block(from, cid, 1);
        }
    }
}
