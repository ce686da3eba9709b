//! Which containerd pulls: it has its share of the CPU, so the table names it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::containerd::{Config, Programs};

/// What the command line says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Version 2 where it is installed, else Debian's.
    Newest,
    /// Debian's.
    Debian,
    /// What `cargo xtask deps` built.
    Two,
    /// The programs of a folder.
    Folder(PathBuf),
}

impl Choice {
    pub(crate) fn named(word: &str) -> Choice {
        match word {
            "debian" => Choice::Debian,
            "2" => Choice::Two,
            folder => Choice::Folder(folder.into()),
        }
    }

    /// Found and asked for its version.
    pub(crate) fn config(&self) -> Result<Config> {
        let programs = match self {
            Choice::Newest => Programs::of_today()?.map_or_else(Programs::debian, Ok),
            Choice::Debian => Programs::debian(),
            Choice::Two => Programs::of_today()?.context("containerd 2 is not installed: `cargo xtask deps` builds it"),
            Choice::Folder(folder) => Programs::within(folder),
        };
        Ok(Config { keep_packed: true, ..Config::of(programs?) })
    }
}
