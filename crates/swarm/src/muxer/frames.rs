//! Frames of any length that a peer may send, in pieces of a length that our yamux reads.
//!
//! The specification bounds a frame by nothing but the receiver's window, which grows to megabytes, and Helia sends frames as large as that. The
//! `yamux` crate closes the connection at the first frame of more than 1 MiB. So between the two stands [`Frames`]: it reads headers as they pass
//! and makes of one long frame several shorter ones, which mean the same. No byte is copied or held for it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};

/// Length of a header: version, type, flags, stream, length.
const HEADER: usize = 12;

/// Type of a frame with a body.
const DATA: u8 = 0;

/// Flags that belong to the beginning of a stream: SYN and ACK.
const OPENING: u16 = 0x1 | 0x2;

/// Flags that end a stream, whole or half: FIN and RST.
const CLOSING: u16 = 0x4 | 0x8;

/// A connection whose inbound frames have bodies of at most `most` bytes.
pub(super) struct Frames<T> {
    socket: T,
    most: u32,
    header: [u8; HEADER],
    /// Bytes of `header` that have come.
    come: usize,
    /// Bytes of `header` that have been given on.
    given: usize,
    /// Bytes of the body that belong to this header and are still to be read.
    body: u32,
    /// Bytes of the body that came under the same header and get one of their own.
    rest: u32,
    /// Flags for the last piece.
    closing: u16,
}

impl<T> Frames<T> {
    pub(super) fn new(socket: T, most: usize) -> Self {
        let most = u32::try_from(most).unwrap_or(u32::MAX).max(1);
        Self { socket, most, header: [0; HEADER], come: 0, given: 0, body: 0, rest: 0, closing: 0 }
    }

    /// A header has come from the peer.
    fn arrived(&mut self) {
        let length = self.number();
        if self.header[1] != DATA {
            (self.body, self.rest) = (0, 0);
            return;
        }
        self.body = length.min(self.most);
        self.rest = length - self.body;
        if self.rest > 0 {
            let flags = self.flags();
            self.closing = flags & CLOSING;
            self.set_flags(flags & !CLOSING);
            self.set_number(self.body);
        }
    }

    /// The body of this header has been read: makes the header of the next piece, or awaits one from the peer.
    fn over(&mut self) {
        self.given = 0;
        if self.rest == 0 {
            self.come = 0;
            return;
        }
        self.body = self.rest.min(self.most);
        self.rest -= self.body;
        let mut flags = self.flags() & !OPENING;
        if self.rest == 0 {
            flags |= self.closing;
        }
        self.set_flags(flags);
        self.set_number(self.body);
    }

    fn flags(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    fn set_flags(&mut self, flags: u16) {
        self.header[2..4].copy_from_slice(&flags.to_be_bytes());
    }

    fn number(&self) -> u32 {
        u32::from_be_bytes([self.header[8], self.header[9], self.header[10], self.header[11]])
    }

    fn set_number(&mut self, number: u32) {
        self.header[8..].copy_from_slice(&number.to_be_bytes());
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Frames<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        while this.come < HEADER {
            let read = ready!(Pin::new(&mut this.socket).poll_read(cx, &mut this.header[this.come..]))?;
            if read == 0 {
                let is_between_frames = this.come == 0;
                return Poll::Ready(if is_between_frames { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
            }
            this.come += read;
            if this.come == HEADER {
                this.arrived();
            }
        }
        if this.given < HEADER {
            let count = buf.len().min(HEADER - this.given);
            buf[..count].copy_from_slice(&this.header[this.given..this.given + count]);
            this.given += count;
            if this.given == HEADER && this.body == 0 {
                this.over();
            }
            return Poll::Ready(Ok(count));
        }
        let most = buf.len().min(usize::try_from(this.body).unwrap_or(usize::MAX));
        let read = ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buf[..most]))?;
        // No more than `most`, which is no more than the body.
        this.body -= read as u32;
        if this.body == 0 {
            this.over();
        }
        Poll::Ready(Ok(read))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Frames<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, executor::block_on, io::Cursor};

    use super::*;

    fn frame(kind: u8, flags: u16, length: u32, body: &[u8]) -> Vec<u8> {
        let mut out = vec![0, kind];
        out.extend(flags.to_be_bytes());
        out.extend(7u32.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend(body);
        out
    }

    /// What comes out, read `step` bytes at a time.
    fn through(bytes: Vec<u8>, most: usize, step: usize) -> io::Result<Vec<u8>> {
        let mut frames = Frames::new(Cursor::new(bytes), most);
        block_on(async {
            let (mut out, mut buf) = (Vec::new(), vec![0; step]);
            loop {
                match frames.read(&mut buf).await? {
                    0 => return Ok(out),
                    read => out.extend(&buf[..read]),
                }
            }
        })
    }

    #[test]
    fn a_long_frame_becomes_several_that_mean_the_same() {
        let body: Vec<u8> = (0..25).collect();
        let sent = [frame(DATA, 0x1 | 0x4, 25, &body), frame(1, 0x2, 4096, &[]), frame(DATA, 0, 0, &[])].concat();
        let expected = [
            frame(DATA, 0x1, 10, &body[..10]),
            frame(DATA, 0, 10, &body[10..20]),
            frame(DATA, 0x4, 5, &body[20..]),
            frame(1, 0x2, 4096, &[]),
            frame(DATA, 0, 0, &[]),
        ];
        for step in [1, 5, 12, 100] {
            assert_eq!(through(sent.clone(), 10, step).unwrap(), expected.concat(), "{step}");
        }
    }

    #[test]
    fn frames_that_are_short_enough_pass_as_they_are() {
        let sent = [frame(DATA, 0x1 | 0x4, 10, &[1; 10]), frame(2, 0, u32::MAX, &[]), frame(3, 0, 1, &[])].concat();
        assert_eq!(through(sent.clone(), 10, 7).unwrap(), sent);
    }

    #[test]
    fn an_end_within_a_header_is_an_error_and_one_within_a_body_an_end() {
        assert_eq!(through(vec![0; 5], 10, 100).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let cut = frame(DATA, 0, 25, &[1; 12]);
        assert_eq!(through(cut, 10, 100).unwrap().len(), HEADER + 10 + HEADER + 2);
    }
}
