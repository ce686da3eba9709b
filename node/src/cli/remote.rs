//! Commands that ask the running node and print what it says.

use std::path::PathBuf;

use shoal_fetch::Trace;

use crate::{
    admin::{
        Client,
        client::percent_encoded,
        types::{Found, FoundBy, HeldBlob, Peer, Status},
    },
    config::{self, Flags},
    output::{self, Output},
};

/// How the node is reached, and the form of the answer.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Remote {
    /// The node's admin socket [default: admin.socket of the configuration]
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Remote {
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let socket = match &self.socket {
            Some(socket) => socket.clone(),
            None => config::load(&Flags { file: self.config.clone(), ..Flags::default() })?.config.admin_socket,
        };
        Ok(Client::new(socket))
    }
}

pub(crate) async fn status(remote: &Remote) -> anyhow::Result<()> {
    let status: Status = remote.client()?.get("/v1/status").await?;
    let mut out = Output::stdout();
    if remote.json {
        return Ok(out.json(&status)?);
    }
    let store = &status.store;
    let unverified = match store.unverified {
        0 => String::new(),
        count => format!(", {count} being verified"),
    };
    out.line(format!("version    {}, up {}", status.version, output::time(status.uptime_ms)))?;
    out.line(format!("peer       {}", status.peer_id))?;
    for (index, address) in status.addresses.iter().enumerate() {
        out.line(format!("{:10} {address}", if index == 0 { "addresses" } else { "" }))?;
    }
    out.line(format!("gateway    {}", status.gateway))?;
    out.line(format!("peers      {} connected", status.peers))?;
    out.line(format!(
        "store      {} of {} in {} blobs and {} partials{unverified}, {}",
        output::bytes(store.bytes + store.partial_bytes),
        output::bytes(store.quota),
        store.blobs,
        store.partials,
        store.data_dir
    ))?;
    out.line(format!("sessions   {} running", status.sessions))?;
    out.line(format!(
        "bytes      {} from disk, {} from peers, {} from upstream",
        output::bytes(status.bytes.disk),
        output::bytes(status.bytes.peers),
        output::bytes(status.bytes.upstream)
    ))?;
    for avoided in &status.avoided {
        out.line(format!("avoided    {}: {}", avoided.peer_id, avoided.reason))?;
    }
    Ok(())
}

/// How blobs came to the node, newest first.
pub(crate) async fn trace(remote: &Remote, what: Option<&str>) -> anyhow::Result<()> {
    let mut traces: Vec<Trace> = remote.client()?.get("/v1/traces").await?;
    if let Some(what) = what {
        traces.retain(|trace| trace.digest.to_string().starts_with(what) || trace.origin.contains(what));
    }
    let mut out = Output::stdout();
    if remote.json {
        return Ok(out.json(&traces)?);
    }
    for trace in &traces {
        out.line(format!("{}  {}", trace.digest, trace.origin))?;
        out.line(format!("  {} in {}: {}", output::bytes(trace.size), output::time(trace.took_ms), trace.outcome))?;
        out.line(format!("  {:>12} from upstream", output::bytes(trace.from_upstream)))?;
        if trace.resumed > 0 {
            out.line(format!("  {:>12} from an earlier attempt", output::bytes(trace.resumed)))?;
        }
        for (peer, bytes) in &trace.from_peers {
            out.line(format!("  {:>12} from {peer}", output::bytes(*bytes)))?;
        }
        for (at, event) in &trace.events {
            out.line(format!("  {at:>9} ms  {event}"))?;
        }
    }
    Ok(())
}

pub(crate) async fn peers(remote: &Remote) -> anyhow::Result<()> {
    let peers: Vec<Peer> = remote.client()?.get("/v1/peers").await?;
    let mut out = Output::stdout();
    if remote.json {
        return Ok(out.json(&peers)?);
    }
    if peers.is_empty() {
        return Ok(out.line("no peer is connected")?);
    }
    let rows: Vec<_> = peers
        .into_iter()
        .map(|peer| {
            [
                peer.peer_id,
                peer.addresses.into_iter().next().unwrap_or_default(),
                peer.agent.unwrap_or_default(),
                peer.rtt_us.map(|rtt| format!("{:.1} ms", rtt as f64 / 1e3)).unwrap_or_default(),
                output::time(peer.connected_ms),
                output::bytes(peer.received),
                output::bytes(peer.sent),
            ]
        })
        .collect();
    Ok(out.table(["PEER", "ADDRESS", "AGENT", "RTT", "CONNECTED", "RECEIVED", "SENT"], &rows)?)
}

pub(crate) async fn ls(remote: &Remote) -> anyhow::Result<()> {
    let blobs: Vec<HeldBlob> = remote.client()?.get("/v1/blobs").await?;
    let mut out = Output::stdout();
    if remote.json {
        return Ok(out.json(&blobs)?);
    }
    if blobs.is_empty() {
        return Ok(out.line("the store is empty")?);
    }
    let rows: Vec<_> = blobs
        .into_iter()
        .map(|blob| {
            [
                blob.digest.to_string(),
                output::bytes(blob.size),
                if blob.pinned { "pinned".to_owned() } else { String::new() },
                blob.media_type.unwrap_or_default(),
                blob.root,
            ]
        })
        .collect();
    Ok(out.table(["DIGEST", "SIZE", "", "TYPE", "ROOT"], &rows)?)
}

pub(crate) async fn find(remote: &Remote, what: &str) -> anyhow::Result<()> {
    let found: Vec<Found> = remote.client()?.get(&format!("/v1/find?what={}", percent_encoded(what))).await?;
    let mut out = Output::stdout();
    if remote.json {
        return Ok(out.json(&found)?);
    }
    for blob in &found {
        let part = blob.part.as_ref().map(|part| format!("{part} ")).unwrap_or_default();
        let size = blob.size.map(|size| format!(", {}", output::bytes(size))).unwrap_or_default();
        out.line(format!("{part}{}{size}: searched {}", blob.digest, output::time(blob.took_ms)))?;
        if blob.held {
            out.line("  this node, whole")?;
        }
        for holder in &blob.holders {
            let share =
                if holder.whole { "whole".to_owned() } else { format!("{} of {} leaves", holder.known, holder.leaves) };
            let how = match holder.found_by {
                FoundBy::Record => "provider record",
                FoundBy::Asked => "asked",
            };
            let address = holder.addresses.first().map(|address| format!(" {address}")).unwrap_or_default();
            out.line(format!(
                "  {}{address}, {share}, {how}, after {}",
                holder.peer_id,
                output::time(holder.after_ms)
            ))?;
        }
        for gone in &blob.gone {
            out.line(format!("  {}: {}", gone.peer_id, gone.reason))?;
        }
        if !blob.held && blob.holders.is_empty() {
            out.line("  nobody of the swarm")?;
        }
    }
    Ok(())
}
