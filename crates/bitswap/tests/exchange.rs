//! Blocks between real swarms.

mod common;

use std::{collections::HashSet, sync::Arc};

use common::{DEADLINE, Memory, cid_of, connect, swarm};
use futures::StreamExt;
use libp2p::{PeerId, Swarm, swarm::SwarmEvent};
use shoal_bitswap::{Behaviour, Config, Event};
use shoal_content::Cid;
use tokio::time::timeout;

type Node = Swarm<Behaviour>;

fn node(blocks: &Arc<Memory>, config: Config) -> Node {
    swarm(Behaviour::new(Arc::clone(blocks) as _, config))
}

fn peer(node: &Node) -> PeerId {
    *node.local_peer_id()
}

/// The next event of the behaviour.
async fn next(node: &mut Node) -> Event {
    let event = async {
        loop {
            if let SwarmEvent::Behaviour(event) = node.select_next_some().await {
                return event;
            }
        }
    };
    timeout(DEADLINE, event).await.expect("an event within the deadline")
}

/// Fetches all of it from one peer, `window` wants at a time.
async fn fetch(node: &mut Node, from: PeerId, cids: &[Cid], window: usize) {
    let mut left = cids.iter().copied();
    let mut outstanding: HashSet<Cid> = left.by_ref().take(window).collect();
    for cid in &outstanding {
        node.behaviour_mut().want_block(from, *cid, 1);
    }
    while !outstanding.is_empty() {
        match next(node).await {
            Event::Block { peer, cid, data } => {
                assert_eq!(peer, from);
                assert_eq!(cid_of(&data), cid);
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

#[tokio::test(flavor = "multi_thread")]
async fn two_swarms_exchange_64_mebibytes_both_ways_at_once() {
    let (left, right) = (Arc::<Memory>::default(), Arc::<Memory>::default());
    let (of_left, of_right) = (left.fill(1, 64, 1 << 20), right.fill(2, 64, 1 << 20));
    let (mut a, mut b) = (node(&left, Config::default()), node(&right, Config::default()));
    connect(&mut a, &mut b).await;
    let (id_a, id_b) = (peer(&a), peer(&b));
    let other = tokio::spawn(async move {
        fetch(&mut b, id_a, &of_left, 8).await;
        b.behaviour().ledger(&id_a).map(|ledger| (ledger.blocks_received, ledger.bytes_received));
        b
    });
    fetch(&mut a, id_b, &of_right, 8).await;
    let drain = async {
        loop {
            a.select_next_some().await;
        }
    };
    let b = tokio::select! {
        b = other => b.unwrap(),
        () = drain => unreachable!(),
    };
    let ledger = b.behaviour().ledger(&id_a).unwrap();
    assert_eq!((ledger.blocks_received, ledger.bytes_received), (64, 64 << 20));
    assert_eq!((ledger.wants_sent, ledger.late_blocks, ledger.bad_blocks), (0, 0, 0));
}
