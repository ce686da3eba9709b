//! `shoal demo`: what the swarm saves, shown on this machine with a real image.
//!
//! A registry with an image ([`registry`], [`image`]), nodes that are separate processes of this program ([`nodes`]), and pulls as a
//! container runtime does them ([`pull`]):
//!
//! 1. without Shoal: as many pulls at once straight from the registry, for comparison;
//! 2. the stampede: every node pulls at once through its own gateway;
//! 3. again, from disk;
//! 4. the registry is stopped, and a node that has nothing joins and pulls.

mod fetched;
mod image;
mod nodes;
mod pull;
mod registry;
mod report;

use std::{io::Write as _, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;

use crate::{admin::types::BytesBySource, output::Output};
use image::Image;
use nodes::Node;
use registry::Registry;
use report::{Report, Row};

/// `shoal demo`
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Nodes that pull at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub nodes: u8,
    /// Compressed size of the image that is made of this machine's files, in MB
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub size: u64,
    /// Pull this image instead: oci:DIR, or a name such as docker.io/library/python:3.13
    #[arg(long)]
    pub image: Option<String>,
    /// Rate of the registry's link in Mbit/s; 0: unlimited
    #[arg(long, default_value_t = 400)]
    pub upstream_mbit: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the demonstration.
pub async fn run(args: Args) -> Result<()> {
    let folder =
        tempfile::Builder::new().prefix("shoal-demo-").tempdir().context("making a folder for the demonstration")?;
    let narrate =
        |what: String| -> Result<()> { if args.json { Ok(()) } else { Ok(writeln!(std::io::stderr(), "{what}")?) } };

    let image = match args.image.as_deref() {
        None => {
            narrate(format!("packing an image of about {} MB out of this machine's files …", args.size))?;
            let (layout, size) = (folder.path().join("image"), args.size * 1_000_000);
            tokio::task::spawn_blocking(move || Image::build(&layout, size)).await??
        }
        Some(name) => match name.strip_prefix("oci:") {
            Some(layout) => Image::open(&PathBuf::from(layout))?,
            None => {
                narrate(format!("fetching {name} …"))?;
                fetched::image(name, &folder.path().join("image")).await?
            }
        },
    };
    let image_bytes = image.size();
    let layers = image.blobs.len().saturating_sub(1);
    let registry = Registry::start(image, args.upstream_mbit).await?;
    let host = registry.address.to_string();

    narrate(format!("{} pulls at once straight from the registry …", args.nodes))?;
    let base = format!("http://{host}");
    let direct = try_join_all((0..args.nodes).map(|_| pull::pull(&base, None))).await?;
    let direct_seconds = direct.iter().map(|pulled| pulled.seconds).fold(0.0, f64::max);
    let direct_bytes = registry.blob_bytes();

    narrate(format!("starting {} nodes …", args.nodes))?;
    std::fs::write(folder.path().join("swarm.key"), shoal_swarm::SwarmKey::generate().to_string())?;
    let mut nodes = vec![Node::start(folder.path(), "node-1", &host, &[]).await?];
    let seed = nodes[0].address().context("the first node listens nowhere")?;
    for number in 2..=args.nodes {
        nodes.push(Node::start(folder.path(), &format!("node-{number}"), &host, std::slice::from_ref(&seed)).await?);
    }
    let others = u64::from(args.nodes) - 1;
    for node in &mut nodes {
        node.wait(|status| status.peers >= others).await?;
    }

    narrate("all nodes pull at once, each through its own gateway …".into())?;
    let mut rows = Vec::new();
    let before = registry.blob_bytes();
    let gateways: Vec<String> = nodes.iter().map(|node| node.status.gateway.clone()).collect();
    let pulls = try_join_all(gateways.iter().map(|gateway| pull::pull(gateway, Some(&host)))).await?;
    let upstream_bytes = registry.blob_bytes() - before;
    for (node, pulled) in nodes.iter_mut().zip(&pulls) {
        let bytes = moved(node).await?;
        rows.push(Row {
            node: node.name.clone(),
            step: "all at once",
            seconds: pulled.seconds,
            pulled: pulled.bytes,
            bytes,
        });
    }
    let stampede_seconds = pulls.iter().map(|pulled| pulled.seconds).fold(0.0, f64::max);

    narrate("the first node pulls again …".into())?;
    let again = pull::pull(&nodes[0].status.gateway, Some(&host)).await?;
    let bytes = moved(&mut nodes[0]).await?;
    rows.push(Row { node: nodes[0].name.clone(), step: "again", seconds: again.seconds, pulled: again.bytes, bytes });

    narrate("the registry is stopped, and a node that has nothing joins and pulls …".into())?;
    registry.stop().await;
    let mut newcomer = Node::start(folder.path(), "newcomer", &host, std::slice::from_ref(&seed)).await?;
    newcomer.wait(|status| status.peers > others).await?;
    let pulled = pull::pull(&newcomer.status.gateway, Some(&host)).await?;
    let bytes = moved(&mut newcomer).await?;
    ensure!(bytes.upstream == 0, "the registry is stopped, and yet {} bytes came from it", bytes.upstream);
    rows.push(Row {
        node: newcomer.name.clone(),
        step: "registry off",
        seconds: pulled.seconds,
        pulled: pulled.bytes,
        bytes,
    });

    for node in nodes.into_iter().chain([newcomer]) {
        node.stop().await?;
    }
    let report = Report {
        nodes: args.nodes,
        image_bytes,
        layers,
        upstream_mbit: args.upstream_mbit,
        direct_seconds,
        direct_bytes,
        stampede_seconds,
        upstream_bytes,
        rows,
    };
    report.print(&mut Output::stdout(), args.json)
}

/// What the node moved since it was last asked.
async fn moved(node: &mut Node) -> Result<BytesBySource> {
    let before = node.status.bytes;
    node.refresh().await?;
    let now = node.status.bytes;
    Ok(BytesBySource {
        disk: now.disk - before.disk,
        peers: now.peers - before.peers,
        upstream: now.upstream - before.upstream,
    })
}
