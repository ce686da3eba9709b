//! What handing out a blob's leaves costs, for all that takes part, without a network.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

#[path = "../../content/benches/cpu/mod.rs"]
mod cpu;

use std::{hint::black_box, time::Duration};

use cpu::CpuTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shoal_content::{LEAF_SIZE, LeafHash, LeafSet, Outline};
use shoal_coordination::{Action, Ask, Coordinator, Full, Grant, Limits, Member, Ranges, Reply, Source};

const LEAVES: u64 = 100;

/// The one that has the blob; members are numbered from 1 on.
const HOLDER: u32 = 0;

/// Far more rounds than any rollout below takes.
const MOST_ROUNDS: u32 = 1_000_000;

fn hashes(count: u64) -> Vec<LeafHash> {
    (0..count).map(|leaf| LeafHash::of(&leaf.to_be_bytes())).collect()
}

/// One has the blob and `members` want it: every ask, grant and landed leaf until all have it. Leaves arrive as soon as they are granted.
/// Gives the number of leaves that were granted.
fn rollout(members: u32, outline: &Outline) -> u64 {
    let size = outline.size();
    let mut now = Duration::ZERO;
    let mut coordinator = Coordinator::new(size, Limits::default(), now).expect("small enough");
    let begin = |_| {
        let mut member = Member::new(Outline::growing(size).expect("small enough"), Limits::default());
        member.want(0..LEAVES);
        member.upstream(false);
        member
    };
    let mut nodes: Vec<Member<u32>> = (0..members).map(begin).collect();
    let mut replies = coordinator.holder(HOLDER, outline, now);
    replies.extend(coordinator.search_over(now));
    let mut granted = 0;
    for _ in 0..MOST_ROUNDS {
        now += Duration::from_millis(1);
        for (node, number) in nodes.iter_mut().zip(1..) {
            if node.has_news()
                && let Some(ask) = node.ask()
            {
                replies.extend(coordinator.ask(number, ask, now));
            }
        }
        if nodes.iter().all(Member::is_complete) {
            return granted;
        }
        if replies.is_empty() {
            replies = coordinator.tick(now);
        }
        for (number, reply) in replies.drain(..) {
            let node = &mut nodes[number as usize - 1];
            for action in node.reply(reply, now) {
                if let Action::Fetch(Grant { leaf, hash, from, .. }) = action {
                    node.landed(leaf, hash, Source::Peer(from), now);
                    granted += 1;
                }
            }
        }
    }
    panic!("the rollout never ends");
}

fn grants(criterion: &mut Criterion<CpuTime>) {
    let outline = Outline::complete(LEAVES * LEAF_SIZE, &hashes(LEAVES)).expect("small enough");
    let mut group = criterion.benchmark_group("coordination");
    group.sample_size(20);
    for members in [8, 64, 256] {
        assert_eq!(rollout(members, &outline), u64::from(members) * LEAVES);
        group.throughput(Throughput::Elements(u64::from(members) * LEAVES));
        group.bench_function(format!("100 leaves to {members} members, asks and grants"), |bencher| {
            bencher.iter(|| rollout(black_box(members), &outline));
        });
    }
    group.finish();
}

fn codec(criterion: &mut Criterion<CpuTime>) {
    let name = |peer: &u32| peer.to_be_bytes().to_vec();
    let read = |name: &[u8]| Some(u32::from_be_bytes(name.try_into().ok()?));
    let told: Vec<(u64, LeafHash)> = (0..).zip(hashes(10_000)).collect();
    let full: Ask<u32> = Ask {
        sequence: 1,
        size: Some(10_000 * LEAF_SIZE),
        full: Some(Full { leaves: LeafSet::full(10_000), hashes: told, fetching: Vec::new(), reading: (0, 0) }),
        landed: Vec::new(),
        failed: Vec::new(),
        slots: 4,
        blobs: 1,
        upstream: true,
        ranges: Ranges::Given,
        wanted: (0, 10_000),
        crowd: None,
    };
    let grant = |(leaf, hash)| Grant { leaf, hash, from: 7, witness: 9 };
    let reply = Reply { grants: (0..).zip(hashes(4)).map(grant).collect(), ..Reply::empty(1, Some(LEAF_SIZE)) };
    let (full_bytes, reply_bytes) = (full.encode(name), reply.encode(name));

    let mut group = criterion.benchmark_group("coordination codec");
    group.bench_function("write all that a member has that read 10 GiB by itself", |bencher| {
        bencher.iter(|| black_box(&full).encode(name));
    });
    group.bench_function("read all that a member has that read 10 GiB by itself", |bencher| {
        bencher.iter(|| Ask::decode(black_box(&full_bytes), read).expect("what was encoded decodes"));
    });
    group.bench_function("write a reply of 4 grants", |bencher| bencher.iter(|| black_box(&reply).encode(name)));
    group.bench_function("read a reply of 4 grants", |bencher| {
        bencher.iter(|| Reply::decode(black_box(&reply_bytes), read).expect("what was encoded decodes"));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = cpu::criterion();
    targets = grants, codec
}
criterion_main!(benches);
