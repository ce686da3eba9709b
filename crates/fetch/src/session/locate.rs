//! Learning the size of a blob that no manifest has named: from a holder's outline, else from upstream.

use std::time::Instant;

use futures::{FutureExt, future::BoxFuture};

use super::{Session, reads::chunks, run::Env};
use crate::{
    face::Error,
    reading::Chunks,
    search::{Found, Search},
};

/// What is known before the first byte.
pub(super) struct Located {
    pub(super) size: u64,
    /// A body of upstream's that was opened to learn it, and the byte at which it begins.
    pub(super) upstream: Option<(u64, Chunks)>,
}

/// The blob's size; `None` when nobody reads the blob any longer.
pub(super) async fn locate(session: &Session, env: &Env, began: Instant) -> Result<Option<Located>, Error> {
    let mut search = Search::begin(&env.swarm, session.digest, None);
    let budget = tokio::time::sleep(env.config.limits.budget.saturating_sub(began.elapsed()));
    tokio::pin!(budget);
    // A body that is opened to learn the size is what a node that is alone goes on to read; where there are others, most of it
    // is read by them, and a body that is dropped has cost upstream what was under way.
    let is_nobody_there = env.roll_call.is_nobody_there(&session.digest).await;
    let is_alone =
        is_nobody_there || env.swarm.nearest(&session.digest, 2).await.is_ok_and(|nearest| nearest.len() < 2);
    let mut asking: Option<BoxFuture<'_, Result<Located, shoal_upstream::Error>>> = None;
    let mut refusal: Option<shoal_upstream::Error> = None;
    let mut ask_upstream = is_nobody_there;
    loop {
        if session.close_if_unread() {
            return Ok(None);
        }
        if ask_upstream && asking.is_none() && refusal.is_none() {
            asking = Some(ask(session, env, is_alone).boxed());
        }
        if search.is_over()
            && let Some(refusal) = refusal
        {
            return Err(crate::upstream_error(format!("blob {} of {}", session.digest, session.origin), &refusal));
        }
        tokio::select! {
            found = search.next(&env.reputation), if !search.is_over() => match found {
                Found::Holder(_, outline) => return Ok(Some(Located { size: outline.size(), upstream: None })),
                Found::Useless(..) => {}
                Found::Over => ask_upstream = true,
            },
            answer = async { match asking.as_mut() { Some(asking) => asking.await, None => std::future::pending().await } } => {
                asking = None;
                match answer {
                    Ok(located) => return Ok(Some(located)),
                    Err(error) => refusal = Some(error),
                }
            }
            () = &mut budget, if !ask_upstream => ask_upstream = true,
            () = session.demand.notified() => {}
        }
    }
}

/// Upstream's word on the size, with the body where it is going to be read.
async fn ask(session: &Session, env: &Env, with_body: bool) -> Result<Located, shoal_upstream::Error> {
    if with_body {
        let blob = env.upstream.blob(&session.origin, &session.digest, 0).await?;
        if let Some(size) = blob.size() {
            env.ranges.learn(&session.origin.registry, 0, &blob);
            return Ok(Located { size, upstream: Some((blob.offset(), chunks(blob))) });
        }
    }
    let size = env.upstream.blob_size(&session.origin, &session.digest).await?;
    Ok(Located { size, upstream: None })
}
