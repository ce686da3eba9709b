//! Peers that lie, stall and flood.

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::{
    Memory, bytes, cid_of, connect,
    node::{Node, Running, fetch, next, node, peer, run, until},
    raw::{Opened, Raw},
};
use futures::{AsyncReadExt, AsyncWriteExt};
use libp2p::{PeerId, Stream, Swarm};
use shoal_bitswap::{
    Config, Event, Failure, Version,
    wire::{Block, Entry, Message, Prefix, Presence, WantType},
};

/// A node, and a peer without manners that has opened a stream to it.
async fn with_raw(node: &mut Node) -> (Swarm<Raw>, PeerId) {
    let mut raw = common::swarm(Raw::new(Version::V1_2.protocol()));
    connect(&mut raw, node).await;
    let id = peer(&raw);
    (raw, id)
}

/// A stream to the node.
async fn open(raw: &mut Swarm<Raw>, node: &mut Node) -> Stream {
    let to = peer(node);
    raw.behaviour_mut().open(to);
    loop {
        tokio::select! {
            opened = next(raw) => if let Opened::ByUs(stream) = opened { return stream },
            event = next(node) => panic!("{event:?}"),
        }
    }
}

fn want(cid: shoal_content::Cid) -> Entry {
    Entry { cid, priority: 1, cancel: false, want: WantType::Block, send_dont_have: true }
}

fn with_block(data: Bytes) -> Message {
    Message { blocks: vec![Block { prefix: Some(Prefix::of(&cid_of(&data))), data }], ..Message::default() }
}

/// Writes in the background; what is refused is refused.
fn write(mut stream: Stream, bytes: Vec<u8>) -> tokio::task::JoinHandle<Stream> {
    tokio::spawn(async move {
        let _ = stream.write_all(&bytes).await;
        let _ = stream.flush().await;
        stream
    })
}

#[tokio::test]
async fn blocks_and_presences_that_nobody_asked_for_are_dropped_and_counted() {
    let mut node = node(&Arc::default(), Config::default());
    let (mut raw, liar) = with_raw(&mut node).await;
    let stream = open(&mut raw, &mut node).await;
    let _raw = run(raw);
    let presences = vec![Presence { cid: cid_of(b"x"), have: true }];
    let message = Message { presences, ..with_block(bytes(1, 10_000)) };
    let _stream = write(stream, message.encode(Version::V1_2).to_vec());
    assert_eq!(next(&mut node).await, Event::BadBlock { peer: liar, bytes: 10_000, count: 1 });
    let counters = node.behaviour().counters();
    assert_eq!((counters.bad_blocks, counters.unasked_presences, counters.blocks_received), (1, 1, 0));
}

#[tokio::test]
async fn a_long_message_that_nobody_asked_for_is_not_even_stored() {
    let mut node = node(&Arc::default(), Config::default());
    let (mut raw, _) = with_raw(&mut node).await;
    let stream = open(&mut raw, &mut node).await;
    let _raw = run(raw);
    let message = with_block(bytes(1, 2 << 20)).encode(Version::V1_2).to_vec();
    let _stream = write(stream, message.repeat(3));
    until(&mut node, |node| node.counters().skipped_messages == 3).await;
    assert_eq!(node.behaviour().counters().messages_received, 0);
}

#[tokio::test]
async fn frames_that_are_too_long_or_no_bitswap_close_their_stream_and_nothing_else() {
    let blocks = Arc::<Memory>::default();
    let cid = blocks.put(bytes(1, 5_000));
    let mut node = node(&blocks, Config::default());
    let (mut raw, _) = with_raw(&mut node).await;
    let too_long = [0x81, 0x80, 0x80, 0x02];
    let endless = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let half = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let garbage = [4, 0x0a, 0xff, 0xff, 0x03];
    let frames = [&too_long[..], &endless, &half, &garbage];
    for (count, frame) in frames.iter().enumerate() {
        let stream = open(&mut raw, &mut node).await;
        let written = write(stream, frame.to_vec());
        loop {
            tokio::select! {
                () = until(&mut node, |node| node.counters().bad_frames == count as u64 + 1) => break,
                _ = next(&mut raw) => {}
            }
        }
        drop(written);
    }
    // The connection lives, and is served.
    let stream = open(&mut raw, &mut node).await;
    let message = Message { wants: vec![want(cid)], ..Message::default() };
    let _stream = write(stream, message.encode(Version::V1_2).to_vec());
    let id = peer(&raw);
    loop {
        tokio::select! {
            () = until(&mut node, |node| node.ledger(&id).is_some_and(|ledger| ledger.blocks_sent == 1)) => break,
            _ = next(&mut raw) => {}
        }
    }
}

#[tokio::test]
async fn a_hundred_thousand_wants_of_one_peer_stay_within_the_limit_and_are_freed_when_it_leaves() {
    let mut node = node(&Arc::default(), Config::default());
    let (mut raw, id) = with_raw(&mut node).await;
    let stream = open(&mut raw, &mut node).await;
    let raw = run(raw);
    let mut frames = Vec::new();
    for first in (0..100_000_u32).step_by(1000) {
        let wants = (first..first + 1000).map(|seed| want(cid_of(&seed.to_le_bytes()))).collect();
        frames.extend(Message { wants, ..Message::default() }.encode(Version::V1_2).to_vec());
    }
    let _stream = write(stream, frames);
    until(&mut node, |node| node.counters().refused_wants == 100_000 - 1024).await;
    let ledger = node.behaviour().ledger(&id).unwrap();
    assert_eq!(ledger.wants_received, 1024);
    drop(raw);
    until(&mut node, |node| node.ledger(&id).is_none()).await;
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let mut node = node(&Arc::default(), Config { max_inbound_streams: 5, ..Config::default() });
    let (mut raw, _) = with_raw(&mut node).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(open(&mut raw, &mut node).await);
    }
    let _raw = run(raw);
    until(&mut node, |node| node.counters().refused_streams == 15).await;
}

