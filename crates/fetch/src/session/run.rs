//! The life of a session, from its first reader to what is told of it afterwards.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use shoal_content::Digest;
use shoal_store::{Blob, Partial, Store};
use shoal_swarm::Swarm;
use shoal_upstream::Upstream;

use super::{
    End, Session,
    drive::{Driver, Outcome},
    local,
    locate::{Located, locate},
    sharing::Sharing,
};
use crate::{
    config::Config,
    face::Error,
    heard::Heard,
    ranges::RangesSeen,
    reputation::Reputation,
    roll_call::RollCall,
    shown::Shown,
    sizes::Sizes,
    trace::{Counters, Traces, add},
};

/// How long a session waits for what an earlier one of the same blob has left behind.
const BUSY_FOR: Duration = Duration::from_millis(100);

/// What all sessions of a node share.
#[derive(Clone)]
pub(crate) struct Env {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) shown: Shown,
    pub(crate) swarm: Swarm,
    pub(crate) upstream: Upstream,
    pub(crate) reputation: Arc<Reputation>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) roll_call: RollCall,
    pub(crate) sharing: Sharing,
    pub(crate) counters: Arc<Counters>,
    pub(crate) sizes: Arc<Sizes>,
    pub(crate) ranges: Arc<RangesSeen>,
    pub(crate) traces: Arc<Traces>,
}

/// Gets a blob, until it is whole, nobody reads it, or no source is left.
pub(crate) async fn drive(session: Arc<Session>, env: Arc<Env>) {
    add(&env.counters.sessions, 1);
    env.shown.words.begin(&session);
    let began = Instant::now();
    let outcome = match run(&session, &env, began).await {
        Ok(Outcome::Whole(blob)) => {
            session.ended_with(End::Whole(blob));
            "whole".to_owned()
        }
        Ok(Outcome::Unread) => "stopped: nobody reads it".to_owned(),
        Ok(Outcome::Unstored(reason)) => {
            tracing::warn!(digest = %session.digest, reason, "serving a blob through without storing it");
            add(&env.counters.unstored, 1);
            session.ended_with(End::Unstored);
            format!("served without being stored: {reason}")
        }
        Err(error) => {
            tracing::warn!(digest = %session.digest, origin = %session.origin, %error, "a blob cannot be had");
            add(&env.counters.failed, 1);
            let outcome = error.to_string();
            session.ended_with(End::Failed(error));
            outcome
        }
    };
    let trace = {
        let mut state = session.state();
        // Readers that are still at it hold what they read from; nothing else keeps the partial blob open.
        state.partial = state.partial.take().filter(|_| matches!(state.end, Some(End::Unstored)));
        state.trace.took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        state.trace.outcome = outcome;
        state.trace.clone()
    };
    tracing::debug!(digest = %session.digest, size = trace.size, took_ms = trace.took_ms, outcome = trace.outcome, "session over");
    env.traces.push(trace);
    session.ended.send_replace(true);
}

async fn run(session: &Arc<Session>, env: &Arc<Env>, began: Instant) -> Result<Outcome, Error> {
    let located = match env.sizes.get(&session.origin, &session.digest) {
        Some(size) => Located { size, upstream: None },
        None => match locate(session, env, began).await? {
            Some(located) => located,
            None => return Ok(Outcome::Unread),
        },
    };
    let (digest, size) = (session.digest, located.size);
    let partial = match begin(&env.store, digest, size).await? {
        Ok(partial) => Arc::new(partial),
        Err(shoal_store::Error::Held(_)) => return held(env, &digest).await.map(Outcome::Whole),
        Err(error) if error.is_no_space() || matches!(error, shoal_store::Error::Busy(_)) => {
            session.state().size = Some(size);
            return Ok(Outcome::Unstored(error.to_string()));
        }
        Err(error) => return Err(local(format!("storing blob {digest}"), &error)),
    };
    Driver::new(session, env, partial, located, began).run().await
}

/// Begins or resumes a blob. A session that has just ended may still have a leaf of it read or hashed: that is waited for.
async fn begin(store: &Store, digest: Digest, size: u64) -> Result<Result<Partial, shoal_store::Error>, Error> {
    let began = Instant::now();
    loop {
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.partial(&digest, size)).await {
            Ok(Err(shoal_store::Error::Busy(_))) if began.elapsed() < BUSY_FOR => {
                tokio::time::sleep(BUSY_FOR / 20).await;
            }
            Ok(begun) => return Ok(begun),
            Err(error) => return Err(local(format!("storing blob {digest}"), &error)),
        }
    }
}

/// A blob that became whole while the session began.
async fn held(env: &Env, digest: &Digest) -> Result<Blob, Error> {
    let (store, digest) = (env.store.clone(), *digest);
    match tokio::task::spawn_blocking(move || store.get(&digest)).await {
        Ok(Ok(Some(blob))) => Ok(blob),
        Ok(Ok(None)) => {
            Err(Error::Local { what: format!("blob {digest}"), reason: "it was evicted just now: ask again".into() })
        }
        Ok(Err(error)) => Err(local(format!("reading blob {digest}"), &error)),
        Err(error) => Err(local(format!("reading blob {digest}"), &error)),
    }
}
