//! The one task that owns libp2p's swarm.
//!
//! It takes commands from handles and events from the network, and decides nothing that a state machine beside it can decide:
//! [`Discovery`] says what to dial, [`Announcer`](crate::announce::Announcer) what to announce, [`Wants`] who waits for what.
//! Nothing in it blocks: names are resolved in tasks, outlines are read on blocking threads, bitswap does the same for blocks.
//!
//! - `network` — connections, and what the protocols report
//! - `names` — names among the seeds, asked for again and again
//! - `announcing` — telling peers of our keys
//! - `lookups` — finding providers for callers
//! - `asking` — outlines, in both directions, and blocks

mod announcing;
mod asking;
mod coordinating;
mod lookups;
mod names;
mod network;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    kad::RecordKey,
    swarm::{
        self, ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use shoal_content::{Cid, Digest};
use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::MissedTickBehavior,
};

use self::names::Names;
use crate::{
    Metrics, Provides,
    behaviour::Behaviour,
    config::Config,
    discovery::Discovery,
    error::{BlockError, Error},
    metrics::Counts,
    outlines::{Answer, Request},
    peers::{PeerInfo, Peers},
    provided::Provided,
    seed::{Place, Seed, multiaddress},
    transport,
    wants::{Abandoned, Reply, WantId, Wants},
};

/// How often what is due is looked for. Dials and renewals may wait that long; nothing that a caller waits for does.
const TICK: Duration = Duration::from_millis(200);

/// How often expired provider records are dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// How often gauges are set.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Dials of discovery under way. With a dial timeout of seconds this many black holes still leave room for the living.
const MAX_DIALS: usize = 64;

/// How often an operator is told of connections that fail.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What handles ask for.
#[derive(Debug)]
pub(crate) enum Command {
    Providers { key: RecordKey, reply: mpsc::Sender<PeerId> },
    Ask { peer: PeerId, request: Request, reply: AnswerReply },
    Want { id: WantId, peer: PeerId, cid: Cid, priority: i32, reply: Reply },
    HaveNow { cid: Cid },
    Peers { reply: oneshot::Sender<Vec<PeerInfo>> },
    Nearest { digest: Digest, count: usize, reply: oneshot::Sender<Vec<Option<PeerId>>> },
    Arrived { peers: Vec<PeerId>, reply: oneshot::Sender<Vec<u64>> },
    Coordinate { peer: PeerId, request: Vec<u8>, reply: CoordinateReply },
    Shutdown { reply: oneshot::Sender<()> },
}

pub(crate) use coordinating::CoordinateReply;

pub(crate) type AnswerReply = oneshot::Sender<Result<Answer, Error>>;

pub(crate) struct EventLoop {
    swarm: Swarm<Behaviour>,
    provides: Arc<dyn Provides>,
    commands: mpsc::Receiver<Command>,
    abandoned: Arc<Abandoned>,
    metrics: Option<Metrics>,
    counts: Counts,
    began: Instant,
    max_peers: usize,
    dead_after: Duration,

    // Who there is.
    peers: Peers,
    discovery: Discovery,
    dials: HashMap<ConnectionId, SocketAddr>,
    /// Peers let go for others: they are not down.
    let_go: HashSet<PeerId>,
    names: Names,

    // Where we are.
    advertised: bool,
    listens_anywhere: bool,
    addresses: watch::Sender<Vec<Multiaddr>>,

    // What is under way.
    provided: Arc<Provided>,
    announcing: announcing::Announcing,
    lookups: lookups::Lookups,
    asking: asking::Asking,
    coordinating: coordinating::Coordinating,
    departures: broadcast::Sender<PeerId>,
    wants: Wants,

    next_sweep: Duration,
    next_report: Duration,
    told: Option<Instant>,
    refused_records: u64,
    exchanged: shoal_bitswap::Counters,
}

impl EventLoop {
    pub(crate) fn new(
        mut config: Config,
        provides: Arc<dyn Provides>,
        provided: Arc<Provided>,
        addresses: watch::Sender<Vec<Multiaddr>>,
        commands: mpsc::Receiver<Command>,
        abandoned: Arc<Abandoned>,
        departures: broadcast::Sender<PeerId>,
    ) -> Result<Self, Error> {
        let metrics = config.metrics.take();
        let connections = transport::build(config.identity.keypair(), &config.admission, config.dial_timeout)?;
        let behaviour = Behaviour::new(&config, &provides)?;
        // Members of a cluster stay connected: there is always a next pull.
        let swarm_config =
            swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(u64::from(u32::MAX)));
        let mut swarm = Swarm::new(connections, behaviour, config.identity.peer(), swarm_config);

