//! `cargo xtask bench bitswap`: see [`shoal_tests::bitswap`].

use anyhow::Result;

/// That of `shoal`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    shoal_tests::bitswap::main(&arguments)
}
