//! What belongs to which repository.
//!
//! Who may read one repository may not have what this node holds of another. So a digest is given out under a repository only where it is
//! known to belong there:
//!
//! - **upstream has answered for it** there: it has named it as a tag's, sent it, or said yes to its HEAD;
//! - **a manifest names it** that itself belongs there. Registries take a manifest only when they have what it names, but for layers that are
//!   to be had elsewhere (`urls`): of these it says nothing.
//!
//! Manifests and blobs are kept apart. A blob may hold anything, a text that looks like a manifest too, and what that names is no registry's word.
//!
//! Pure: no clock, no input or output.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use shoal_content::{Digest, Origin};

use crate::descriptors::Parsed;

/// Digests of one manifest that are taken note of: an image has at most 127 layers, an index some dozens of manifests. Of more upstream is asked.
const MOST_NAMES: usize = 1024;

/// As what a digest is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Manifest,
    Blob,
}

/// Whence it is known that a digest belongs to a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Upstream has answered for it.
    Upstream,
    /// This manifest of the repository names it.
    Named(Digest),
    /// A manifest names it of which upstream could not be asked: as good as that one.
    Unchecked,
}

/// What is known of a digest in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It belongs there.
    Fresh(Source),
    /// It did when upstream last spoke: to be asked again, and good while upstream cannot be.
    Once(Source),
    /// Only a manifest says so of which upstream could not be asked.
    Unchecked,
    /// Of it nothing is known there. By upstream's word it belongs to these, or, where there are none, is of the other kind.
    Elsewhere(Vec<Arc<Origin>>),
    /// Nothing is known of it at all.
    Nothing,
}

/// Which digests belong to which repositories: at most `capacity` such facts, those used last.
#[derive(Debug)]
pub(crate) struct Belonging {
    capacity: usize,
    ttl: Duration,
    facts: HashMap<Digest, Vec<Fact>>,
    /// When each was used, the longest ago first.
    order: BTreeMap<u64, Digest>,
    uses: u64,
}

#[derive(Debug)]
struct Fact {
    origin: Arc<Origin>,
    kind: Kind,
    source: Source,
    /// When upstream spoke; `None`: in an earlier run, or never.
    at: Option<Instant>,
    used: u64,
}

// === impl Belonging ===

