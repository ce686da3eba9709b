//! Where a body stands that may come in several answers. Pure.
//!
//! [`Resume`] is told of every answer, every piece and every break, and says which bytes of a piece go on to the
//! reader, what to ask for next, and when to stop trying. It never lets a byte through twice, out of order, or beyond
//! what was announced.

use std::ops::Range;

use crate::range::ContentRange;

/// So many bytes make an attempt count as one that got on. Less, and a server that gives a byte for each connection
/// would be asked for ever.
pub(crate) const PROGRESS: u64 = 64 * 1024;

/// The state of one body.
#[derive(Debug)]
pub(crate) struct Resume {
    /// Next byte for the reader.
    position: u64,
    /// Where the reader's bytes end, once that is known.
    end: Option<u64>,
    /// Size of the whole blob, once that is known.
    total: Option<u64>,
    /// Bytes of the answer under way that come before `position`.
    skip: u64,
    /// Attempts in a row that did not get on.
    failed: u32,
    /// `position` when the last attempt that counts began.
    mark: u64,
    max_attempts: u32,
}

/// What an answer's headers say of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// HTTP status: 200, 206 or 416.
    pub(crate) status: u16,
    pub(crate) content_range: Option<ContentRange>,
    pub(crate) content_length: Option<u64>,
}

/// An answer that cannot be part of this body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("it answered a range with HTTP 206 and no Content-Range that makes sense")]
    NoContentRange,
    #[error("it was asked for byte {asked} on and sent byte {sent} on")]
    WrongStart { asked: u64, sent: u64 },
    #[error("it sent bytes up to {sent}, and {asked} was the end of what was asked for")]
    TooFar { asked: u64, sent: u64 },
    #[error("it gave the size as {before} bytes and then as {now}")]
    SizeChanged { before: u64, now: u64 },
    #[error("its body is longer than the {announced} bytes that it announced")]
    TooLong { announced: u64 },
    #[error("byte {offset} lies outside the blob of {size:?} bytes")]
    OutOfRange { offset: u64, size: Option<u64> },
}

/// What to do after a body ended or broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Everything has come.
    Done,
    /// Ask for the rest, as the `attempt`-th try in a row (from 0).
    Again { attempt: u32 },
    /// Too many tries in a row have not got on.
    GiveUp,
}

impl Resume {
    /// A body that is asked for from `start` up to `end`.
    pub(crate) fn new(start: u64, end: Option<u64>, max_attempts: u32) -> Self {
        Self { position: start, end, total: None, skip: 0, failed: 0, mark: start, max_attempts }
    }

    /// Next byte for the reader.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Where the reader's bytes end, where that is known.
    pub(crate) fn end(&self) -> Option<u64> {
        self.end
    }

    /// Size of the whole blob, where that is known.
    pub(crate) fn total(&self) -> Option<u64> {
        self.total
    }

    /// The first answer. Where the range was ignored, the body is the whole blob from its first byte.
    pub(crate) fn opened(&mut self, head: &Head) -> Result<(), Fault> {
        if head.status == 200 {
            self.position = 0;
            self.mark = 0;
            self.end = None;
        }
        self.reopened(head)
    }

    /// An answer to a later request for [`Self::position`] on.
    pub(crate) fn reopened(&mut self, head: &Head) -> Result<(), Fault> {
        match (head.status, &head.content_range) {
            (206, Some(ContentRange { bytes: Some(bytes), total })) => {
                self.open_range(bytes, *total, head.content_length)
            }
            (206, _) => Err(Fault::NoContentRange),
            (416, content_range) => {
                let size = content_range.as_ref().and_then(|range| range.total);
                Err(Fault::OutOfRange { offset: self.position, size })
            }
            _ => {
                if let Some(length) = head.content_length {
                    self.learn_total(length)?;
                }
                self.skip = self.position;
                Ok(())
            }
        }
    }

    fn open_range(&mut self, bytes: &Range<u64>, total: Option<u64>, length: Option<u64>) -> Result<(), Fault> {
        if bytes.start != self.position {
            return Err(Fault::WrongStart { asked: self.position, sent: bytes.start });
        }
        let announced = bytes.end - bytes.start;
        if length.is_some_and(|length| length != announced) {
            return Err(Fault::TooLong { announced });
        }
        if let Some(total) = total {
            self.learn_total(total)?;
        }
        if let Some(end) = self.end
            && bytes.end > end
        {
            return Err(Fault::TooFar { asked: end, sent: bytes.end });
        }
        self.skip = 0;
        Ok(())
    }

