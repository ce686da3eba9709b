//! Connections, and what the protocols report of them.

use std::time::Instant;

use libp2p::{
    Multiaddr, PeerId,
    core::ConnectedPoint,
    identify, kad, mdns, ping,
    swarm::{ConnectionId, DialError, ListenError, SwarmEvent},
};

use super::EventLoop;
use crate::{
    behaviour::{BehaviourEvent, KADEMLIA},
    coordinate,
    seed::{multiaddress, socket_address},
};

impl EventLoop {
    pub(super) fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        if let Some(metrics) = &self.metrics {
            metrics.record(&event);
        }
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(&address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_not_listening(&address),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(
                    ?addresses,
                    ?reason,
                    "the swarm no longer listens here; peers cannot connect to this node"
                );
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, cause, .. } => {
                tracing::debug!(peer = %peer_id, ?cause, "peer is gone");
                self.on_gone(peer_id);
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                self.on_refused(&send_back_addr, &error);
            }
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Kademlia(event) => self.on_kademlia(event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Ping(event) => self.on_ping(&event),
            BehaviourEvent::Mdns(mdns::Event::Discovered(found)) => {
                let now = self.now();
                for address in found.iter().filter_map(|(_, address)| socket_address(address)) {
                    self.discovery.remember(address, now);
                }
            }
            BehaviourEvent::Outlines(event) => self.on_outlines(event),
            BehaviourEvent::Coordinate(event) => self.on_coordinate(event),
            BehaviourEvent::Tell(event) => self.on_told(event),
            BehaviourEvent::Bitswap(event) => self.on_bitswap(event),
            // Limits have nothing to say, and what mDNS no longer sees shows itself by its connections.
            _ => {}
        }
    }

    fn on_listening(&mut self, address: &Multiaddr) {
        let Some(socket) = socket_address(address) else { return };
        self.discovery.is_own(socket);
        // A node that listens everywhere also listens on its loopback address, which is of use to nobody else.
        if self.advertised || (self.listens_anywhere && socket.ip().is_loopback()) {
            return;
        }
        self.swarm.add_external_address(address.clone());
        self.addresses.send_modify(|addresses| addresses.push(address.clone()));
        tracing::info!(%address, "listening for peers");
    }

    fn on_not_listening(&mut self, address: &Multiaddr) {
        let now = self.now();
        if let Some(socket) = socket_address(address) {
            self.discovery.is_not_own(socket, now);
        }
        if !self.advertised {
            self.swarm.remove_external_address(address);
            self.addresses.send_modify(|addresses| addresses.retain(|other| other != address));
        }
    }

    fn on_connected(&mut self, peer: PeerId, connection: ConnectionId, endpoint: &ConnectedPoint) {
        self.dials.remove(&connection);
        let remote = socket_address(endpoint.get_remote_address());
        let is_new = self.peers.connected(peer, remote, Instant::now());
        if let (ConnectedPoint::Dialer { .. }, Some(socket)) = (endpoint, remote) {
            self.discovery.is_peer(socket, peer);
            self.peers.reached_at(&peer, &multiaddress(socket));
        }
        if !is_new {
            return;
        }
        tracing::debug!(%peer, address = %endpoint.get_remote_address(), "peer connected");
        self.swarm.behaviour_mut().kademlia.store_mut().peer_up(&peer);
        self.send_waiting(peer);
        if self.peers.len() <= self.max_peers {
            return;
        }
        let bitswap = &self.swarm.behaviour().bitswap;
        let is_busy = |id: &PeerId| {
            let ledger = bitswap.ledger(id).unwrap_or_default();
            ledger.wants_sent > 0 || ledger.queue_depth > 0 || ledger.bytes_outstanding > 0
        };
        if let Some(least) = self.peers.least_used(&peer, is_busy) {
            tracing::debug!(peer = %least, "peer is let go to make room");
            self.counts.peers_let_go.inc();
            self.let_go.insert(least);
            let _ = self.swarm.disconnect_peer_id(least);
        }
    }

    fn on_gone(&mut self, peer: PeerId) {
        let now = self.now();
        self.peers.gone(&peer);
        self.fail_peer(peer);
        self.discovery.peer_gone(peer, now);
        if !self.let_go.remove(&peer) {
            self.is_down(peer);
        }
        self.count_serving();
    }

    /// A peer cannot be reached: nobody is sent there until it is back.
    fn is_down(&mut self, peer: PeerId) {
        let kademlia = &mut self.swarm.behaviour_mut().kademlia;
        kademlia.store_mut().peer_down(peer);
        kademlia.remove_peer(&peer);
    }

    fn count_serving(&mut self) {
        let now = self.now();
        self.provided.lock().announcer.peers(self.peers.serving(), now);
        self.announce_due();
    }

    fn on_dial_failed(&mut self, connection: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let now = self.now();
        if let Some(address) = self.dials.remove(&connection) {
            if matches!(error, DialError::LocalPeerId { .. }) {
                self.discovery.is_own(address);
                return;
            }
            self.discovery.failed(address, now);
            if self.peers.len() == 0 && self.may_tell() {
                tracing::warn!(
                    %address,
                    %error,
                    "this node has no peer, and the one that should be here was not reached, or its swarm key is another; \
                     it is tried again, and further failures of this minute are not told"
                );
            } else {
                tracing::debug!(%address, %error, "dial failed");
            }
        }
        self.counts.dials_failed.inc();
        if let DialError::WrongPeerId { obtained, address } = error {
            tracing::debug!(expected = ?peer, %obtained, %address, "another peer is at this address now");
        }
        let Some(peer) = peer.filter(|peer| !self.swarm.is_connected(peer)) else { return };
        match error {
            DialError::Transport(_) | DialError::WrongPeerId { .. } => {
                self.is_down(peer);
                self.fail_peer(peer);
            }
            DialError::NoAddresses | DialError::Denied { .. } | DialError::LocalPeerId { .. } => self.fail_peer(peer),
            // Another dial is under way, or was given up for one that stands.
            DialError::DialPeerConditionFalse(_) | DialError::Aborted => {}
        }
    }

    fn on_refused(&mut self, from: &Multiaddr, error: &ListenError) {
        if matches!(error, ListenError::LocalPeerId { .. } | ListenError::Aborted) {
            return;
        }
        self.counts.connections_refused.inc();
        if !self.may_tell() {
            tracing::debug!(%from, %error, "connection refused");
            return;
        }
        match error {
            ListenError::Denied { cause } => {
                tracing::warn!(%from, %cause, "connection refused: a limit is reached; further refusals of this minute are not told");
            }
            _ => tracing::warn!(
                %from,
                %error,
                "connection failed in the handshake: is its swarm key this node's? Further failures of this minute are not told"
            ),
        }
    }

    fn on_identify(&mut self, event: identify::Event) {
        if let Some(metrics) = &self.metrics {
            metrics.record(&event);
        }
        let identify::Event::Received { peer_id: peer, info, .. } = event else { return };
        let serves_records = info.protocols.contains(&KADEMLIA);
        let addresses = self.peers.identified(&peer, &info.agent_version, &info.listen_addrs, serves_records);
        self.peers.coordinates(&peer, info.protocols.contains(&coordinate::PROTOCOL));
        self.peers.heard(&peer, Instant::now());
        for address in &addresses {
            if let Some(socket) = socket_address(address) {
                self.discovery.is_peer(socket, peer);
            }
            if serves_records {
                self.swarm.behaviour_mut().kademlia.add_address(&peer, address.clone());
            }
        }
        self.count_serving();
    }

    fn on_ping(&mut self, event: &ping::Event) {
        if let Some(metrics) = &self.metrics {
            metrics.record(event);
        }
        match &event.result {
            Ok(rtt) => self.peers.measured(&event.peer, *rtt, Instant::now()),
            // It answers, if only that it does not ping.
            Err(ping::Failure::Unsupported) => self.peers.heard(&event.peer, Instant::now()),
            Err(error) => tracing::debug!(peer = %event.peer, %error, "ping failed"),
        }
    }

    fn on_kademlia(&mut self, event: kad::Event) {
        if let Some(metrics) = &self.metrics {
            metrics.record(&event);
        }
        let kad::Event::OutboundQueryProgressed { id, result, stats, step } = event else { return };
        match result {
            kad::QueryResult::GetProviders(result) => self.on_found(id, result, step.last),
            kad::QueryResult::StartProviding(_) => self.on_announced(id, stats.num_successes() as usize),
            _ => {}
        }
    }
}
