//! The streams of one connection.
//!
//! Two lanes of ours carry messages out: wants and presences on one, blocks on the other, so that a want is never
//! behind a megabyte. Streams that the peer opens are read message by message, each straight into one allocation, as
//! far as the receive budget allows: whoever works on a message holds a [`Permit`], and while too many are held
//! nothing more is read. Nothing waits without a deadline.

mod budget;
mod inbound;
mod lane;
mod upgrade;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use libp2p::{
    Stream,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use shoal_content::Cid;
use tokio::time::Sleep;

pub(crate) use self::budget::Permit;
use self::{
    budget::Budget,
    inbound::{Inbound, Read},
    lane::{Lane, Letter, Step},
    upgrade::Upgrade,
};
use crate::{
    Config, Error,
    ledger::Tally,
    server::JobId,
    wire::{Block, Message, Prefix, Version},
};

/// Messages without content that are passed over at a time before others get their turn.
const MAX_EMPTY_MESSAGES: usize = 64;

/// What the behaviour tells the handler.
#[derive(Debug)]
pub enum Command {
    /// Send wants and presences. One at a time: the next one after [`Report::ControlSent`] or [`Report::ControlFailed`].
    Control(Message),
    /// Send a block. As many at a time as the server's budgets allow.
    Block {
        /// To be named in the report.
        job: JobId,
        /// The CID that it was asked by.
        cid: Cid,
        /// The block.
        data: Bytes,
    },
}

/// What the handler tells the behaviour.
#[derive(Debug)]
pub enum Report {
    /// A message came.
    Received {
        /// Decoded; its blocks are not checked.
        message: Message,
        /// To be held while the message is in memory.
        permit: Permit,
    },
    /// The stream accepted the control message.
    ControlSent {
        /// What the peer speaks.
        version: Version,
        /// A stream was lost before: earlier messages may not have arrived.
        lost: bool,
    },
    /// The control message could not be sent.
    ControlFailed {
        /// The peer does not speak bitswap.
        unsupported: bool,
    },
    /// The stream accepted the block.
    BlockSent {
        /// Which.
        job: JobId,
        /// Its size.
        bytes: usize,
    },
    /// The block could not be sent.
    BlockFailed {
        /// Which.
        job: JobId,
    },
}

/// What behaviour and handlers of a peer know of each other without a message.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    expects_blocks: AtomicBool,
    keep_alive: AtomicBool,
    received: AtomicU64,
}

impl Gate {
    pub(crate) fn set(&self, expects_blocks: bool, keep_alive: bool) {
        self.expects_blocks.store(expects_blocks, Ordering::Release);
        self.keep_alive.store(keep_alive, Ordering::Release);
    }

    /// Bytes of message bodies received so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn note_received(&self, count: usize) {
        self.received.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn expects_blocks(&self) -> bool {
        self.expects_blocks.load(Ordering::Acquire)
    }
}

/// Which of our streams.
#[derive(Clone, Copy, Debug)]
pub enum LaneName {
    /// Wants and presences.
    Control,
    /// Blocks.
    Blocks,
}

/// The handler of one connection.
pub struct Handler {
    config: Arc<Config>,
    tally: Arc<Tally>,
    gate: Arc<Gate>,
    upgrade: Upgrade,
    control: Lane<()>,
    blocks: Lane<(JobId, usize)>,
    inbound: VecDeque<Inbound>,
    budget: Budget,
    timer: Option<std::pin::Pin<Box<Sleep>>>,
}

impl Handler {
    pub(crate) fn new(config: Arc<Config>, tally: Arc<Tally>, gate: Arc<Gate>) -> Self {
        let upgrade = Upgrade::new(&config.versions);
        let budget = Budget::new(config.peer_receive_budget);
        Self {
            config,
            tally,
            gate,
            upgrade,
            control: Lane::new(),
            blocks: Lane::new(),
            inbound: VecDeque::new(),
            budget,
            timer: None,
        }
    }

    fn open(&self, lane: LaneName) -> ConnectionHandlerEvent<Upgrade, LaneName, Report> {
        let protocol = SubstreamProtocol::new(self.upgrade, lane).with_timeout(self.config.open_timeout);
        ConnectionHandlerEvent::OutboundSubstreamRequest { protocol }
    }

    fn accept(&mut self, mut stream: Stream) {
        stream.ignore_for_keep_alive();
        let now = Instant::now();
        if self.inbound.len() >= self.config.max_inbound_streams {
            let Some(idle) = self.inbound.iter().position(|inbound| inbound.is_idle(now, &self.config)) else {
                self.tally.refused_streams.add(1);
                return;
            };
            self.inbound.remove(idle);
        }
        self.inbound.push_back(Inbound::new(stream, now));
    }

