//! Closes the port when the node hangs.
//!
//! A gateway that accepts and never answers costs containerd 30 s a request, 150 s for an image of four layers; a closed port
//! costs it nothing. A thread of the operating system looks whether the runtime still turns the accept loop, and shuts the
//! [`Door`] when it has not for several looks in a row. Looks are counted, not time: after the whole process was stopped and
//! continued, the runtime gets its chance before it is judged. The accept loop opens the door again as soon as it runs.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;

use crate::door::Door;

/// Looks in a row without a beat after which the runtime is taken to hang.
const LOOKS: u32 = 5;

/// Beats for each look: one that comes late by a little is not missed.
const BEATS_PER_LOOK: u32 = 4;

/// The running watchdog; it ends when this drops.
#[derive(Debug)]
pub(crate) struct Watchdog {
    pulse: Arc<Pulse>,
    thread: thread::Thread,
    every: Duration,
}

#[derive(Debug, Default)]
struct Pulse {
    beats: AtomicU64,
    over: AtomicBool,
}

/// What the looks add up to. Pure.
#[derive(Debug, Default)]
struct Looks {
    last: Option<u64>,
    missed: u32,
}

impl Looks {
    /// Whether the door is to be shut now, after this look saw `beats`. Once for each hang.
    fn look(&mut self, beats: u64) -> bool {
        if self.last.replace(beats) != Some(beats) {
            self.missed = 0;
            return false;
        }
        self.missed = self.missed.saturating_add(1);
        self.missed == LOOKS
    }
}

impl Watchdog {
    /// Starts a thread that shuts `door` when [`Watchdog::beat`] has not been called for `limit`.
    pub(crate) fn start(door: Arc<Door>, limit: Duration, closed: Counter) -> io::Result<Self> {
        let pulse = Arc::new(Pulse::default());
        let every = limit / LOOKS;
        let watched = pulse.clone();
        let watch = move || {
            let mut looks = Looks::default();
            while !watched.over.load(Ordering::Acquire) {
                if looks.look(watched.beats.load(Ordering::Acquire)) {
                    door.shut();
                    closed.inc();
                    tracing::error!(
                        for_ms = limit.as_millis() as u64,
                        "the runtime stands still: port closed until it moves, so that clients go to their next host"
                    );
                }
                thread::park_timeout(every);
            }
        };
        let thread = thread::Builder::new().name("gateway-watch".to_owned()).spawn(watch)?.thread().clone();
        Ok(Self { pulse, thread, every })
    }

    /// How often [`Watchdog::beat`] is to be called.
    pub(crate) fn period(&self) -> Duration {
        (self.every / BEATS_PER_LOOK).max(Duration::from_millis(1))
    }

    /// The runtime moves.
    pub(crate) fn beat(&self) {
        self.pulse.beats.fetch_add(1, Ordering::Release);
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.pulse.over.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_is_shut_once_after_so_many_looks_without_a_beat() {
        let mut looks = Looks::default();
        assert!(!looks.look(7));
        let shut: Vec<bool> = (0..LOOKS + 3).map(|_| looks.look(7)).collect();
        assert_eq!(shut.iter().filter(|shut| **shut).count(), 1);
        assert!(shut[LOOKS as usize - 1]);
    }

    #[test]
    fn one_beat_begins_the_count_again() {
        let mut looks = Looks::default();
        for beat in 0..100 {
            for _ in 0..LOOKS {
                assert!(!looks.look(beat));
            }
        }
    }
}