    fn learn_total(&mut self, total: u64) -> Result<(), Fault> {
        match self.total {
            Some(before) if before != total => return Err(Fault::SizeChanged { before, now: total }),
            _ => self.total = Some(total),
        }
        let end = self.end.map_or(total, |end| end.min(total));
        if end < self.position {
            return Err(Fault::OutOfRange { offset: self.position, size: Some(total) });
        }
        self.end = Some(end);
        Ok(())
    }

    /// A piece of `length` bytes has come: which of them the reader gets.
    pub(crate) fn piece(&mut self, length: usize) -> Result<Range<usize>, Fault> {
        let skipped = self.skip.min(length as u64);
        self.skip -= skipped;
        let given = length as u64 - skipped;
        let position = self.position.saturating_add(given);
        if let Some(end) = self.end
            && position > end
        {
            return Err(Fault::TooLong { announced: end });
        }
        self.position = position;
        if self.position - self.mark >= PROGRESS {
            self.mark = self.position;
            self.failed = 0;
        }
        Ok(skipped as usize..length)
    }

    /// All bytes that are known to belong to the body have come.
    pub(crate) fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.position >= end)
    }

    /// The body ended as its framing says it should.
    pub(crate) fn ended(&mut self) -> Step {
        match self.end {
            // Neither length nor range was announced: the framing is all there is to go by.
            None if self.skip == 0 => Step::Done,
            Some(end) if self.position >= end => Step::Done,
            _ => self.broke(),
        }
    }

    /// The body broke off or stalled, or the request for more of it failed.
    pub(crate) fn broke(&mut self) -> Step {
        if self.is_complete() {
            return Step::Done;
        }
        self.failed += 1;
        if self.failed >= self.max_attempts {
            return Step::GiveUp;
        }
        Step::Again { attempt: self.failed - 1 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(length: Option<u64>) -> Head {
        Head { status: 200, content_range: None, content_length: length }
    }

    fn part(bytes: Range<u64>, total: Option<u64>) -> Head {
        let content_length = Some(bytes.end - bytes.start);
        Head { status: 206, content_range: Some(ContentRange { bytes: Some(bytes), total }), content_length }
    }

    #[test]
    fn a_body_that_breaks_goes_on_where_it_stopped() {
        let mut resume = Resume::new(0, None, 3);
        resume.opened(&whole(Some(10))).unwrap();
        assert_eq!(resume.piece(4), Ok(0..4));
        assert_eq!(resume.broke(), Step::Again { attempt: 0 });
        assert_eq!((resume.position(), resume.end()), (4, Some(10)));
        resume.reopened(&part(4..10, Some(10))).unwrap();
        assert_eq!(resume.piece(6), Ok(0..6));
        assert!(resume.is_complete());
        assert_eq!(resume.ended(), Step::Done);
    }

    #[test]
    fn where_ranges_are_ignored_what_was_had_is_skipped() {
        let mut resume = Resume::new(0, None, 3);
        resume.opened(&whole(Some(10))).unwrap();
        assert_eq!(resume.piece(4), Ok(0..4));
        assert_eq!(resume.broke(), Step::Again { attempt: 0 });
        resume.reopened(&whole(Some(10))).unwrap();
        assert_eq!(resume.piece(3), Ok(3..3));
        assert_eq!(resume.piece(3), Ok(1..3));
        assert_eq!(resume.position(), 6);
    }

    #[test]
    fn a_first_answer_that_ignores_the_range_starts_at_zero() {
        let mut resume = Resume::new(4, Some(8), 3);
        resume.opened(&whole(Some(10))).unwrap();
        assert_eq!((resume.position(), resume.end(), resume.total()), (0, Some(10), Some(10)));
        assert_eq!(resume.piece(10), Ok(0..10));
    }

    #[test]
    fn a_range_answered_in_part_is_asked_for_again_from_there() {
        let mut resume = Resume::new(4, Some(10), 3);
        resume.opened(&part(4..6, Some(20))).unwrap();
        assert_eq!(resume.piece(2), Ok(0..2));
        assert_eq!(resume.ended(), Step::Again { attempt: 0 });
        assert_eq!((resume.position(), resume.end()), (6, Some(10)));
    }

    #[test]
    fn answers_that_do_not_fit_are_faults() {
        let open = |head: &Head| Resume::new(4, Some(10), 3).opened(head);
        assert_eq!(open(&part(5..10, Some(20))), Err(Fault::WrongStart { asked: 4, sent: 5 }));
        assert_eq!(open(&part(4..12, Some(20))), Err(Fault::TooFar { asked: 10, sent: 12 }));
        let none = Head { content_range: None, ..part(4..10, None) };
        assert_eq!(open(&none), Err(Fault::NoContentRange));
        let longer = Head { content_length: Some(9), ..part(4..10, Some(20)) };
        assert_eq!(open(&longer), Err(Fault::TooLong { announced: 6 }));
        let beyond = ContentRange { bytes: None, total: Some(3) };
        let beyond = Head { status: 416, content_range: Some(beyond), content_length: None };
        assert_eq!(open(&beyond), Err(Fault::OutOfRange { offset: 4, size: Some(3) }));
    }

    #[test]
    fn a_size_that_changes_between_answers_is_a_fault() {
        let mut resume = Resume::new(0, None, 3);
        resume.opened(&whole(Some(10))).unwrap();
        assert_eq!(resume.broke(), Step::Again { attempt: 0 });
        assert_eq!(resume.reopened(&whole(Some(11))), Err(Fault::SizeChanged { before: 10, now: 11 }));
    }

    #[test]
    fn a_body_longer_than_announced_is_a_fault_before_its_bytes_go_on() {
        let mut resume = Resume::new(0, None, 3);
        resume.opened(&whole(Some(10))).unwrap();
        assert_eq!(resume.piece(10), Ok(0..10));
        assert_eq!(resume.piece(1), Err(Fault::TooLong { announced: 10 }));
    }

    #[test]
    fn a_body_without_length_ends_where_its_framing_says() {
        let mut resume = Resume::new(0, None, 3);
        resume.opened(&whole(None)).unwrap();
        assert_eq!(resume.piece(10), Ok(0..10));
        assert!(!resume.is_complete());
        assert_eq!(resume.ended(), Step::Done);
    }

    #[test]
    fn attempts_are_bounded_and_start_anew_with_progress() {
        let mut resume = Resume::new(0, None, 3);
        resume.opened(&whole(Some(10 * PROGRESS))).unwrap();
        assert_eq!(resume.broke(), Step::Again { attempt: 0 });
        assert_eq!(resume.broke(), Step::Again { attempt: 1 });
        resume.piece(PROGRESS as usize).unwrap();
        assert_eq!(resume.broke(), Step::Again { attempt: 0 });
        resume.piece(1).unwrap();
        assert_eq!(resume.broke(), Step::Again { attempt: 1 });
        assert_eq!(resume.broke(), Step::GiveUp);
    }

    proptest! {
        /// Whatever breaks where, and whether or not ranges are kept to, the reader gets each byte once and in order.
        #[test]
        fn the_reader_gets_every_byte_once_and_in_order(
            size in 0u64..200,
            steps in proptest::collection::vec((1usize..50, any::<bool>(), any::<bool>()), 1..60),
        ) {
            let blob: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
            let mut resume = Resume::new(0, None, u32::MAX);
            resume.opened(&whole(Some(size))).unwrap();
            let (mut got, mut at) = (Vec::new(), 0usize);
            for (length, breaks, ranged) in steps {
                let end = (at + length).min(blob.len());
                let piece = &blob[at..end];
                let given = resume.piece(piece.len()).unwrap();
                got.extend_from_slice(&piece[given]);
                at = end;
                prop_assert_eq!(resume.position(), got.len() as u64);
                if breaks && !resume.is_complete() {
                    let is_again = matches!(resume.broke(), Step::Again { .. });
                    prop_assert!(is_again);
                    let head = if ranged { part(resume.position()..size, Some(size)) } else { whole(Some(size)) };
                    resume.reopened(&head).unwrap();
                    at = if ranged { resume.position() as usize } else { 0 };
                }
            }
            prop_assert!(blob.starts_with(&got));
            prop_assert_eq!(resume.is_complete(), got.len() == blob.len());
        }
    }
}
