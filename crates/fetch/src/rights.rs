//! Who may read what: upstream decides, and is asked once in a while.
//!
//! A **repository** is open where upstream lets it be read without credentials. Elsewhere who asks has to bring some, and upstream says whether they
//! are good; they are kept as a hash only, and sent to nobody else. What is asked for is checked by its HEAD, which registries do not count as a pull.
//!
//! | upstream says | then |
//! |---|---|
//! | yes, to nobody in particular | open to all for [`Config::right_ttl`](crate::Config::right_ttl) |
//! | yes, to the caller | open to who brings the same credentials, for as long |
//! | no | closed for half a minute: a secret that has just been set right works soon |
//! | that it does not exist | not found, whoever has it: registries hide like that what is not for everybody |
//! | nothing | what it said last holds; where it has never said anything, [`Rights`](crate::config::Rights) decides |
//!
//! A **digest** is given out under a repository only where it belongs there (`belonging`). What a manifest that came through here names needs no
//! question; of anything else upstream is asked by one HEAD, in the name in which the repository may be read:
//!
//! | upstream says | then |
//! |---|---|
//! | yes | it belongs there for [`Config::belongs_ttl`](crate::Config::belongs_ttl) |
//! | no, or that it does not exist | the same is told to the caller, whoever has it |
//! | nothing | what it said last holds, before a restart too (`recall`); where it has never spoken of it, it is closed under `strict`, and under `caller` where it is known to belong to repositories that are not open |

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt;
use shoal_content::{Digest, Origin, Reference};
use shoal_upstream::{Asked, Credential, CredentialKey, Item, Upstream};
use tokio::sync::OnceCell;

use crate::{
    belonging::{Belonging, Kind, Known},
    bounded::BoundedMap,
    config::{self, Config},
    face::{Error, Resolved},
    flights::Flights,
    recall::{self, lock},
    session::Env,
    tags::{self, Tags},
    trace::add,
};

/// Verdicts remembered.
const CAPACITY: usize = 4096;

/// How long a request waits for upstream's word. It goes on being awaited: the next request will have it.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How often it is told that something is given out unchecked.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// How long a refusal is relied on.
const REFUSAL_TTL: Duration = Duration::from_secs(30);

/// To whom a repository is open, of those who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    ToAll,
    To(Credential),
    ToNobody,
}

/// In whose name, and where.
type Who = (Origin, CredentialKey);

/// What upstream said of late.
pub(crate) struct Rights {
    verdicts: Arc<Mutex<BoundedMap<Who, Verdict>>>,
    asking: Flights<(Who, Item), Said>,
    belonging: Arc<Mutex<Belonging>>,
    /// What it said in earlier runs has been read.
    recalled: OnceCell<()>,
    /// When it was last told that something is given out unchecked.
    told: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy, Debug)]
struct Verdict {
    at: Instant,
    said: Said,
}

/// Upstream's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Yes,
    No,
    /// It shows no such thing.
    Missing,
    /// It could not be asked.
    Nothing,
}

/// Upstream's word on a repository.
#[derive(Clone, Copy, Debug)]
struct Word {
    /// What holds.
    said: Said,
    /// What it has said just now of what is asked for; `None` where it was not asked.
    now: Option<Said>,
}

/// Whether who asks may read a repository.
struct Right {
    granted: Granted,
    /// What upstream has just said of what is asked for.
    now: Option<Said>,
    /// It has never said anything of the repository.
    unchecked: bool,
}

/// One request.
#[derive(Clone, Copy)]
struct Request<'a> {
    env: &'a Arc<Env>,
    tags: &'a Arc<Tags>,
    origin: &'a Origin,
    item: &'a Item,
    caller: Option<&'a Credential>,
}

impl Verdict {
    fn is_fresh(&self, config: &Config) -> bool {
        self.at.elapsed() < if self.said == Said::Yes { config.right_ttl } else { REFUSAL_TTL }
    }
}

