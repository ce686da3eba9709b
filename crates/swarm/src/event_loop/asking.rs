//! Outlines and tags, asked for and given, and blocks asked for.

use std::{collections::HashMap, io, sync::Arc, time::Instant};

use libp2p::{
    PeerId,
    request_response::{Event, Message, OutboundFailure, OutboundRequestId, ResponseChannel},
};
use shoal_bitswap::Failure;
use shoal_content::Cid;
use tokio::task::{JoinError, JoinSet};

use super::{AnswerReply, EventLoop};
use crate::{
    error::{BlockError, Error},
    outlines::{Answer, Request},
    wants::{Ask, Reply, WantId},
};

/// Outlines that are read for peers at once. Each takes a blocking thread for a read or two.
const MAX_ANSWERING: usize = 64;

/// Requests for outlines that wait for a connection to one peer.
const MAX_WAITING: usize = 256;

/// Requests under way.
#[derive(Default)]
pub(super) struct Asking {
    asked: HashMap<OutboundRequestId, AnswerReply>,
    /// Requests to peers that are being dialled.
    waiting: HashMap<PeerId, Vec<(Request, AnswerReply)>>,
    /// Answers being read.
    pub(super) answers: JoinSet<(ResponseChannel<Answer>, Answer)>,
}

impl EventLoop {
    pub(super) fn ask(&mut self, peer: PeerId, request: Request, reply: AnswerReply) {
        if reply.is_closed() {
            return;
        }
        if self.swarm.is_connected(&peer) {
            let request = self.swarm.behaviour_mut().outlines.send_request(&peer, request);
            self.asking.asked.insert(request, reply);
            return;
        }
        let has_room = self.asking.waiting.get(&peer).is_none_or(|waiting| waiting.len() < MAX_WAITING);
        if has_room && self.dial_peer(peer) {
            self.asking.waiting.entry(peer).or_default().push((request, reply));
        } else {
            let _ = reply.send(Err(Error::Unreachable(peer)));
        }
    }

    /// A peer is connected: sends it what waits for it.
    pub(super) fn send_waiting(&mut self, peer: PeerId) {
        for (request, reply) in self.asking.waiting.remove(&peer).unwrap_or_default() {
            self.ask(peer, request, reply);
        }
        for ask in self.wants.of(&peer) {
            self.ask_block(peer, ask);
        }
    }

    pub(super) fn fail_outlines(&mut self, peer: PeerId) {
        for (_, reply) in self.asking.waiting.remove(&peer).unwrap_or_default() {
            let _ = reply.send(Err(Error::Unreachable(peer)));
        }
    }

    pub(super) fn on_outlines(&mut self, event: Event<Request, Answer>) {
        match event {
            Event::Message { peer, message: Message::Request { request, channel, .. }, .. } => {
                self.peers.heard(&peer, Instant::now());
                self.answer(request, channel);
            }
            Event::Message { peer, message: Message::Response { request_id, response }, .. } => {
                self.peers.used(&peer, Instant::now());
                let Some(reply) = self.asking.asked.remove(&request_id) else { return };
                let result = match response {
                    Answer::NotHeld | Answer::Held(_) | Answer::Tag(_) => Ok(response),
                    Answer::Busy => Err(Error::Busy(peer)),
                    Answer::NotUnderstood => Err(Error::Unsupported(peer)),
                    Answer::TooLarge => {
                        Err(Error::BadAnswer { peer, reason: "the outline is too large to send".into() })
                    }
                };
                let _ = reply.send(result);
            }
            Event::OutboundFailure { peer, request_id, error, .. } => {
                let Some(reply) = self.asking.asked.remove(&request_id) else { return };
                let _ = reply.send(Err(request_error(peer, error)));
            }
            Event::InboundFailure { peer, error, .. } => tracing::debug!(%peer, %error, "outline was not given"),
            Event::ResponseSent { .. } => {}
        }
    }

