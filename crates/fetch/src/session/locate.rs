//! Learning the size of a blob that no manifest has named: from a holder's outline, else from upstream.

use std::time::Instant;

use futures::{FutureExt, future::BoxFuture};

use super::{Session, drive::chunks, run::Env};
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
    let mut opening: Option<BoxFuture<'_, Result<_, shoal_upstream::Error>>> = None;
    let mut refusal: Option<shoal_upstream::Error> = None;
    let mut ask_upstream = false;
    loop {
        if session.close_if_unread() {
            return Ok(None);
        }
        if ask_upstream && opening.is_none() && refusal.is_none() {
            opening = Some(env.upstream.blob(&session.origin, &session.digest, 0).boxed());
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
            opened = async { match opening.as_mut() { Some(opening) => opening.await, None => std::future::pending().await } } => {
                opening = None;
                match opened {
                    Ok(blob) => match blob.size() {
                        Some(size) => {
                            let upstream = Some((blob.offset(), chunks(blob)));
                            return Ok(Some(Located { size, upstream }));
                        }
                        None => match env.upstream.blob_size(&session.origin, &session.digest).await {
                            Ok(size) => return Ok(Some(Located { size, upstream: None })),
                            Err(error) => refusal = Some(error),
                        },
                    },
                    Err(error) => refusal = Some(error),
                }
            }
            () = &mut budget, if !ask_upstream => ask_upstream = true,
            () = session.demand.notified() => {}
        }
    }
}
