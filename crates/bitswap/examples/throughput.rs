//! Bitswap beside a bare stream over the same TCP, noise and yamux: MiB/s and CPU seconds per GiB.
//!
//! ```text
//! cargo run --release -p shoal-bitswap --example throughput [MiB] [window] [rounds] [askers]
//! ```
//!
//! Two processes over loopback; blocks of 1 MiB from memory; both ends' CPU is counted. The bare stream moves the same
//! bytes with the same writes and unhashed, so the ratio holds all that bitswap adds: hashing, messages, two cores.
//! With several askers (in the one asking process) each fetches everything, and the spread of what each has got when
//! the first is done shows how fair the holder is.

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{
    Memory,
    node::{Node, next, node},
    raw::{Opened, Raw},
};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, PeerId, swarm::SwarmEvent};
use shoal_bitswap::{Config, Event};
use shoal_content::Cid;
use tokio::sync::oneshot;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: usize = 1 << 20;
const BARE: &str = "/shoal/bare/1";

/// What both ends know how to make.
fn block(index: usize) -> Bytes {
    common::bytes(index as u64 + 1, MIB)
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |index: usize, default: usize| arguments.get(index).and_then(|text| text.parse().ok()).unwrap_or(default);
    match arguments.first().map(String::as_str) {
        Some("serve-bitswap") => serve_bitswap(number(1, 1024)).await,
        Some("serve-bare") => serve_bare(number(1, 1024)).await,
        _ => compare(number(0, 1024), number(1, 8), number(2, 3), number(3, 1)).await,
    }
}

async fn compare(blocks: usize, window: usize, rounds: usize, askers: usize) {
    say(&format!("{blocks} blocks of 1 MiB, {window} wants outstanding; CPU of both processes"));
    let cids: Vec<Cid> = (0..blocks).map(|index| common::cid_of(&block(index))).collect();
    for _ in 0..rounds {
        let bare = fetch_bare(blocks).await;
        bare.print("bare stream", blocks, None);
        let bitswap = fetch_bitswap(&cids, window).await;
        bitswap.print("bitswap", blocks, Some(&bare));
        if askers > 1 {
            let many = fetch_many(&cids, window, askers).await;
            many.print("many askers", blocks * askers, None);
        }
    }
}

struct Figures {
    took: Duration,
    cpu: f64,
    extra: String,
}

impl Figures {
    fn print(&self, name: &str, blocks: usize, bare: Option<&Figures>) {
        let rate = blocks as f64 / self.took.as_secs_f64();
        let per_gib = self.cpu * 1024.0 / blocks as f64;
        let ratio = bare.map(|bare| format!("  {:.2} of bare", bare.took.as_secs_f64() / self.took.as_secs_f64()));
        say(&format!(
            "{name:12} {rate:6.0} MiB/s  {per_gib:5.2} cpu-s/GiB{}  {}",
            ratio.unwrap_or_default(),
            self.extra
        ));
    }
}

/// The other process, and how to reach it.
struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: Multiaddr,
    peer: PeerId,
}

impl Server {
    fn start(kind: &str, blocks: usize) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args([kind, &blocks.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let input = child.stdin.take().expect("piped");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its address");
        let (address, peer) = line.trim().split_once(' ').expect("address and peer");
        let (address, peer) = (address.parse().expect("an address"), peer.parse().expect("a peer"));
        Self { child, input, output, address, peer }
    }

    /// CPU seconds that the server has used so far.
    fn ask(&mut self) -> f64 {
        self.input.write_all(b"\n").expect("a question");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("an answer");
        line.trim().parse().expect("seconds")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Answers each line of standard input with the CPU seconds of this process; ends with the asker.
fn answer() -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lines() {
            say(&cpu().to_string());
        }
        end.send(())
    });
    ended
}

async fn serve_bitswap(blocks: usize) {
    let memory = Arc::<Memory>::default();
    for index in 0..blocks {
        memory.put(block(index));
    }
    let mut node = node(&memory, Config::default());
    let address = common::listen(&mut node).await;
    say(&format!("{address} {}", node.local_peer_id()));
    let mut ended = answer();
    loop {
        tokio::select! {
            _ = &mut ended => break,
            _ = node.select_next_some() => {}
        }
    }
}

