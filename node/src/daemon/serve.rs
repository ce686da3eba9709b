//! `shoal serve`: what the process around the node needs.

use std::{os::unix::net::UnixDatagram, time::Duration};

use anyhow::Context;
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

use super::{Node, telemetry};
use crate::config::{self, Effective, Flags};

/// Enough for noise, hashing and HTTP side by side; the node is a guest on its machine.
const MAX_WORKERS: usize = 4;

/// Disk reads and hashing. Each costs a stack while it lives.
const MAX_BLOCKING: usize = 64;

/// An idle node keeps no thread for a burst that is over.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Our deepest call, sled's included, stays well below.
const STACK: usize = 1 << 20;

/// Everything is synced when it matters; a read that is under way when the node ends is of no use to anybody.
const LAST_READS: Duration = Duration::from_secs(2);

/// Runs a node until it is told to stop.
pub fn run(flags: &Flags) -> anyhow::Result<()> {
    refuse_huge_pages();
    let effective = config::load(flags)?;
    telemetry::start(&effective.config.log)?;
    raise_open_files();
    let runtime = runtime()?;
    // `large_futures`: the whole node is one future, made once.
    let outcome = runtime.block_on(Box::pin(serve(effective)));
    // A thread that waits for a disk must not hold up the end.
    runtime.shutdown_timeout(LAST_READS);
    outcome
}

fn runtime() -> std::io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, MAX_WORKERS))
        .max_blocking_threads(MAX_BLOCKING)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .thread_stack_size(STACK)
        .thread_name("shoal")
        .enable_all()
        .build()
}

async fn serve(effective: Effective) -> anyhow::Result<()> {
    for warning in &effective.warnings {
        tracing::warn!("{warning}");
    }
    let config = effective.config;
    if !config.upstream.any_registry && config.upstream.registries.is_empty() {
        tracing::warn!("no registry is served: list some under `registries`, or set any_registry");
    }
    // Before the node, lest a stop while it starts be lost.
    let mut signals = Signals::listen().context("cannot wait for signals")?;
    let start = Node::start(config);
    let mut running = tokio::select! {
        started = start => started?,
        name = signals.next() => {
            tracing::info!(signal = name, "stopped while starting");
            return Ok(());
        }
    };
    let node = running.node();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        peer = %node.swarm.local_peer(),
        gateway = %node.gateway,
        health = %node.health,
        admin = %node.admin_socket.display(),
        "node is ready"
    );
    notify("READY=1");
    let outcome = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping; a second signal stops at once");
            Ok(())
        }
        error = running.failed() => Err(error),
    };
    notify("STOPPING=1");
    tokio::select! {
        () = running.stop() => tracing::info!("stopped"),
        name = signals.next() => tracing::warn!(signal = name, "stopped at once"),
    }
    outcome
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Tells the service manager, where there is one (sd_notify(3)).
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = UnixDatagram::unbound().and_then(|socket| {
        use std::os::{linux::net::SocketAddrExt, unix::ffi::OsStrExt, unix::net::SocketAddr};
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = told {
        tracing::warn!(%error, "the service manager could not be told: {state}");
    }
}

/// Each thread's heap is a few kilobytes spread over its own part of the address space; in huge pages an idle node takes 47 MB of anonymous
/// memory, without them 8 MB.
fn refuse_huge_pages() {
    // Fails on kernels without huge pages, where there is nothing to refuse.
    // SAFETY: the call takes numbers and changes how this process's memory is mapped from now on.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Every peer, client and open blob is a file; the soft limit of many systems is 1024.
fn raise_open_files() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the struct is ours and outlives both calls.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised {
        tracing::warn!(error = %std::io::Error::last_os_error(), "the limit of open files could not be raised");
    }
}
