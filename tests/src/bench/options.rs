//! The command line.

use std::{fmt::Write as _, path::PathBuf, sync::LazyLock, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use super::{
    containerd::Choice,
    fault::{FAULTS, Fault},
    quirky::{QUIRKS, Quirk},
    scenario::{SCENARIOS, SYSTEMS, Scenario, System},
};

/// What is measured where nothing is said: the columns of the project's table.
const SCENARIOS_BY_DEFAULT: &[Scenario] = &[Scenario::Stampede, Scenario::Rollout, Scenario::Alone];
/// Hosts have addresses 10.88.0.1 to .254: nodes, upstream and a cache.
const MOST_NODES: usize = 250;

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) systems: Vec<System>,
    /// Nodes of a scenario with many.
    pub(crate) nodes: usize,
    /// Mbit/s of upstream, each way, before scaling.
    pub(crate) upstream: f64,
    /// Mbit/s of a node, each way, before scaling.
    pub(crate) node: f64,
    /// All rates are multiplied by it.
    pub(crate) scale: f64,
    /// How upstream behaves.
    pub(crate) quirk: Quirk,
    /// MiB of the image.
    pub(crate) mib: u32,
    /// Figures are medians of so many runs.
    pub(crate) runs: usize,
    /// Each is measured beside the run without.
    pub(crate) faults: Vec<Option<Fault>>,
    /// Who is hit by a fault vanishes from the network instead of being killed.
    pub(crate) silent: bool,
    /// Where figures of all runs go.
    pub(crate) json: Option<PathBuf>,
    /// Folder for pictures of the first run of each row.
    pub(crate) draw: Option<PathBuf>,
    /// More lines of each node's configuration, as whole sections.
    pub(crate) config: String,
    /// Congestion control of all hosts; the machine's own where not given.
    pub(crate) tcp: Option<String>,
    /// A pull that takes longer has failed; by default three times what it takes where nodes do not share.
    pub(crate) limit: Option<Duration>,
    /// Which containerd pulls.
    pub(crate) containerd: Choice,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            scenarios: SCENARIOS_BY_DEFAULT.to_vec(),
            systems: SYSTEMS.iter().map(|(system, _)| *system).collect(),
            nodes: 8,
            upstream: 200.0,
            node: 400.0,
            scale: 1.0,
            quirk: Quirk::None,
            mib: 100,
            runs: 1,
            faults: Vec::new(),
            silent: false,
            json: None,
            draw: None,
            config: String::new(),
            tcp: None,
            limit: None,
            containerd: Choice::Newest,
        }
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Measure(Box<Options>),
}

