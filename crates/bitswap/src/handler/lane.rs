//! Messages to the peer, in order, over a stream of ours that is opened when needed and again when it fails.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use futures::AsyncWrite;
use libp2p::Stream;

use crate::{
    Config,
    wire::{Frame, Message, Version},
};

/// How often a message is tried, each time on a new stream.
const ATTEMPTS: u32 = 2;

/// A message on its way, with what its sender wants to know it by.
#[derive(Debug)]
pub(super) struct Letter<T> {
    pub(super) message: Message,
    pub(super) tag: T,
}

/// What a lane needs or has done.
pub(super) enum Step<T> {
    /// A stream is to be opened; ends by [`Lane::opened`] or [`Lane::open_failed`].
    Open,
    /// The stream has accepted the message.
    Sent {
        tag: T,
        version: Version,
        /// A stream was lost since the last letter was sent: some before it may not have arrived.
        lost: bool,
    },
    /// The message could not be sent.
    Failed { tag: T, unsupported: bool },
}

pub(super) struct Lane<T> {
    letters: VecDeque<Letter<T>>,
    state: State,
    /// The stream before, being closed.
    closing: Option<(Stream, Instant)>,
    /// Tries of the first letter that came to nothing.
    failures: u32,
    lost: bool,
    /// The peer refused the protocol: letters fail at once.
    refused: bool,
}

enum State {
    Closed,
    Opening,
    Open(Box<Open>),
}

struct Open {
    stream: Stream,
    version: Version,
    writing: Option<Writing>,
    /// When the last letter was done.
    idle: Instant,
}

struct Writing {
    frame: Frame,
    since: Instant,
    moved: Instant,
}

impl<T> Lane<T> {
    pub(super) fn new() -> Self {
        let (letters, closing) = (VecDeque::new(), None);
        Self { letters, state: State::Closed, closing, failures: 0, lost: false, refused: false }
    }

    pub(super) fn push(&mut self, letter: Letter<T>) {
        self.letters.push_back(letter);
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.letters.is_empty()
    }

    /// Whether there is a deadline to watch.
    pub(super) fn needs_timer(&self) -> bool {
        self.closing.is_some() || matches!(self.state, State::Open(_))
    }

    pub(super) fn opened(&mut self, stream: Stream, version: Version, now: Instant) {
        self.state = State::Open(Box::new(Open { stream, version, writing: None, idle: now }));
    }

    pub(super) fn open_failed(&mut self, unsupported: bool) {
        self.state = State::Closed;
        self.refused = unsupported;
        self.failures += 1;
    }

    /// Enforces the deadlines; the number of streams given up as stalled.
    pub(super) fn tick(&mut self, now: Instant, config: &Config) -> u64 {
        let mut stalled = 0;
        if self
            .closing
            .as_ref()
            .is_some_and(|(_, since)| now.saturating_duration_since(*since) >= config.progress_timeout)
        {
            self.closing = None;
        }
        let State::Open(open) = &self.state else { return stalled };
        match &open.writing {
            Some(writing) if writing.is_stalled(now, config) => {
                // Another try would stall as well, and hold the letter for as long again.
                self.failures = ATTEMPTS;
                self.lose();
                stalled += 1;
            }
            None if now.saturating_duration_since(open.idle) >= config.stream_idle => {
                if let State::Open(open) = std::mem::replace(&mut self.state, State::Closed) {
                    self.closing = Some((open.stream, now));
                }
            }
            _ => {}
        }
        stalled
    }

    /// Drops the stream, which resets it.
    fn lose(&mut self) {
        self.state = State::Closed;
        self.lost = true;
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Step<T>> {
        if let Some((stream, _)) = &mut self.closing
            && Pin::new(stream).poll_close(cx).is_ready()
        {
            self.closing = None;
        }
        loop {
            if self.failures >= ATTEMPTS || self.refused {
                let Some(letter) = self.letters.pop_front() else {
                    self.failures = 0;
                    self.refused = false;
                    return Poll::Pending;
                };
                return Poll::Ready(Step::Failed { tag: letter.tag, unsupported: self.refused });
            }
            let Some(letter) = self.letters.front() else { return Poll::Pending };
            match &mut self.state {
                State::Opening => return Poll::Pending,
                State::Closed => {
                    self.state = State::Opening;
                    return Poll::Ready(Step::Open);
                }
                State::Open(open) => {
                    let version = open.version;
                    let writing = open.writing.get_or_insert_with(|| Writing {
                        frame: letter.message.encode(version),
                        since: now,
                        moved: now,
                    });
                    match ready!(writing.poll(&mut open.stream, cx, now)) {
                        Ok(()) => {
                            open.writing = None;
                            open.idle = now;
                            self.failures = 0;
                            let lost = std::mem::take(&mut self.lost);
                            let Some(letter) = self.letters.pop_front() else { return Poll::Pending };
                            return Poll::Ready(Step::Sent { tag: letter.tag, version, lost });
                        }
                        Err(error) => {
                            tracing::debug!(%error, "bitswap stream failed in writing");
                            self.failures += 1;
                            self.lose();
                        }
                    }
                }
            }
        }
    }
}

impl Writing {
    fn is_stalled(&self, now: Instant, config: &Config) -> bool {
        now.saturating_duration_since(self.moved) >= config.progress_timeout
            || now.saturating_duration_since(self.since) >= config.message_timeout
    }

    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>, now: Instant) -> Poll<io::Result<()>> {
        let mut stream = Pin::new(stream);
        while self.frame.remaining() > 0 {
            let count = ready!(stream.as_mut().poll_write(cx, self.frame.chunk()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.frame.advance(count);
            self.moved = now;
        }
        stream.poll_flush(cx)
    }
}
