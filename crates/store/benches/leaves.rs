//! What a store's every-day work costs. Its files are where temporary files are: on a disk or in memory.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

#[path = "../../content/benches/cpu/mod.rs"]
mod cpu;

// The module itself: the policy is nobody's business outside the crate.
#[allow(dead_code, unreachable_pub)]
#[path = "../src/eviction.rs"]
mod eviction;

use std::hint::black_box;

use bytes::Bytes;
use cpu::CpuTime;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use eviction::{Candidate, Class, Room, plan};
use shoal_content::{Algorithm, Digest, LEAF_SIZE, LeafHash};
use shoal_store::{Options, Partial, Store};

/// Leaves of the blob that is written and resumed.
const LEAVES: u64 = 16;

/// Blobs that a node of 64 GiB may well hold.
const HELD: u32 = 10_000;

fn leaves() -> Vec<(Bytes, LeafHash)> {
    let leaf = |number: u64| Bytes::from((0..LEAF_SIZE).map(|at| ((at / 7) ^ number) as u8).collect::<Vec<u8>>());
    (0..LEAVES).map(leaf).map(|leaf| (leaf.clone(), LeafHash::of(&leaf))).collect()
}

fn store(criterion: &mut Criterion<CpuTime>) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(Options { keep_free: 0, ..Options::new(folder.path()) }).expect("a store");
    let leaves = leaves();
    let blob: Vec<u8> = leaves.iter().flat_map(|(leaf, _)| leaf).copied().collect();
    let size = blob.len() as u64;
    let digest = Digest::of(Algorithm::Sha256, &blob);
    let begin = || store.partial(&digest, size).expect("nobody else has it");

    let mut group = criterion.benchmark_group("store");
    group.sample_size(20);
    group.bench_function("begin a partial of 16 MiB, and discard it", |bencher| {
        bencher.iter(|| begin().discard().expect("discarded"));
    });
    // All but the first: the whole digest, which nothing can be added to then, does not count.
    group.throughput(Throughput::Bytes(size - LEAF_SIZE));
    group.bench_function("write 15 leaves", |bencher| {
        bencher.iter_batched(
            begin,
            |partial| {
                for (index, (leaf, hash)) in (0..).zip(&leaves).skip(1) {
                    partial.write_leaf(index, leaf, *hash).expect("written");
                }
                partial.discard().expect("discarded");
            },
            BatchSize::PerIteration,
        );
    });
    let hash_apart: fn(&Partial, &[u8]) -> LeafHash = |_, leaf| LeafHash::of(leaf);
    let ways = [("apart", hash_apart), ("beside", Partial::hash_leaf)];
    group.throughput(Throughput::Bytes(size));
    for (name, hash) in ways {
        group.bench_function(format!("hash and write 16 leaves, the whole {name}"), |bencher| {
            bencher.iter_batched(
                begin,
                |partial| {
                    for (index, (leaf, _)) in (0..).zip(&leaves) {
                        let hash = hash(&partial, leaf);
                        partial.write_leaf(index, leaf, hash).expect("written");
                    }
                    partial.verify().expect("verified");
                    partial.discard().expect("discarded");
                },
                BatchSize::PerIteration,
            );
        });
    }

    let partial = begin();
    for (index, (leaf, hash)) in (0..).zip(&leaves) {
        partial.write_leaf(index, leaf, *hash).expect("written");
    }
    drop(partial);
    group.bench_function("resume a partial of 16 leaves", |bencher| bencher.iter(begin));

    let held = begin().commit().expect("whole");
    group.throughput(Throughput::Bytes(LEAF_SIZE));
    let mut next = 0;
    for place in ["that has just come", "from the page cache"] {
        group.bench_function(format!("read a leaf {place}"), |bencher| {
            bencher.iter(|| {
                next = (next + 1) % LEAVES;
                held.read_at(next * LEAF_SIZE, LEAF_SIZE as usize).expect("read")
            });
        });
        // Nothing is young after the second time.
        store.trim();
        store.trim();
    }
    let cid = leaves[3].1.cid();
    group.throughput(Throughput::Elements(1));
    group.bench_function("find a block by its CID", |bencher| {
        bencher.iter(|| store.block(black_box(&cid)).expect("no error").expect("held").size());
    });
    group.finish();
}

fn eviction(criterion: &mut Criterion<CpuTime>) {
    let candidate = |id: u32| Candidate {
        id,
        class: if id.is_multiple_of(50) { Class::StalePartial } else { Class::Blob },
        size: 6 << 20,
        last_use: u64::from(id.wrapping_mul(0x9e37_79b9)),
        pinned: id.is_multiple_of(100),
    };
    let candidates: Vec<_> = (0..HELD).map(candidate).collect();
    let room = Room {
        used: 60 << 30,
        needed: 1 << 30,
        on_disk: 0,
        quota: 64 << 30,
        high: 60 << 30,
        low: 54 << 30,
        free: 64 << 30,
        keep_free: 0,
        outstanding: 0,
        blobs: HELD as usize,
        max_blobs: usize::MAX,
    };
    assert!(plan(&room, candidates.clone()).is_some_and(|going| going.len() > 1000));
    let mut group = criterion.benchmark_group("eviction");
    group.throughput(Throughput::Elements(u64::from(HELD)));
    group.bench_function("choose what goes among 10000", |bencher| {
        bencher.iter_batched(|| candidates.clone(), |candidates| plan(&room, candidates), BatchSize::LargeInput);
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = cpu::criterion();
    targets = store, eviction
}
criterion_main!(benches);
