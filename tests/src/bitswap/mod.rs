//! What bitswap between nodes of ours costs, beside a bare stream over the same transport: `cargo xtask bench bitswap`.
//!
//! Every end is a process of its own on this machine's loopback, this very program run again; what it consists of are the crates that
//! `shoal` consists of: swarm, store on disk, sessions. What a row compares is measured one after the other, over and over in turns, so that
//! what else the machine does meets all of it.
//!
//! | module | what it is |
//! |---|---|
//! | `options` | the command line |
//! | `bulk` | one holder and one asker, beside a bare stream |
//! | `holders` | one blob from four holders, of which one is slow, stalls or lies |
//! | `askers` | eight askers at one holder, for different blobs, and for one |
//! | `abuse` | what a peer without manners costs the node and its other peers |
//! | `child` | an end, as its parent sees it |
//! | `end` | an end, as it is: commands in, answers out |
//! | `node` | the node of an end |
//! | `mask` | a holder that is slow, silent or lies |
//! | `get` | a blob taken leaf by leaf, into the store |
//! | `bare` | the ends of a bare stream |
//! | `rude` | an end that abuses |
//! | `usage` | CPU and memory of an end |
//! | `report` | medians, the table and the JSON |

mod abuse;
mod askers;
mod bare;
mod bulk;
mod child;
mod end;
mod get;
mod holders;
mod mask;
mod node;
mod options;
#[allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "the peer without manners of the tests of bitswap, as it is there"
)]
#[path = "../../../crates/bitswap/tests/common/raw.rs"]
mod raw;
mod report;
mod rude;
mod usage;

use std::fs;

use anyhow::{Context, Result};

use self::{
    options::{Command, Options, Part, USAGE},
    report::Report,
};
use crate::testbed::work_folder;

const KIB: f64 = 1024.0;
const MIB: f64 = KIB * KIB;
const GIB: f64 = MIB * KIB;

/// Measures what the command line says and prints it; or is an end of what is measured.
#[expect(clippy::print_stdout, reason = "the figures are for the person who called it")]
pub fn main(arguments: &[String]) -> Result<()> {
    if let Some((end::END, rest)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return end::run(rest);
    }
    let options = match options::parse(arguments)? {
        Command::Help => {
            print!("{USAGE}");
            return Ok(());
        }
        Command::Measure(options) => options,
    };
    let folder = work_folder()?.join(format!("bitswap-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let mut report = Report::default();
    let measured = measure(&options, &folder, &mut report);
    fs::remove_dir_all(&folder)?;
    // What was measured is printed even where something failed after it.
    print!("{}", report.table());
    if let Some(file) = &options.json {
        fs::write(file, report.json()?).with_context(|| file.display().to_string())?;
    }
    measured
}

fn measure(options: &Options, folder: &std::path::Path, report: &mut Report) -> Result<()> {
    for part in &options.parts {
        let folder = folder.join(part.name());
        fs::create_dir_all(&folder)?;
        match part {
            Part::Bulk => bulk::measure(options, &folder, report),
            Part::Holders => holders::measure(options, &folder, report),
            Part::Askers => askers::measure(options, &folder, report),
            Part::Abuse => abuse::measure(&folder, report),
        }
        .with_context(|| format!("measuring {}", part.name()))?;
        fs::remove_dir_all(&folder)?;
    }
    Ok(())
}
