//! Repeatable randomness for the simulations.

use shoal_content::{Algorithm, Cid, Digest};

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }
}

/// Runs a simulation for each seed, and names the seed of one that fails.
pub(crate) fn for_each_seed(count: u64, run: impl Fn(u64)) {
    struct Named(u64);
    impl Drop for Named {
        fn drop(&mut self) {
            if std::thread::panicking() {
                tracing::error!(seed = self.0, "simulation failed");
                std::io::Write::write_all(&mut std::io::stderr(), format!("seed {} failed\n", self.0).as_bytes()).ok();
            }
        }
    }
    for seed in 0..count {
        let named = Named(seed);
        run(seed);
        drop(named);
    }
}

/// A CID of nothing in particular.
pub(crate) fn cid(seed: u64) -> Cid {
    Cid::new_v1(0x55, Digest::of(Algorithm::Sha256, &seed.to_le_bytes()).multihash())
}
