//! All tests. Those of the whole program need root and Debian's packages: they are `#[ignore]`d, and run here where they can be.

use anyhow::{Result, bail};

use crate::{
    cargo::{cargo, must},
    machine, peers,
    tally::{self, Outcome, Tally},
};

/// The crate of the tests of the whole program.
const WHOLE: &str = "shoal-tests";

/// How much the compiler shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Profile::Dev => &[],
            Profile::Release => &["--release"],
        }
    }
}

/// `cargo xtask test`
pub(crate) fn run(profile: Profile) -> Result<()> {
    let rooms = rooms(profile)?;
    let whole = whole(profile, None)?;
    close(&[rooms, whole])
}

/// `cargo xtask e2e`
pub(crate) fn whole_program(filter: Option<&str>) -> Result<()> {
    close(&[whole(Profile::Dev, filter)?])
}

/// Everything but the tests of the whole program.
pub(crate) fn rooms(profile: Profile) -> Result<Outcome> {
    // Crate `content` compares its DAGs with those of the JavaScript importer.
    peers::install();
    tally::count(cargo(["test", "--workspace", "--exclude", WHOLE, "--no-fail-fast"]).args(profile.flags()))
}

/// The tests of the whole program, or, where they cannot run, why.
pub(crate) fn whole(profile: Profile, filter: Option<&str>) -> Result<Outcome> {
    must(cargo(["build", "--package", "shoal"]).args(profile.flags()))?;
    peers::install();
    let lacking = if machine::is_root() {
        machine::have(machine::FOR_TESTS)?.err()
    } else {
        Some("network namespaces need root".to_owned())
    };
    let mut command = cargo(["test", "--package", WHOLE, "--no-fail-fast"]);
    command.args(profile.flags()).arg("--").args(filter);
    match &lacking {
        None => command.arg("--include-ignored"),
        Some(reason) => {
            eprintln!("\nleft out: the tests with real container runtimes: {reason}");
            &mut command
        }
    };
    tally::count(&mut command)
}

/// The one line that says how it went, and an error where it went badly.
pub(crate) fn close(outcomes: &[Outcome]) -> Result<()> {
    let mut sum = Tally::default();
    for outcome in outcomes {
        sum += outcome.tally;
    }
    println!("\n{sum}");
    if outcomes.iter().any(|outcome| !outcome.success) || sum.failed > 0 {
        bail!("not all tests passed");
    }
    if sum.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}