        for address in &config.listen {
            let failed = |reason: String| Error::Listen { address: address.clone(), reason };
            is_free(address).map_err(|error| failed(error.to_string()))?;
            swarm.listen_on(address.clone()).map_err(|error| failed(error.to_string()))?;
        }
        for address in &config.advertise {
            swarm.add_external_address(address.clone());
        }
        if !config.advertise.is_empty() {
            addresses.send_replace(config.advertise.clone());
        }

        let mut discovery = Discovery::new(rand::random());
        let mut names = Names::new(config.resolver, config.resolve_every);
        for (number, Seed { place, peer }) in config.seeds.into_iter().enumerate() {
            match place {
                Place::Address(address) => discovery.listed(number, &[address], peer, Duration::ZERO),
                Place::Name { host, port } => names.add(number, host, port, peer),
            }
        }
        let counts = metrics.as_ref().map(|metrics| metrics.counts.clone()).unwrap_or_default();
        Ok(Self {
            swarm,
            provides,
            commands,
            abandoned,
            metrics,
            counts,
            began: Instant::now(),
            max_peers: config.max_peers.max(1),
            dead_after: config.dead_after,
            peers: Peers::default(),
            discovery,
            dials: HashMap::new(),
            let_go: HashSet::new(),
            names,
            advertised: !config.advertise.is_empty(),
            listens_anywhere: config.listen.iter().any(is_wildcard),
            addresses,
            provided,
            announcing: announcing::Announcing::default(),
            lookups: lookups::Lookups::default(),
            asking: asking::Asking::default(),
            coordinating: coordinating::Coordinating::default(),
            departures,
            wants: Wants::default(),
            next_sweep: SWEEP_EVERY,
            next_report: Duration::ZERO,
            told: None,
            refused_records: 0,
            exchanged: shoal_bitswap::Counters::default(),
        })
    }

    /// Runs until it is told to stop or the last handle is gone.
    pub(crate) async fn run(mut self) {
        let provided = Arc::clone(&self.provided);
        let abandoned = Arc::clone(&self.abandoned);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stopped = loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown { reply }) => break Some(reply),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                () = abandoned.changed() => self.cancel_wants(),
                () = provided.changed() => self.announce_due(),
                Some(coordinated) = self.coordinating.answers.join_next() => self.on_coordinated(coordinated),
                Some(answered) = self.asking.answers.join_next() => self.on_answer_ready(answered),
                Some(Ok((name, resolved))) = self.names.resolving.join_next() => self.on_resolved(name, resolved),
                _ = tick.tick() => self.on_tick(),
            }
        };
        self.commands.close();
        // Dropping the swarm closes its sockets; only then may the port be said to be free.
        drop(self);
        if let Some(reply) = stopped {
            let _ = reply.send(());
        }
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Providers { key, reply } => self.begin_lookup(key, reply),
            Command::Ask { peer, request, reply } => self.ask(peer, request, reply),
            Command::Want { id, peer, cid, priority, reply } => self.begin_want(id, peer, cid, priority, reply),
            Command::HaveNow { cid } => self.swarm.behaviour_mut().bitswap.have_now(&cid),
            Command::Peers { reply } => drop(reply.send(self.peer_infos())),
            Command::Nearest { digest, count, reply } => drop(reply.send(self.nearest(&digest, count))),
            Command::Arrived { peers, reply } => {
                let bitswap = &self.swarm.behaviour().bitswap;
                let arrived = peers.iter().map(|peer| bitswap.arrived(peer).unwrap_or(0)).collect();
                drop(reply.send(arrived));
            }
            Command::Coordinate { peer, request, reply } => self.ask_coordinator(peer, request, reply),
            Command::Shutdown { .. } => {}
        }
    }

    /// The time on the state machines' clock.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn on_tick(&mut self) {
        let now = self.now();
        self.resolve_names(now);
        self.dial_due(now);
        self.announce_due();
        self.end_abandoned_lookups();
        self.drop_silent_peers();
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_EVERY;
            self.swarm.behaviour_mut().kademlia.store_mut().sweep();
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_EVERY;
            self.report();
        }
    }

    fn dial_due(&mut self, now: Duration) {
        // The last quarter is for peers that dial us: where nobody has room for a newcomer, it would stay alone.
        if self.peers.len() >= self.max_peers - self.max_peers / 4 {
            return;
        }
        for dial in self.discovery.due(now, MAX_DIALS.saturating_sub(self.dials.len())) {
            let address = multiaddress(dial.address);
            if let Some(peer) = dial.expected.filter(|peer| self.swarm.is_connected(peer)) {
                self.discovery.is_peer(dial.address, peer);
                continue;
            }
            // A port of its own: a connection from the listening port to one that closed a moment ago is refused by the system.
            let options = match dial.expected {
                Some(peer) => DialOpts::peer_id(peer)
                    .condition(PeerCondition::Always)
                    .addresses(vec![address])
                    .allocate_new_port()
                    .build(),
                None => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
            };
            let connection = options.connection_id();
            match self.swarm.dial(options) {
                Ok(()) => drop(self.dials.insert(connection, dial.address)),
                Err(_) => self.discovery.failed(dial.address, now),
            }
        }
    }

    /// Connects to a peer by whatever is known of where it is; false when nothing is.
    fn dial_peer(&mut self, peer: PeerId) -> bool {
        let known = self.swarm.behaviour_mut().kademlia.store_mut().addresses(&peer);
        let options = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(known)
            .extend_addresses_through_behaviour()
            .allocate_new_port()
            .build();
        matches!(self.swarm.dial(options), Ok(()) | Err(swarm::DialError::DialPeerConditionFalse(_)))
    }

    fn drop_silent_peers(&mut self) {
        let now = Instant::now();
        for peer in self.peers.silent(self.dead_after, now) {
            // Its answers to our pings may wait behind blocks that are still moving.
            let ledger = self.swarm.behaviour().bitswap.ledger(&peer).unwrap_or_default();
            self.peers.moved(&peer, ledger.bytes_sent + ledger.bytes_received, now);
        }
        for peer in self.peers.silent(self.dead_after, now) {
            tracing::info!(%peer, "peer has fallen silent; its connections are closed");
            self.counts.peers_silent.inc();
            // An error means that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// Whether an operator may be told of one more connection that fails. Strangers can make as many as they like.
    fn may_tell(&mut self) -> bool {
        let may_tell = self.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY);
        if may_tell {
            self.told = Some(Instant::now());
        }
        may_tell
    }

    fn peer_infos(&self) -> Vec<PeerInfo> {
        let bitswap = &self.swarm.behaviour().bitswap;
        let info = |(id, peer): (&PeerId, &crate::peers::Peer)| PeerInfo {
            id: *id,
            addresses: peer.addresses.clone(),
            agent: peer.agent.clone(),
            rtt: peer.rtt,
            connected_since: peer.since,
            ledger: bitswap.ledger(id).unwrap_or_default(),
        };
        self.peers.iter().map(info).collect()
    }

    fn report(&mut self) {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let store = self.swarm.behaviour_mut().kademlia.store_mut();
        self.counts.provider_keys.set(gauge(store.len()));
        self.counts.provided_keys.set(gauge(store.provided_len()));
        let refused = store.refused();
        self.counts.records_refused.inc_by(refused - self.refused_records);
        self.refused_records = refused;
        self.counts.unannounced_keys.set(gauge(self.provided.lock().announcer.unannounced()));
        self.counts.peers.set(gauge(self.peers.len()));
        self.counts.wants.set(gauge(self.wants.len()));
        let now = self.swarm.behaviour().bitswap.counters();
        let before = std::mem::replace(&mut self.exchanged, now);
        self.counts.exchanged(&before, &now);
    }

    /// Nothing will come from this peer: tells all who wait for it.
    fn fail_peer(&mut self, peer: PeerId) {
        self.wants.fail_peer(peer, &BlockError::Disconnected);
        self.fail_outlines(peer);
        // An error means that nobody listens.
        let _ = self.departures.send(peer);
    }
}

/// libp2p shares its ports (`SO_REUSEPORT`), so a second node on one port would quietly take half of the first one's connections.
fn is_free(address: &Multiaddr) -> std::io::Result<()> {
    match crate::seed::socket_address(address) {
        Some(address) if address.port() != 0 => std::net::TcpListener::bind(address).map(drop),
        _ => Ok(()),
    }
}

fn is_wildcard(address: &Multiaddr) -> bool {
    crate::seed::socket_address(address).is_some_and(|address| address.ip().is_unspecified())
}
