//! A client's connection, which ends by FIN whatever happens on it.
//!
//! A reset in the middle of a body fails a containerd pull for good, a FIN is resumed. Three things on Linux turn an end into
//! a reset, and each is met here:
//!
//! - *hyper drops a connection whose body failed, with what it had buffered.* So a body that cannot go on never tells hyper. It
//!   falls silent and raises the line's [`Scissors`]; hyper then flushes all that it has, and the flush reports that the line
//!   is cut. Every verified byte leaves, and then hyper lets go.
//! - *a socket closed while it holds unread input sends a reset.* So the line is kept beyond hyper: its write side is shut, and
//!   input is read and thrown away until the client closes too, or [`PARTING`] is over ([`part`]).
//! - *a client that stops reading would hold the line for ever.* A write that moves no byte for the write time-out fails.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep, timeout},
};

/// How long a client is listened to after the last byte was sent to it. A client that saw the end closes within a round trip.
const PARTING: Duration = Duration::from_secs(2);

/// Most input that is thrown away while parting, so that an upload which nobody wants is not read to its end.
const PARTING_BYTES: usize = 16 * 1024 * 1024;

/// What hyper reads from and writes to.
pub(crate) struct Line {
    tcp: Arc<TcpStream>,
    scissors: Scissors,
    write_timeout: Duration,
    /// Runs while a write waits for the client; kept between waits, for it allocates.
    patience: Option<Pin<Box<Sleep>>>,
    waits: bool,
}

/// Cuts a line once all that was written to it has left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scissors(Arc<AtomicBool>);

impl Scissors {
    /// The line ends at the next flush. Its task must be polled again after this.
    pub(crate) fn cut(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Line {
    /// A line over `tcp`, of which the caller keeps a share for [`part`].
    pub(crate) fn new(tcp: Arc<TcpStream>, write_timeout: Duration) -> (Self, Scissors) {
        let scissors = Scissors::default();
        let line = Self { tcp, scissors: scissors.clone(), write_timeout, patience: None, waits: false };
        (line, scissors)
    }

    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.tcp.poll_write_ready(cx)?.is_pending() {
                return self.poll_patience(cx);
            }
            match write(&self.tcp) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    self.waits = false;
                    return Poll::Ready(result);
                }
            }
        }
    }

    /// Pending while the client may still take its time, then an error.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let limit = self.write_timeout;
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.waits {
            self.waits = true;
            patience.as_mut().reset(Instant::now() + limit);
        }
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client took no byte for the write time-out")))
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.tcp.poll_read_ready(cx))?;
            match self.tcp.try_read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, |tcp| tcp.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, |tcp| tcp.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.scissors.is_cut() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the body was cut")));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        send_fin(&self.tcp);
        Poll::Ready(Ok(()))
    }
}

/// Ends a connection by FIN: shuts the write side, then reads until the client closes too.
pub(crate) async fn part(tcp: &TcpStream) {
    send_fin(tcp);
    let read_out = async {
        let mut sink = [0; 4096];
        let mut left = PARTING_BYTES;
        while left > 0 && tcp.readable().await.is_ok() {
            match tcp.try_read(&mut sink) {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = timeout(PARTING, read_out).await;
}

/// Tells the client that nothing more comes. Fails only where the client is gone, which is as good.
pub(crate) fn send_fin(tcp: &TcpStream) {
    let _ = SockRef::from(tcp).shutdown(Shutdown::Write);
}
