//! An end of what is measured: this program, run again. It is told what to do on standard input and answers on standard output, a line of
//! JSON each. It ends when its input does, so with its parent.

use std::{
    io::{BufRead, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use shoal_content::Digest;
use shoal_swarm::{PeerId, SwarmKey};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
    task::spawn_blocking,
};

use super::{
    bare, get,
    mask::Fault,
    node::Node,
    rude::{self, Rude},
};

/// The first word of an end's command line.
pub(super) const END: &str = "end";

/// The runtime of `shoal serve`.
const MAX_WORKERS: usize = 4;
const MAX_BLOCKING: usize = 64;
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(2);
const STACK: usize = 1 << 20;

/// Runs an end: its kind, the swarm key in one line, then what the kind needs.
pub(super) fn run(words: &[String]) -> Result<()> {
    let [kind, key, rest @ ..] = words else { bail!("an end needs a kind and a key") };
    let key: SwarmKey = key.replace(' ', "\n").parse()?;
    // As `shoal serve`: what a burst took must not stay for the sake of huge pages.
    // SAFETY: the call takes numbers and changes how this process's memory is mapped from now on.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        let commands = commands();
        match (kind.as_str(), rest) {
            ("bare", [size]) => bare_end(key, size.parse()?, commands).await,
            ("node", [folder, seeds @ ..]) => Box::pin(node_end(key, folder.into(), seeds, commands)).await,
            ("rude", [address, peer]) => rude_end(key, address, peer, commands).await,
            other => bail!("no such end: {other:?}"),
        }
    });
    runtime.shutdown_background();
    ended
}

fn runtime() -> Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let runtime = Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, MAX_WORKERS))
        .max_blocking_threads(MAX_BLOCKING)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .thread_stack_size(STACK)
        .enable_all()
        .build()?;
    Ok(runtime)
}

/// Lines of standard input, until it ends.
fn commands() -> mpsc::Receiver<Value> {
    let (send, commands) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(command) = line.map_err(anyhow::Error::from).and_then(|line| Ok(serde_json::from_str(&line)?))
            else {
                break;
            };
            if send.blocking_send(command).is_err() {
                break;
            }
        }
    });
    commands
}

fn answer(answer: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

async fn bare_end(key: SwarmKey, size: u64, mut commands: mpsc::Receiver<Value>) -> Result<()> {
    let Some(command) = commands.recv().await else { return Ok(()) };
    match text(&command, "do")? {
        "serve" => {
            tokio::select! {
                served = bare::serve(key, size, |where_| answer(&where_)) => served,
                _ = commands.recv() => Ok(()),
            }
        }
        _ => {
            let (address, peer) = (text(&command, "address")?.parse()?, text(&command, "peer")?.parse()?);
            answer(&bare::read(key, &address, peer, size).await?)?;
            commands.recv().await;
            Ok(())
        }
    }
}

async fn node_end(key: SwarmKey, folder: PathBuf, seeds: &[String], mut commands: mpsc::Receiver<Value>) -> Result<()> {
    let node = Node::start(&folder, key, seeds).await?;
    answer(&json!({ "address": node.address.to_string(), "peer": node.swarm.local_peer().to_string() }))?;
    while let Some(command) = commands.recv().await {
        answer(&obey(&node, &command).await.with_context(|| command.to_string())?)?;
    }
    Ok(())
}

async fn obey(node: &Node, command: &Value) -> Result<Value> {
    let digest = || -> Result<Digest> { Ok(text(command, "digest")?.parse()?) };
    let from = || -> Result<PeerId> { Ok(text(command, "from")?.parse()?) };
    Ok(match text(command, "do")? {
        "hold" => {
            let (store, seed, size) = (node.store.clone(), number(command, "seed")?, number(command, "size")?);
            let digest = spawn_blocking(move || Node::hold(&store, seed, size)).await??;
            json!({ "digest": digest.to_string() })
        }
        "get" => {
            let (window, keep) = (usize::try_from(number(command, "window")?)?, command["keep"] == true);
            get::get(node, digest()?, from()?, window, keep).await?
        }
        "pull" => get::pull(node, digest()?).await?,
        "sample" => get::sample(node, digest()?, from()?, Duration::from_millis(number(command, "ms")?)).await?,
        "leaves" => {
            let outline = node.swarm.outline(from()?, &digest()?).await?.context("the peer does not hold it")?;
            let hashes = outline.hashes().context("its outline has gaps")?;
            json!({ "cids": hashes.iter().map(|hash| hash.cid().to_string()).collect::<Vec<_>>().join(" ") })
        }
        "fault" => {
            let pause = Duration::from_millis(number(command, "pause_ms")?);
            node.mask.set(Fault::named(text(command, "fault")?, pause)?, number(command, "after")?);
            json!({})
        }
        "count" => count(node).await?,
        "providers" => {
            let mut found = node.swarm.providers(&digest()?);
            let mut peers = std::collections::BTreeSet::new();
            while let Some(peer) = found.recv().await {
                peers.insert(peer.to_string());
            }
            json!({ "peers": peers })
        }
        "announce" => rude::announce(&node.swarm, number(command, "keys")?).await?,
        other => bail!("an end cannot {other:?}"),
    })
}

/// Who is connected, what was sent to each, and how often a faulty holder was asked.
async fn count(node: &Node) -> Result<Value> {
    let peers = node.swarm.peers().await?;
    let sent: serde_json::Map<String, Value> =
        peers.iter().map(|peer| (peer.id.to_string(), peer.ledger.bytes_sent.into())).collect();
    let avoided: Vec<String> = node.fetch.avoided().iter().map(|(peer, _)| peer.to_string()).collect();
    Ok(json!({ "sent": sent, "asked_since_fault": node.mask.asked_since(), "avoided": avoided }))
}

async fn rude_end(key: SwarmKey, address: &str, peer: &str, mut commands: mpsc::Receiver<Value>) -> Result<()> {
    let mut rude = Rude::new(key, address.parse()?, peer.parse()?);
    while let Some(command) = commands.recv().await {
        answer(&rude.obey(text(&command, "do")?, &command).await.with_context(|| command.to_string())?)?;
    }
    Ok(())
}

pub(super) fn text<'a>(command: &'a Value, name: &str) -> Result<&'a str> {
    command[name].as_str().with_context(|| format!("no {name} in {command}"))
}

pub(super) fn number(command: &Value, name: &str) -> Result<u64> {
    command[name].as_u64().with_context(|| format!("no {name} in {command}"))
}
