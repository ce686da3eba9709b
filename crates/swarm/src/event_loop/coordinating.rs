//! Requests to coordinators, and those that come to this node as one.

use std::collections::HashMap;

use libp2p::{
    PeerId,
    request_response::{Event, Message, OutboundRequestId, ResponseChannel},
};
use shoal_content::Digest;
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinSet},
};

use super::{EventLoop, asking::request_error};
use crate::error::Error;

/// Requests that wait here for an answer. Each member of a blob has two open at the most.
const MAX_OPEN: usize = 8192;

pub(crate) type CoordinateReply = oneshot::Sender<Result<Vec<u8>, Error>>;

/// An answer, and where it goes.
type Answer = (ResponseChannel<Vec<u8>>, Option<Vec<u8>>);

/// Requests under way, in both directions.
#[derive(Default)]
pub(super) struct Coordinating {
    asked: HashMap<OutboundRequestId, CoordinateReply>,
    pub(super) answers: JoinSet<Answer>,
}

impl EventLoop {
    /// Peers that may coordinate, nearest to the digest first; this node is `None` among them.
    pub(super) fn nearest(&self, digest: &Digest, count: usize) -> Vec<Option<PeerId>> {
        self.peers.coordinators(&digest.multihash().to_bytes(), *self.swarm.local_peer_id(), count)
    }

    pub(super) fn ask_coordinator(&mut self, peer: PeerId, request: Vec<u8>, reply: CoordinateReply) {
        if !self.swarm.is_connected(&peer) {
            let _ = reply.send(Err(Error::Unreachable(peer)));
            return;
        }
        let request = self.swarm.behaviour_mut().coordinate.send_request(&peer, request);
        self.coordinating.asked.insert(request, reply);
    }

    pub(super) fn on_coordinate(&mut self, event: Event<Vec<u8>, Vec<u8>>) {
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                // Dropping the channel tells the peer that nothing comes.
                if self.coordinating.answers.len() >= MAX_OPEN {
                    return;
                }
                if let Some(answer) = self.provides.coordinate(peer, request) {
                    self.coordinating.answers.spawn(async move { (channel, answer.await.ok()) });
                }
            }
            Event::Message { message: Message::Response { request_id, response }, .. } => {
                if let Some(reply) = self.coordinating.asked.remove(&request_id) {
                    let _ = reply.send(Ok(response));
                }
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                if let Some(reply) = self.coordinating.asked.remove(&request_id) {
                    let _ = reply.send(Err(request_error(peer, error)));
                }
            }
            Event::InboundFailure { peer, error, .. } => tracing::trace!(%peer, %error, "a member went away"),
            Event::ResponseSent { .. } => {}
        }
    }

    pub(super) fn on_coordinated(&mut self, ready: Result<Answer, JoinError>) {
        if let Ok((channel, Some(answer))) = ready {
            // An error means that the member no longer waits.
            let _ = self.swarm.behaviour_mut().coordinate.send_response(channel, answer);
        }
    }
}
