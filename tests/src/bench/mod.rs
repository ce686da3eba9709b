//! How near a swarm comes to what its links allow, beside what else does this job: `cargo xtask bench swarm`.
//!
//! Nodes are network namespaces on one switch, each link shaped both ways; upstream is distribution's registry on a host of
//! its own; on each node a real containerd is told to fetch and not to unpack, which would hide the network. What a row says is taken from outside of what is measured: when `ctr` began and ended, what the switch's ports counted, what the
//! kernel charged to each process. The content is noise, so nothing can be saved by compressing it.
//!
//! All times are divided by a bound that no system can beat ([`scenario::Plan::bound`]). A machine that carries all nodes
//! may itself be the limit, so each row says how busy its cores were, and with whose work.
//!
//! | module | what it is |
//! |---|---|
//! | `options` | the command line |
//! | `scenario` | who pulls what, when, over which links; the bound |
//! | `payload` | images of noise, laid into a registry's storage |
//! | `bed` | hosts, their links, what runs on them |
//! | `upstream`, `quirky` | distribution's registry, and one with the habits of others |
//! | `link` | shaping, cutting, counting |
//! | `usage` | CPU and memory of processes, and how busy the machine was |
//! | `containerd` | which containerd pulls |
//! | `pull` | one pull by `ctr`, which unpacks nothing |
//! | `admin` | what a node says of itself |
//! | `fault` | what is killed or cut half way, and whom it hits |
//! | `run` | one run of one scenario on one system |
//! | `outcome` | what it has shown |
//! | `measure` | medians of runs |
//! | `report` | the table and the JSON |
//! | `draw` | a picture of where each node's bytes came from |
//! | `stop` | SIGINT and SIGTERM end a run and remove all of it |

mod admin;
mod bed;
mod containerd;
mod draw;
mod fault;
mod link;
mod measure;
mod options;
mod outcome;
mod payload;
mod pull;
mod quirky;
mod report;
mod run;
mod scenario;
mod stop;
mod upstream;
mod usage;

use std::fs;

use anyhow::{Context, Result};

use self::{
    bed::Bed,
    fault::Fault,
    measure::Row,
    options::{Command, Options, USAGE},
    outcome::Run,
    scenario::Scenario,
};

/// Measures what the command line says and prints it.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the figures are for the person who called it")]
pub fn main(arguments: &[String]) -> Result<()> {
    if let Some((quirky::SERVE, words)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return quirky::serve(words);
    }
    let options = match options::parse(arguments)? {
        Command::Help => {
            print!("{}", *USAGE);
            return Ok(());
        }
        Command::Measure(options) => options,
    };
    stop::on_signals()?;
    let containerd = options.containerd.config()?;
    let mut bed = Bed::new(&options, &containerd)?;
    let mut rows = Vec::new();
    // What was measured is printed even where the next run fails.
    let measured = measure_all(&mut bed, &options, &mut rows, |row| eprintln!("{}", report::line(row)));
    drop(bed);
    let version = &containerd.programs.version;
    print!("{}", report::table(&options, version, &rows));
    if let Some(file) = &options.json {
        fs::write(file, report::json(&options, version, &rows)?).with_context(|| file.display().to_string())?;
    }
    measured
}

fn measure_all(bed: &mut Bed, options: &Options, rows: &mut Vec<Row>, told: impl Fn(&Row)) -> Result<()> {
    for &scenario in &options.scenarios {
        for &system in &options.systems {
            for &fault in std::iter::once(&None).chain(&options.faults) {
                if fault.is_some_and(|fault| !system.can_suffer(fault)) {
                    continue;
                }
                let row = measure(bed, options, &Wanted { scenario, system, fault }, rows)?;
                told(&row);
                rows.push(row);
            }
        }
    }
    Ok(())
}

/// What a row is about.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    scenario: Scenario,
    system: scenario::System,
    fault: Option<Fault>,
}

fn measure(bed: &mut Bed, options: &Options, wanted: &Wanted, earlier: &[Row]) -> Result<Row> {
    let plan = wanted.scenario.plan(options);
    let mut runs: Vec<Run> = Vec::new();
    for number in 0..options.runs {
        let run = run::run(bed, options, &plan, wanted)
            .with_context(|| format!("{}, {}, run {number}", wanted.scenario, wanted.system))?;
        if let (0, Some(folder)) = (number, &options.draw) {
            let fault = wanted.fault.map_or_else(String::new, |fault| format!("-{fault}"));
            let file = folder.join(format!("{}-{}{fault}.svg", wanted.scenario, wanted.system));
            fs::create_dir_all(folder)?;
            fs::write(&file, draw::picture(&plan, wanted, &run)).with_context(|| file.display().to_string())?;
        }
        runs.push(run);
    }
    Ok(Row::of(wanted, &plan, runs, earlier))
}
