//! The commands of the `shoal` program.

mod get;
mod pull;
mod remote;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use serde_json::json;

use crate::{
    config::{self, Flags},
    daemon, demo,
    install::{InstallArgs, UninstallArgs},
    output::{self, Output},
};

use get::GetArgs;
use pull::PullArgs;
use remote::Remote;

/// A peer-to-peer cache for container images
#[derive(Debug, Parser)]
#[command(name = "shoal", version, max_term_width = 120, propagate_version = false)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node: gateway, peer and store
    Serve(ServeArgs),
    /// Print the effective configuration and where each value came from
    Config(ConfigArgs),
    /// Show the running node: addresses, store, bytes by source
    Status(StatusArgs),
    /// List the peers that the node is connected to
    Peers(PeersArgs),
    /// Show who in the swarm has a blob, or each blob of an image
    Find(FindArgs),
    /// Show how blobs came to the node: from where, when, and what was waited for
    Trace(TraceArgs),
    /// List the blobs that the node holds
    Ls(LsArgs),
    /// Write out a blob, by digest or CID
    Get(GetArgs),
    /// Pull an image into the node's store
    Pull(PullArgs),
    /// Make a swarm key
    #[command(subcommand)]
    Key(KeyCommand),
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
struct ServeArgs {
    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, clap::Args)]
struct StatusArgs {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct PeersArgs {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct LsArgs {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
struct TraceArgs {
    #[command(flatten)]
    remote: Remote,
    /// A digest, or a repository or part of its name; all without it
    what: Option<String>,
}

#[derive(Debug, clap::Args)]
struct FindArgs {
    /// Digest of a blob, or an image as runtimes name it
    what: String,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a new swarm key, in the form that Kubo and Helia read too
    Generate(GenerateArgs),
}

#[derive(Debug, clap::Args)]
struct GenerateArgs {
    /// File to write, readable by its owner only; standard output without it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
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
        Command::Serve(args) => daemon::serve::run(&args.flags),
        Command::Config(args) => show_config(&args),
        Command::Status(args) => runtime()?.block_on(remote::status(&args.remote)),
        Command::Peers(args) => runtime()?.block_on(remote::peers(&args.remote)),
        Command::Find(args) => runtime()?.block_on(remote::find(&args.remote, &args.what)),
        Command::Trace(args) => runtime()?.block_on(remote::trace(&args.remote, args.what.as_deref())),
        Command::Ls(args) => runtime()?.block_on(remote::ls(&args.remote)),
        Command::Get(args) => runtime()?.block_on(get::get(&args)),
        Command::Pull(args) => runtime()?.block_on(pull::pull(&args)),
        Command::Key(KeyCommand::Generate(args)) => generate_key(&args),
        Command::Install(args) => args.run(),
        Command::Uninstall(args) => args.run(),
        Command::Demo(args) => runtime()?.block_on(demo::run(args)),
        Command::Version(args) => show_version(&args),
    }
}

fn generate_key(args: &GenerateArgs) -> anyhow::Result<()> {
    let key = shoal_swarm::SwarmKey::generate();
    let mut out = Output::stdout();
    match &args.output {
        Some(path) => {
            let doing = || format!("cannot write {}: an existing key is never replaced", path.display());
            daemon::keys::write_new(path, &key).with_context(doing)?;
            if args.json {
                out.json(&json!({ "file": path }))?;
            }
        }
        None if args.json => out.json(&json!({ "key": key.to_string() }))?,
        None => out.text(&key.to_string())?,
    }
    Ok(())
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
