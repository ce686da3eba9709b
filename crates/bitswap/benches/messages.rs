//! What messages cost to write and to read, and wants to put in order.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

#[path = "../../content/benches/cpu/mod.rs"]
mod cpu;

// The modules themselves: what decides is nobody's business outside the crate.
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/config.rs"]
mod config;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/error.rs"]
mod error;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/ledger.rs"]
mod ledger;
#[cfg(test)] // Cargo calls a benchmark a test.
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/seeded.rs"]
mod seeded;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/server/mod.rs"]
mod server;
#[allow(dead_code, unused_imports, unreachable_pub)]
#[path = "../src/wire/mod.rs"]
mod wire;

use std::{hint::black_box, sync::Arc, time::Instant};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use libp2p::PeerId;
use shoal_content::{Cid, LeafHash};

use config::Config;
use cpu::CpuTime;
use error::Error;
use ledger::Ledger;
use server::{Action, Sending, Server};
use wire::{Block, Entry, Frame, Message, Prefix, Presence, Version, WantType};

/// Wants of one peer: what a peer may have with us by default.
const WANTS: u64 = 1024;

/// Peers that want the same blocks.
const PEERS: usize = 8;

const BLOCK: usize = 1 << 20;

fn cid(number: u64) -> Cid {
    LeafHash::of(&number.to_be_bytes()).cid()
}

fn wants() -> Vec<Entry> {
    let want = |number| Entry {
        cid: cid(number),
        priority: i32::MAX - number as i32,
        cancel: false,
        want: WantType::Block,
        send_dont_have: true,
    };
    (0..WANTS).map(want).collect()
}

/// Takes a frame as a stream does: all of it, in the chunks that it has.
fn send(mut frame: Frame) -> usize {
    let mut bytes = 0;
    while frame.remaining() > 0 {
        let chunk = black_box(frame.chunk()).len();
        bytes += chunk;
        frame.advance(chunk);
    }
    bytes
}

/// A message as it is read: without the length before it.
fn read_back(message: &Message) -> Bytes {
    let bytes = message.encode(Version::V1_2).to_vec();
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).expect("a frame begins with its length") + 1;
    Bytes::from(bytes).slice(length..)
}

fn codec(criterion: &mut Criterion<CpuTime>) {
    let wantlist = Message { wants: wants(), full: true, ..Message::default() };
    let presences = (0..WANTS).map(|number| Presence { cid: cid(number), have: true }).collect();
    let presences = Message { presences, ..Message::default() };
    let data = Bytes::from(vec![7; BLOCK]);
    let prefix = Some(Prefix::of(&cid(0)));
    let block = Message { blocks: vec![Block { prefix, data }], ..Message::default() };

    let mut group = criterion.benchmark_group("bitswap codec");
    for (name, message, elements) in
        [("1024 wants", &wantlist, WANTS), ("1024 presences", &presences, WANTS), ("a block of 1 MiB", &block, 1)]
    {
        group.throughput(Throughput::Elements(elements));
        group.bench_function(format!("write {name}"), |bencher| {
            bencher.iter(|| send(black_box(message).encode(Version::V1_2)));
        });
        let frame = read_back(message);
        group.bench_function(format!("read {name}"), |bencher| {
            bencher.iter(|| Message::decode_shared(black_box(&frame)).expect("what was encoded decodes"));
        });
    }
    group.finish();
}

/// Serves all that is wanted; gives the number of blocks.
fn serve(server: &mut Server, peers: &[PeerId], wants: &[Entry], data: &Bytes, now: Instant) -> usize {
    for peer in peers {
        server.receive(peer, wants.to_vec(), true);
    }
    let mut sent = 0;
    while let Some(action) = server.next_action(now) {
        match action {
            Action::Look { peer, cids } => {
                let sizes: Vec<_> = cids.into_iter().map(|cid| (cid, Some(data.len() as u64))).collect();
                server.looked(&peer, &sizes);
            }
            Action::Read { job, .. } => {
                if let Some(Sending { job, data, .. }) = server.read(job, Some(data.clone())) {
                    server.sent(job, data.len(), now);
                    sent += 1;
                }
            }
        }
    }
    sent
}

fn queue(criterion: &mut Criterion<CpuTime>) {
    let now = Instant::now();
    let wants = wants();
    let data = Bytes::from(vec![7; BLOCK]);
    let peers: Vec<PeerId> = (0..PEERS).map(|_| PeerId::random()).collect();
    let server = || {
        let mut server = Server::new(Arc::new(Config::default()), Arc::default());
        for peer in &peers {
            server.connected(*peer, now);
        }
        server
    };
    assert_eq!(serve(&mut server(), &peers, &wants, &data, now), PEERS * wants.len());

    let mut group = criterion.benchmark_group("bitswap server");
    group.throughput(Throughput::Elements((PEERS * wants.len()) as u64));
    group.bench_function("1024 wants of each of 8 peers, from wantlist to the last block", |bencher| {
        bencher.iter_batched_ref(server, |server| serve(server, &peers, &wants, &data, now), BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = cpu::criterion();
    targets = codec, queue
}
criterion_main!(benches);
