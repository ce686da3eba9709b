//! yamux as Shoal runs it: frames of 256 KiB.
//!
//! A stock peer cuts what it sends into frames of 16 KiB, and each costs a copy, a header and a pass through noise. A receiver accepts frames
//! as large as its window, which is 256 KiB from the first moment, so frames of that size are legal to every peer (measured: 1.5 times the
//! throughput for two thirds of the processor time). The upgrade that libp2p ships does not expose the setting.

mod frames;

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::{
    muxing::{StreamMuxer, StreamMuxerEvent},
    upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
};

use self::frames::Frames;

/// Payload of the largest frame sent, in bytes: a stream's initial window, so that a frame never has to wait for a window update first.
pub(crate) const FRAME_SIZE: usize = 256 << 10;

/// Streams of one connection. Kademlia alone may use 64, and yamux ends the connection when the limit is passed, so it is generous.
const MAX_STREAMS: usize = 512;

/// What the windows of a connection's streams may grow by in all, in bytes, beyond the 256 KiB that each begins with:
/// bandwidth × delay of 10 Gbit/s over 25 ms.
const WINDOW_GROWTH: usize = 32 << 20;

/// Inbound streams that wait to be taken. yamux lets a peer open 256 before it must wait for an acknowledgement.
const MAX_WAITING: usize = 256;

/// The connection upgrade: `/yamux/1.0.0` with frames of [`FRAME_SIZE`].
#[derive(Clone, Debug)]
pub(crate) struct Upgrade {
    config: yamux::Config,
}

/// A connection that carries many streams.
pub(crate) struct Muxer<T> {
    connection: yamux::Connection<Frames<T>>,
    waiting: VecDeque<yamux::Stream>,
}

// === impl Upgrade ===

impl Upgrade {
    /// An upgrade that sends frames of at most `frame_size` bytes.
    #[cfg(test)]
    fn with_frame_size(frame_size: usize) -> Self {
        Self::new(frame_size, WINDOW_GROWTH)
    }

    /// An upgrade whose windows stay at the 256 KiB that each begins with, for private swarms that Helia is in.
    ///
    /// Helia sends frames as large as the window, and its cipher of private swarms takes new memory for every frame that is sent after one has
    /// come, never less than the frame is long: at 1 MiB a frame it is out of memory after 55 (xsalsa20 1.2.0). What a private swarm loses by this is bound by
    /// the round trip: 256 KiB in 1 ms is as fast as the second encryption lets it be.
    pub(crate) fn with_steady_windows() -> Self {
        Self::new(FRAME_SIZE, 0)
    }

    fn new(frame_size: usize, window_growth: usize) -> Self {
        let mut config = yamux::Config::default();
        config.set_max_num_streams(MAX_STREAMS);
        config.set_max_connection_receive_window(Some(MAX_STREAMS * yamux::DEFAULT_CREDIT as usize + window_growth));
        config.set_split_send_size(frame_size);
        Self { config }
    }

    fn muxer<T: AsyncRead + AsyncWrite + Unpin>(self, socket: T, mode: yamux::Mode) -> Muxer<T> {
        let socket = Frames::new(socket, FRAME_SIZE);
        Muxer { connection: yamux::Connection::new(socket, self.config, mode), waiting: VecDeque::new() }
    }
}

impl Default for Upgrade {
    fn default() -> Self {
        Self::new(FRAME_SIZE, WINDOW_GROWTH)
    }
}

impl UpgradeInfo for Upgrade {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/yamux/1.0.0")
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<T> for Upgrade {
    type Output = Muxer<T>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: T, _: Self::Info) -> Self::Future {
        ready(Ok(self.muxer(socket, yamux::Mode::Server)))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<T> for Upgrade {
    type Output = Muxer<T>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: T, _: Self::Info) -> Self::Future {
        ready(Ok(self.muxer(socket, yamux::Mode::Client)))
    }
}

// === impl Muxer ===

impl<T: AsyncRead + AsyncWrite + Unpin> Muxer<T> {
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Result<yamux::Stream, yamux::ConnectionError>> {
        match self.connection.poll_next_inbound(cx) {
            Poll::Ready(Some(result)) => Poll::Ready(result),
            Poll::Ready(None) => Poll::Ready(Err(yamux::ConnectionError::Closed)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// yamux moves bytes only while it is asked for the next inbound stream. `poll` asks always, as libp2p demands, and keeps what comes for
/// `poll_inbound`. All are called from the one task of the connection, so there is one waker to wake.
impl<T: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<T> {
    type Substream = yamux::Stream;
    type Error = yamux::ConnectionError;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        match self.waiting.pop_front() {
            Some(stream) => Poll::Ready(Ok(stream)),
            None => self.poll_accept(cx),
        }
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, Self::Error>> {
        self.connection.poll_new_outbound(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Self::Error>> {
        match self.poll_accept(cx) {
            Poll::Ready(Ok(stream)) => {
                if self.waiting.len() < MAX_WAITING {
                    self.waiting.push_back(stream);
                } else {
                    // Dropping a stream resets it: the peer hears of it at once.
                    tracing::debug!("inbound stream dropped, {MAX_WAITING} wait already");
                }
                // One at a time, so that a peer that opens streams without end does not keep the task from its other work.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.connection.poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt, future::poll_fn};
    use libp2p::core::muxing::StreamMuxerExt;
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    const LENGTH: usize = 40 << 20;

    fn byte(index: usize) -> u8 {
        (index.wrapping_mul(2_654_435_761) >> 13) as u8
    }

    /// Sends `LENGTH` bytes from a dialer to a listener, which sends their number back.
    async fn transfer(dialer: Upgrade, listener: Upgrade) -> u64 {
        let (near, far) = tokio::io::duplex(1 << 20);
        let mut near = dialer.upgrade_outbound(near.compat(), "").await.unwrap();
        let mut far = listener.upgrade_inbound(far.compat(), "").await.unwrap();

        let mut stream = poll_fn(|cx| near.poll_outbound_unpin(cx)).await.unwrap();
        tokio::spawn(async move { poll_fn(|cx| near.poll_unpin(cx)).await });
        tokio::spawn(async move {
            let mut stream = poll_fn(|cx| {
                let _ = far.poll_unpin(cx)?;
                far.poll_inbound_unpin(cx)
            })
            .await
            .unwrap();
            tokio::spawn(async move { poll_fn(|cx| far.poll_unpin(cx)).await });
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            assert!(received.iter().enumerate().all(|(index, &value)| value == byte(index)));
            stream.write_all(&(received.len() as u64).to_be_bytes()).await.unwrap();
            stream.close().await.unwrap();
        });

        let content: Vec<u8> = (0..LENGTH).map(byte).collect();
        stream.write_all(&content).await.unwrap();
        stream.close().await.unwrap();
        let mut count = [0; 8];
        stream.read_exact(&mut count).await.unwrap();
        u64::from_be_bytes(count)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_large_transfer_arrives_whole_in_large_frames() {
        assert_eq!(transfer(Upgrade::default(), Upgrade::default()).await, LENGTH as u64);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn peers_with_the_usual_frames_and_windows_are_understood_and_understand() {
        let stock = || Upgrade { config: yamux::Config::default() };
        assert_eq!(transfer(stock(), Upgrade::default()).await, LENGTH as u64);
        assert_eq!(transfer(Upgrade::default(), stock()).await, LENGTH as u64);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_peer_that_sends_frames_as_large_as_its_window_is_understood() {
        assert_eq!(transfer(Upgrade::with_frame_size(64 << 20), Upgrade::default()).await, LENGTH as u64);
    }
}
