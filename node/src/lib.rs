//! The `shoal` program: configuration, daemon, admin API, command line.
//!
//! | module | what it holds |
//! |---|---|
//! | [`config`] | one TOML file, environment and flags; what `shoal config` shows |
//! | [`daemon`] | the node: store, swarm, registries and gateway brought together |
//! | [`admin`] | how commands ask the running node |
//! | [`cli`] | the commands |
//! | [`ipfs`] | a read-only trustless gateway for IPFS tools |
//! | [`install`] | the runtimes' configuration: `shoal install`, `shoal uninstall` |
//! | [`demo`] | `shoal demo` |
//! | [`output`] | standard output |
//!
//! It is a library so that tests, examples and fuzz targets reach what the program is made of.

pub mod admin;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod install;
pub mod ipfs;
pub mod output;
