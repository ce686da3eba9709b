//! What a leaf's hash and the whole digest cost, apart and together.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

mod cpu;

use std::hint::black_box;

use cpu::CpuTime;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shoal_content::{Algorithm, Hasher, LEAF_SIZE, LeafHash};

fn leaf(seed: u64) -> Vec<u8> {
    (0..LEAF_SIZE).map(|at| (at + 1).wrapping_mul(seed).to_le_bytes()[6]).collect()
}

fn hashing(criterion: &mut Criterion<CpuTime>) {
    let (leaf, other) = (leaf(0x9e37_79b9_7f4a_7c15), leaf(0xd1b5_4a32_d192_ed03));
    let mut group = criterion.benchmark_group("hashing 1 MiB");
    group.throughput(Throughput::Bytes(LEAF_SIZE));
    group.bench_function("a leaf", |bencher| bencher.iter(|| LeafHash::of(black_box(&leaf))));
    group.bench_function("a leaf, then the whole", |bencher| {
        let mut whole = Hasher::new(Algorithm::Sha256);
        bencher.iter(|| {
            whole.update(black_box(&leaf));
            LeafHash::of(black_box(&leaf))
        });
    });
    group.bench_function("a leaf and the whole in one pass", |bencher| {
        let mut whole = Hasher::new(Algorithm::Sha256);
        bencher.iter(|| whole.update_with_leaf(black_box(&leaf)));
    });
    group.bench_function("a leaf, and the whole beside it by another", |bencher| {
        let mut whole = Hasher::new(Algorithm::Sha256);
        bencher.iter(|| whole.update_beside(black_box(&other), black_box(&leaf)));
    });
    group.bench_function("the whole by SHA-512", |bencher| {
        let mut whole = Hasher::new(Algorithm::Sha512);
        bencher.iter(|| whole.update(black_box(&leaf)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = cpu::criterion();
    targets = hashing
}
criterion_main!(benches);