impl Belonging {
    /// What upstream said is relied on for `ttl` without asking again.
    pub(crate) fn new(capacity: usize, ttl: Duration) -> Self {
        Self { capacity, ttl, facts: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }

    /// Upstream has answered for it; `at` is when, `None` in an earlier run.
    pub(crate) fn answered(&mut self, origin: &Arc<Origin>, kind: Kind, digest: &Digest, at: Option<Instant>) {
        self.learn(origin, kind, digest, Source::Upstream, at);
    }

    /// Takes note of what a verified manifest names. It is as good as what is known of the manifest itself.
    pub(crate) fn names(&mut self, origin: &Arc<Origin>, manifest: &Digest, parsed: &Parsed) {
        let (source, at) = match self.fact(origin, Kind::Manifest, manifest) {
            Some(fact) if fact.source != Source::Unchecked => (Source::Named(*manifest), fact.at),
            _ => (Source::Unchecked, None),
        };
        let blobs = parsed.blobs().filter(|blob| !blob.elsewhere).map(|blob| (Kind::Blob, &blob.digest));
        let manifests = parsed.manifests.iter().map(|child| (Kind::Manifest, &child.digest));
        for (kind, digest) in blobs.chain(manifests).take(MOST_NAMES.min(self.capacity)) {
            self.learn(origin, kind, digest, source, at);
        }
    }

    /// What is known. Counts as a use.
    pub(crate) fn known(&mut self, origin: &Origin, kind: Kind, digest: &Digest, now: Instant) -> Known {
        let Some(facts) = self.facts.get_mut(digest) else { return Known::Nothing };
        let Some(fact) = facts.iter_mut().find(|fact| fact.is_of(origin, kind)) else {
            // What upstream has not said closes nothing here, and opens nothing either.
            let mut said = facts.iter().filter(|fact| fact.source != Source::Unchecked).peekable();
            return match said.peek() {
                Some(_) => {
                    Known::Elsewhere(said.filter(|fact| fact.kind == kind).map(|fact| fact.origin.clone()).collect())
                }
                None => Known::Nothing,
            };
        };
        self.order.remove(&fact.used);
        self.uses += 1;
        fact.used = self.uses;
        self.order.insert(fact.used, *digest);
        match fact.source {
            Source::Unchecked => Known::Unchecked,
            source if fact.at.is_some_and(|at| now.saturating_duration_since(at) < self.ttl) => Known::Fresh(source),
            source => Known::Once(source),
        }
    }

    fn fact(&self, origin: &Origin, kind: Kind, digest: &Digest) -> Option<&Fact> {
        self.facts.get(digest)?.iter().find(|fact| fact.is_of(origin, kind))
    }

    fn learn(&mut self, origin: &Arc<Origin>, kind: Kind, digest: &Digest, source: Source, at: Option<Instant>) {
        self.uses += 1;
        let used = self.uses;
        let facts = self.facts.entry(*digest).or_default();
        match facts.iter_mut().find(|fact| fact.is_of(origin, kind)) {
            Some(fact) => {
                self.order.remove(&fact.used);
                fact.used = used;
                let better = match (fact.source, source) {
                    (_, Source::Unchecked) => false,
                    (Source::Unchecked, _) => true,
                    _ => fact.at <= at,
                };
                if better {
                    (fact.source, fact.at) = (source, at);
                }
            }
            None => facts.push(Fact { origin: origin.clone(), kind, source, at, used }),
        }
        self.order.insert(used, *digest);
        if self.order.len() > self.capacity {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some((used, digest)) = self.order.pop_first() else { return };
        let Some(facts) = self.facts.get_mut(&digest) else { return };
        facts.retain(|fact| fact.used != used);
        if facts.is_empty() {
            self.facts.remove(&digest);
        }
    }
}

// === impl Fact ===

impl Fact {
    fn is_of(&self, origin: &Origin, kind: Kind) -> bool {
        self.kind == kind && *self.origin == *origin
    }
}

#[cfg(test)]
mod tests {
    use shoal_content::Algorithm;

    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn origin(repository: &str) -> Arc<Origin> {
        Arc::new(Origin { registry: "a.b".parse().unwrap(), repository: repository.parse().unwrap() })
    }

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    fn image(blobs: &[&str]) -> Parsed {
        let layers: Vec<_> =
            blobs.iter().map(|blob| serde_json::json!({"digest": digest(blob).to_string(), "size": 1})).collect();
        Parsed::from_json(serde_json::json!({ "layers": layers }).to_string().as_bytes()).unwrap()
    }

    fn index(manifests: &[&str]) -> Parsed {
        Parsed { manifests: image(manifests).layers, ..Parsed::default() }
    }

    #[test]
    fn what_a_manifest_of_a_repository_names_belongs_to_it_and_to_no_other() {
        let (mut belonging, now) = (Belonging::new(100, TTL), Instant::now());
        let (ours, theirs) = (origin("ours"), origin("theirs"));
        belonging.answered(&ours, Kind::Manifest, &digest("index"), Some(now));
        belonging.names(&ours, &digest("index"), &index(&["image"]));
        belonging.names(&ours, &digest("image"), &image(&["layer"]));
        let named = Known::Fresh(Source::Named(digest("image")));
        assert_eq!(belonging.known(&ours, Kind::Blob, &digest("layer"), now), named);
        let elsewhere = Known::Elsewhere(vec![ours.clone()]);
        assert_eq!(belonging.known(&theirs, Kind::Blob, &digest("layer"), now), elsewhere);
        assert_eq!(belonging.known(&theirs, Kind::Manifest, &digest("image"), now), elsewhere);
        assert_eq!(belonging.known(&ours, Kind::Blob, &digest("other"), now), Known::Nothing);
    }

    #[test]
    fn what_a_manifest_of_nowhere_names_is_unchecked_and_takes_nothing_from_what_is_known() {
        let (mut belonging, now) = (Belonging::new(100, TTL), Instant::now());
        let ours = origin("ours");
        belonging.answered(&ours, Kind::Blob, &digest("known"), Some(now));
        belonging.names(&ours, &digest("stray"), &image(&["known", "layer"]));
        assert_eq!(belonging.known(&ours, Kind::Blob, &digest("known"), now), Known::Fresh(Source::Upstream));
        assert_eq!(belonging.known(&ours, Kind::Blob, &digest("layer"), now), Known::Unchecked);
        assert_eq!(belonging.known(&origin("theirs"), Kind::Blob, &digest("layer"), now), Known::Nothing);
        // Upstream speaks after all.
        belonging.answered(&ours, Kind::Manifest, &digest("stray"), Some(now));
        belonging.names(&ours, &digest("stray"), &image(&["layer"]));
        assert!(matches!(belonging.known(&ours, Kind::Blob, &digest("layer"), now), Known::Fresh(_)));
    }

    #[test]
    fn a_blob_that_looks_like_a_manifest_names_nothing() {
        let (mut belonging, now) = (Belonging::new(100, TTL), Instant::now());
        let (mine, theirs) = (origin("mine"), origin("theirs"));
        belonging.answered(&theirs, Kind::Blob, &digest("secret"), Some(now));
        belonging.answered(&mine, Kind::Blob, &digest("text"), Some(now));
        assert_eq!(belonging.known(&mine, Kind::Manifest, &digest("text"), now), Known::Elsewhere(Vec::new()));
        belonging.names(&mine, &digest("text"), &image(&["secret"]));
        assert_eq!(belonging.known(&mine, Kind::Blob, &digest("secret"), now), Known::Unchecked);
    }

    #[test]
    fn a_layer_that_is_to_be_had_elsewhere_is_not_vouched_for() {
        let (mut belonging, now) = (Belonging::new(100, TTL), Instant::now());
        let ours = origin("ours");
        belonging.answered(&ours, Kind::Manifest, &digest("image"), Some(now));
        let layer = |blob: &str, urls: serde_json::Value| serde_json::json!({"digest": digest(blob).to_string(), "size": 1, "urls": urls});
        let layers = [
            layer("foreign", serde_json::json!(["https://a.b/c"])),
            layer("none", serde_json::json!([])),
            layer("null", serde_json::Value::Null),
        ];
        let manifest = serde_json::json!({ "layers": layers }).to_string();
        belonging.names(&ours, &digest("image"), &Parsed::from_json(manifest.as_bytes()).unwrap());
        assert_eq!(belonging.known(&ours, Kind::Blob, &digest("foreign"), now), Known::Nothing);
        for blob in ["none", "null"] {
            assert!(matches!(belonging.known(&ours, Kind::Blob, &digest(blob), now), Known::Fresh(_)), "{blob}");
        }
    }

    #[test]
    fn a_fact_is_fresh_for_a_while_and_what_is_named_is_as_old_as_its_manifest() {
        let (mut belonging, then) = (Belonging::new(100, TTL), Instant::now());
        let ours = origin("ours");
        belonging.answered(&ours, Kind::Manifest, &digest("image"), Some(then));
        let later = then + TTL;
        belonging.names(&ours, &digest("image"), &image(&["layer"]));
        let named = Source::Named(digest("image"));
        assert_eq!(belonging.known(&ours, Kind::Blob, &digest("layer"), later), Known::Once(named));
        belonging.answered(&ours, Kind::Manifest, &digest("image"), Some(later));
        belonging.names(&ours, &digest("image"), &image(&["layer"]));
        assert_eq!(belonging.known(&ours, Kind::Blob, &digest("layer"), later), Known::Fresh(named));
        // What an earlier run heard is not news.
        belonging.answered(&ours, Kind::Blob, &digest("layer"), None);
        assert_eq!(belonging.known(&ours, Kind::Blob, &digest("layer"), later), Known::Fresh(named));
    }

    #[test]
    fn what_was_not_used_for_longest_makes_room() {
        let (mut belonging, now) = (Belonging::new(3, TTL), Instant::now());
        let (ours, theirs) = (origin("ours"), origin("theirs"));
        for (origin, of) in [(&ours, "a"), (&theirs, "a"), (&ours, "b")] {
            belonging.answered(origin, Kind::Blob, &digest(of), Some(now));
        }
        assert!(matches!(belonging.known(&ours, Kind::Blob, &digest("a"), now), Known::Fresh(_)));
        belonging.answered(&ours, Kind::Blob, &digest("c"), Some(now));
        assert_eq!(belonging.known(&theirs, Kind::Blob, &digest("a"), now), Known::Elsewhere(vec![ours.clone()]));
        belonging.answered(&ours, Kind::Blob, &digest("d"), Some(now));
        assert_eq!(belonging.known(&ours, Kind::Blob, &digest("b"), now), Known::Nothing);
        assert_eq!((belonging.order.len(), belonging.facts.len()), (3, 3));
        // A manifest that names more than there is room for does not go round.
        belonging.names(&ours, &digest("image"), &image(&["e", "f", "g", "h"]));
        assert_eq!(belonging.order.len(), 3);
    }
}
