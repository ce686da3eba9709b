//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Bulk,
    Holders,
    Askers,
    Abuse,
}

const PARTS: [Part; 4] = [Part::Bulk, Part::Holders, Part::Askers, Part::Abuse];

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Part::Bulk => "bulk",
            Part::Holders => "holders",
            Part::Askers => "askers",
            Part::Abuse => "abuse",
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) parts: Vec<Part>,
    /// Bytes of the blob that one asker takes from one holder.
    pub(super) size: u64,
    /// Bytes of the blob that many take part in.
    pub(super) shared: u64,
    /// Leaves wanted at once where no session decides it.
    pub(super) window: usize,
    pub(super) runs: usize,
    pub(super) json: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { parts: PARTS.to_vec(), size: 1 << 30, shared: 256 << 20, window: 8, runs: 3, json: None }
    }
}

pub(super) enum Command {
    Help,
    Measure(Options),
}

pub(super) const USAGE: &str = "\
Measures bitswap between nodes of ours on loopback, each end a process of its own.

  --only NAMES    bulk, holders, askers, abuse, joined by commas (all)
  --size BYTES    blob of `bulk`; units KiB, MiB, GiB (1GiB)
  --shared BYTES  blob of `holders` and `askers` (256MiB)
  --window N      leaves that `bulk` wants at once (8)
  --runs K        each figure is the median of so many (3)
  --json FILE     the figures, with those of each run
";

/// Reads the command line.
pub(super) fn parse(arguments: &[String]) -> Result<Command> {
    let mut options = Options::default();
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word {
            "--help" | "-h" => return Ok(Command::Help),
            "--only" => options.parts = value()?.split(',').map(part).collect::<Result<_>>()?,
            "--size" => options.size = bytes(value()?)?,
            "--shared" => options.shared = bytes(value()?)?,
            "--window" => options.window = value()?.parse().context("--window")?,
            "--runs" => options.runs = value()?.parse().context("--runs")?,
            "--json" => options.json = Some(value()?.into()),
            other => bail!("what is {other:?}?\n\n{USAGE}"),
        }
    }
    ensure!(options.runs > 0 && options.window > 0, "--runs and --window must be 1 or more");
    ensure!(options.size > 0 && options.shared > 0, "a blob of no bytes takes no time");
    Ok(Command::Measure(options))
}

fn part(name: &str) -> Result<Part> {
    let found = PARTS.into_iter().find(|part| part.name() == name);
    found.with_context(|| format!("{name:?} is none of: {}", PARTS.map(Part::name).join(", ")))
}

/// `8GiB`, `256MiB`, `100KiB`, `5`.
fn bytes(text: &str) -> Result<u64> {
    let (number, shift) = [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, shift)))
        .unwrap_or((text, 0));
    let number: u64 = number.trim().parse().with_context(|| format!("{text:?} is no size"))?;
    number.checked_mul(1 << shift).with_context(|| format!("{text} is too much"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn names_and_sizes_are_taken_and_others_refused() {
        let Command::Measure(options) = parse(&words("--only bulk,abuse --size 8GiB --shared 64MiB --runs 1")).unwrap()
        else {
            panic!("a question for help")
        };
        assert_eq!(options.parts, [Part::Bulk, Part::Abuse]);
        assert_eq!((options.size, options.shared, options.runs), (8 << 30, 64 << 20, 1));
        for wrong in ["--only party", "--size x", "--size 99999999999GiB", "--runs 0", "--size", "--what 1"] {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
