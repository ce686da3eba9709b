//! The body of a blob's answer: as many bytes as were promised, or a cut.
//!
//! Nothing is promised before there is something to keep it with: [`ready`] waits for a stream's first bytes before any header
//! is written, since a client that gets headers and then no byte, four times, gives the pull up. After that the body watches
//! over the promise: a source that fails, ends early, stalls or yields too much has the line cut, and the blob is remembered as
//! failed. Dropping the body, as hyper does when the client goes away, drops the stream and with it the effort.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    Stream, StreamExt as _,
    stream::{once, pending, unfold},
};
use http_body::{Body, Frame, SizeHint};
use shoal_fetch::Error;
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    answer::local,
    deadline::Deadline,
    line::Scissors,
    metrics::{Cut, Going, Kind, Metrics},
};

/// Verified bytes on their way.
pub(crate) type Bytestream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Told once when a body is cut, with the reason.
pub(crate) type OnCut = Box<dyn FnOnce(&str) + Send>;

/// Waits until a stream that is to yield `length` bytes has its first ones, and gives the same stream back. Until then its signs of life
/// put the deadline off.
pub(crate) async fn ready(
    mut stream: Bytestream,
    length: u64,
    what: &str,
    deadline: &Deadline,
) -> Result<Bytestream, Error> {
    loop {
        match stream.next().await {
            Some(Ok(first)) if first.is_empty() => deadline.put_off(),
            Some(Ok(first)) => return Ok(Box::pin(once(std::future::ready(Ok(first))).chain(stream))),
            Some(Err(error)) => return Err(error),
            None if length == 0 => return Ok(Box::pin(futures::stream::empty())),
            None => {
                return Err(Error::Unavailable {
                    what: what.to_owned(),
                    reason: "its source ended at once".to_owned(),
                });
            }
        }
    }
}

/// The same stream, which fails where it would not yield exactly `length` bytes.
pub(crate) fn exactly(stream: Bytestream, length: u64) -> Bytestream {
    Box::pin(unfold((stream, Some(length)), |(mut stream, left)| async move {
        let left = left.filter(|left| *left > 0)?;
        let wrong = |reason: &str| Err(local("a part of a blob", reason));
        Some(match stream.next().await {
            Some(Ok(bytes)) => match left.checked_sub(bytes.len() as u64) {
                Some(left) => (Ok(bytes), (stream, Some(left))),
                None => (wrong("its source gave more bytes than it said"), (stream, None)),
            },
            Some(Err(error)) => (Err(error), (stream, None)),
            None => (wrong("its source ended early"), (stream, None)),
        })
    }))
}

/// What a body needs of the connection and the request that it answers.
pub(crate) struct Setting {
    /// Ends the connection.
    pub(crate) scissors: Scissors,
    /// Longest time without a byte.
    pub(crate) stall: Duration,
    /// Where bytes and cuts are counted.
    pub(crate) metrics: Metrics,
    /// Counted as in flight until the body ends.
    pub(crate) going: Going,
    /// Told once when the body is cut, with the reason.
    pub(crate) on_cut: OnCut,
}

/// A body of known length that ends whole or cuts its connection.
pub(crate) struct Pour {
    stream: Bytestream,
    left: u64,
    scissors: Scissors,
    metrics: Metrics,
    on_cut: Option<OnCut>,
    stall: Duration,
    patience: Option<Pin<Box<Sleep>>>,
    waits: bool,
    _going: Going,
}

impl Pour {
    /// A body of exactly `length` bytes, which `stream` is to yield.
    pub(crate) fn new(stream: Bytestream, length: u64, setting: Setting) -> Self {
        let Setting { scissors, stall, metrics, going, on_cut } = setting;
        Self {
            stream,
            left: length,
            scissors,
            metrics,
            on_cut: Some(on_cut),
            stall,
            patience: None,
            waits: false,
            _going: going,
        }
    }

    /// Falls silent; the flush that follows ends the connection.
    fn cut(&mut self, cx: &Context<'_>, cut: Cut, reason: &str) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(on_cut) = self.on_cut.take() {
            on_cut(reason);
            self.metrics.count_cut(cut);
        }
        self.stream = Box::pin(pending());
        self.scissors.cut();
        // The connection may have flushed just before it asked for more, and would not flush again by itself.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limit = self.stall;
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(limit)));
        if !self.waits {
            self.waits = true;
            patience.as_mut().reset(Instant::now() + limit);
        }
        patience.as_mut().poll(cx)
    }
}

