//! Manifests: small, asked for first, and the swarm's word on them needs no trust, since their digest is their CID.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use shoal_content::{Digest, Origin, Reference};
use shoal_store::Store;
use shoal_swarm::PeerId;

use crate::{
    belonging::Belonging,
    descriptors::Parsed,
    face::{Error, Manifest},
    recall::{self, lock},
    session::Env,
    small,
    trace::add,
    upstream_error,
};

/// Largest manifest, in bytes: what the distribution specification asks registries to accept.
pub(crate) const MAX_MANIFEST: u64 = 4 << 20;

/// A manifest: from the store, else from the swarm within its budget, else from upstream, else from the swarm however long it takes.
///
/// Whether it is of that repository at all is to be asked before ([`crate::rights`]).
pub(crate) async fn get(
    env: Arc<Env>,
    belonging: Arc<Mutex<Belonging>>,
    origin: Origin,
    digest: Digest,
) -> Result<Manifest, Error> {
    if let Some(manifest) = stored(&env, digest).await? {
        learn(&env, &belonging, origin, &manifest);
        return Ok(manifest);
    }
    let manifest = match small::from_peers(&env, &digest, env.config.limits.budget).await {
        Some(given) => given_by(&env, digest, given).await?,
        None => match env.upstream.manifest(&origin, &Reference::Digest(digest)).await {
            Ok(manifest) => {
                add(&env.counters.manifests_from_upstream, manifest.bytes.len() as u64);
                recall::answered(&env.store, &belonging, &origin, &digest).await;
                keep(&env, digest, Some(manifest.media_type), manifest.bytes).await?
            }
            Err(error) => match small::from_peers(&env, &digest, env.config.manifest_timeout).await {
                Some(given) => given_by(&env, digest, given).await?,
                None => return Err(upstream_error(format!("manifest {digest} of {origin}"), &error)),
            },
        },
    };
    learn(&env, &belonging, origin, &manifest);
    Ok(manifest)
}

/// Takes note of what a manifest says: how large blobs are, and what belongs to its repository.
fn learn(env: &Env, belonging: &Mutex<Belonging>, origin: Origin, manifest: &Manifest) {
    if let Some(parsed) = Parsed::from_json(&manifest.bytes) {
        env.sizes.learn(&origin, &parsed);
        lock(belonging).names(&Arc::new(origin), &manifest.digest, &parsed);
    }
}

/// The bytes of a manifest that is held; `None` where it is not, or is too large for one. Blocks.
pub(crate) fn read(store: &Store, digest: &Digest) -> Result<Option<Bytes>, shoal_store::Error> {
    let Some(blob) = store.get(digest)?.filter(|blob| blob.size() <= MAX_MANIFEST) else { return Ok(None) };
    blob.read_at(0, usize::try_from(blob.size()).unwrap_or(usize::MAX)).map(Some)
}

/// A manifest that is in the store.
async fn stored(env: &Arc<Env>, digest: Digest) -> Result<Option<Manifest>, Error> {
    let store = env.store.clone();
    let read = tokio::task::spawn_blocking(move || -> Result<_, shoal_store::Error> {
        let Some(bytes) = read(&store, &digest)? else { return Ok(None) };
        Ok(Some((bytes, store.media_type(&digest)?)))
    });
    match read.await {
        Ok(Ok(Some((bytes, media_type)))) => Ok(Some(manifest(digest, media_type, bytes))),
        Ok(Ok(None)) => Ok(None),
        Ok(Err(error)) => {
            tracing::warn!(%digest, %error, "a stored manifest cannot be read: it is asked for anew");
            Ok(None)
        }
        Err(error) => {
            Err(Error::Local { what: format!("reading manifest {digest}"), reason: error.to_string().into() })
        }
    }
}

fn manifest(digest: Digest, media_type: Option<String>, bytes: Bytes) -> Manifest {
    let media_type = media_type
        .or_else(|| Parsed::from_json(&bytes).map(|parsed| parsed.media_type().to_owned()))
        .unwrap_or_else(|| "application/octet-stream".to_owned());
    Manifest { digest, media_type, bytes }
}

/// A manifest that a peer gave.
async fn given_by(env: &Arc<Env>, digest: Digest, (_, bytes): (PeerId, Bytes)) -> Result<Manifest, Error> {
    add(&env.counters.from_peers, bytes.len() as u64);
    keep(env, digest, None, bytes).await
}

/// Stores a manifest. A store that cannot take it does not fail the pull.
async fn keep(env: &Arc<Env>, digest: Digest, media_type: Option<String>, bytes: Bytes) -> Result<Manifest, Error> {
    let manifest = manifest(digest, media_type, bytes);
    let (store, kept) = (env.store.clone(), manifest.clone());
    let stored = tokio::task::spawn_blocking(move || {
        store.put(&digest, &kept.bytes)?;
        store.set_media_type(&digest, &kept.media_type).map(|_| ())
    });
    match stored.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%digest, %error, "a manifest is served without being stored"),
        Err(error) => tracing::error!(%digest, %error, "storing a manifest failed"),
    }
    Ok(manifest)
}
