//! What a store's every-day work costs. Its files are where temporary files are: on a disk or in memory.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

#[path = "../../content/benches/cpu/mod.rs"]
mod cpu;

// The module itself: the policy is nobody's business outside the crate.
#[allow(dead_code, unreachable_pub)]
#[path = "../src/eviction.rs"]
mod eviction;

use std::{hint::black_box, time::Instant};

use bytes::Bytes;
use cpu::CpuTime;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use eviction::{Candidate, Class, Room, plan};
use shoal_content::{Algorithm, Digest, LEAF_SIZE, LeafHash, buffer::Buffer};
use shoal_store::{Direct, Options, Partial, Store};

/// Leaves of the blob that is written and resumed.
const LEAVES: u64 = 16;

/// Blobs that a node of 64 GiB may well hold.
const HELD: u32 = 10_000;

/// Leaves in memory that begins so many bytes behind an aligned address: none for one from upstream, some for one from a peer's message.
fn leaves(behind: usize) -> Vec<(Bytes, LeafHash)> {
    let leaf = |number: u64| {
        let mut buffer = Buffer::of(behind + LEAF_SIZE as usize);
        for (at, byte) in (0u64..).zip(&mut buffer[behind..]) {
            *byte = ((at / 7) ^ number) as u8;
        }
        let len = buffer.len();
        buffer.freeze(len).slice(behind..)
    };
    (0..LEAVES).map(leaf).map(|leaf| (leaf.clone(), LeafHash::of(&leaf))).collect()
}

/// The ways of a leaf to the disk, beside each other: until it is written, and until it is durable.
fn ways(criterion: &mut Criterion<CpuTime>) {
    let ways = [
        ("through the page cache", Direct::Never, 0),
        ("past it, from aligned memory", Direct::Auto, 0),
        ("past it, from other memory", Direct::Auto, 50),
    ];
    let mut group = criterion.benchmark_group("ways");
    group.sample_size(20);
    for (name, direct, behind) in ways {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(Options { keep_free: 0, direct, ..Options::new(folder.path()) }).expect("a store");
        let leaves = leaves(behind);
        let blob: Vec<u8> = leaves.iter().flat_map(|(leaf, _)| leaf).copied().collect();
        let (digest, size) = (Digest::of(Algorithm::Sha256, &blob), blob.len() as u64);
        let begin = || store.partial(&digest, size).expect("nobody else has it");
        let write = |partial: &Partial, first: usize| {
            for (index, (leaf, hash)) in (0..).zip(&leaves).skip(first) {
                partial.write_leaf(index, leaf, *hash).expect("written");
            }
        };
        // All but the first: the whole digest, which nothing can be added to then, does not count.
        group.throughput(Throughput::Bytes(size - LEAF_SIZE));
        group.bench_function(format!("write 15 leaves {name}"), |bencher| {
            bencher.iter_batched(
                begin,
                |partial| {
                    write(&partial, 1);
                    partial.discard().expect("discarded");
                },
                BatchSize::PerIteration,
            );
        });
        group.throughput(Throughput::Bytes(size));
        group.bench_function(format!("write, hash and commit 16 leaves {name}"), |bencher| {
            bencher.iter_batched(
                begin,
                |partial| {
                    write(&partial, 0);
                    let blob = partial.commit().expect("committed");
                    store.remove(&blob.digest()).expect("removed");
                },
                BatchSize::PerIteration,
            );
        });
        report(name, &store, &leaves, &begin());
    }
    group.finish();
}

/// What the clock says, which the measurement does not: how long a writer waits, and how many leaves went past the page cache.
#[allow(clippy::print_stdout, reason = "a bench says what it measured")]
fn report(name: &str, store: &Store, leaves: &[(Bytes, LeafHash)], partial: &Partial) {
    let begun = Instant::now();
    for (index, (leaf, hash)) in (0..).zip(leaves).skip(1) {
        partial.write_leaf(index, leaf, *hash).expect("written");
    }
    let took = begun.elapsed() / (leaves.len() as u32 - 1);
    let usage = store.usage();
    let (direct, cached) = (usage.direct_writes, usage.cached_writes);
    println!("{name}: a writer waits {took:?} for a leaf; {direct} leaves past the page cache, {cached} through it");
    partial.discard().expect("discarded");
}

fn store(criterion: &mut Criterion<CpuTime>) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(Options { keep_free: 0, ..Options::new(folder.path()) }).expect("a store");
    let leaves = leaves(0);
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
    targets = store, ways, eviction
}
criterion_main!(benches);
