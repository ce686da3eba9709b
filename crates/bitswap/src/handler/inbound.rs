//! A stream that the peer opened: messages, one after the other.

use std::{
    io::ErrorKind,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use futures::AsyncRead;
use libp2p::Stream;
use shoal_content::buffer::Buffer;

use super::{
    Gate,
    budget::{Budget, Permit},
};
use crate::{
    Config, Error,
    wire::{Message, block_at, varint},
};

/// What a stream gave.
pub(super) enum Read {
    /// A message, and the leave to hold it.
    Message(Message, Permit),
    /// A message that was not worth storing.
    Skipped,
    /// The peer is done with the stream.
    Closed,
}

pub(super) struct Inbound {
    stream: Stream,
    state: State,
    /// When the message under way began, or the last one ended.
    since: Instant,
    /// When the last byte came.
    moved: Instant,
}

/// A message as long as this is mostly a block, which goes to the disk straight from its memory where that is aligned.
const BULK: usize = 512 << 10;

/// Bytes of a message from which it is seen where its block begins.
const HEAD: usize = 64;

enum State {
    Length {
        bytes: [u8; varint::MAX_LEN],
        filled: usize,
    },
    Waiting {
        len: usize,
    },
    /// Where its block begins is not known yet.
    Head {
        bytes: [u8; HEAD],
        filled: usize,
        len: usize,
        permit: Permit,
    },
    Body {
        buffer: Buffer,
        filled: usize,
        permit: Permit,
    },
    Skipping {
        left: usize,
    },
}

impl State {
    const START: State = State::Length { bytes: [0; varint::MAX_LEN], filled: 0 };
}

impl Inbound {
    pub(super) fn new(stream: Stream, now: Instant) -> Self {
        Self { stream, state: State::START, since: now, moved: now }
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_within_message(&self) -> bool {
        !matches!(self.state, State::Length { filled: 0, .. })
    }

    /// Whether nothing has come for as long as a message may pause.
    pub(super) fn is_idle(&self, now: Instant, config: &Config) -> bool {
        !self.is_within_message() && now.saturating_duration_since(self.moved) >= config.progress_timeout
    }

    /// Whether the peer holds back the rest of a message for too long. Waiting for our own budget is not its fault.
    pub(super) fn is_stalled(&self, now: Instant, config: &Config) -> bool {
        self.is_within_message()
            && !matches!(self.state, State::Waiting { .. })
            && (now.saturating_duration_since(self.moved) >= config.progress_timeout
                || now.saturating_duration_since(self.since) >= config.message_timeout)
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        config: &Config,
        gate: &Gate,
        budget: &Budget,
    ) -> Poll<Result<Read, Error>> {
        loop {
            match &mut self.state {
                State::Length { bytes, filled } => {
                    let byte = &mut bytes[*filled..=*filled];
                    if ready!(Pin::new(&mut self.stream).poll_read(cx, byte))? == 0 {
                        return Poll::Ready(if *filled == 0 { Ok(Read::Closed) } else { Err(Error::Truncated) });
                    }
                    if *filled == 0 {
                        self.since = now;
                    }
                    self.moved = now;
                    *filled += 1;
                    let Some((len, _)) = varint::read(&bytes[..*filled])? else { continue };
                    let limit = config.max_message_len;
                    let len =
                        usize::try_from(len).ok().filter(|&len| len <= limit).ok_or(Error::TooLong { len, limit })?;
                    self.state = if len > config.max_unasked_message_len && !gate.expects_blocks() {
                        State::Skipping { left: len }
                    } else {
                        State::Waiting { len }
                    };
                }
                State::Waiting { len } => {
                    let len = *len;
                    let Some(permit) = budget.take(len, cx) else { return Poll::Pending };
                    self.since = now;
                    self.moved = now;
                    self.state = if len < BULK {
                        State::Body { buffer: Buffer::of(len), filled: 0, permit }
                    } else {
                        State::Head { bytes: [0; HEAD], filled: 0, len, permit }
                    };
                }
                State::Head { filled: HEAD, .. } => {
                    let State::Head { bytes, filled, len, permit } = std::mem::replace(&mut self.state, State::START)
                    else {
                        continue;
                    };
                    let mut buffer = Buffer::behind(block_at(&bytes), len);
                    buffer[..filled].copy_from_slice(&bytes);
                    self.state = State::Body { buffer, filled, permit };
                }
                State::Head { bytes, filled, .. } => {
                    let count = ready!(more(&mut self.stream, cx, &mut bytes[*filled..]))?;
                    *filled += count;
                    self.moved = now;
                    gate.note_received(count);
                }
                State::Body { filled, buffer, .. } if *filled == buffer.len() => {
                    let State::Body { buffer, filled, permit } = std::mem::replace(&mut self.state, State::START)
                    else {
                        continue;
                    };
                    let message = Message::decode_shared(&buffer.freeze(filled))?;
                    return Poll::Ready(Ok(Read::Message(message, permit)));
                }
                State::Body { buffer, filled, .. } => {
                    let count = ready!(more(&mut self.stream, cx, &mut buffer[*filled..]))?;
                    *filled += count;
                    self.moved = now;
                    gate.note_received(count);
                }
                State::Skipping { left: 0 } => {
                    self.state = State::START;
                    return Poll::Ready(Ok(Read::Skipped));
                }
                State::Skipping { left } => {
                    let mut scratch = [0; 4 << 10];
                    let wanted = scratch.len().min(*left);
                    let count = ready!(more(&mut self.stream, cx, &mut scratch[..wanted]))?;
                    *left -= count;
                    self.moved = now;
                }
            }
        }
    }
}

/// Reads more of a message, whose stream must not end within it.
fn more(stream: &mut Stream, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, Error>> {
    match ready!(Pin::new(stream).poll_read(cx, into))? {
        0 => Poll::Ready(Err(Error::Io(ErrorKind::UnexpectedEof.into()))),
        count => Poll::Ready(Ok(count)),
    }
}
