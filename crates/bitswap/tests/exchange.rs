//! Blocks between real swarms.

mod common;

use std::{collections::HashSet, sync::Arc};

use common::{
    Memory, bytes, cid_of, connect,
    node::{Node, fetch, next, node, peer, run, until},
};
use futures::StreamExt;
use libp2p::swarm::SwarmEvent;
use shoal_bitswap::{Config, Event, Failure, Version};
use shoal_content::Cid;

const MIB: usize = 1 << 20;

/// An asker without blocks, connected to a holder of `blocks`.
async fn pair(blocks: &Arc<Memory>, holder: Config, asker: Config) -> (Node, Node) {
    let mut holder = node(blocks, holder);
    let mut asker = node(&Arc::default(), asker);
    connect(&mut asker, &mut holder).await;
    (asker, holder)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_swarms_exchange_64_mebibytes_both_ways_at_once() {
    let (left, right) = (Arc::<Memory>::default(), Arc::<Memory>::default());
    let (of_left, of_right) = (left.fill(1, 64, MIB), right.fill(2, 64, MIB));
    let (mut a, mut b) = (node(&left, Config::default()), node(&right, Config::default()));
    connect(&mut a, &mut b).await;
    let (id_a, id_b) = (peer(&a), peer(&b));
    let other = tokio::spawn(async move {
        fetch(&mut b, id_a, &of_left, 8).await;
        // The other end may not be done with us.
        let received = b.behaviour().ledger(&id_a).unwrap();
        (run(b), received)
    });
    fetch(&mut a, id_b, &of_right, 8).await;
    let a = run(a);
    let (b, ledger) = other.await.unwrap();
    drop((a, b));
    assert_eq!((ledger.blocks_received, ledger.bytes_received), (64, 64 << 20));
    assert_eq!((ledger.wants_sent, ledger.late_blocks, ledger.bad_blocks), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_holder_serves_two_askers_and_counts_what_each_got() {
    let blocks = Arc::<Memory>::default();
    let cids = blocks.fill(3, 64, MIB);
    let (mut a, mut holder) = pair(&blocks, Config::default(), Config::default()).await;
    let mut b = node(&Arc::default(), Config::default());
    connect(&mut b, &mut holder).await;
    let (id, id_a, id_b) = (peer(&holder), peer(&a), peer(&b));
    let (tell, told) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn(async move {
        until(&mut holder, |holder| {
            [id_a, id_b].iter().all(|peer| holder.ledger(peer).is_some_and(|ledger| ledger.blocks_sent == 64))
        })
        .await;
        tell.send(holder.behaviour().counters()).unwrap();
        run(holder)
    });
    tokio::join!(fetch(&mut a, id, &cids, 8), fetch(&mut b, id, &cids, 8));
    let counters = told.await.unwrap();
    assert_eq!((counters.blocks_sent, counters.bytes_sent), (128, 128 << 20));
    drop(serving.await);
}

#[tokio::test]
async fn have_dont_have_and_awaited_blocks_are_answered_as_asked() {
    let blocks = Arc::<Memory>::default();
    let (large, tiny) = (blocks.put(bytes(1, 5_000)), blocks.put(bytes(2, 1_000)));
    let (absent, late) = (cid_of(b"absent"), bytes(3, 200_000));
    let (mut asker, mut holder) = pair(&blocks, Config::default(), Config::default()).await;
    let (from, id) = (peer(&holder), peer(&asker));
    let behaviour = asker.behaviour_mut();
    behaviour.want_have(from, large);
    behaviour.want_have(from, tiny);
    behaviour.want_have(from, absent);
    behaviour.want_block(from, absent, 1);
    behaviour.await_block(from, cid_of(&late), 1);

    let mut answers = Vec::new();
    while answers.len() < 3 {
        tokio::select! {
            event = next(&mut asker) => answers.push(event),
            _ = holder.select_next_some() => {}
        }
    }
    assert!(answers.contains(&Event::Have { peer: from, cid: large }));
    assert!(answers.contains(&Event::Block { peer: from, cid: tiny, data: bytes(2, 1_000) }));
    assert!(answers.contains(&Event::DontHave { peer: from, cid: absent }));

    // Only the awaited one is kept, and answered when the block comes.
    let behaviour = asker.behaviour();
    assert_eq!(behaviour.ledger(&from).unwrap().wants_sent, 1);
    let asker = tokio::spawn(async move {
        let event = next(&mut asker).await;
        (event, asker)
    });
    until(&mut holder, |holder| holder.ledger(&id).is_some_and(|ledger| ledger.wants_received == 1)).await;
    let cid = blocks.put(late.clone());
    holder.behaviour_mut().have_now(&cid);
    let _holder = run(holder);
    let (event, _) = asker.await.unwrap();
    assert_eq!(event, Event::Block { peer: from, cid, data: late });
}

#[tokio::test]
async fn many_wants_of_one_moment_make_one_message() {
    let blocks = Arc::<Memory>::default();
    let (mut asker, mut holder) = pair(&blocks, Config::default(), Config::default()).await;
    let from = peer(&holder);
    for seed in 0..500_u32 {
        asker.behaviour_mut().want_block(from, cid_of(&seed.to_le_bytes()), 1);
    }
    let mut answers = HashSet::new();
    while answers.len() < 500 {
        tokio::select! {
            event = next(&mut asker) => match event {
                Event::DontHave { cid, .. } => drop(answers.insert(cid)),
                other => panic!("{other:?}"),
            },
            _ = holder.select_next_some() => {}
        }
    }
    // Looked up in batches, 500 answers may take some messages; the wants took one, and the cancels may have followed.
    let received = holder.behaviour().counters().messages_received;
    assert!(received <= 1 + asker.behaviour().counters().messages_received, "{received} messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_leaves_fails_each_outstanding_want_once_and_nothing_is_kept_of_it() {
    let blocks = Arc::<Memory>::default();
    let cids = blocks.fill(4, 64, MIB);
    let (mut asker, holder) = pair(&blocks, Config::default(), Config::default()).await;
    let from = peer(&holder);
    let holder = run(holder);
    for cid in &cids {
        asker.behaviour_mut().want_block(from, *cid, 1);
    }
    let mut open: HashSet<Cid> = cids.into_iter().collect();
    for _ in 0..10 {
        let Event::Block { cid, .. } = next(&mut asker).await else { panic!("a block") };
        assert!(open.remove(&cid));
    }
    drop(holder);
    while !open.is_empty() {
        match next(&mut asker).await {
            Event::Block { cid, .. } => assert!(open.remove(&cid)),
            Event::Failed { peer, cid, reason } => {
                assert_eq!((peer, reason), (from, Failure::Disconnected));
                assert!(open.remove(&cid));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(asker.behaviour().counters().failed_wants > 0);
    assert_eq!(asker.behaviour().ledger(&from), None);
    assert_eq!(asker.behaviour().peers().count(), 0);
    asker.behaviour_mut().want_block(from, cid_of(b"x"), 1);
    let failed = Event::Failed { peer: from, cid: cid_of(b"x"), reason: Failure::Disconnected };
    assert_eq!(next(&mut asker).await, failed);
}

#[tokio::test]
async fn a_block_that_does_not_match_its_cid_is_never_given_to_the_user() {
    let blocks = Arc::<Memory>::default();
    let (lie, truth) = (cid_of(b"what was asked for"), blocks.put(bytes(1, 5_000)));
    blocks.put_as(lie, bytes(2, 5_000));
    let (mut asker, holder) = pair(&blocks, Config::default(), Config::default()).await;
    let from = peer(&holder);
    let _holder = run(holder);
    asker.behaviour_mut().want_block(from, lie, 2);
    assert_eq!(next(&mut asker).await, Event::BadBlock { peer: from, bytes: 5_000, count: 1 });
    // Nobody waits for a deadline.
    assert_eq!(next(&mut asker).await, Event::Failed { peer: from, cid: lie, reason: Failure::BadBlock });
    asker.behaviour_mut().want_block(from, truth, 1);
    assert_eq!(next(&mut asker).await, Event::Block { peer: from, cid: truth, data: bytes(1, 5_000) });
    assert_eq!(asker.behaviour().counters().bad_blocks, 1);
    assert_eq!(asker.behaviour().ledger(&from).unwrap().bad_blocks, 1);
}

#[tokio::test]
async fn a_cancelled_want_is_withdrawn_at_the_peer_and_has_no_answer() {
    let blocks = Arc::<Memory>::default();
    let (mut asker, mut holder) = pair(&blocks, Config::default(), Config::default()).await;
    let (from, id) = (peer(&holder), peer(&asker));
    let late = bytes(1, 5_000);
    asker.behaviour_mut().await_block(from, cid_of(&late), 1);
    let wants = |count| {
        move |holder: &shoal_bitswap::Behaviour| holder.ledger(&id).is_some_and(|ledger| ledger.wants_received == count)
    };
    tokio::select! {
        () = until(&mut holder, wants(1)) => {}
        event = next(&mut asker) => panic!("{event:?}"),
    }
    asker.behaviour_mut().cancel(from, cid_of(&late));
    tokio::select! {
        () = until(&mut holder, wants(0)) => {}
        event = next(&mut asker) => panic!("{event:?}"),
    }
    let cid = blocks.put(late);
    holder.behaviour_mut().have_now(&cid);
    assert_eq!(holder.behaviour().counters().blocks_sent, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_of_older_versions_are_spoken_to_as_they_understand() {
    for version in [Version::V1_1, Version::V1_0] {
        let blocks = Arc::<Memory>::default();
        let data = bytes(1, 300_000);
        let raw = blocks.put(data.clone());
        let old = Config { versions: vec![version], ..Config::default() };
        let (mut asker, holder) = pair(&blocks, old, Config::default()).await;
        let from = peer(&holder);
        let _holder = run(holder);
        fetch(&mut asker, from, &[raw], 1).await;
        let v0 = Cid::new_v0(*raw.hash()).unwrap();
        blocks.put_as(v0, data);
        fetch(&mut asker, from, &[v0], 1).await;
        asker.behaviour_mut().want_have(from, raw);
        let failed = Event::Failed { peer: from, cid: raw, reason: Failure::Unsupported };
        assert_eq!(next(&mut asker).await, failed);
    }
}

#[tokio::test]
async fn wants_of_a_peer_that_does_not_speak_bitswap_fail() {
    let mut asker = node(&Arc::default(), Config::default());
    let mut other = common::swarm(common::raw::Raw::new("/something/else"));
    connect(&mut asker, &mut other).await;
    let from = peer(&other);
    let _other = run(other);
    asker.behaviour_mut().want_block(from, cid_of(b"x"), 1);
    let failed = Event::Failed { peer: from, cid: cid_of(b"x"), reason: Failure::Unsupported };
    assert_eq!(next(&mut asker).await, failed);
}

#[tokio::test]
async fn an_idle_stream_is_closed_and_the_next_want_opens_another() {
    let blocks = Arc::<Memory>::default();
    let cids = blocks.fill(5, 2, 5_000);
    let quick = || Config { stream_idle: std::time::Duration::from_millis(50), ..Config::default() };
    let (mut asker, holder) = pair(&blocks, quick(), quick()).await;
    let from = peer(&holder);
    let _holder = run(holder);
    for cid in &cids {
        fetch(&mut asker, from, &[*cid], 1).await;
        // Long enough for both ends to close; nothing is to be seen of it.
        let quiet = tokio::time::timeout(std::time::Duration::from_millis(300), next(&mut asker)).await;
        assert!(quiet.is_err());
    }
    assert_eq!(asker.behaviour().counters().failed_streams, 0);
    assert_eq!(asker.behaviour().counters().failed_wants, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_one_of_two_connections_closes_the_wants_go_on_over_the_other() {
    let blocks = Arc::<Memory>::default();
    let cids = blocks.fill(6, 100, MIB);
    let (mut asker, mut holder) = pair(&blocks, Config::default(), Config::default()).await;
    let from = peer(&holder);
    let address = holder.listeners().next().cloned().unwrap();
    let holder = tokio::spawn(async move {
        loop {
            holder.select_next_some().await;
        }
    });
    let options = libp2p::swarm::dial_opts::DialOpts::peer_id(from)
        .condition(libp2p::swarm::dial_opts::PeerCondition::Always)
        .addresses(vec![address])
        .build();
    asker.dial(options).unwrap();
    let mut connections = Vec::new();
    while connections.is_empty() {
        if let SwarmEvent::ConnectionEstablished { connection_id, .. } = asker.select_next_some().await {
            connections.push(connection_id);
        }
    }
    for cid in &cids {
        asker.behaviour_mut().want_block(from, *cid, 1);
    }
    let mut open: HashSet<Cid> = cids.into_iter().collect();
    let mut closed = false;
    while !open.is_empty() {
        match next(&mut asker).await {
            Event::Block { cid, .. } => assert!(open.remove(&cid)),
            other => panic!("{other:?}"),
        }
        if !std::mem::replace(&mut closed, true) {
            assert_eq!(asker.network_info().connection_counters().num_established(), 2);
            asker.close_connection(connections[0]);
        }
    }
    holder.abort();
}
