//! The commands of the `shoal` program.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;

use crate::{
    config::{self, Flags},
    demo,
    install::{InstallArgs, UninstallArgs},
    output::{self, Output},
};

/// A peer-to-peer cache for container images
#[derive(Debug, Parser)]
#[command(name = "shoal", version, max_term_width = 120, propagate_version = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the effective configuration and where each value came from
    Config(ConfigArgs),
    /// Point the container runtimes of this machine at the gateway
    Install(InstallArgs),
    /// Take back what install wrote
    Uninstall(UninstallArgs),
    /// Show on this machine what the swarm saves
    Demo(demo::Args),
    /// Print the version
    Version(VersionArgs),
}

#[derive(Debug, clap::Args)]
struct ConfigArgs {
    #[command(flatten)]
    flags: Flags,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct VersionArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command that the arguments of this process name.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Config(args) => show_config(&args),
        Command::Install(args) => args.run(),
        Command::Uninstall(args) => args.run(),
        Command::Demo(args) => runtime()?.block_on(demo::run(args)),
        Command::Version(args) => show_version(&args),
    }
}

fn show_config(args: &ConfigArgs) -> anyhow::Result<()> {
    let effective = config::load(&args.flags)?;
    let mut out = Output::stdout();
    if args.json {
        out.json(&config::show::json(&effective))?;
    } else {
        out.text(&config::show::toml(&effective))?;
    }
    Ok(())
}

fn show_version(args: &VersionArgs) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let mut out = Output::stdout();
    if args.json {
        out.json(&json!({ "name": "shoal", "version": version }))?;
    } else {
        out.line(format!("shoal {version}"))?;
    }
    Ok(())
}

/// What a command that only asks or shows needs.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