impl Request<'_> {
    fn all(&self) -> Who {
        (self.origin.clone(), CredentialKey::ANONYMOUS)
    }

    fn one(&self, credential: &Credential) -> Who {
        (self.origin.clone(), credential.key())
    }

    fn what(&self) -> String {
        Asked { origin: self.origin.clone(), item: self.item.clone() }.to_string()
    }

    fn missing(&self) -> Error {
        Error::NotFound { what: self.what(), reason: "its registry does not show it to who asks".to_owned() }
    }
}

impl Rights {
    pub(crate) fn new(belonging: Arc<Mutex<Belonging>>) -> Self {
        Self {
            verdicts: Arc::new(Mutex::new(BoundedMap::new(CAPACITY))),
            asking: Flights::new(),
            belonging,
            recalled: OnceCell::new(),
            told: Mutex::new(None),
        }
    }

    pub(crate) async fn admit(
        &self,
        env: &Arc<Env>,
        tags: &Arc<Tags>,
        origin: &Origin,
        item: &Item,
        caller: Option<&Credential>,
    ) -> Result<Granted, Error> {
        if env.config.rights == config::Rights::Node {
            return Ok(Granted::ToAll);
        }
        let request = Request { env, tags, origin, item, caller };
        let right = self.may_read(request).await?;
        // A tag is resolved for the repository that it is asked in, and what else there is goes to upstream as it is.
        let (granted, unchecked) = match (&right.granted, named(item)) {
            (Granted::ToNobody, _) | (_, None) => (right.granted, right.unchecked),
            (_, Some((kind, digest))) => {
                let unchecked = right.unchecked;
                let (granted, is_known) = self.belongs(request, kind, digest, right).await?;
                (granted, unchecked || !is_known)
            }
        };
        if granted == Granted::ToNobody {
            add(&env.counters.unproven, 1);
        } else if unchecked {
            add(&env.counters.unchecked, 1);
            if self.is_due() {
                tracing::warn!(%origin, "upstream cannot be asked who may read this: it is given to whoever asks, as gateway.rights says; further ones of this minute are only counted");
            }
        }
        Ok(granted)
    }

    /// Whether the repository may be read, and in whose name.
    async fn may_read(&self, request: Request<'_>) -> Result<Right, Error> {
        let Request { env, caller, .. } = request;
        let all = request.all();
        // What the caller has proven lately needs no new look at whether it has to be proven.
        if let Some(credential) = caller
            && self.fresh(env, &all) != Some(Said::Yes)
            && self.fresh(env, &request.one(credential)) == Some(Said::Yes)
        {
            return Ok(Right { granted: Granted::To(credential.clone()), now: None, unchecked: false });
        }
        let to_all = self.ask(request, &all, env.upstream.anonymous()).await;
        let to_one = match caller {
            Some(credential) if to_all.said != Said::Yes => {
                let upstream = env.upstream.with_access(credential.clone());
                Some(self.ask(request, &request.one(credential), upstream).await)
            }
            _ => None,
        };
        let now = to_one.unwrap_or(to_all).now;
        match judge(to_all.said, to_one.map(|word| word.said), caller) {
            Judged::Granted(granted) => Ok(Right { granted, now, unchecked: false }),
            Judged::Missing => Err(request.missing()),
            Judged::Unspoken if env.config.rights == config::Rights::Strict => {
                let reason = "upstream cannot be asked who may read it, and has never said so".to_owned();
                Err(Error::Unavailable { what: request.origin.to_string(), reason })
            }
            Judged::Unspoken => Ok(Right { granted: Granted::ToAll, now, unchecked: true }),
        }
    }

