//! Who has a blob: this node, those whom provider records name, and whoever else is connected.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use shoal_content::{Digest, Image, Outline};
use shoal_swarm::{PeerId, Swarm};

use super::{
    pull,
    types::{Found, FoundBy, Gone, Holder},
};
use crate::daemon::Node;

/// A lookup that has not ended by then is of a swarm in trouble; what was found is told.
const SEARCH: Duration = Duration::from_secs(5);

/// Connected peers that are asked although no record names them.
const MAX_ASKED: usize = 64;

/// Blobs of one image that are searched at once.
const BLOBS_AT_ONCE: usize = 8;

/// Searches a digest, or every blob of an image.
pub(crate) async fn find(node: &Node, what: &str) -> Result<Vec<Found>, String> {
    if let Ok(digest) = what.parse::<Digest>() {
        return Ok(vec![find_one(node, digest, None).await]);
    }
    let image: Image = what.parse().map_err(|error| format!("{what:?} is neither a digest nor an image: {error}"))?;
    let parts = pull::parts(&*node.fetch, &image, &pull::own_platform()).await?;
    let searches = parts.all.into_iter().map(|part| find_one(node, part.digest, Some((part.kind, part.size))));
    Ok(futures::stream::iter(searches).buffered(BLOBS_AT_ONCE).collect().await)
}

async fn find_one(node: &Node, digest: Digest, part: Option<(&'static str, u64)>) -> Found {
    let began = Instant::now();
    let own = node.blocking(move |store| store.outline(&digest)).await;
    let own = own.and_then(Result::ok).flatten();
    let mut found = Found {
        digest,
        part: part.map(|(kind, _)| kind.to_owned()),
        size: part.map(|(_, size)| size).or_else(|| own.as_ref().map(|outline| outline.size())),
        held: own.is_some(),
        holders: Vec::new(),
        gone: Vec::new(),
        first_ms: own.is_some().then_some(0),
        took_ms: 0,
    };
    // Past the deadline dropping the search drops what is still being asked.
    let _ = tokio::time::timeout(SEARCH, search(&node.swarm, digest, began, &mut found)).await;
    found.took_ms = milliseconds(began.elapsed());
    found
}

/// Who was asked, why, and what it said.
type Answer = (PeerId, FoundBy, Result<Option<Outline>, shoal_swarm::Error>);

async fn search(swarm: &Swarm, digest: Digest, began: Instant, found: &mut Found) {
    let connected: HashMap<PeerId, Vec<String>> = match swarm.peers().await {
        Ok(peers) => {
            peers.into_iter().map(|peer| (peer.id, peer.addresses.iter().map(ToString::to_string).collect())).collect()
        }
        Err(_) => HashMap::new(),
    };
    let mut records = swarm.providers(&digest);
    let mut searching = true;
    let mut asked = HashSet::new();
    let mut answers = FuturesUnordered::new();
    let ask = |peer: PeerId, how: FoundBy| -> BoxFuture<'_, Answer> {
        Box::pin(async move { (peer, how, swarm.outline(peer, &digest).await) })
    };
    while searching || !answers.is_empty() {
        tokio::select! {
            peer = records.recv(), if searching => match peer {
                Some(peer) if asked.insert(peer) => answers.push(ask(peer, FoundBy::Record)),
                Some(_) => {}
                None => {
                    searching = false;
                    let others = connected.keys().filter(|peer| !asked.contains(peer)).take(MAX_ASKED);
                    answers.extend(others.map(|peer| ask(*peer, FoundBy::Asked)));
                }
            },
            Some((peer, found_by, answer)) = answers.next(), if !answers.is_empty() => {
                let after_ms = milliseconds(began.elapsed());
                let peer_id = peer.to_string();
                let gone = |reason: String| Gone { peer_id: peer.to_string(), reason };
                match answer {
                    Ok(Some(outline)) => {
                        found.size = found.size.or(Some(outline.size()));
                        found.first_ms = found.first_ms.or(Some(after_ms));
                        found.holders.push(Holder {
                            peer_id,
                            addresses: connected.get(&peer).cloned().unwrap_or_default(),
                            found_by,
                            known: outline.known(),
                            leaves: outline.leaf_count(),
                            whole: outline.is_complete(),
                            after_ms,
                        });
                    }
                    // Of those whom nobody named, most do not have it: nothing to tell.
                    Ok(None) | Err(_) if found_by == FoundBy::Asked => {}
                    Ok(None) => found.gone.push(gone("a record names it, but it does not have it".to_owned())),
                    Err(error) => found.gone.push(gone(error.to_string())),
                }
            }
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
