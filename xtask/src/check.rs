//! What can be said of the code without running it.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{
    cargo::{cargo, must, output, root},
    machine,
};

/// `cargo xtask check`
pub(crate) fn run() -> Result<()> {
    format()?;
    clippy()?;
    deny()
}

pub(crate) fn format() -> Result<()> {
    must(&mut cargo(["fmt", "--all", "--", "--check"]))
}

pub(crate) fn clippy() -> Result<()> {
    must(&mut cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

/// Licences, sources and versions known to be bad; and RustSec's advisories, where their list can be had.
pub(crate) fn deny() -> Result<()> {
    let program = machine::deny()?;
    must(in_workspace(&program).args(["check", "bans", "licenses", "sources"]))?;
    if let Err(error) = output(in_workspace(&program).args(["fetch", "db"])) {
        let reason = format!("{error:#}");
        eprintln!(
            "left out: RustSec's advisories, whose list cannot be fetched: {}",
            reason.lines().last().unwrap_or_default()
        );
        return Ok(());
    }
    must(in_workspace(&program).args(["check", "advisories"]))
}

fn in_workspace(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root()).arg("--workspace");
    command
}