async fn serve_bare(blocks: usize) {
    let content: Vec<Bytes> = (0..blocks).map(block).collect();
    let mut raw = common::swarm(Raw::new(BARE));
    let address = common::listen(&mut raw).await;
    say(&format!("{address} {}", raw.local_peer_id()));
    let mut ended = answer();
    loop {
        let event = tokio::select! {
            _ = &mut ended => break,
            event = raw.select_next_some() => event,
        };
        if let SwarmEvent::Behaviour(Opened::ByPeer(mut stream)) = event {
            let content = content.clone();
            tokio::spawn(async move {
                for block in &content {
                    stream.write_all(block).await.expect("the asker reads");
                }
                stream.close().await.expect("the asker reads");
            });
        }
    }
}

async fn asker(server: &Server) -> Node {
    let mut asker = node(&Arc::default(), Config::default());
    asker.dial(server.address.clone()).expect("an address");
    while asker.behaviour().peers().next().is_none() {
        asker.select_next_some().await;
    }
    asker
}

/// Several askers at one holder, each for everything.
async fn fetch_many(cids: &[Cid], window: usize, askers: usize) -> Figures {
    let mut server = Server::start("serve-bitswap", cids.len());
    let got: Arc<Vec<AtomicUsize>> = Arc::new((0..askers).map(|_| AtomicUsize::new(0)).collect());
    let mut nodes = Vec::new();
    for _ in 0..askers {
        nodes.push(asker(&server).await);
    }
    let (start, cpu_before) = (Instant::now(), cpu() + server.ask());
    let spread = Arc::<OnceLock<String>>::default();
    let tasks = nodes.into_iter().enumerate().map(|(index, mut asker)| {
        let (got, spread, cids, from) = (Arc::clone(&got), Arc::clone(&spread), cids.to_vec(), server.peer);
        tokio::spawn(async move {
            let mut left = cids.iter();
            for cid in left.by_ref().take(window) {
                asker.behaviour_mut().want_block(from, *cid, 1);
            }
            for _ in 0..cids.len() {
                assert!(matches!(next(&mut asker).await, Event::Block { .. }));
                got[index].fetch_add(1, Ordering::Relaxed);
                if let Some(cid) = left.next() {
                    asker.behaviour_mut().want_block(from, *cid, 1);
                }
            }
            let counts: Vec<usize> = got.iter().map(|count| count.load(Ordering::Relaxed)).collect();
            spread.get_or_init(|| format!("blocks when the first was done: {counts:?}"));
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("an asker");
    }
    let took = start.elapsed();
    let cpu = cpu() + server.ask() - cpu_before;
    Figures { took, cpu, extra: spread.get().cloned().unwrap_or_default() }
}

async fn fetch_bitswap(cids: &[Cid], window: usize) -> Figures {
    let mut server = Server::start("serve-bitswap", cids.len());
    let mut asker = asker(&server).await;
    let (start, cpu_before) = (Instant::now(), cpu() + server.ask());
    let mut left = cids.iter();
    let mut gap = Duration::ZERO;
    let mut last = None;
    let mut first = Duration::ZERO;
    for cid in left.by_ref().take(window) {
        asker.behaviour_mut().want_block(server.peer, *cid, 1);
    }
    for _ in 0..cids.len() {
        match next(&mut asker).await {
            Event::Block { .. } => {}
            other => panic!("{other:?}"),
        }
        let now = Instant::now();
        match last.replace(now) {
            Some(last) => gap = gap.max(now - last),
            None => first = now - start,
        }
        if let Some(cid) = left.next() {
            asker.behaviour_mut().want_block(server.peer, *cid, 1);
        }
    }
    let took = start.elapsed();
    let cpu = cpu() + server.ask() - cpu_before;
    let extra = format!("first block {:.1} ms, longest gap {:.1} ms", ms(first), ms(gap));
    Figures { took, cpu, extra }
}

async fn fetch_bare(blocks: usize) -> Figures {
    let mut server = Server::start("serve-bare", blocks);
    let mut raw = common::swarm(Raw::new(BARE));
    raw.dial(server.address.clone()).expect("an address");
    while !matches!(raw.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
    raw.behaviour_mut().open(server.peer);
    let mut stream = loop {
        if let Opened::ByUs(stream) = next(&mut raw).await {
            break stream;
        }
    };
    let _raw = common::node::run(raw);
    let (start, cpu_before) = (Instant::now(), cpu() + server.ask());
    let mut buffer = vec![0; MIB];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).await.expect("the server writes") {
            0 => break,
            count => received += count,
        }
    }
    assert_eq!(received, blocks * MIB);
    let took = start.elapsed();
    Figures { took, cpu: cpu() + server.ask() - cpu_before, extra: String::new() }
}

/// CPU seconds of this process so far, in user and kernel mode.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    // The kernel's unit for it is 1/100 s on every Linux.
    ticks / 100.0
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output");
}
