//! A static program, and an image that has it and nothing else: no base, no shell, no registry and no builder needed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cargo::{cargo, must, output, root, target},
    machine,
    tar::{Access, Archive},
};

/// The user that distroless images have as `nonroot`, so that policies which know that one fit.
const USER: u32 = 65532;
/// `localhost/` is never pulled from anywhere, so a forgotten import is an error and no stranger's image.
const NAME: &str = "localhost/shoal";

const ROOT_FILE: Access = Access { id: 0, mode: 0o644 };
const PROGRAM: Access = Access { id: 0, mode: 0o755 };
const DATA: Access = Access { id: USER, mode: 0o750 };

/// `cargo xtask image`
pub(crate) fn run() -> Result<()> {
    let program = program()?;
    let size = fs::metadata(&program)?.len();
    let image = pack(&program)?;
    println!("{}: static, {:.1} MiB", program.display(), mebibytes(size));
    println!("{}: {NAME}:{}, {:.1} MiB", image.display(), version(), mebibytes(fs::metadata(&image)?.len()));
    println!("load it with: ctr --namespace k8s.io images import {}", image.display());
    Ok(())
}

/// Builds the program without any need of the machine that it will run on.
fn program() -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    if let Err(lacking) = machine::have(machine::FOR_IMAGE)? {
        bail!(lacking);
    }
    let installed = output(Command::new("rustup").current_dir(root()).args(["target", "list", "--installed"]))?;
    if !installed.lines().any(|line| line == triple) {
        must(Command::new("rustup").current_dir(root()).args(["target", "add", &triple]))?;
    }
    let compiler = format!("CC_{}", triple.replace('-', "_"));
    must(cargo(["build", "--release", "--package", "shoal", "--target", &triple]).env(compiler, "musl-gcc"))?;
    let program = target().join(&triple).join("release/shoal");
    ensure!(is_static(&fs::read(&program)?), "{} asks for an interpreter: it is not static", program.display());
    Ok(program)
}

/// Whether a 64-bit ELF file has no program header of type `PT_INTERP`: then the kernel alone starts it.
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, bytes: usize| {
        elf.get(at..at + bytes).map(|field| field.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
    };
    let headers = || Some((number(0x20, 8)? as usize, number(0x36, 2)? as usize, number(0x38, 2)? as usize));
    let Some((start, size, count)) = headers().filter(|_| elf.starts_with(b"\x7fELF\x02\x01")) else { return false };
    count > 0 && (0..count).all(|index| number(start + index * size, 4).is_some_and(|kind| kind != PT_INTERP))
}

/// Packs the program as an image in an OCI layout, as one archive.
fn pack(program: &Path) -> Result<PathBuf> {
    let folder = target().join("image");
    fs::create_dir_all(&folder)?;
    let layer = folder.join("layer.tar");
    let mut archive = Archive::new(File::create(&layer)?);
    archive.folder("etc", PROGRAM)?;
    archive.file(
        "etc/passwd",
        ROOT_FILE,
        format!("root:x:0:0::/:\nshoal:x:{USER}:{USER}::/var/lib/shoal:\n").as_bytes(),
    )?;
    archive.file("etc/group", ROOT_FILE, format!("root:x:0:\nshoal:x:{USER}:\n").as_bytes())?;
    archive.file("shoal", PROGRAM, &fs::read(program)?)?;
    for path in ["run", "var", "var/lib"] {
        archive.folder(path, PROGRAM)?;
    }
    for path in ["run/shoal", "var/lib/shoal"] {
        archive.folder(path, DATA)?;
    }
    archive.finish()?.sync_all()?;

    let compressed = folder.join("layer.tar.gz");
    let gzip = Command::new("gzip")
        .args(["-9", "--no-name", "--stdout"])
        .arg(&layer)
        .stdout(Stdio::from(File::create(&compressed)?))
        .status()?;
    ensure!(gzip.success(), "gzip: {gzip}");

    let config = format!(
        r#"{{"architecture":"{}","os":"linux","config":{{"User":"{USER}:{USER}","Entrypoint":["/shoal"],"Cmd":["serve"],"WorkingDir":"/","Labels":{{"org.opencontainers.image.title":"shoal","org.opencontainers.image.version":"{}","org.opencontainers.image.licenses":"Apache-2.0"}}}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
        architecture()?,
        version(),
        sha256(&layer)?,
    );
    let mut layout = Archive::new(File::create(folder.join("shoal.tar"))?);
    layout.file("oci-layout", ROOT_FILE, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    layout.folder("blobs", PROGRAM)?;
    layout.folder("blobs/sha256", PROGRAM)?;
    let mut add = |content: &[u8]| -> Result<(String, usize)> {
        let path = folder.join("blob");
        fs::write(&path, content)?;
        let digest = sha256(&path)?;
        layout.file(&format!("blobs/sha256/{digest}"), ROOT_FILE, content)?;
        fs::remove_file(path)?;
        Ok((digest, content.len()))
    };
    let (layer_digest, layer_size) = add(&fs::read(&compressed)?)?;
    let (config_digest, config_size) = add(config.as_bytes())?;
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{config_digest}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:{layer_digest}","size":{layer_size}}}]}}"#
    );
    let (manifest_digest, manifest_size) = add(manifest.as_bytes())?;
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{manifest_digest}","size":{manifest_size},"platform":{{"architecture":"{}","os":"linux"}},"annotations":{{"io.containerd.image.name":"{NAME}:{version}","org.opencontainers.image.ref.name":"{version}"}}}}]}}"#,
        architecture()?,
        version = version(),
    );
    layout.file("index.json", ROOT_FILE, index.as_bytes())?;
    layout.finish()?.sync_all()?;
    fs::remove_file(layer)?;
    fs::remove_file(compressed)?;
    Ok(folder.join("shoal.tar"))
}

fn sha256(path: &Path) -> Result<String> {
    let printed = output(Command::new("sha256sum").arg(path))?;
    printed.split(' ').next().map(str::to_owned).context("sha256sum prints a sum")
}

fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Go's name of this processor, which images use.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("images for {other} are not made here"),
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::is_static;

    #[test]
    fn a_program_that_asks_for_an_interpreter_is_not_static() {
        let this_test = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&this_test));
        // Two program headers, PT_LOAD and PT_DYNAMIC, as a static position-independent program has them.
        let mut elf = vec![0; 0x40 + 2 * 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (elf[0x20], elf[0x36], elf[0x38]) = (0x40, 56, 2);
        (elf[0x40], elf[0x40 + 56]) = (1, 2);
        assert!(is_static(&elf));
        elf[0x40] = 3;
        assert!(!is_static(&elf));
        assert!(!is_static(b"#!/bin/sh"));
    }
}
