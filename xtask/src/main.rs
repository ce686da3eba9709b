//! `cargo xtask …`: what is checked, tested, measured and packed, on any machine, with nothing to install first.
//!
//! | file | what it is |
//! |---|---|
//! | `ci` | everything that a change must pass, with the time that each part took |
//! | `check` | format, lints, licences, versions that are known to be bad |
//! | `test` | all tests, and those of the whole program where this machine can run them |
//! | `fuzz` | each fuzz target for a while |
//! | `image` | the static program and a container image of it, made without a registry or a builder |
//! | `machine` | what this machine has, and how what it lacks is installed |
//! | `peers` | a containerd of today, Kubo, Helia and the packages of Node.js that tests compare with |
//! | `cargo` | cargo, called |
//! | `tally` | tests, counted |
//! | `tar` | an archive, written |
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this program's output is for the person who called it")]

mod cargo;
mod check;
mod ci;
mod fuzz;
mod image;
mod machine;
mod peers;
mod tally;
mod tar;
mod test;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask COMMAND

  check              format, clippy, cargo-deny
  test [--release]   all tests; closes with one line that counts them
  e2e [FILTER]       the tests of the whole program alone
  fuzz [SECONDS]     each fuzz target for SECONDS (60)
  demo               a swarm on this machine, with a real image
  bench              what a release build does in a second, a core and a byte of memory
  bench micro [ARGS] hashing, messages, grants and the store, each by itself (criterion's arguments)
  bench swarm [ARGS] how near many nodes come to what their links allow (root; --help tells more)
  bench ipfs [RUNS] [NAME]  blocks between two Kubos, two of ours, and one of each
  bench bitswap [ARGS]  blocks between nodes beside a bare stream (--help tells more)
  image              target/image/shoal.tar: a static program in an image, for `ctr images import`
  deps               installs what tests and image need (root on Debian)
  ci                 all of it
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["check"] => check::run(),
        ["test"] => test::run(test::Profile::Dev),
        ["test", "--release"] => test::run(test::Profile::Release),
        ["e2e"] => test::whole_program(None),
        ["e2e", filter] => test::whole_program(Some(filter)),
        ["fuzz"] => fuzz::run(fuzz::SECONDS),
        ["fuzz", seconds] => fuzz::run(seconds.parse()?),
        ["demo"] => ci::demo(),
        ["bench"] => ci::bench(),
        ["bench", "micro", rest @ ..] => ci::bench_micro(rest),
        ["bench", "swarm", rest @ ..] => ci::bench_swarm(rest),
        ["bench", "ipfs", rest @ ..] => ci::bench_ipfs(rest),
        ["bench", "bitswap", rest @ ..] => ci::bench_bitswap(rest),
        ["image"] => image::run(),
        ["deps"] => machine::install_all(),
        ["ci"] => ci::run(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("no such command: {}\n\n{USAGE}", other.join(" ")),
    }
}
