//! Kubo and Helia, which the tests of interoperation run beside nodes of ours, and the JavaScript importer that DAGs are compared with.
//!
//! Their versions and hashes stand in the lock files under `tests/ipfs`. Where Go or Node.js is missing, the tests that need them say that they are skipped.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{
    cargo::{must, root, target},
    machine::{self, Lacking},
};

/// Packages of Node.js.
const NPM: [&str; 2] = ["importer", "helia"];

/// Installs what is not there yet, and tells what cannot be had here: a machine without a network runs the other tests all the same.
pub(crate) fn install() {
    let all = std::iter::once(kubo()).chain(NPM.into_iter().map(packages));
    for lacking in all.filter_map(|installed| installed.unwrap_or_else(|error| Some(format!("{error:#}")))) {
        eprintln!("left out: {lacking}");
    }
}

/// `target/tools/bin/ipfs`, built once from the Go module proxy: minutes, and then nothing.
fn kubo() -> Result<Option<Lacking>> {
    let sources = root().join("tests/ipfs/kubo");
    let program = target().join("tools/bin/ipfs");
    let built_of = target().join("tools/kubo.mod");
    let wanted = fs::read_to_string(sources.join("go.mod"))?;
    if program.is_file() && fs::read_to_string(&built_of).is_ok_and(|built| built == wanted) {
        return Ok(None);
    }
    if machine::find("go").is_none() {
        return Ok(Some("Kubo: no Go on this machine".to_owned()));
    }
    fs::create_dir_all(target().join("tools/bin"))?;
    let mut build = Command::new("go");
    build.current_dir(sources).args(["build", "-mod=readonly", "-buildvcs=false", "-o"]).arg(&program);
    must(build.arg("github.com/ipfs/kubo/cmd/ipfs"))?;
    fs::write(built_of, wanted).context("noting what Kubo was built of")?;
    Ok(None)
}

/// `node_modules` of a folder, as its lock says.
fn packages(folder: &str) -> Result<Option<Lacking>> {
    let folder = root().join("tests/ipfs").join(folder);
    let (lock, installed) = (folder.join("package-lock.json"), folder.join("node_modules/.shoal-lock"));
    let wanted = fs::read_to_string(lock)?;
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(None);
    }
    if machine::find("npm").is_none() {
        return Ok(Some(format!("{}: no npm on this machine", folder.display())));
    }
    must(Command::new("npm").args(["ci", "--silent"]).current_dir(&folder))?;
    fs::write(installed, wanted).context("noting what was installed")?;
    Ok(None)
}
