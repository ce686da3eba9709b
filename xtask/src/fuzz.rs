//! Fuzz targets, each for a while, with the toolchain that is pinned.
//!
//! libFuzzer needs coverage counters alone, and the compiler flags for those are stable ones, so neither a nightly compiler nor
//! cargo-fuzz is needed. Rust's own checks (bounds, overflow, unwrap) stand in for the sanitizers that are left out.

use std::{fs, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cargo::{cargo, must, output, root, target},
    machine,
};

/// For each target, unless told otherwise.
pub(crate) const SECONDS: u32 = 60;

const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "-Coverflow-checks",
];

/// Longer than any input that a peer or client may send in one piece is not worth the time.
const MAX_INPUT: &str = "-max_len=65536";
/// An input that takes longer than this is a finding.
const TIMEOUT: &str = "-timeout=10";
/// A decoder that allocates what its input claims is one too.
const MEMORY: &str = "-rss_limit_mb=1024";

/// `cargo xtask fuzz`
pub(crate) fn run(seconds: u32) -> Result<()> {
    let targets = targets()?;
    ensure!(!targets.is_empty(), "fuzz/fuzz_targets has no target");
    if let Err(lacking) = machine::have(machine::FOR_FUZZ)? {
        bail!(lacking);
    }
    let triple = host()?;
    let folder = target().join("fuzz");
    // With `--target`, the flags are for what is fuzzed and not for build scripts.
    let mut build =
        cargo(["build", "--release", "--target", &triple, "--manifest-path", "fuzz/Cargo.toml", "--target-dir"]);
    must(build.arg(&folder).arg("--bins").env("CARGO_ENCODED_RUSTFLAGS", COVERAGE.join("\u{1f}")))?;

    for name in &targets {
        let corpus = folder.join("corpus").join(name);
        let artifacts = folder.join("artifacts").join(name);
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&artifacts)?;
        let mut fuzz = Command::new(folder.join(&triple).join("release").join(name));
        fuzz.arg(&corpus);
        let seeds = root().join("fuzz/seeds").join(name);
        if seeds.is_dir() {
            fuzz.arg(seeds);
        }
        fuzz.args([MAX_INPUT, TIMEOUT, MEMORY, "-print_final_stats=1", "-verbosity=0"]);
        fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", artifacts.display()));
        must(&mut fuzz).with_context(|| format!("{name} found something: see {}", artifacts.display()))?;
    }
    println!("{} fuzz targets ran for {seconds} s each and found nothing", targets.len());
    Ok(())
}

/// Names of the programs in `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn host() -> Result<String> {
    let about = output(Command::new("rustc").current_dir(root()).arg("-vV"))?;
    about.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned).context("rustc names no host")
}
