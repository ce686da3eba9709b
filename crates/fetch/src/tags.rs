//! Tags: upstream decides. What it said is believed for a short while; when it cannot be asked, the last that this node or a peer
//! knows is served, and says so.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};

use futures::{StreamExt, stream::FuturesUnordered};
use shoal_content::{Algorithm, Cid, Digest, LeafHash, Origin, Tag};
use shoal_store::TagRecord;

use crate::{
    bounded::BoundedMap,
    face::{Error, Resolved},
    session::Env,
    trace::add,
    upstream_error,
};

/// Tags whose digest is held in memory.
const CAPACITY: usize = 4096;

/// Tags that upstream resolved of late.
#[derive(Debug)]
pub(crate) struct Tags(Mutex<BoundedMap<String, (Instant, Resolved)>>);

impl Tags {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(BoundedMap::new(CAPACITY)))
    }

    /// What upstream said within the time that it is believed for.
    pub(crate) fn fresh(&self, name: &str, ttl: std::time::Duration) -> Option<Resolved> {
        let tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tags.get(&name.to_owned()).filter(|(at, _)| at.elapsed() < ttl).map(|(_, resolved)| resolved.clone())
    }

    fn remember(&self, name: &str, resolved: &Resolved) {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tags.insert(name.to_owned(), (Instant::now(), resolved.clone()));
    }
}

/// The name that a tag goes by in the store and in the swarm.
pub(crate) fn name_of(origin: &Origin, tag: &Tag) -> String {
    format!("{origin}:{tag}")
}

/// The DHT key under which those who know a tag are found. It names no content.
pub(crate) fn key_of(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, format!("shoal tag {name}").as_bytes())
}

fn cid_of(key: &Digest) -> Cid {
    LeafHash(key.hash().try_into().expect("the key is a SHA-256")).cid()
}

/// Asks upstream what a tag names; where it cannot be asked, whoever knew last.
pub(crate) async fn resolve(env: Arc<Env>, tags: Arc<Tags>, origin: Origin, tag: Tag) -> Result<Resolved, Error> {
    let name = name_of(&origin, &tag);
    let asked = tokio::time::timeout(env.config.resolve_timeout, env.upstream.resolve(&origin, &tag)).await;
    let reason = match asked {
        Ok(Ok(descriptor)) => {
            let resolved = Resolved {
                digest: descriptor.digest,
                media_type: descriptor.media_type,
                size: descriptor.size,
                stale: false,
            };
            learn(&env, &tags, &name, &resolved).await;
            return Ok(resolved);
        }
        Ok(Err(error)) => match upstream_error(name.clone(), &error) {
            // Upstream has spoken: an older answer would be wrong.
            refusal @ (Error::NotFound { .. } | Error::Denied { .. } | Error::NotServed(_)) => return Err(refusal),
            other => other.to_string(),
        },
        Err(_) => format!("upstream did not answer within {:?}", env.config.resolve_timeout),
    };

    let last_known = match known_here(&env, &name).await {
        Some(record) => Some(record),
        None => known_to_peers(&env, &name).await,
    };
    let Some(record) = last_known else {
        return Err(Error::Unavailable {
            what: name,
            reason: format!("{reason}; neither this node nor a peer knows it"),
        });
    };
    tracing::warn!(tag = name, digest = %record.digest, reason, "upstream cannot be asked: serving the last known digest of a tag");
    add(&env.counters.stale_tags, 1);
    Ok(Resolved { digest: record.digest, media_type: record.media_type, size: record.size, stale: true })
}

/// Upstream has said what a tag names.
pub(crate) async fn learn(env: &Arc<Env>, tags: &Tags, name: &str, resolved: &Resolved) {
    tags.remember(name, resolved);
    keep(env, name.to_owned(), resolved).await;
}

/// Keeps what upstream said, for the time when it cannot be asked, and lets peers find it.
async fn keep(env: &Arc<Env>, name: String, resolved: &Resolved) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let record = TagRecord {
        digest: resolved.digest,
        media_type: resolved.media_type.clone(),
        size: resolved.size,
        resolved_at: now,
    };
    let (store, stored_name) = (env.store.clone(), name.clone());
    let stored = tokio::task::spawn_blocking(move || store.set_tag(&stored_name, &record)).await;
    if let Ok(Err(error)) = stored {
        tracing::warn!(tag = name, %error, "a tag cannot be kept: it is lost when upstream goes");
    }
    let key = key_of(&name);
    env.swarm.announce(&key, &cid_of(&key));
}

async fn known_here(env: &Arc<Env>, name: &str) -> Option<TagRecord> {
    let (store, name) = (env.store.clone(), name.to_owned());
    tokio::task::spawn_blocking(move || store.tag(&name)).await.ok()?.ok()?
}

/// What peers know of a tag: the latest of those who answer in time.
async fn known_to_peers(env: &Arc<Env>, name: &str) -> Option<TagRecord> {
    let mut latest: Option<TagRecord> = None;
    let search = async {
        let mut providers = env.swarm.providers(&key_of(name));
        let mut asked = FuturesUnordered::new();
        let mut searching = true;
        loop {
            tokio::select! {
                named = providers.recv(), if searching => match named {
                    Some(peer) if !env.reputation.is_avoided(&peer) => {
                        let swarm = env.swarm.clone();
                        asked.push(async move { swarm.tag(peer, name).await });
                    }
                    Some(_) => {}
                    None => searching = false,
                },
                Some(answer) = asked.next() => if let Ok(Some(record)) = answer {
                    let record = TagRecord {
                        digest: record.digest,
                        media_type: record.media_type,
                        size: record.size,
                        resolved_at: record.resolved_at,
                    };
                    if latest.as_ref().is_none_or(|latest| latest.resolved_at < record.resolved_at) {
                        latest = Some(record);
                    }
                },
                else => return,
            }
        }
    };
    let _ = tokio::time::timeout(env.config.manifest_timeout, search).await;
    latest
}