impl Body for Pour {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(None);
        }
        if this.on_cut.is_none() {
            return Poll::Pending;
        }
        let polled = loop {
            match this.stream.as_mut().poll_next(cx) {
                // A sign of life: what comes next is on its way.
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => this.waits = false,
                polled => break polled,
            }
        };
        match polled {
            Poll::Ready(Some(Ok(bytes))) if bytes.len() as u64 <= this.left => {
                this.waits = false;
                this.left -= bytes.len() as u64;
                this.metrics.sent(Kind::Blob, bytes.len() as u64);
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Poll::Ready(Some(Ok(_))) => this.cut(cx, Cut::Length, "its source gave more bytes than it said"),
            Poll::Ready(Some(Err(error))) => this.cut(cx, Cut::Source, &error.to_string()),
            Poll::Ready(None) => this.cut(cx, Cut::Length, "its source ended early"),
            Poll::Pending if this.poll_stall(cx).is_ready() => this.cut(cx, Cut::Stall, "its source stalled"),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Drop for Pour {
    fn drop(&mut self) {
        if self.left > 0 && self.on_cut.is_some() {
            self.metrics.count_cut(Cut::Abandoned);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures::{
        FutureExt as _,
        stream::iter,
        task::{ArcWake, waker},
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl ArcWake for Woken {
        fn wake_by_ref(woken: &Arc<Self>) {
            woken.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn pour(items: Vec<Result<Bytes, Error>>, length: u64, cuts: &Arc<AtomicUsize>) -> (Pour, Metrics) {
        let metrics = Metrics::default();
        let cuts = cuts.clone();
        let setting = Setting {
            scissors: Scissors::default(),
            stall: Duration::from_secs(1),
            metrics: metrics.clone(),
            going: metrics.begin_request(),
            on_cut: Box::new(move |_| {
                cuts.fetch_add(1, Ordering::SeqCst);
            }),
        };
        (Pour::new(Box::pin(iter(items)), length, setting), metrics)
    }

    #[test]
    fn a_cut_body_asks_to_be_polled_once_more_and_then_stays_silent() {
        let cuts = Arc::default();
        let (mut body, metrics) = pour(vec![Ok(Bytes::from_static(b"abc"))], 5, &cuts);
        let woken = Arc::new(Woken::default());
        let waker = waker(woken.clone());
        let mut cx = Context::from_waker(&waker);
        let mut body = Pin::new(&mut body);
        assert!(
            matches!(body.as_mut().poll_frame(&mut cx), Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some())
        );
        for _ in 0..3 {
            assert!(body.as_mut().poll_frame(&mut cx).is_pending());
            assert!(body.scissors.is_cut() && !body.is_end_stream());
        }
        // Without it, hyper might not flush again, and the connection would stand open.
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!((cuts.load(Ordering::SeqCst), metrics.cut(Cut::Length)), (1, 1));
    }

    #[test]
    fn a_chunk_beyond_the_promise_is_not_sent_at_all() {
        let cuts = Arc::default();
        let chunks = vec![Ok(Bytes::from_static(b"abc")), Ok(Bytes::from_static(b"def"))];
        let (mut body, metrics) = pour(chunks, 5, &cuts);
        let waker = waker(Arc::new(Woken::default()));
        let mut cx = Context::from_waker(&waker);
        let mut body = Pin::new(&mut body);
        assert!(body.as_mut().poll_frame(&mut cx).is_ready());
        assert!(body.as_mut().poll_frame(&mut cx).is_pending());
        assert_eq!((cuts.load(Ordering::SeqCst), metrics.bytes(Kind::Blob)), (1, 3));
    }

    #[tokio::test]
    async fn a_body_whose_source_is_alive_is_not_cut_and_one_that_is_not_is() {
        // Pauses before each piece, in milliseconds: signs of life, then the bytes. The stall time is a second.
        for (pauses, is_cut) in [([600, 600, 600], false), ([0, 0, 60_000], true)] {
            let cuts = Arc::default();
            let (mut body, _) = pour(Vec::new(), 3, &cuts);
            let pieces = [Bytes::new(), Bytes::new(), Bytes::from_static(b"abc")];
            let pieces = iter(pauses.into_iter().zip(pieces)).then(|(pause, piece)| async move {
                sleep(Duration::from_millis(pause)).await;
                Ok(piece)
            });
            body.stream = Box::pin(pieces);
            let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
            let frame = tokio::time::timeout(Duration::from_secs(5), frame).await;
            assert_eq!((cuts.load(Ordering::SeqCst) == 1, frame.is_err()), (is_cut, is_cut), "{pauses:?}");
            if let Ok(Some(Ok(frame))) = frame {
                assert_eq!(frame.data_ref().map(Bytes::as_ref), Some(&b"abc"[..]), "no empty frame");
            }
        }
    }

    #[test]
    fn a_part_is_exactly_as_long_as_it_should_be_or_fails() {
        let items = |chunks: &[&'static str]| -> Bytestream {
            let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect();
            Box::pin(iter(chunks))
        };
        let outcome = |chunks: &[&'static str]| {
            let items: Vec<_> = exactly(items(chunks), 4).collect().now_or_never().unwrap();
            (items.iter().flatten().map(Bytes::len).sum::<usize>(), items.iter().any(Result::is_err))
        };
        assert_eq!(outcome(&["ab", "cd"]), (4, false));
        assert_eq!(outcome(&["ab", "cd", "ef"]), (4, false));
        assert_eq!(outcome(&["ab", "cde"]), (2, true));
        assert_eq!(outcome(&["ab"]), (2, true));
    }
}