    /// Whether what is asked for belongs to the repository, and to whom it is then given; false where upstream has never said so.
    async fn belongs(
        &self,
        request: Request<'_>,
        kind: Kind,
        digest: Digest,
        right: Right,
    ) -> Result<(Granted, bool), Error> {
        // A yes of just now has been noted.
        if right.now == Some(Said::Yes) {
            return Ok((right.granted, true));
        }
        if let Known::Fresh(source) = self.known(request.origin, kind, &digest) {
            tracing::trace!(origin = %request.origin, %digest, ?source, "belongs there");
            return Ok((right.granted, true));
        }
        // Who was just silent is not asked again.
        if right.now != Some(Said::Nothing) {
            match self.ask_of_it(request, &right.granted).await {
                Judged::Granted(granted) => return Ok((granted, true)),
                Judged::Missing => return Err(request.missing()),
                Judged::Unspoken => {}
            }
        }
        let is_known = self.belonged(request, kind, &digest).await?;
        Ok((right.granted, is_known))
    }

    /// What upstream says of what is asked for, to who may read the repository.
    async fn ask_of_it(&self, request: Request<'_>, granted: &Granted) -> Judged {
        let Request { env, caller, .. } = request;
        let to_all = match granted {
            Granted::To(_) => Said::No,
            _ => self.ask_now(request, &request.all(), env.upstream.anonymous()).await,
        };
        let to_one = match caller {
            Some(credential) if to_all != Said::Yes => {
                let upstream = env.upstream.with_access(credential.clone());
                Some(self.ask_now(request, &request.one(credential), upstream).await)
            }
            _ => None,
        };
        judge(to_all, to_one, caller)
    }

    /// Whether upstream, which cannot be asked, has said before that it belongs there.
    async fn belonged(&self, request: Request<'_>, kind: Kind, digest: &Digest) -> Result<bool, Error> {
        let Request { env, origin, .. } = request;
        let mut known = self.known(origin, kind, digest);
        if !matches!(known, Known::Fresh(_) | Known::Once(_)) {
            let (store, belonging) = (env.store.clone(), self.belonging.clone());
            let recall = || async move {
                if let Err(error) = tokio::task::spawn_blocking(move || recall::recall(&store, &belonging)).await {
                    tracing::error!(%error, "reading what upstream said before the restart failed");
                }
            };
            self.recalled.get_or_init(recall).await;
            known = self.known(origin, kind, digest);
        }
        let is_open = |origin: &Arc<Origin>| {
            let all = (Origin::clone(origin), CredentialKey::ANONYMOUS);
            self.last(&all).is_some_and(|verdict| verdict.said == Said::Yes)
        };
        let reason = match known {
            Known::Fresh(_) | Known::Once(_) => return Ok(true),
            _ if env.config.rights == config::Rights::Strict => {
                "upstream cannot be asked whether it is there, and has never said so"
            }
            Known::Unchecked | Known::Nothing => return Ok(false),
            Known::Elsewhere(origins) if origins.iter().any(is_open) => return Ok(false),
            Known::Elsewhere(_) => {
                "upstream cannot be asked whether it is there, and it is known of another repository"
            }
        };
        Err(Error::Unavailable { what: request.what(), reason: reason.to_owned() })
    }

    fn known(&self, origin: &Origin, kind: Kind, digest: &Digest) -> Known {
        lock(&self.belonging).known(origin, kind, digest, Instant::now())
    }

