//! Tests, counted from what libtest prints as its last line for each program.

use std::{
    fmt,
    io::{BufRead, BufReader},
    ops::AddAssign,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::cargo;

/// How many tests there were, and how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// What a `cargo test` came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// False also where something did not compile.
    pub(crate) success: bool,
}

impl Tally {
    /// From `test result: ok. 12 passed; 0 failed; 1 ignored; …`.
    pub(crate) fn parse(line: &str) -> Option<Tally> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let count =
            |word: &str| counts.split(';').find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<u64>().ok());
        Some(Tally { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// The closing line of a run.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Runs a `cargo test`, passes on what it prints, and counts.
pub(crate) fn count(command: &mut Command) -> Result<Outcome> {
    cargo::show(command);
    let mut child = command.stdout(Stdio::piped()).spawn().context("starting cargo test")?;
    let mut tally = Tally::default();
    for line in BufReader::new(child.stdout.take().context("cargo test has an output")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some(counted) = Tally::parse(&line) {
            tally += counted;
        }
    }
    Ok(Outcome { tally, success: child.wait()?.success() })
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn the_last_line_of_a_test_program_is_counted_and_no_other_is() {
        let line = "test result: FAILED. 12 passed; 3 failed; 4 ignored; 0 measured; 5 filtered out; finished in 0.01s";
        assert_eq!(Tally::parse(line), Some(Tally { passed: 12, failed: 3, skipped: 4 }));
        assert_eq!(Tally::parse("test result of something else: 3 passed"), None);
        assert_eq!(Tally::parse("test a::b ... ok"), None);
    }
}
