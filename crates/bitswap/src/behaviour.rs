//! The libp2p behaviour: carries events between the user, the client and server cores, the handlers, and the blocking
//! pool. It decides nothing but when.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
};

use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, behaviour::ConnectionEstablished,
    },
};
use shoal_content::Cid;
use tokio::{task::JoinHandle, time::Sleep};

use crate::{
    Blocks, Config, Counters, Event, Failure, Ledger,
    client::{Arrival, Ask, Client, News},
    handler::{Command, Gate, Handler, Permit, Report},
    jobs::{self, Checked, Done, Unchecked},
    ledger::Tally,
    server::{Sending, Server},
    verify,
    wire::{Message, Version},
};

/// Blocks hashed by one job, at most: many small ones are not worth a hop to another thread each.
const HASH_BATCH: usize = 64;

/// Bytes at which a hash job is large enough.
const HASH_BATCH_BYTES: usize = 256 << 10;

/// Bitswap. See the crate's documentation.
///
/// Must be polled within a tokio runtime.
pub struct Behaviour {
    blocks: Arc<dyn Blocks>,
    config: Arc<Config>,
    tally: Arc<Tally>,
    client: Client,
    server: Server,
    peers: HashMap<PeerId, Peer>,
    /// Gates of connections that are being made.
    gates: HashMap<PeerId, Weak<Gate>>,
    /// Peers that a control message may be due to; each at most once.
    dirty: VecDeque<PeerId>,
    jobs: FuturesUnordered<JoinHandle<Done>>,
    /// Received blocks; bounded by the permits of their connections.
    unchecked: VecDeque<Unchecked>,
    hashing: usize,
    sendings: VecDeque<Sending>,
    events: VecDeque<Event>,
    expiry: Option<Pin<Box<Sleep>>>,
    /// Until the server may have something to do by the clock alone.
    blocked: Option<Pin<Box<Sleep>>>,
    waker: Option<Waker>,
}

struct Peer {
    /// The first is the one that we send on.
    connections: Vec<ConnectionId>,
    gate: Arc<Gate>,
    /// [`Gate::received`] when it was last looked at.
    received: u64,
    /// A control message is with the handler.
    sending: bool,
    dirty: bool,
}

impl Behaviour {
    /// A behaviour that serves `blocks`.
    pub fn new(blocks: Arc<dyn Blocks>, config: Config) -> Self {
        let config = Arc::new(config);
        let tally = Arc::<Tally>::default();
        Self {
            blocks,
            client: Client::new(Arc::clone(&config)),
            server: Server::new(Arc::clone(&config), Arc::clone(&tally)),
            config,
            tally,
            peers: HashMap::new(),
            gates: HashMap::new(),
            dirty: VecDeque::new(),
            jobs: FuturesUnordered::new(),
            unchecked: VecDeque::new(),
            hashing: 0,
            sendings: VecDeque::new(),
            events: VecDeque::new(),
            expiry: None,
            blocked: None,
            waker: None,
        }
    }

    /// Asks the peer for a block; of its wants, the peer serves those of greater priority first. A peer that does not
    /// have it says so, which ends the want.
    ///
    /// A want that is outstanding already takes the new priority. A peer that is not connected fails the want at once:
    /// the behaviour dials nobody.
    pub fn want_block(&mut self, peer: PeerId, cid: Cid, priority: i32) {
        self.want(peer, cid, Ask::Block, priority);
    }

    /// Like [`Behaviour::want_block`], but a peer without the block is to keep the want and to send the block when it
    /// gets it. Ends without an answer only by [`Config::want_lifetime`].
    pub fn await_block(&mut self, peer: PeerId, cid: Cid, priority: i32) {
        self.want(peer, cid, Ask::Await, priority);
    }

    /// Asks whether the peer has a block. It may send a tiny block instead of a HAVE.
    pub fn want_have(&mut self, peer: PeerId, cid: Cid) {
        self.want(peer, cid, Ask::Have, 1);
    }

