//! Bodies that leave in pieces, are counted, paced, cut and stalled.

use std::{io, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, stream};
use shoal_content::Digest;
use tokio::time::Instant;

use super::State;

/// Bytes of a body that leave at once.
const PIECE: usize = 64 * 1024;
/// How long what was written has to reach the client before the connection is cut: hyper drops what it still holds.
const FLUSH: Duration = Duration::from_millis(30);

/// How a body ends before its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Break {
    Cut(u64),
    Stall(u64),
}

struct Sending {
    state: Arc<State>,
    digest: Option<Digest>,
    rest: Bytes,
    sent: u64,
    breaks: Option<Break>,
}

/// A body of `bytes`; those of a blob are counted under its digest.
pub(super) fn body(state: Arc<State>, digest: Option<Digest>, bytes: Bytes, breaks: Option<Break>) -> Body {
    Body::from_stream(pieces(Sending { state, digest, rest: bytes, sent: 0, breaks }))
}

fn pieces(sending: Sending) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold(Some(sending), |sending| async move {
        let mut sending = sending?;
        let left = match sending.breaks {
            Some(Break::Cut(after) | Break::Stall(after)) => after.saturating_sub(sending.sent),
            None => u64::MAX,
        };
        if left == 0 && !sending.rest.is_empty() {
            if let Some(Break::Stall(_)) = sending.breaks {
                futures::future::pending::<()>().await;
            }
            tokio::time::sleep(FLUSH).await;
            return Some((Err(io::Error::other("cut to order")), None));
        }
        if sending.rest.is_empty() {
            return None;
        }
        let length = PIECE.min(sending.rest.len()).min(usize::try_from(left).unwrap_or(usize::MAX));
        let piece = sending.rest.split_to(length);
        sending.sent += length as u64;
        if let Some(until) = sending.slot(length) {
            tokio::time::sleep_until(until).await;
        }
        Some((Ok(piece), Some(sending)))
    })
}

impl Sending {
    /// Counts `length` bytes, and says when they may leave.
    fn slot(&self, length: usize) -> Option<Instant> {
        let mut inner = self.state.inner();
        if let Some(digest) = self.digest {
            *inner.sent.entry(digest).or_default() += length as u64;
        }
        let rate = inner.rate?;
        let now = Instant::now();
        let start = inner.next_slot.map_or(now, |slot| slot.max(now));
        let until = start + Duration::from_secs_f64(length as f64 / rate);
        inner.next_slot = Some(until);
        Some(until)
    }
}
