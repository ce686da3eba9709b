//! `cargo xtask bench swarm`: see [`shoal_tests::bench`].

use anyhow::Result;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    shoal_tests::bench::main(&arguments)
}