#[tokio::test]
async fn a_message_that_stops_half_way_loses_its_stream() {
    let config = Config { progress_timeout: Duration::from_millis(200), ..Config::default() };
    let mut node = node(&Arc::default(), config);
    let (mut raw, _) = with_raw(&mut node).await;
    let stream = open(&mut raw, &mut node).await;
    let _raw = run(raw);
    let _stream = write(stream, vec![100, 0x0a]);
    until(&mut node, |node| node.counters().stalled_streams == 1).await;
}

/// Asks `holder` for everything, and reads nothing of what comes.
async fn stalled_asker(holder: &mut Node, cids: &[shoal_content::Cid]) -> (Running, Stream, PeerId) {
    let (mut raw, id) = with_raw(holder).await;
    let mut stream = open(&mut raw, holder).await;
    let message = Message { wants: cids.iter().map(|cid| want(*cid)).collect(), ..Message::default() };
    stream.write_all(&message.encode(Version::V1_2).to_vec()).await.unwrap();
    stream.flush().await.unwrap();
    // Streams of the holder are kept, unread.
    let raw = Running::keeping(raw);
    (raw, stream, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stalls_holds_back_nobody_else_and_loses_its_stream() {
    let blocks = Arc::<Memory>::default();
    let cids = blocks.fill(7, 64, 1 << 20);
    let config = Config { progress_timeout: Duration::from_secs(2), ..Config::default() };
    let mut holder = node(&blocks, config);
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(stalled_asker(&mut holder, &cids).await);
    }
    let mut asker = node(&Arc::default(), Config::default());
    connect(&mut asker, &mut holder).await;
    let (from, stalled_ids): (_, Vec<PeerId>) = (peer(&holder), stalled.iter().map(|(.., id)| *id).collect());
    let (tell, told) = tokio::sync::oneshot::channel();
    let _holder = tokio::spawn(async move {
        until(&mut holder, |holder| holder.counters().stalled_streams >= 4).await;
        let ledgers: Vec<_> = stalled_ids.iter().filter_map(|id| holder.behaviour().ledger(id)).collect();
        tell.send(ledgers).unwrap();
        loop {
            next(&mut holder).await;
        }
    });
    let start = std::time::Instant::now();
    fetch(&mut asker, from, &cids, 8).await;
    let took = start.elapsed();
    let ledgers = told.await.unwrap();
    for ledger in ledgers {
        assert!(ledger.bytes_outstanding <= 6 << 20, "{ledger:?}");
        assert!(ledger.blocks_sent < 40, "{ledger:?}");
    }
    // 64 MiB in a debug build; what matters is that no deadline of the stalled ones is in it.
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wants_of_a_peer_whose_network_is_gone_fail_when_no_stream_opens() {
    let config = Config { open_timeout: Duration::from_millis(300), ..Config::default() };
    let mut holder = node(&Arc::default(), Config::default());
    let address = common::listen(&mut holder).await;
    let from = peer(&holder);
    let _holder = run(holder);
    let (address, relay) = common::relay(address).await;
    let mut asker = node(&Arc::default(), config);
    asker.dial(address).unwrap();
    until(&mut asker, |asker| asker.peers().count() == 1).await;
    // Nothing passes any more, and nobody is told.
    relay.freeze();
    asker.behaviour_mut().want_block(from, cid_of(b"x"), 1);
    let failed = Event::Failed { peer: from, cid: cid_of(b"x"), reason: Failure::Stream };
    assert_eq!(next(&mut asker).await, failed);
}

#[tokio::test]
async fn answers_are_accepted_on_any_stream_one_for_each_message() {
    let mut asker = node(&Arc::default(), Config::default());
    let (mut raw, from) = with_raw(&mut asker).await;
    let blocks: Vec<Bytes> = (0..5).map(|seed| bytes(seed + 1, 200_000)).collect();
    for data in &blocks {
        asker.behaviour_mut().want_block(from, cid_of(data), 1);
    }
    // The wants come on a stream of the asker; each answer leaves on a new one.
    let mut wants = loop {
        tokio::select! {
            opened = next(&mut raw) => if let Opened::ByPeer(stream) = opened { break stream },
            event = next(&mut asker) => panic!("{event:?}"),
        }
    };
    let mut start = [0; 100];
    tokio::select! {
        read = wants.read_exact(&mut start) => read.unwrap(),
        event = next(&mut asker) => panic!("{event:?}"),
        _ = next(&mut raw) => {}
    }
    let mut streams = Vec::new();
    for _ in &blocks {
        streams.push(open(&mut raw, &mut asker).await);
    }
    let _raw = run(raw);
    let mut written = Vec::new();
    for (data, mut stream) in blocks.iter().zip(streams) {
        let frame = with_block(data.clone()).encode(Version::V1_2).to_vec();
        written.push(tokio::spawn(async move {
            stream.write_all(&frame).await.unwrap();
            stream.close().await.unwrap();
        }));
    }
    for _ in &blocks {
        assert!(matches!(next(&mut asker).await, Event::Block { .. }));
    }
    assert_eq!(asker.behaviour().ledger(&from).unwrap().wants_sent, 0);
}
