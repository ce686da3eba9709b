//! Fuzz targets, each for a while, with the toolchain that is pinned.
//!
//! libFuzzer needs coverage counters alone, and the compiler flags for those are stable ones, so neither a nightly compiler nor
//! cargo-fuzz is needed. Rust's own checks (bounds, overflow, unwrap) stand in for the sanitizers that are left out.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cargo::{cargo, must, output, root, show, target},
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

    let programs = folder.join(&triple).join("release");
    let at_once = std::thread::available_parallelism()?.get();
    let mut failed = Vec::new();
    for group in targets.chunks(at_once) {
        // One core each: more would take from each other the time that they are given.
        let running = group
            .iter()
            .map(|name| start(name, &programs, &folder, seconds).map(|child| (name, child)))
            .collect::<Result<Vec<_>>>()?;
        for (name, mut child) in running {
            let status = child.wait()?;
            let log = fs::read_to_string(log_of(&folder, name))?;
            println!("{name}: {status}, {}", executed(&log));
            if !status.success() {
                eprintln!("{log}");
                failed.push(name.as_str());
            }
        }
    }
    if !failed.is_empty() {
        bail!("found something: {}; inputs are in {}", failed.join(", "), folder.join("artifacts").display());
    }
    println!("{} fuzz targets ran for {seconds} s each and found nothing", targets.len());
    Ok(())
}

fn start(name: &str, programs: &Path, folder: &Path, seconds: u32) -> Result<Child> {
    let corpus = folder.join("corpus").join(name);
    let artifacts = folder.join("artifacts").join(name);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let mut fuzz = Command::new(programs.join(name));
    fuzz.arg(&corpus);
    let seeds = root().join("fuzz/seeds").join(name);
    if seeds.is_dir() {
        fuzz.arg(seeds);
    }
    fuzz.args([MAX_INPUT, TIMEOUT, MEMORY, "-print_final_stats=1", "-verbosity=0"]);
    fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", artifacts.display()));
    show(&fuzz);
    let log = File::create(log_of(folder, name))?;
    fuzz.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().with_context(|| format!("starting {name}"))
}

fn log_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

/// How many inputs were run, in libFuzzer's words.
fn executed(log: &str) -> &str {
    log.lines().find(|line| line.contains("number_of_executed_units")).unwrap_or("no statistics")
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
