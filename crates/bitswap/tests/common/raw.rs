//! A peer without manners: opens bitswap streams, takes those it is offered, and leaves it to the test what to do on
//! them.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, Stream,
    core::{Endpoint, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, StreamProtocol, SubstreamProtocol, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};

/// Streams, as they come.
#[derive(Debug)]
pub enum Opened {
    ByUs(Stream),
    ByPeer(Stream),
}

pub struct Raw {
    protocol: StreamProtocol,
    opens: VecDeque<PeerId>,
    opened: VecDeque<Opened>,
}

impl Raw {
    pub fn new(protocol: &'static str) -> Self {
        Self { protocol: StreamProtocol::new(protocol), opens: VecDeque::new(), opened: VecDeque::new() }
    }

    pub fn open(&mut self, peer: PeerId) {
        self.opens.push_back(peer);
    }
}

pub struct Handler {
    protocol: StreamProtocol,
    opens: usize,
    opened: VecDeque<Opened>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = ();
    type ToBehaviour = Opened;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Opened>> {
        if let Some(opened) = self.opened.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(opened));
        }
        if self.opens > 0 {
            self.opens -= 1;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol: self.listen_protocol() });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, (): ()) {
        self.opens += 1;
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, ReadyUpgrade<StreamProtocol>, ReadyUpgrade<StreamProtocol>>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.opened.push_back(Opened::ByPeer(protocol));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.opened.push_back(Opened::ByUs(protocol));
            }
            _ => {}
        }
    }
}

impl NetworkBehaviour for Raw {
    type ConnectionHandler = Handler;
    type ToSwarm = Opened;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler { protocol: self.protocol.clone(), opens: 0, opened: VecDeque::new() })
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        self.handle_established_inbound_connection(id, peer, address, address)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, opened: Opened) {
        self.opened.push_back(opened);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Opened, ()>> {
        if let Some(opened) = self.opened.pop_front() {
            return Poll::Ready(ToSwarm::GenerateEvent(opened));
        }
        if let Some(peer_id) = self.opens.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::Any, event: () });
        }
        Poll::Pending
    }
}
