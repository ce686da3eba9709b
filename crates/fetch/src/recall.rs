//! What belonged to which repository in earlier runs.
//!
//! Upstream's word on tags is kept in the store, and the manifests that they named are there too. A manifest that was asked for by digest, and
//! has no tag, is put down beside the tags, as `repository@digest`. All this is read again when upstream cannot be asked about something of
//! which nothing is known: an image that was pulled before a restart is then still known to be where it was.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Instant, SystemTime},
};

use shoal_content::{Digest, Origin};
use shoal_store::{Store, TagRecord};

use crate::{
    belonging::{Belonging, Kind, Known},
    descriptors::Parsed,
    manifests,
};

/// Indexes in indexes that are followed.
const DEPTH: usize = 3;

/// Manifests that were followed, in which repositories. Indexes may name the same ones again and again: each is read once.
type Followed = HashSet<(Arc<Origin>, Digest)>;

/// Takes note that upstream has answered for a manifest, also for after a restart where that is news.
pub(crate) async fn answered(store: &Store, belonging: &Mutex<Belonging>, origin: &Origin, digest: &Digest) {
    let (origin, now) = (Arc::new(origin.clone()), Instant::now());
    let known = {
        let mut belonging = lock(belonging);
        let known = belonging.known(&origin, Kind::Manifest, digest, now);
        belonging.answered(&origin, Kind::Manifest, digest, Some(now));
        known
    };
    if matches!(known, Known::Fresh(_) | Known::Once(_)) {
        return;
    }
    let (store, digest) = (store.clone(), *digest);
    if let Err(error) = tokio::task::spawn_blocking(move || keep(&store, &origin, &digest)).await {
        tracing::error!(%digest, %error, "keeping where a manifest belongs failed");
    }
}

fn keep(store: &Store, origin: &Origin, digest: &Digest) {
    let resolved_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let record = TagRecord { digest: *digest, media_type: String::new(), size: 0, resolved_at };
    if let Err(error) = store.set_tag(&format!("{origin}@{digest}"), &record) {
        tracing::warn!(%origin, %digest, %error, "it cannot be kept that this manifest is of that repository: it is forgotten with a restart");
    }
}

/// Reads again what upstream said in earlier runs. Blocks: it reads every manifest that the store knows by name.
pub(crate) fn recall(store: &Store, belonging: &Mutex<Belonging>) {
    let mut tags = match store.tags() {
        Ok(tags) => tags,
        Err(error) => {
            tracing::warn!(%error, "what belonged to which repository before the restart cannot be read");
            return;
        }
    };
    // Where there is not room for all, the latest stay.
    tags.sort_by_key(|(_, record)| record.resolved_at);
    let count = tags.len();
    let mut followed = Followed::new();
    for (key, record) in tags {
        let Some(origin) = origin_of(&key).map(Arc::new) else { continue };
        lock(belonging).answered(&origin, Kind::Manifest, &record.digest, None);
        follow(store, belonging, &origin, &record.digest, DEPTH, &mut followed);
    }
    tracing::info!(manifests = count, "upstream cannot be asked: went through what it said before the restart");
}

fn follow(
    store: &Store,
    belonging: &Mutex<Belonging>,
    origin: &Arc<Origin>,
    digest: &Digest,
    depth: usize,
    followed: &mut Followed,
) {
    if !followed.insert((origin.clone(), *digest)) {
        return;
    }
    let parsed = match manifests::read(store, digest) {
        Ok(bytes) => bytes.and_then(|bytes| Parsed::from_json(&bytes)),
        Err(error) => {
            tracing::debug!(%digest, %error, "a stored manifest cannot be read");
            None
        }
    };
    let Some(parsed) = parsed else { return };
    lock(belonging).names(origin, digest, &parsed);
    if depth > 0 {
        for child in &parsed.manifests {
            follow(store, belonging, origin, &child.digest, depth - 1, followed);
        }
    }
}

/// The repository of a tag's key, or of a manifest's.
fn origin_of(key: &str) -> Option<Origin> {
    let (name, _) = key.split_once('@').or_else(|| key.rsplit_once(':'))?;
    let (registry, repository) = name.split_once('/')?;
    Some(Origin { registry: registry.parse().ok()?, repository: repository.parse().ok()? })
}

/// The table, whoever panicked while he had it.
pub(crate) fn lock(belonging: &Mutex<Belonging>) -> MutexGuard<'_, Belonging> {
    belonging.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_content::Algorithm;
    use shoal_store::Options;

    use super::*;

    fn put(store: &Store, text: &str) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        store.put(&digest, text.as_bytes()).unwrap();
        digest
    }

    #[test]
    fn indexes_that_name_one_another_many_times_are_read_once_each() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(folder.path())).unwrap();
        let mut digest = put(&store, r#"{"layers":[]}"#);
        let image = digest;
        // 500 x 500 x 500 ways to the image.
        for _ in 0..DEPTH {
            let child = format!(r#"{{"digest":"{digest}","size":1}}"#);
            digest = put(&store, &format!(r#"{{"manifests":[{}]}}"#, vec![child; 500].join(",")));
        }
        let origin = Arc::new(Origin { registry: "a.b".parse().unwrap(), repository: "c".parse().unwrap() });
        let belonging = Mutex::new(Belonging::new(100, Duration::from_secs(60)));
        let mut followed = Followed::new();
        lock(&belonging).answered(&origin, Kind::Manifest, &digest, None);
        follow(&store, &belonging, &origin, &digest, DEPTH, &mut followed);
        assert_eq!(followed.len(), DEPTH + 1);
        let known = lock(&belonging).known(&origin, Kind::Manifest, &image, Instant::now());
        assert!(matches!(known, Known::Once(_)), "{known:?}");
    }

    #[test]
    fn an_image_of_an_earlier_run_is_known_by_its_tag_or_its_digest_down_to_the_layers() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Options::new(folder.path())).unwrap();
        let layers = ["a", "b"].map(|layer| Digest::of(Algorithm::Sha256, layer.as_bytes()));
        let image = |layer: &Digest| format!(r#"{{"layers":[{{"digest":"{layer}","size":1}}]}}"#);
        let tagged = put(&store, &image(&layers[0]));
        let index = put(&store, &format!(r#"{{"manifests":[{{"digest":"{tagged}","size":1}}]}}"#));
        let untagged = put(&store, &image(&layers[1]));
        let origin = Origin { registry: "127.0.0.1:80".parse().unwrap(), repository: "lib/app".parse().unwrap() };
        let record = TagRecord { digest: index, media_type: String::new(), size: 0, resolved_at: 1 };
        store.set_tag(&format!("{origin}:v1"), &record).unwrap();
        store.set_tag("nonsense", &record).unwrap();
        keep(&store, &origin, &untagged);

        let belonging = Mutex::new(Belonging::new(100, Duration::from_secs(60)));
        recall(&store, &belonging);
        let mut belonging = lock(&belonging);
        let mut known = |kind, digest: &Digest| belonging.known(&origin, kind, digest, Instant::now());
        for (kind, digest) in [
            (Kind::Manifest, index),
            (Kind::Manifest, tagged),
            (Kind::Manifest, untagged),
            (Kind::Blob, layers[0]),
            (Kind::Blob, layers[1]),
        ] {
            assert!(matches!(known(kind, &digest), Known::Once(_)), "{kind:?} {digest}");
        }
    }
}
