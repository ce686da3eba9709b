//! What a session reads from upstream.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use shoal_content::leaf::leaf_range;
use shoal_coordination::{Failure, Ranges, Source};

use super::drive::{Driver, MAX_BARREN_READS};
use crate::{
    reading::{Chunks, Read, Reading},
    trace::add,
};

pub(super) enum ReadState {
    None,
    Opening(Range<u64>, BoxFuture<'static, Result<Opened, shoal_upstream::Error>>),
    Open(Box<Reading>),
}

/// A body that upstream has begun to send.
pub(super) struct Opened {
    pub(super) reading: Box<Reading>,
    ranges: Ranges,
    /// A part was asked for, and all is sent from the beginning.
    is_whole: bool,
}

pub(super) enum ReadEvent {
    Opened(Opened),
    Refused(shoal_upstream::Error),
    Leaf(u64, Bytes),
    End,
    Broken(String),
}

impl Driver<'_> {
    pub(super) fn open(&mut self, range: Range<u64>) {
        self.note(format!("reading leaves {}..{} from upstream", range.start, range.end));
        self.session.reads(true);
        let size = self.size;
        let start = leaf_range(size, range.start).start;
        let arriving = self.signs.of_upstream();
        if let Some((offset, chunks)) = self.opened.take()
            && offset <= start
        {
            self.read = ReadState::Open(Box::new(Reading::new(counted(chunks, arriving), offset, range, size)));
            return;
        }
        let (env, session) = (self.env.clone(), self.session.clone());
        let wanted = range.clone();
        let opening = async move {
            let end = leaf_range(size, range.end - 1).end;
            let blob = if end == size {
                env.upstream.blob(&session.origin, &session.digest, start).await?
            } else {
                env.upstream.blob_range(&session.origin, &session.digest, start..end).await?
            };
            let offset = blob.offset();
            let ranges = env.ranges.learn(&session.origin.registry, start, &blob);
            let is_whole = offset < start || (ranges == Ranges::Ignored && end < size);
            let reading = Reading::new(counted(chunks(blob), arriving), offset, range, size);
            Ok(Opened { reading: Box::new(reading), ranges, is_whole })
        };
        self.read = ReadState::Opening(wanted, opening.boxed());
    }

    pub(super) fn read_event(&mut self, event: ReadEvent) {
        match event {
            ReadEvent::Opened(opened) => {
                let Opened { mut reading, ranges, is_whole } = opened;
                self.member.ranges(ranges);
                if is_whole {
                    self.note("upstream ignores ranges: it is read from the beginning".to_owned());
                    self.member.whole_body();
                    reading.take_all();
                    self.read = ReadState::Open(reading);
                    return;
                }
                // It may have been cut while it was opened.
                let end = match &self.read {
                    ReadState::Opening(range, _) => range.end,
                    _ => u64::MAX,
                };
                reading.cut(end);
                self.read = ReadState::Open(reading);
            }
            ReadEvent::Leaf(leaf, bytes) => {
                add(&self.env.counters.from_upstream, bytes.len() as u64);
                self.session.state().trace.from_upstream += bytes.len() as u64;
                if self.member.have().contains(leaf) {
                    // It passes because upstream sends all, and is here already.
                    return;
                }
                self.write(leaf, bytes, Source::Upstream, None);
            }
            ReadEvent::End => self.read = ReadState::None,
            ReadEvent::Broken(reason) => {
                self.read = ReadState::None;
                self.session.reads(false);
                self.barren_reads += 1;
                if self.barren_reads >= MAX_BARREN_READS {
                    self.member.upstream(false);
                }
                self.trouble(format!("upstream broke off: {reason}"));
                self.member.failed(0, Source::Upstream, Failure::Stalled);
            }
            ReadEvent::Refused(error) => {
                self.note(format!("upstream: {error}"));
                self.read = ReadState::None;
                self.session.reads(false);
                self.upstream_error = Some(error);
                self.member.upstream(false);
                self.member.failed(0, Source::Upstream, Failure::Missing);
            }
        }
    }
}

pub(super) async fn next_read(state: &mut ReadState) -> ReadEvent {
    match state {
        ReadState::None => std::future::pending().await,
        ReadState::Opening(_, opening) => match opening.await {
            Ok(opened) => ReadEvent::Opened(opened),
            Err(error) => ReadEvent::Refused(error),
        },
        ReadState::Open(reading) => match reading.next().await {
            Read::Leaf(leaf, bytes) => ReadEvent::Leaf(leaf, bytes),
            Read::End => ReadEvent::End,
            Read::Broken(reason) => ReadEvent::Broken(reason),
        },
    }
}

/// The same, counted as they come.
fn counted(chunks: Chunks, arriving: Arc<AtomicU64>) -> Chunks {
    let count = move |chunk: &Result<Bytes, String>| {
        let count = chunk.as_ref().map_or(0, Bytes::len);
        arriving.fetch_add(count as u64, Ordering::Relaxed);
    };
    Box::pin(chunks.inspect(count))
}

pub(crate) fn chunks(stream: shoal_upstream::BlobStream) -> Chunks {
    Box::pin(stream.map(|chunk| chunk.map_err(|error| error.to_string())))
}
