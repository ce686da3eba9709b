//! What tests run Shoal beside and Debian does not have: Kubo, Helia, the JavaScript importer that DAGs are compared with,
//! a containerd of today, and the conformance suite of registries.
//!
//! Their versions and hashes stand in lock files under `tests`. Where Go or Node.js is missing, the tests that need them say that they are skipped.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use crate::{
    cargo::{must, root, target},
    machine::{self, Lacking},
};

/// Packages of Node.js.
const NPM: [&str; 2] = ["importer", "helia"];

/// Programs that come from the Go module proxy.
struct FromGo {
    /// What they are called together, as in the note of what they were built of.
    name: &'static str,
    /// Folder of `tests` with their `go.mod` and `go.sum`.
    sources: &'static str,
    /// Folder of `target/tools` that they come into.
    into: &'static str,
    /// Each program, and the package that it is built of.
    programs: &'static [(&'static str, &'static str)],
    /// Variables of `go build`.
    environment: &'static [(&'static str, &'static str)],
    /// More words for it.
    flags: &'static [&'static str],
}

/// No C compiler is needed, and no library of this machine gets in.
const NO_C: &[(&str, &str)] = &[("CGO_ENABLED", "0")];

/// Without DWARF linking takes half as long; names are kept for profiles.
const SMALL: &str = "-ldflags=-w";

const KUBO: FromGo = FromGo {
    name: "kubo",
    sources: "ipfs/kubo",
    into: "bin",
    programs: &[("ipfs", "github.com/ipfs/kubo/cmd/ipfs")],
    environment: &[],
    flags: &[],
};

/// The tests pull and look at files; they run no container, so the shim is left out, and so are snapshotters other than overlayfs.
const CONTAINERD: FromGo = FromGo {
    name: "containerd",
    sources: "containerd",
    into: "containerd",
    programs: &[
        ("containerd", "github.com/containerd/containerd/v2/cmd/containerd"),
        ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
    ],
    environment: NO_C,
    flags: &["-trimpath", SMALL, "-tags=no_btrfs,no_devmapper,no_zfs"],
};

/// The OCI distribution specification's own tests of a registry.
const CONFORMANCE: FromGo = FromGo {
    name: "conformance",
    sources: "conformance",
    into: "conformance",
    programs: &[("conformance", "github.com/opencontainers/distribution-spec/conformance")],
    environment: NO_C,
    flags: &["-trimpath", SMALL],
};

/// Installs what is not there yet, and tells what cannot be had here: a machine without a network runs the other tests all the same.
pub(crate) fn install() {
    let built = [&CONTAINERD, &CONFORMANCE, &KUBO].map(|programs| programs.install()).into_iter();
    let all = built.chain(NPM.into_iter().map(packages));
    for lacking in all.filter_map(|installed| installed.unwrap_or_else(|error| Some(format!("{error:#}")))) {
        eprintln!("left out: {lacking}");
    }
}

/// A containerd of today, or that it cannot be had here, said aloud: the bench goes on with Debian's.
pub(crate) fn install_containerd() {
    if let Some(lacking) = CONTAINERD.install().unwrap_or_else(|error| Some(format!("{error:#}"))) {
        eprintln!("left out: {lacking}");
    }
}

impl FromGo {
    /// Builds them once for each content of their `go.mod`: minutes, and then nothing.
    fn install(&self) -> Result<Option<Lacking>> {
        let sources = root().join("tests").join(self.sources);
        let into = target().join("tools").join(self.into);
        let built_of = target().join("tools").join(format!("{}.mod", self.name));
        let wanted = fs::read_to_string(sources.join("go.mod"))?;
        let there = self.programs.iter().all(|(program, _)| into.join(program).is_file());
        if there && fs::read_to_string(&built_of).is_ok_and(|built| built == wanted) {
            return Ok(None);
        }
        if machine::find("go").is_none() {
            return Ok(Some(format!("{}: no Go on this machine", self.name)));
        }
        fs::create_dir_all(&into)?;
        for (program, package) in self.programs {
            let mut build = Command::new("go");
            build.current_dir(&sources).envs(self.environment.iter().copied());
            build.args(["build", "-mod=readonly", "-buildvcs=false"]).args(self.flags);
            must(build.arg("-o").arg(into.join(program)).arg(package))?;
        }
        fs::write(built_of, wanted).with_context(|| format!("noting what {} was built of", self.name))?;
        Ok(None)
    }
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