    fn poll_lanes(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Poll<ConnectionHandlerEvent<Upgrade, LaneName, Report>> {
        let report = match self.control.poll(cx, now) {
            Poll::Ready(Step::Open) => return Poll::Ready(self.open(LaneName::Control)),
            Poll::Ready(Step::Sent { version, lost, .. }) => {
                self.tally.messages_sent.add(1);
                Some(Report::ControlSent { version, lost })
            }
            Poll::Ready(Step::Failed { unsupported, .. }) => {
                self.tally.failed_streams.add(1);
                Some(Report::ControlFailed { unsupported })
            }
            Poll::Pending => match self.blocks.poll(cx, now) {
                Poll::Ready(Step::Open) => return Poll::Ready(self.open(LaneName::Blocks)),
                Poll::Ready(Step::Sent { tag: (job, bytes), .. }) => {
                    self.tally.messages_sent.add(1);
                    Some(Report::BlockSent { job, bytes })
                }
                Poll::Ready(Step::Failed { tag: (job, _), .. }) => {
                    self.tally.failed_streams.add(1);
                    Some(Report::BlockFailed { job })
                }
                Poll::Pending => None,
            },
        };
        report.map_or(Poll::Pending, |report| Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report)))
    }

    fn poll_inbound(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Report> {
        let mut empty = 0;
        let mut unpolled = self.inbound.len();
        while unpolled > 0
            && let Some(mut inbound) = self.inbound.pop_front()
        {
            unpolled -= 1;
            match inbound.poll(cx, now, &self.config, &self.gate, &self.budget) {
                Poll::Pending => self.inbound.push_back(inbound),
                Poll::Ready(Ok(Read::Closed)) => {}
                Poll::Ready(Ok(Read::Skipped)) => {
                    self.tally.skipped_messages.add(1);
                    self.inbound.push_back(inbound);
                    unpolled += 1;
                }
                Poll::Ready(Ok(Read::Message(message, permit))) => {
                    self.inbound.push_back(inbound);
                    self.tally.messages_received.add(1);
                    self.tally.ignored_entries.add(message.ignored as u64);
                    if !message.is_empty() {
                        return Poll::Ready(Report::Received { message, permit });
                    }
                    unpolled += 1;
                    empty += 1;
                    if empty == MAX_EMPTY_MESSAGES {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Err(error)) => {
                    if !matches!(error, Error::Io(_)) {
                        self.tally.bad_frames.add(1);
                    }
                    tracing::debug!(%error, "bitswap stream of the peer closed");
                }
            }
        }
        Poll::Pending
    }

    /// Whether a deadline fired; if so, everything is worth polling again.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let needed = self.control.needs_timer()
            || self.blocks.needs_timer()
            || self.inbound.iter().any(Inbound::is_within_message);
        if !needed {
            self.timer = None;
            return false;
        }
        let interval = self.config.progress_timeout.min(self.config.stream_idle) / 4;
        let interval = interval.clamp(Duration::from_millis(10), Duration::from_secs(1));
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(interval)));
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.timer = None;
        let now = Instant::now();
        let streams = self.inbound.len();
        self.inbound.retain(|inbound| !inbound.is_stalled(now, &self.config));
        let mut stalled = (streams - self.inbound.len()) as u64;
        stalled += self.control.tick(now, &self.config);
        stalled += self.blocks.tick(now, &self.config);
        self.tally.stalled_streams.add(stalled);
        true
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Command;
    type ToBehaviour = Report;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = LaneName;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(self.upgrade, ()).with_timeout(self.config.open_timeout)
    }

    fn connection_keep_alive(&self) -> bool {
        self.gate.keep_alive.load(Ordering::Acquire)
            || self.control.is_busy()
            || self.blocks.is_busy()
            || self.inbound.iter().any(Inbound::is_within_message)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, LaneName, Report>> {
        loop {
            let now = Instant::now();
            if let Poll::Ready(event) = self.poll_lanes(cx, now) {
                return Poll::Ready(event);
            }
            if let Poll::Ready(report) = self.poll_inbound(cx, now) {
                return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
            }
            if !self.poll_timer(cx) {
                return Poll::Pending;
            }
        }
    }

    fn on_behaviour_event(&mut self, command: Command) {
        match command {
            Command::Control(message) => self.control.push(Letter { message, tag: () }),
            Command::Block { job, cid, data } => {
                let tag = (job, data.len());
                let blocks = vec![Block { prefix: Some(Prefix::of(&cid)), data }];
                self.blocks.push(Letter { message: Message { blocks, ..Message::default() }, tag });
            }
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), LaneName>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: (stream, _), .. }) => {
                self.accept(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info: lane }) => {
                let (mut stream, version) = protocol;
                stream.ignore_for_keep_alive();
                match lane {
                    LaneName::Control => self.control.opened(stream, version, Instant::now()),
                    LaneName::Blocks => self.blocks.opened(stream, version, Instant::now()),
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: lane, error }) => {
                tracing::debug!(?lane, ?error, "no bitswap stream to the peer");
                let unsupported = matches!(error, StreamUpgradeError::NegotiationFailed);
                match lane {
                    LaneName::Control => self.control.open_failed(unsupported),
                    LaneName::Blocks => self.blocks.open_failed(unsupported),
                }
            }
            _ => {}
        }
    }
}
