//! Everything that a change must pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::{
    cargo::{cargo, must},
    check, fuzz, image, machine, peers,
    tally::Outcome,
    test,
};

/// Seconds for each fuzz target, where `SHOAL_FUZZ_SECONDS` does not say.
const FUZZ_SECONDS: u32 = 60;

/// `cargo xtask ci`: all parts run even where one fails, so that one run tells all; the closing line counts tests.
pub(crate) fn run() -> Result<()> {
    let mut parts = Parts::default();
    let mut outcomes: Vec<Outcome> = Vec::new();
    parts.run("packages", machine::install_all);
    parts.run("format", check::format);
    parts.run("clippy", check::clippy);
    parts.run("deny", check::deny);
    parts.run("tests of the crates", || test::rooms(test::Profile::Dev).map(|outcome| outcomes.push(outcome)));
    parts.run("tests of the whole program", || {
        test::whole(test::Profile::Dev, None).map(|outcome| outcomes.push(outcome))
    });
    parts.run("demo", demo);
    parts.run("image", image::run);
    parts.run("fuzz", || fuzz::run(fuzz_seconds()?));
    parts.print();
    let closed = test::close(&outcomes);
    match parts.failed() {
        failed if failed.is_empty() => closed,
        failed => bail!("failed: {}", failed.join(", ")),
    }
}

/// `cargo xtask demo`
pub(crate) fn demo() -> Result<()> {
    must(&mut cargo(["run", "--package", "shoal", "--", "demo"]))
}

/// `cargo xtask bench`
pub(crate) fn bench() -> Result<()> {
    must(&mut cargo(["build", "--release", "--package", "shoal"]))?;
    must(&mut cargo(["run", "--release", "--package", "shoal-tests", "--bin", "bench"]))
}

/// `cargo xtask bench micro …`: the arguments are criterion's.
pub(crate) fn bench_micro(arguments: &[&str]) -> Result<()> {
    const CRATES: [(&str, &str); 4] = [
        ("shoal-content", "hashing"),
        ("shoal-bitswap", "messages"),
        ("shoal-coordination", "grants"),
        ("shoal-store", "leaves"),
    ];
    let mut bench = cargo(["bench"]);
    for (package, name) in CRATES {
        bench.args(["--package", package, "--bench", name]);
    }
    must(bench.arg("--").args(arguments))
}

/// `cargo xtask bench swarm …`
pub(crate) fn bench_swarm(arguments: &[&str]) -> Result<()> {
    peers::install_containerd();
    must(&mut cargo(["build", "--release", "--package", "shoal"]))?;
    let mut bench = cargo(["run", "--release", "--package", "shoal-tests", "--bin", "swarm", "--"]);
    must(bench.args(arguments))
}

/// `cargo xtask bench ipfs`
pub(crate) fn bench_ipfs(arguments: &[&str]) -> Result<()> {
    peers::install();
    must(&mut cargo(["build", "--release", "--package", "shoal"]))?;
    let mut bench = cargo(["run", "--release", "--package", "shoal-tests", "--bin", "ipfs", "--"]);
    must(bench.args(arguments))
}

/// `cargo xtask bench bitswap`
pub(crate) fn bench_bitswap(arguments: &[&str]) -> Result<()> {
    let mut bench = cargo(["run", "--release", "--package", "shoal-tests", "--bin", "bitswap", "--"]);
    must(bench.args(arguments))
}

fn fuzz_seconds() -> Result<u32> {
    Ok(match std::env::var("SHOAL_FUZZ_SECONDS") {
        Ok(seconds) => seconds.parse()?,
        Err(_) => FUZZ_SECONDS,
    })
}

#[derive(Default)]
struct Parts(Vec<(&'static str, Duration, Option<anyhow::Error>)>);

impl Parts {
    fn run(&mut self, name: &'static str, part: impl FnOnce() -> Result<()>) {
        eprintln!("\n=== {name}");
        let start = Instant::now();
        let failed = part().err();
        if let Some(error) = &failed {
            eprintln!("=== {name} failed: {error:#}");
        }
        self.0.push((name, start.elapsed(), failed));
    }

    fn print(&self) {
        println!();
        for (name, time, failed) in &self.0 {
            println!(
                "{name:28} {:7.1} s  {}",
                time.as_secs_f64(),
                failed.as_ref().map_or_else(|| "ok".to_owned(), |error| format!("{error:#}"))
            );
        }
        let sum: Duration = self.0.iter().map(|(_, time, _)| *time).sum();
        println!("{:28} {:7.1} s", "together", sum.as_secs_f64());
    }

    fn failed(&self) -> Vec<&'static str> {
        self.0.iter().filter(|(_, _, failed)| failed.is_some()).map(|(name, ..)| *name).collect()
    }
}