pub(crate) static USAGE: LazyLock<String> = LazyLock::new(|| {
    let mut usage = "\
Measures pulls over shaped links: needs root, containerd, docker-registry, iproute2.

  --scenario NAMES  joined by commas, or all (stampede,rollout,alone)
  --system NAMES    direct, distribution, shoal, joined by commas (all)
  --nodes N         nodes of a scenario with many (8)
  --upstream MBIT   upstream's link, each way (200)
  --node MBIT       each node's link, each way (400)
  --upstream-is NAME  how upstream behaves (plain)
  --scale FACTOR    all rates are multiplied by it (1)
  --mib MIB         size of the image: noise in four uneven layers (100)
  --runs K          each figure is the median of so many (1)
  --fault NAMES     measured besides: joined by commas, or all
  --silent          who is hit by a fault is unplugged, not killed
  --limit SECONDS   for one pull (three times what it takes where nodes do not share)
  --containerd WHICH  debian, 2 (what `cargo xtask deps` builds), or a folder (2 where it is installed)
  --config FILE     more lines of each node's shoal.toml
  --tcp NAME        congestion control of all hosts (the machine's own)
  --json FILE       the figures of all runs
  --draw FOLDER     pictures of each row's first run: each node's bytes by source, over time

SHOAL_BIN names another shoal, SHOAL_E2E_LOG its log level, SHOAL_E2E_KEEP=1 keeps its logs.

Scenarios:
"
    .to_owned();
    for (_, name, what) in SCENARIOS {
        let _ = writeln!(usage, "  {name:16}  {what}");
    }
    usage.push_str("\nFaults, when the nodes have half of the image on average:\n");
    for (_, name, what) in FAULTS {
        let _ = writeln!(usage, "  {name:16}  {what}");
    }
    usage.push_str("\nUpstreams:\n");
    for (_, name, what) in QUIRKS {
        let _ = writeln!(usage, "  {name:16}  {what}");
    }
    usage
});

/// Reads the command line.
pub(crate) fn parse(arguments: &[String]) -> Result<Command> {
    let mut options = Options::default();
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word {
            "--help" | "-h" => return Ok(Command::Help),
            "--scenario" => {
                let names: Vec<_> = SCENARIOS.iter().map(|(scenario, name, _)| (*scenario, *name)).collect();
                let given = value()?;
                options.scenarios = named(given, &names)?;
                // What needs that much room is measured only where it is asked for by name.
                options.scenarios.retain(|scenario| given != "all" || scenario.fits_memory());
            }
            "--system" => options.systems = named(value()?, SYSTEMS)?,
            "--fault" => {
                let names: Vec<_> = FAULTS.iter().map(|(fault, name, _)| (*fault, *name)).collect();
                options.faults = named(value()?, &names)?.into_iter().map(Some).collect();
            }
            "--nodes" => options.nodes = number(word, value()?)?,
            "--upstream" => options.upstream = number(word, value()?)?,
            "--node" => options.node = number(word, value()?)?,
            "--scale" => options.scale = number(word, value()?)?,
            "--upstream-is" => {
                let names: Vec<_> = QUIRKS.iter().map(|(quirk, name, _)| (*quirk, *name)).collect();
                options.quirk = one(value()?, &names)?;
            }
            "--mib" => options.mib = number(word, value()?)?,
            "--runs" => options.runs = number(word, value()?)?,
            "--limit" => options.limit = Some(Duration::from_secs(number(word, value()?)?)),
            "--containerd" => options.containerd = Choice::named(value()?),
            "--silent" => options.silent = true,
            "--json" => options.json = Some(value()?.into()),
            "--draw" => options.draw = Some(value()?.into()),
            "--tcp" => options.tcp = Some(value()?.to_owned()),
            "--config" => {
                let file = value()?;
                options.config = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
            }
            other => bail!("what is {other:?}?\n\n{}", *USAGE),
        }
    }
    ensure!((2..=MOST_NODES).contains(&options.nodes), "--nodes must be 2 to {MOST_NODES}");
    ensure!(options.runs > 0 && options.mib > 0, "--runs and --mib must be 1 or more");
    let rates = [options.upstream, options.node, options.scale];
    ensure!(rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "rates must be more than 0");
    Ok(Command::Measure(Box::new(options)))
}

fn number<T: std::str::FromStr>(word: &str, text: &str) -> Result<T> {
    text.parse().ok().with_context(|| format!("{word}: {text:?} is no such number"))
}

fn named<T: Copy>(text: &str, names: &[(T, &str)]) -> Result<Vec<T>> {
    if text == "all" {
        return Ok(names.iter().map(|(one, _)| *one).collect());
    }
    text.split(',').map(|given| one(given, names)).collect()
}

fn one<T: Copy>(given: &str, names: &[(T, &str)]) -> Result<T> {
    let found = names.iter().find(|(_, name)| *name == given).map(|(one, _)| *one);
    found.with_context(|| {
        let known: Vec<&str> = names.iter().map(|(_, name)| *name).collect();
        format!("{given:?} is none of: {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::{Command, parse};
    use crate::bench::scenario::{Scenario, System};

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn names_and_numbers_are_taken_and_others_refused() {
        let Command::Measure(options) =
            parse(&words("--scenario rollout,tiny --system shoal --nodes 24 --scale 0.25 --fault third")).unwrap()
        else {
            panic!("a question for help")
        };
        assert_eq!(options.scenarios, [Scenario::Rollout, Scenario::Tiny]);
        assert_eq!(options.systems, [System::Shoal]);
        assert_eq!((options.nodes, options.scale, options.faults.len()), (24, 0.25, 1));
        let Command::Measure(options) = parse(&words("--scenario all")).unwrap() else { panic!("a question for help") };
        assert!(!options.scenarios.contains(&Scenario::Huge) && options.scenarios.contains(&Scenario::Two));
        for wrong in ["--nodes 1", "--scenario party", "--scale 0", "--runs", "--what 1", "--mib x"] {
            assert!(parse(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
