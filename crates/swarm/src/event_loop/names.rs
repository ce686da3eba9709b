//! Names among the seeds. A name stands for whatever addresses it has now, so it is asked for again and again.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use libp2p::PeerId;
use tokio::task::JoinSet;

use super::EventLoop;
use crate::seed::Resolve;

/// How often a name is asked for while nobody is connected.
const RESOLVE_ALONE: Duration = Duration::from_secs(1);

/// How long one resolution may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Names {
    names: Vec<Name>,
    resolver: Arc<dyn Resolve>,
    every: Duration,
    /// Resolutions under way, one for each name at most.
    pub(super) resolving: JoinSet<(usize, io::Result<Vec<SocketAddr>>)>,
}

struct Name {
    /// Its number among the seeds.
    seed: usize,
    host: String,
    port: u16,
    expected: Option<PeerId>,
    next: Duration,
    under_way: bool,
    is_failing: bool,
}

impl Names {
    pub(super) fn new(resolver: Arc<dyn Resolve>, every: Duration) -> Self {
        Self { names: Vec::new(), resolver, every, resolving: JoinSet::new() }
    }

    pub(super) fn add(&mut self, seed: usize, host: String, port: u16, expected: Option<PeerId>) {
        let name = Name { seed, host, port, expected, next: Duration::ZERO, under_way: false, is_failing: false };
        self.names.push(name);
    }

    fn resolve_due(&mut self, is_alone: bool, now: Duration) {
        let every = if is_alone { RESOLVE_ALONE.min(self.every) } else { self.every };
        for (number, name) in self.names.iter_mut().enumerate() {
            // A longer pause may have been set while others were connected.
            name.next = name.next.min(now + every);
            if name.under_way || name.next > now {
                continue;
            }
            name.under_way = true;
            name.next = now + every;
            let resolving = self.resolver.resolve(&name.host, name.port);
            self.resolving.spawn(async move {
                let resolved = tokio::time::timeout(RESOLVE_TIMEOUT, resolving).await;
                (number, resolved.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
            });
        }
    }
}

impl EventLoop {
    pub(super) fn resolve_names(&mut self, now: Duration) {
        self.names.resolve_due(self.peers.len() == 0, now);
    }

    pub(super) fn on_resolved(&mut self, number: usize, resolved: io::Result<Vec<SocketAddr>>) {
        let now = self.now();
        let name = &mut self.names.names[number];
        name.under_way = false;
        match resolved {
            Ok(addresses) => {
                if std::mem::take(&mut name.is_failing) {
                    tracing::info!(host = name.host, addresses = addresses.len(), "peers' name resolves again");
                }
                self.discovery.listed(name.seed, &addresses, name.expected, now);
                self.dial_due(now);
            }
            // The last answer stands: a resolver that is down is no reason to leave anybody.
            Err(error) => {
                if !std::mem::replace(&mut name.is_failing, true) {
                    tracing::warn!(host = name.host, %error, "peers' name does not resolve; it is tried again");
                }
            }
        }
    }
}