    /// Whether it is to be told again.
    fn is_due(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|at| at.elapsed() >= TELL_AGAIN);
        if is_due {
            *told = Some(Instant::now());
        }
        is_due
    }

    fn last(&self, who: &Who) -> Option<Verdict> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).get(who).copied()
    }

    fn fresh(&self, env: &Env, who: &Who) -> Option<Said> {
        self.last(who).filter(|verdict| verdict.is_fresh(&env.config)).map(|verdict| verdict.said)
    }

    /// What upstream said of late, or says now, or, when it is silent, said last.
    async fn ask(&self, request: Request<'_>, who: &Who, upstream: Upstream) -> Word {
        if let Some(said) = self.fresh(request.env, who) {
            return Word { said, now: None };
        }
        let now = self.ask_now(request, who, upstream).await;
        let said = match now {
            Said::Nothing => self.last(who).map_or(Said::Nothing, |verdict| verdict.said),
            said => said,
        };
        Word { said, now: Some(now) }
    }

    /// What upstream says now of what is asked for.
    async fn ask_now(&self, request: Request<'_>, who: &Who, upstream: Upstream) -> Said {
        let begin = || {
            let (env, tags, who, item) = (request.env.clone(), request.tags.clone(), who.clone(), request.item.clone());
            let (verdicts, belonging) = (self.verdicts.clone(), self.belonging.clone());
            let asking = tokio::spawn(async move {
                let said = ask(&env, &tags, &belonging, &who.0, &item, &upstream).await;
                let mut verdicts = verdicts.lock().unwrap_or_else(PoisonError::into_inner);
                let stands =
                    verdicts.get(&who).is_some_and(|last| last.said == Said::Yes && last.is_fresh(&env.config));
                // That one thing does not exist says nothing of the repository, nor does it that one is refused where others are not.
                if said == Said::Yes || said == Said::No && !stands {
                    verdicts.insert(who, Verdict { at: Instant::now(), said });
                }
                said
            });
            async move { asking.await.unwrap_or(Said::Nothing) }.boxed()
        };
        let said = self.asking.join((who.clone(), request.item.clone()), begin);
        tokio::time::timeout(PATIENCE, said).await.unwrap_or(Said::Nothing)
    }
}

/// What upstream's words come to.
enum Judged {
    Granted(Granted),
    Missing,
    Unspoken,
}

/// `to_one` is what is said to the caller, where he was asked for: what is open to all is open to him.
fn judge(to_all: Said, to_one: Option<Said>, caller: Option<&Credential>) -> Judged {
    match (to_all, to_one, caller) {
        (Said::Yes, ..) => Judged::Granted(Granted::ToAll),
        (_, Some(Said::Yes), Some(credential)) => Judged::Granted(Granted::To(credential.clone())),
        (_, Some(Said::Missing), _) | (Said::Missing, None, _) => Judged::Missing,
        (Said::No, ..) | (_, Some(Said::No), _) => Judged::Granted(Granted::ToNobody),
        _ => Judged::Unspoken,
    }
}

/// The digest that is asked for, if it is one.
fn named(item: &Item) -> Option<(Kind, Digest)> {
    match item {
        Item::Manifest(Reference::Digest(digest)) => Some((Kind::Manifest, *digest)),
        Item::Blob(digest) => Some((Kind::Blob, *digest)),
        Item::Manifest(Reference::Tag(_)) | Item::Other(_) | Item::Token => None,
    }
}

async fn ask(
    env: &Arc<Env>,
    tags: &Tags,
    belonging: &Mutex<Belonging>,
    origin: &Origin,
    item: &Item,
    upstream: &Upstream,
) -> Said {
    use shoal_upstream::Error as Upstream;
    match tokio::time::timeout(env.config.resolve_timeout, upstream.readable(origin, item)).await {
        Ok(Ok(descriptor)) => {
            if let (Some(found), Item::Manifest(Reference::Tag(tag))) = (descriptor, item) {
                let (digest, media_type, size) = (found.digest, found.media_type, found.size);
                let resolved = Resolved { digest, media_type, size, stale: false };
                // Upstream has just been asked: whoever resolves the tag next need not.
                tags::learn(env, tags, &tags::name_of(origin, tag), &resolved).await;
            }
            match named(item) {
                Some((Kind::Manifest, digest)) => recall::answered(&env.store, belonging, origin, &digest).await,
                Some((Kind::Blob, digest)) => {
                    lock(belonging).answered(&Arc::new(origin.clone()), Kind::Blob, &digest, Some(Instant::now()));
                }
                None => {}
            }
            Said::Yes
        }
        Ok(Err(Upstream::Denied { .. })) => Said::No,
        Ok(Err(Upstream::NotFound { .. })) => Said::Missing,
        Ok(Err(error)) => {
            tracing::debug!(%origin, %error, "upstream does not say who may read");
            Said::Nothing
        }
        Err(_) => {
            tracing::debug!(%origin, limit = ?env.config.resolve_timeout, "upstream has not said in time who may read");
            Said::Nothing
        }
    }
}
