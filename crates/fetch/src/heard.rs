//! Which peers have answered of late: whom it is worth waiting for. What decides; who asks them all is [`crate::roll_call`].
//!
//! A node whose peers are all gone must not wait for each of them in turn, blob after blob; one whose peers are well, and only slow to answer
//! because links are full, must not go on by itself at once, for then bytes come twice.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use shoal_swarm::PeerId;

use crate::bounded::BoundedMap;

/// What a peer has shown counts for so long.
const LATELY: Duration = Duration::from_secs(5);

/// An answer says nothing of others that are silent so long after it.
const SETTLED: Duration = Duration::from_secs(1);

/// A peer that did not answer is passed over for [`LATELY`] at first, then for twice as long each time, up to this.
const PASS_OVER: Duration = Duration::from_secs(60);

/// What was longer ago counts no more.
const FORGIVE: Duration = Duration::from_secs(180);

/// Peers remembered at the most.
const CAPACITY: usize = 1024;

/// Who has answered, and whether all are silent.
#[derive(Debug)]
pub(crate) struct Heard(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    answered: BoundedMap<PeerId, Instant>,
    /// Who did not, when last, and for how long it is passed over.
    silent: BoundedMap<PeerId, (Instant, Duration)>,
    /// When anybody answered last.
    anybody: Option<Instant>,
    /// When somebody did not.
    silence: Option<Instant>,
    /// When all were last asked whether they are there, and when each was.
    called: Option<Instant>,
    asked: BoundedMap<PeerId, Instant>,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Inner {
            answered: BoundedMap::new(CAPACITY),
            silent: BoundedMap::new(CAPACITY),
            anybody: None,
            silence: None,
            called: None,
            asked: BoundedMap::new(CAPACITY),
        }))
    }

    /// A peer has answered.
    pub(crate) fn answered(&self, peer: PeerId, now: Instant) {
        let mut inner = self.inner();
        inner.answered.insert(peer, now);
        inner.anybody = Some(now);
    }

    /// A peer did not answer within its time.
    pub(crate) fn silent(&self, peer: PeerId, now: Instant) {
        let mut inner = self.inner();
        inner.answered.insert(peer, now.checked_sub(LATELY).unwrap_or(now));
        // One that is silent again and again, as over a slow link, is tried less and less often.
        let before = inner.silent.get(&peer).filter(|(at, _)| now.saturating_duration_since(*at) < FORGIVE);
        let passed_over = before.map_or(LATELY, |(_, before)| (*before * 2).min(PASS_OVER));
        inner.silent.insert(peer, (now, passed_over));
        inner.silence = Some(now);
    }

    /// Whether all are to be asked now whether they are there: nobody has been heard of for a moment, and they have not just been asked. Says
    /// so once.
    pub(crate) fn begin_call(&self, now: Instant) -> bool {
        let mut inner = self.inner();
        let is_settled = |at: &Instant| now.saturating_duration_since(*at) >= SETTLED;
        let is_due = inner.anybody.as_ref().is_none_or(is_settled) && inner.called.as_ref().is_none_or(is_settled);
        if is_due {
            inner.called = Some(now);
        }
        is_due
    }

    /// A peer is asked whether it is there.
    pub(crate) fn asked(&self, peer: PeerId, now: Instant) {
        self.inner().asked.insert(peer, now);
    }

    /// All were asked whether they are there, and nobody has answered in time.
    pub(crate) fn nobody_answered(&self, now: Instant) {
        self.inner().silence = Some(now);
    }

    /// Whether the peer did not answer a while ago and is passed over still.
    pub(crate) fn is_silent(&self, peer: &PeerId, now: Instant) -> bool {
        self.inner().silent.get(peer).is_some_and(|(at, long)| now.saturating_duration_since(*at) < *long)
    }

    /// A peer gave something, or asked for it: the swarm is there.
    pub(crate) fn gave(&self, now: Instant) {
        self.inner().anybody = Some(now);
    }

    /// Whether a peer may be waited for though it has not answered yet: it or another answered a moment ago, and none was silent since. On
    /// full links an answer comes late. One that has not answered when all were asked is not: others are there, and it may not be.
    pub(crate) fn may_be_late(&self, peer: &PeerId, now: Instant) -> bool {
        let inner = self.inner();
        let lately = |at: &Instant| now.saturating_duration_since(*at) < LATELY;
        let is_swarm_there = inner.anybody.as_ref().is_some_and(lately) && inner.silence <= inner.anybody;
        let answered = inner.answered.get(peer);
        let is_missing = inner.asked.get(peer).is_some_and(|asked| lately(asked) && answered < Some(asked));
        answered.is_some_and(lately) || (is_swarm_there && !is_missing)
    }

    /// Whether somebody was silent a moment ago, and nobody has answered since: then no other is waited for, either.
    pub(crate) fn are_all_silent(&self, now: Instant) -> bool {
        let inner = self.inner();
        inner.silence.is_some_and(|silence| {
            let has_answered = inner.anybody.is_some_and(|answer| silence.saturating_duration_since(answer) < SETTLED);
            now.saturating_duration_since(silence) < LATELY && !has_answered
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_never_heard_of_may_be_late_where_others_have_just_given_something() {
        let heard = Heard::new();
        let (one, other) = (PeerId::random(), PeerId::random());
        let begin = Instant::now() + LATELY * 2;
        heard.gave(begin);
        assert!(heard.may_be_late(&one, begin) && !heard.may_be_late(&one, begin + LATELY));
        heard.silent(one, begin + SETTLED);
        assert!(!heard.may_be_late(&one, begin + SETTLED) && !heard.may_be_late(&other, begin + SETTLED));
        heard.gave(begin + SETTLED * 2);
        assert!(heard.may_be_late(&other, begin + SETTLED * 2));
    }

    #[test]
    fn all_are_asked_whether_they_are_there_only_where_nobody_has_been_heard_of_and_their_silence_is_asked_about_again()
    {
        let heard = Heard::new();
        let begin = Instant::now() + LATELY * 2;
        assert!(heard.begin_call(begin), "nothing is known");
        assert!(!heard.begin_call(begin + SETTLED / 2), "they have just been asked");
        heard.nobody_answered(begin);
        assert!(heard.are_all_silent(begin + SETTLED));
        assert!(heard.begin_call(begin + SETTLED), "while they count as silent they are asked beside");
        heard.nobody_answered(begin + SETTLED);
        assert!(heard.are_all_silent(begin + LATELY), "and count as silent for longer");
        let (present, missing) = (PeerId::random(), PeerId::random());
        heard.asked(present, begin + SETTLED);
        heard.asked(missing, begin + SETTLED);
        heard.answered(present, begin + LATELY);
        assert!(!heard.are_all_silent(begin + LATELY), "who answers late is there nevertheless");
        assert!(heard.may_be_late(&present, begin + LATELY) && heard.may_be_late(&PeerId::random(), begin + LATELY));
        assert!(!heard.may_be_late(&missing, begin + LATELY), "who did not answer beside it may not be there");
        assert!(!heard.begin_call(begin + LATELY) && heard.begin_call(begin + LATELY + SETTLED));
    }

    #[test]
    fn where_one_is_silent_and_nobody_has_answered_no_other_is_waited_for() {
        let heard = Heard::new();
        let (one, other) = (PeerId::random(), PeerId::random());
        let begin = Instant::now() + LATELY * 2;
        assert!(!heard.are_all_silent(begin) && !heard.may_be_late(&one, begin));
        heard.silent(one, begin);
        assert!(heard.are_all_silent(begin) && !heard.may_be_late(&one, begin));
        assert!(!heard.are_all_silent(begin + LATELY), "they are asked again in time");
        assert!(heard.is_silent(&one, begin) && !heard.is_silent(&one, begin + LATELY));
        assert!(!heard.is_silent(&other, begin));
        heard.answered(other, begin);
        assert!(!heard.are_all_silent(begin) && heard.may_be_late(&other, begin));
        heard.silent(one, begin);
        assert!(heard.is_silent(&one, begin + LATELY), "the second time it is passed over for longer");
        assert!(!heard.are_all_silent(begin), "one that answered a moment ago shows that the swarm is there");
    }
}
