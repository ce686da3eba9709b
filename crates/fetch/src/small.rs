//! What is one leaf at most: its digest is its CID, so that whoever holds it can be asked for it at once, and nobody need be believed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use shoal_content::{Digest, LEAF_SIZE, LeafHash};
use shoal_swarm::PeerId;

use crate::session::Env;

/// Peers asked for one blob at once.
const MAX_ASKED: usize = 3;

/// A blob of at most one leaf, from whichever peer gives it first, within `limit`; where nobody is there, that is not waited for.
pub(crate) async fn from_peers(env: &Arc<Env>, digest: &Digest, limit: Duration) -> Option<(PeerId, Bytes)> {
    let hash = LeafHash(digest.hash().try_into().ok()?);
    let began = Instant::now();
    let search = async {
        let mut providers = env.swarm.providers(digest);
        let mut asked = FuturesUnordered::new();
        let mut searching = true;
        loop {
            tokio::select! {
                named = providers.recv(), if searching && asked.len() < MAX_ASKED => match named {
                    Some(peer) if !env.reputation.is_avoided(&peer) => asked.push(ask(env, peer, hash)),
                    Some(_) => {}
                    None => searching = false,
                },
                Some(answer) = asked.next() => if answer.is_some() { return answer },
                else => return None,
            }
        }
    };
    let nobody = async {
        if !env.roll_call.is_nobody_there(digest).await {
            std::future::pending::<()>().await;
        }
    };
    let found = tokio::select! {
        found = tokio::time::timeout(limit, search) => found.ok().flatten(),
        () = nobody => None,
    };
    tracing::debug!(%digest, found = found.is_some(), took = ?began.elapsed(), "asked the swarm for a manifest or a small blob");
    if found.is_some() {
        env.heard.gave(Instant::now());
    }
    found
}

async fn ask(env: &Env, peer: PeerId, hash: LeafHash) -> Option<(PeerId, Bytes)> {
    match env.swarm.block(peer, hash.cid(), i32::MAX).await {
        Ok(bytes) if bytes.len() as u64 <= LEAF_SIZE => Some((peer, bytes)),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%peer, %error, "a peer did not give a manifest or a small blob");
            None
        }
    }
}
