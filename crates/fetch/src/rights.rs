//! Who may read a repository: upstream decides, and is asked once in a while.
//!
//! A repository is open where upstream lets it be read without credentials. Elsewhere who asks has to bring some, and upstream says whether they
//! are good; they are kept as a hash only, and sent to nobody else. What is asked for is checked by its HEAD, which registries do not count as a pull.
//!
//! | upstream says | then |
//! |---|---|
//! | yes, to nobody in particular | open to all for [`Config::right_ttl`](crate::Config::right_ttl) |
//! | yes, to the caller | open to who brings the same credentials, for as long |
//! | no | closed for half a minute: a secret that has just been set right works soon |
//! | that it does not exist | not found, whoever has it: registries hide like that what is not for everybody |
//! | nothing | what it said last holds; where it has never said anything, [`Rights`](crate::config::Rights) decides |

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt;
use shoal_content::{Origin, Reference};
use shoal_upstream::{Asked, Credential, CredentialKey, Item, Upstream};

use crate::{
    bounded::BoundedMap,
    config::{self, Config},
    face::{Error, Resolved},
    flights::Flights,
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

impl Verdict {
    fn is_fresh(&self, config: &Config) -> bool {
        self.at.elapsed() < if self.said == Said::Yes { config.right_ttl } else { REFUSAL_TTL }
    }
}

impl Rights {
    pub(crate) fn new() -> Self {
        Self {
            verdicts: Arc::new(Mutex::new(BoundedMap::new(CAPACITY))),
            asking: Flights::new(),
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
        let all: Who = (origin.clone(), CredentialKey::ANONYMOUS);
        let one = caller.map(|credential| (credential, (origin.clone(), credential.key())));
        // What the caller has proven lately needs no new look at whether it has to be proven.
        if let Some((credential, who)) = &one
            && self.fresh(env, &all) != Some(Said::Yes)
            && self.fresh(env, who) == Some(Said::Yes)
        {
            return Ok(Granted::To((*credential).clone()));
        }
        let to_all = self.ask(env, tags, &all, item, env.upstream.anonymous()).await;
        let to_one = match &one {
            Some((credential, who)) if to_all != Said::Yes => {
                Some(self.ask(env, tags, who, item, env.upstream.with_access((*credential).clone())).await)
            }
            _ => None,
        };
        match (to_all, to_one, caller) {
            (Said::Yes, ..) => Ok(Granted::ToAll),
            (_, Some(Said::Yes), Some(credential)) => Ok(Granted::To(credential.clone())),
            (_, Some(Said::Missing), _) | (Said::Missing, None, _) => {
                let reason = "its registry does not show it to who asks".to_owned();
                Err(Error::NotFound { what: Asked { origin: origin.clone(), item: item.clone() }.to_string(), reason })
            }
            (Said::No, ..) | (_, Some(Said::No), _) => {
                add(&env.counters.unproven, 1);
                Ok(Granted::ToNobody)
            }
            _ if env.config.rights == config::Rights::Strict => {
                let reason = "upstream cannot be asked who may read it, and has never said so".to_owned();
                Err(Error::Unavailable { what: origin.to_string(), reason })
            }
            _ => {
                add(&env.counters.unchecked, 1);
                if self.is_due() {
                    tracing::warn!(%origin, "upstream cannot be asked who may read this repository: it is given to whoever asks, as gateway.rights says; further ones of this minute are only counted");
                }
                Ok(Granted::ToAll)
            }
        }
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
    async fn ask(&self, env: &Arc<Env>, tags: &Arc<Tags>, who: &Who, item: &Item, upstream: Upstream) -> Said {
        if let Some(said) = self.fresh(env, who) {
            return said;
        }
        let begin = || {
            let (env, tags, who, item) = (env.clone(), tags.clone(), who.clone(), item.clone());
            let verdicts = self.verdicts.clone();
            let asking = tokio::spawn(async move {
                let said = ask(&env, &tags, &who.0, &item, &upstream).await;
                // That one thing does not exist says nothing of the repository.
                if let Said::Yes | Said::No = said {
                    let mut verdicts = verdicts.lock().unwrap_or_else(PoisonError::into_inner);
                    verdicts.insert(who, Verdict { at: Instant::now(), said });
                }
                said
            });
            async move { asking.await.unwrap_or(Said::Nothing) }.boxed()
        };
        let said = self.asking.join((who.clone(), item.clone()), begin);
        match tokio::time::timeout(PATIENCE, said).await.unwrap_or(Said::Nothing) {
            Said::Nothing => self.last(who).map_or(Said::Nothing, |verdict| verdict.said),
            said => said,
        }
    }
}

async fn ask(env: &Arc<Env>, tags: &Tags, origin: &Origin, item: &Item, upstream: &Upstream) -> Said {
    use shoal_upstream::Error as Upstream;
    match tokio::time::timeout(env.config.resolve_timeout, upstream.readable(origin, item)).await {
        Ok(Ok(descriptor)) => {
            if let (Some(found), Item::Manifest(Reference::Tag(tag))) = (descriptor, item) {
                let (digest, media_type, size) = (found.digest, found.media_type, found.size);
                let resolved = Resolved { digest, media_type, size, stale: false };
                // Upstream has just been asked: whoever resolves the tag next need not.
                tags::learn(env, tags, &tags::name_of(origin, tag), &resolved).await;
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