    /// Withdraws a want. No event follows, unless it is already on its way to the user.
    pub fn cancel(&mut self, peer: PeerId, cid: Cid) {
        self.client.cancel(&peer, &cid);
        self.touch(&peer);
    }

    /// A block has arrived in the store: peers that wait for it get it.
    pub fn have_now(&mut self, cid: &Cid) {
        self.server.arrived(cid);
        self.wake();
    }

    /// The connected peers, whether or not they have been heard to speak bitswap.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.peers.keys().copied()
    }

    /// What passed between this node and the peer, while it is connected.
    pub fn ledger(&self, peer: &PeerId) -> Option<Ledger> {
        self.peers.get(peer)?;
        let mut ledger = Ledger::default();
        self.client.fill(peer, &mut ledger);
        self.server.fill(peer, &mut ledger);
        Some(ledger)
    }

    /// Bytes of message bodies that have come from a connected peer so far, those of blocks that are not whole yet included:
    /// who waits for a block over a slow link sees by it that the block is on its way.
    pub fn arrived(&self, peer: &PeerId) -> Option<u64> {
        self.peers.get(peer).map(|state| state.gate.received())
    }

    /// What was done, dropped and refused.
    pub fn counters(&self) -> Counters {
        self.tally.snapshot()
    }

    fn want(&mut self, peer: PeerId, cid: Cid, ask: Ask, priority: i32) {
        match self.client.want(&peer, cid, ask, priority, Instant::now()) {
            Ok(()) => self.touch(&peer),
            Err(reason) => self.fail(peer, cid, reason),
        }
    }

    fn fail(&mut self, peer: PeerId, cid: Cid, reason: Failure) {
        self.tally.failed_wants.add(1);
        self.events.push_back(Event::Failed { peer, cid, reason });
        self.wake();
    }

    /// The peer's wants or answers have changed: tells its handlers, and sees to it that a message is sent if one is due.
    fn touch(&mut self, peer: &PeerId) {
        let Some(state) = self.peers.get_mut(peer) else { return };
        state.gate.set(self.client.wants_blocks(peer), self.client.is_busy(peer) || self.server.is_busy(peer));
        let due = self.client.has_entries(peer) || self.server.has_presences(peer);
        if due && !state.dirty && !state.sending {
            state.dirty = true;
            self.dirty.push_back(*peer);
        }
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn gate(&mut self, peer: &PeerId) -> Arc<Gate> {
        if let Some(state) = self.peers.get(peer) {
            return Arc::clone(&state.gate);
        }
        self.gates.retain(|_, gate| gate.strong_count() > 0);
        let gate = self.gates.get(peer).and_then(Weak::upgrade).unwrap_or_default();
        self.gates.insert(*peer, Arc::downgrade(&gate));
        gate
    }

    fn handler(&mut self, peer: &PeerId) -> Handler {
        let gate = self.gate(peer);
        Handler::new(Arc::clone(&self.config), Arc::clone(&self.tally), gate)
    }

    fn on_established(&mut self, peer: PeerId, connection: ConnectionId) {
        let gate = self.gate(&peer);
        self.gates.remove(&peer);
        self.client.connected(peer, Instant::now());
        self.server.connected(peer, Instant::now());
        let state = self.peers.entry(peer).or_insert_with(|| Peer {
            connections: Vec::new(),
            gate,
            received: 0,
            sending: false,
            dirty: false,
        });
        state.connections.push(connection);
    }

    fn on_closed(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let was_used = state.connections.first() == Some(&connection);
        state.connections.retain(|&other| other != connection);
        if state.connections.is_empty() {
            self.peers.remove(&peer);
            self.dirty.retain(|&other| other != peer);
            self.sendings.retain(|sending| sending.peer != peer);
            self.unchecked.retain(|unchecked| unchecked.peer != peer);
            self.server.disconnected(&peer);
            for cid in self.client.disconnected(&peer) {
                self.fail(peer, cid, Failure::Disconnected);
            }
        } else if was_used {
            // What was with its handler is lost.
            state.sending = false;
            self.client.resend(&peer);
            self.server.requeue(&peer);
            self.touch(&peer);
        }
        self.wake();
    }

    fn on_message(&mut self, peer: PeerId, message: Message, permit: Permit) {
        let now = Instant::now();
        self.client.heard(&peer, now);
        for presence in &message.presences {
            let cid = presence.cid;
            match self.client.presence(&peer, presence, now) {
                News::Have => self.events.push_back(Event::Have { peer, cid }),
                News::DontHave => self.events.push_back(Event::DontHave { peer, cid }),
                News::Unasked => self.tally.unasked_presences.add(1),
            }
        }
        if !message.wants.is_empty() || message.full {
            self.server.receive(&peer, message.wants, message.full);
        }
        if self.client.is_busy(&peer) {
            let permit = Arc::new(permit);
            let frame_len = permit.bytes();
            for block in message.blocks {
                self.unchecked.push_back(Unchecked { peer, block, frame_len, permit: Arc::clone(&permit) });
            }
        } else {
            let mut bad_bytes = 0;
            for block in &message.blocks {
                match self.client.unexpected(&peer) {
                    Arrival::Unasked => bad_bytes += block.data.len().max(1),
                    _ => self.tally.late_blocks.add(1),
                }
            }
            if bad_bytes > 0 {
                self.bad_block(peer, bad_bytes, message.blocks.len() as u64);
            }
        }
        self.touch(&peer);
    }

    fn bad_block(&mut self, peer: PeerId, bytes: usize, blocks: u64) {
        self.tally.bad_blocks.add(blocks);
        let count = self.ledger(&peer).map_or(0, |ledger| ledger.bad_blocks);
        self.events.push_back(Event::BadBlock { peer, bytes, count });
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Looked { peer, sizes } => {
                self.server.looked(&peer, &sizes);
                self.touch(&peer);
            }
            Done::Read { job, cid, data } => {
                let data = data.unwrap_or_else(|error| {
                    self.tally.failed_reads.add(1);
                    tracing::warn!(%cid, %error, "a block that the store lists cannot be read; peers are told that it is not here");
                    None
                });
                let peer = self.server.peer_of(job);
                self.sendings.extend(self.server.read(job, data));
                if let Some(peer) = peer {
                    self.touch(&peer);
                }
            }
            Done::Hashed { peer, blocks, permits } => {
                self.hashing -= 1;
                for block in blocks {
                    self.on_block(peer, block);
                }
                drop(permits);
                self.touch(&peer);
            }
        }
    }

    fn on_block(&mut self, peer: PeerId, Checked { cid, bare, data }: Checked) {
        let cid = match cid {
            Some(cid) if bare => verify::candidates(&cid).find(|cid| self.client.wants(&peer, cid)).or(Some(cid)),
            cid => cid,
        };
        match (self.client.block(&peer, cid.as_ref(), data.len(), Instant::now()), cid) {
            (Arrival::Wanted, Some(cid)) => {
                self.tally.blocks_received.add(1);
                self.tally.bytes_received.add(data.len() as u64);
                self.events.push_back(Event::Block { peer, cid, data });
            }
            (Arrival::Late, _) => self.tally.late_blocks.add(1),
            _ => {
                self.bad_block(peer, data.len(), 1);
                for cid in self.client.distrust(&peer) {
                    self.fail(peer, cid, Failure::BadBlock);
                }
            }
        }
    }

    /// The next control message, if one is due to anybody.
    fn next_control(&mut self) -> Option<ToSwarm<Event, Command>> {
        while let Some(peer) = self.dirty.pop_front() {
            let Some(state) = self.peers.get_mut(&peer) else { continue };
            state.dirty = false;
            let Some(&connection) = state.connections.first() else { continue };
            let (wants, full) = self.client.next_entries(&peer).unwrap_or_default();
            let presences = self.server.take_presences(&peer);
            let message = Message { wants, full, presences, ..Message::default() };
            if message.is_empty() {
                continue;
            }
            state.sending = true;
            let handler = NotifyHandler::One(connection);
            return Some(ToSwarm::NotifyHandler { peer_id: peer, handler, event: Command::Control(message) });
        }
        None
    }

    fn next_sending(&mut self) -> Option<ToSwarm<Event, Command>> {
        while let Some(Sending { job, peer, cid, data }) = self.sendings.pop_front() {
            let Some(&connection) = self.peers.get(&peer).and_then(|state| state.connections.first()) else { continue };
            let handler = NotifyHandler::One(connection);
            return Some(ToSwarm::NotifyHandler { peer_id: peer, handler, event: Command::Block { job, cid, data } });
        }
        None
    }

    fn start_jobs(&mut self) {
        while let Some(action) = self.server.next_action(Instant::now()) {
            self.jobs.push(jobs::store(Arc::clone(&self.blocks), action));
        }
        while self.hashing < self.config.max_hashes
            && let Some(first) = self.unchecked.pop_front()
        {
            let peer = first.peer;
            let mut bytes = first.block.data.len();
            let mut batch = vec![first];
            while bytes < HASH_BATCH_BYTES
                && batch.len() < HASH_BATCH
                && let Some(next) = self.unchecked.pop_front_if(|next| next.peer == peer)
            {
                bytes += next.block.data.len();
                batch.push(next);
            }
            self.hashing += 1;
            self.jobs.push(jobs::hash(Arc::clone(&self.blocks), peer, batch));
        }
    }

    /// Whether the server may have something to do.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(until) = self.server.blocked_until() else {
            self.blocked = None;
            return false;
        };
        let until = tokio::time::Instant::from_std(until);
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if blocked.deadline() != until {
            blocked.as_mut().reset(until);
        }
        blocked.as_mut().poll(cx).is_ready()
    }

    /// Whether wants have expired.
    fn poll_expiry(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.client.has_wants() {
            self.expiry = None;
            return false;
        }
        let interval = self.client.expire_interval();
        let expiry = self.expiry.get_or_insert_with(|| Box::pin(tokio::time::sleep(interval)));
        if expiry.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.expiry = None;
        let now = Instant::now();
        for (peer, state) in &mut self.peers {
            let received = state.gate.received();
            if std::mem::replace(&mut state.received, received) != received {
                self.client.heard(peer, now);
            }
        }
        for (peer, cid) in self.client.expire(now) {
            self.fail(peer, cid, Failure::TimedOut);
            self.touch(&peer);
        }
        true
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(&peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(&peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.on_established(peer_id, connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.on_closed(peer_id, connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, report: THandlerOutEvent<Self>) {
        match report {
            Report::Received { message, permit } => self.on_message(peer, message, permit),
            Report::ControlSent { version, lost } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.sending = false;
                }
                for cid in self.client.is_old(&peer, version < Version::V1_2) {
                    self.fail(peer, cid, Failure::Unsupported);
                }
                if lost {
                    self.client.resend(&peer);
                }
                self.touch(&peer);
            }
            Report::ControlFailed { unsupported } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.sending = false;
                }
                let reason = if unsupported { Failure::Unsupported } else { Failure::Stream };
                for cid in self.client.fail_all(&peer) {
                    self.fail(peer, cid, reason);
                }
                self.touch(&peer);
            }
            Report::BlockSent { job, bytes } => {
                self.server.sent(job, bytes, Instant::now());
                self.touch(&peer);
            }
            Report::BlockFailed { job } => {
                self.server.failed(job);
                self.touch(&peer);
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            if let Some(command) = self.next_control().or_else(|| self.next_sending()) {
                return Poll::Ready(command);
            }
            self.start_jobs();
            match self.jobs.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(done))) => {
                    self.on_done(done);
                    continue;
                }
                // Jobs do not panic; they are cancelled only when the runtime is shut down.
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "bitswap job lost");
                    continue;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
            if !self.poll_blocked(cx) && !self.poll_expiry(cx) {
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }
}