    fn answer(&mut self, request: Request, channel: ResponseChannel<Answer>) {
        if request == Request::Unknown {
            self.give(channel, Answer::NotUnderstood);
            return;
        }
        if self.asking.answers.len() >= MAX_ANSWERING {
            self.counts.outlines_busy.inc();
            self.give(channel, Answer::Busy);
            return;
        }
        let provides = Arc::clone(&self.provides);
        self.asking.answers.spawn_blocking(move || {
            let answer = match request {
                Request::Outline(digest) => provides.outline(&digest).map(Answer::Held),
                Request::Tag(name) => provides.tag(&name).map(Answer::Tag),
                Request::Unknown => None,
            };
            (channel, answer.unwrap_or(Answer::NotHeld))
        });
    }

    pub(super) fn on_answer_ready(&mut self, ready: Result<(ResponseChannel<Answer>, Answer), JoinError>) {
        match ready {
            Ok((channel, answer)) => {
                if matches!(answer, Answer::Held(_)) {
                    self.counts.outlines_served.inc();
                }
                self.give(channel, answer);
            }
            // The channel is gone with the task, so the peer is told that nothing comes.
            Err(error) => tracing::error!(%error, "reading an outline failed"),
        }
    }

    fn give(&mut self, channel: ResponseChannel<Answer>, answer: Answer) {
        // An error means that the peer no longer waits.
        let _ = self.swarm.behaviour_mut().outlines.send_response(channel, answer);
    }

    pub(super) fn begin_want(&mut self, id: WantId, peer: PeerId, cid: Cid, priority: i32, reply: Reply) {
        if reply.is_abandoned() {
            return;
        }
        let is_connected = self.swarm.is_connected(&peer);
        if !is_connected && !self.dial_peer(peer) {
            reply.fail(BlockError::Disconnected);
            return;
        }
        let ask = self.wants.add(id, peer, cid, priority, reply);
        if let Some(ask) = ask.filter(|_| is_connected) {
            self.ask_block(peer, ask);
        }
    }

    /// Withdraws what nobody waits for any longer.
    pub(super) fn cancel_wants(&mut self) {
        for id in self.abandoned.take() {
            if let Some((peer, cid)) = self.wants.cancel(id) {
                self.swarm.behaviour_mut().bitswap.cancel(peer, cid);
            }
        }
    }

    fn ask_block(&mut self, peer: PeerId, ask: Ask) {
        let bitswap = &mut self.swarm.behaviour_mut().bitswap;
        if ask.block {
            bitswap.want_block(peer, ask.cid, ask.priority);
        } else {
            bitswap.want_have(peer, ask.cid);
        }
    }

    pub(super) fn on_bitswap(&mut self, event: shoal_bitswap::Event) {
        use shoal_bitswap::Event;
        match event {
            Event::Block { peer, cid, data } => {
                self.peers.used(&peer, Instant::now());
                self.wants.block(peer, cid, &data);
            }
            Event::Have { peer, cid } => {
                self.peers.heard(&peer, Instant::now());
                self.wants.have(peer, cid);
            }
            Event::DontHave { peer, cid } => {
                self.peers.heard(&peer, Instant::now());
                self.wants.dont_have(peer, cid);
            }
            Event::Failed { peer, cid, reason } => {
                let error = match reason {
                    // A stream that cannot be had says nothing against the peer's word.
                    Failure::Disconnected | Failure::Stream => BlockError::Disconnected,
                    Failure::TimedOut | Failure::TooMany => BlockError::Timeout,
                    Failure::Unsupported | Failure::BadBlock => BlockError::Invalid(reason.to_string()),
                };
                self.wants.fail(peer, cid, &error);
            }
            Event::BadBlock { peer, bytes, count } => {
                tracing::warn!(%peer, bytes, count, "peer sent bytes that are no block it was asked for; they are dropped");
            }
        }
    }
}

pub(super) fn request_error(peer: PeerId, failure: OutboundFailure) -> Error {
    match failure {
        OutboundFailure::Timeout => Error::Timeout(peer),
        OutboundFailure::UnsupportedProtocols => Error::Unsupported(peer),
        OutboundFailure::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Error::BadAnswer { peer, reason: error.to_string() }
        }
        OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed | OutboundFailure::Io(_) => {
            Error::Unreachable(peer)
        }
    }
}
