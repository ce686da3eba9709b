//! The accept loop.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use shoal_fetch::Pulls;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{Config, Error, Metrics, answer::Shared, connection, door::Door, failed::Failed, watchdog::Watchdog};

/// Pause after an accept that failed: what fails it (no descriptors, no memory) does not pass at once.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);

/// Failed accepts in a row after which the listening socket is made anew.
const FAILED_ACCEPTS: u32 = 3;

/// Beats of a loop without a watchdog, which nobody counts.
const IDLE_TICK: Duration = Duration::from_secs(3600);

/// The OCI endpoint. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

impl Gateway {
    /// An endpoint that answers from `pulls`.
    pub fn new(pulls: Arc<dyn Pulls>, config: Config) -> Self {
        let failed = Mutex::new(Failed::new(config.refuse_resume_for));
        Self { shared: Arc::new(Shared { pulls, config, failed, metrics: Metrics::default() }) }
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Serves clients on `listener` until `shutdown` is done; then lets requests in flight end within the drain time.
    ///
    /// # Errors
    /// When the socket cannot be watched, or the watchdog has no thread. A port that the watchdog closed and that cannot be
    /// had again is tried for until `shutdown`.
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        let address = listener.local_addr().map_err(Error::Socket)?;
        let door = Arc::new(Door::default());
        door.listens(&listener).map_err(Error::Socket)?;
        let limit = self.shared.config.watchdog;
        let watchdog = if limit.is_zero() {
            None
        } else {
            let closed = self.shared.metrics.port_closed.clone();
            Some(Watchdog::start(door.clone(), limit, closed).map_err(Error::Watchdog)?)
        };
        tracing::info!(%address, "gateway listens");

        let (stop, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        tokio::select! {
            () = self.accept(listener, address, &door, watchdog.as_ref(), &stopped, &mut connections) => {}
            () = shutdown => {}
        }
        drop(watchdog);
        drop(stop);
        // The listener is gone with the loop: whoever connects now is refused. Every connection ends within the drain time.
        door.close();
        while connections.join_next().await.is_some() {}
        tracing::info!(%address, "gateway has closed");
        Ok(())
    }

    async fn accept(
        &self,
        mut listener: TcpListener,
        address: SocketAddr,
        door: &Arc<Door>,
        watchdog: Option<&Watchdog>,
        stopped: &watch::Receiver<()>,
        connections: &mut JoinSet<()>,
    ) {
        let mut ticks = interval(watchdog.map_or(IDLE_TICK, Watchdog::period));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut failures = 0;
        loop {
            // Beats come from this loop and not from a task of their own: it is accepting that is watched.
            let accepted = tokio::select! {
                _ = ticks.tick() => {
                    if let Some(watchdog) = watchdog {
                        watchdog.beat();
                    }
                    continue;
                }
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, _)) => {
                    failures = 0;
                    self.begin(Arc::new(tcp), door, stopped, connections);
                }
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%address, %error, "cannot accept a connection");
                    // A shut socket says EINVAL, and goes on saying it.
                    if error.kind() == io::ErrorKind::InvalidInput || failures >= FAILED_ACCEPTS {
                        failures = 0;
                        listener = reopen(listener, address, door, watchdog).await;
                    } else {
                        sleep(AFTER_FAILED_ACCEPT).await;
                    }
                }
            }
        }
    }

    fn begin(
        &self,
        tcp: Arc<tokio::net::TcpStream>,
        door: &Arc<Door>,
        stopped: &watch::Receiver<()>,
        connections: &mut JoinSet<()>,
    ) {
        let metrics = &self.shared.metrics;
        let Some(entry) = door.enter(&tcp, self.shared.config.max_connections) else {
            // Closed and not queued: a client that waits in a queue waits 30 s, one that is refused asks its next host.
            metrics.connections_refused.inc();
            tracing::debug!(most = self.shared.config.max_connections, "connection refused: there are too many");
            return;
        };
        // Without it the end of an answer waits for the acknowledgement of its start. Fails only on a connection that is gone.
        let _ = tcp.set_nodelay(true);
        let open = metrics.open_connection();
        let shared = self.shared.clone();
        let mut stopped = stopped.clone();
        connections.spawn(async move {
            // Answers the error of the sender being gone: that is the signal.
            let stop = async move { while stopped.changed().await.is_ok() {} };
            connection::serve(shared, tcp, stop).await;
            drop((entry, open));
        });
    }
}

/// Listens again, however often it has to be tried.
async fn reopen(
    listener: TcpListener,
    address: SocketAddr,
    door: &Arc<Door>,
    watchdog: Option<&Watchdog>,
) -> TcpListener {
    let mut shut = Some(listener);
    loop {
        if let Some(watchdog) = watchdog {
            watchdog.beat();
        }
        match door.reopen(shut.take(), address) {
            Ok(again) => {
                tracing::info!(%address, "gateway listens again");
                return again;
            }
            Err(error) => {
                tracing::error!(%address, %error, "cannot listen again: is the port taken by another program?");
                sleep(AFTER_FAILED_ACCEPT).await;
            }
        }
    }
}

/// Errors of a connection that ended before it was accepted (accept(2), "Error handling"); the socket itself is well.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | HostUnreachable | Interrupted | NetworkDown | NetworkUnreachable
    )
}
