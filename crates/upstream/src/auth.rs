//! Who a request says it is from.
//!
//! A registry is first asked without credentials. What it demands is remembered, so that the next request brings the
//! right thing at once; a token that several requests need is fetched once. Credentials go to the registry itself and
//! to a token endpoint that [`check_realm`](crate::challenge::check_realm) allows, and nowhere else.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use http::{HeaderMap, HeaderValue, StatusCode};
use shoal_content::Registry;

use crate::{
    challenge::{self, Challenge},
    credentials::NodeCredentials,
    dial::{Dial, Patience},
    error::{Again, Asked, Error, Failure, Item},
    retry_after,
    secret::{Credential, CredentialKey, Redacted},
    site::{Site, authority},
    token::{MAX_TOKEN_ANSWER, TokenKey, TokenRequest, Tokens, read_answer},
};

/// Registries whose demand is remembered. Forgetting one costs a round trip.
const MAX_DEMANDS: usize = 1024;

/// In whose name a request is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Access {
    /// The node's: what its docker config file has for the registry.
    #[default]
    Node,
    /// Of who asked us, with nothing of the node's.
    Caller(Credential),
    /// Nobody's.
    Anonymous,
}

/// An `Authorization` header, and what it was made of.
#[derive(Clone)]
pub(crate) struct Authorization {
    pub(crate) header: HeaderValue,
    proof: Proof,
}

#[derive(Clone)]
enum Proof {
    Password(Credential),
    Token(TokenKey, Arc<Redacted>),
}

type Fetching = BoxFuture<'static, Result<Arc<Redacted>, Failure>>;

/// What is known of who wants which proof.
pub(crate) struct Auth {
    dial: Arc<Dial>,
    node: NodeCredentials,
    demands: Mutex<HashMap<Registry, Challenge>>,
    tokens: Arc<Mutex<Tokens>>,
    fetching: Mutex<HashMap<TokenKey, WeakShared<Fetching>>>,
}

// === impl Access ===

impl Access {
    /// Tells apart what different callers may have been shown.
    pub(crate) fn key(&self) -> CredentialKey {
        match self {
            Self::Node => CredentialKey::NODE,
            Self::Caller(credential) => credential.key(),
            Self::Anonymous => CredentialKey::ANONYMOUS,
        }
    }
}

// === impl Auth ===

impl Auth {
    pub(crate) fn new(dial: Arc<Dial>, node: NodeCredentials) -> Self {
        Self { dial, node, demands: Mutex::default(), tokens: Arc::default(), fetching: Mutex::default() }
    }

    /// What the registry will want, if it has said so before.
    pub(crate) async fn anticipate(
        &self,
        site: &Arc<Site>,
        what: &Arc<Asked>,
        access: &Access,
        patience: Patience,
    ) -> Result<Option<Authorization>, Failure> {
        let demand = self.demands.lock().expect("no holder panics").get(&site.registry).cloned();
        match demand {
            Some(demand) => self.meet(site, what, access, demand, patience).await,
            None => Ok(None),
        }
    }

    /// What a 401 asks for, after `used` was refused.
    pub(crate) async fn answer(
        &self,
        site: &Arc<Site>,
        what: &Arc<Asked>,
        access: &Access,
        headers: &HeaderMap,
        used: Option<&Authorization>,
        patience: Patience,
    ) -> Result<Authorization, Failure> {
        let denied = |reason: String| {
            let host = authority(&site.endpoint);
            Failure::last(Error::Denied { what: Arc::clone(what), host, reason })
        };
        let demand = challenge::read(headers).map_err(denied)?;
        self.remember(&site.registry, &demand);
        match used.map(|used| &used.proof) {
            Some(Proof::Token(key, token)) => {
                self.tokens.lock().expect("no holder panics").refused(key, token);
            }
            Some(Proof::Password(credential)) if *access == Access::Node => {
                self.node.refused(&site.registry, credential).await;
            }
            _ => {}
        }
        let answer = self.meet(site, what, access, demand, patience).await?;
        let is_same_password = |answer: &Authorization| match (&answer.proof, used.map(|used| &used.proof)) {
            (Proof::Password(new), Some(Proof::Password(old))) => new == old,
            _ => false,
        };
        match answer {
            Some(answer) if !is_same_password(&answer) => Ok(answer),
            _ => Err(denied(self.advice(site, access).await)),
        }
    }

    /// Why a request in this name is denied, and what to do.
    pub(crate) async fn advice(&self, site: &Site, access: &Access) -> String {
        let registry = &site.registry;
        match access {
            Access::Anonymous => "it wants credentials, and none were given".into(),
            Access::Caller(_) => "it refuses the credentials of who asked".into(),
            Access::Node => {
                let found = self.node.find(registry).await;
                match (found.credential, found.problem) {
                    (Some(_), _) => {
                        format!("it refuses this node's credentials for {registry}: look at `docker_config`")
                    }
                    (None, Some(problem)) => {
                        format!("it wants credentials, and this node has none for {registry}: {problem}")
                    }
                    (None, None) => format!(
                        "it wants credentials, and this node has none for {registry}: add them to the file of `docker_config`"
                    ),
                }
            }
        }
    }

    fn remember(&self, registry: &Registry, demand: &Challenge) {
        let mut demands = self.demands.lock().expect("no holder panics");
        if demands.len() >= MAX_DEMANDS && !demands.contains_key(registry) {
            demands.clear();
        }
        demands.insert(registry.clone(), demand.clone());
    }

    async fn meet(
        &self,
        site: &Arc<Site>,
        what: &Arc<Asked>,
        access: &Access,
        demand: Challenge,
        patience: Patience,
    ) -> Result<Option<Authorization>, Failure> {
        let credential = match access {
            Access::Node => self.node.find(&site.registry).await.credential,
            Access::Caller(credential) => Some(credential.clone()),
            Access::Anonymous => None,
        };
        match demand {
            Challenge::Basic => Ok(credential.and_then(|credential| {
                let header = sensitive(credential.authorization()?.expose())?;
                Some(Authorization { header, proof: Proof::Password(credential) })
            })),
            Challenge::Bearer { realm, service, extra_scope } => {
                if let Err(reason) = challenge::check_realm(&realm, &site.endpoint, &site.rules.token_hosts) {
                    let (what, host) = (Arc::clone(what), authority(&realm));
                    return Err(Failure::last(Error::Refused { what, host, reason }));
                }
                let scope = challenge::pull_scope(&what.origin.repository);
                let key = TokenKey {
                    registry: site.registry.clone(),
                    scope: scope.clone(),
                    credential: credential.as_ref().map_or(CredentialKey::ANONYMOUS, Credential::key),
                };
                let scopes = [scope].into_iter().chain(extra_scope).collect();
                let request = TokenRequest { realm, service, scopes, credential };
                let token = self.token(site, what, key.clone(), request, patience).await?;
                let header = sensitive(&format!("Bearer {}", token.expose()));
                Ok(header.map(|header| Authorization { header, proof: Proof::Token(key, token) }))
            }
        }
    }

    /// A held token, or the one that is being fetched, or a new one.
    async fn token(
        &self,
        site: &Arc<Site>,
        what: &Arc<Asked>,
        key: TokenKey,
        request: TokenRequest,
        patience: Patience,
    ) -> Result<Arc<Redacted>, Failure> {
        let fetching = {
            let mut fetching = self.fetching.lock().expect("no holder panics");
            if let Some(token) = self.tokens.lock().expect("no holder panics").get(&key, Instant::now()) {
                return Ok(token);
            }
            match fetching.get(&key).and_then(WeakShared::upgrade) {
                Some(running) => running,
                None => {
                    let what = Arc::new(Asked { origin: what.origin.clone(), item: Item::Token });
                    let (dial, tokens) = (Arc::clone(&self.dial), Arc::clone(&self.tokens));
                    let new = fetch(dial, Arc::clone(site), what, tokens, key.clone(), request, patience);
                    let new: Shared<Fetching> = new.boxed().shared();
                    fetching.retain(|_, running| running.upgrade().is_some());
                    if let Some(weak) = new.downgrade() {
                        fetching.insert(key, weak);
                    }
                    new
                }
            }
        };
        fetching.await
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

async fn fetch(
    dial: Arc<Dial>,
    site: Arc<Site>,
    what: Arc<Asked>,
    tokens: Arc<Mutex<Tokens>>,
    key: TokenKey,
    request: TokenRequest,
    patience: Patience,
) -> Result<Arc<Redacted>, Failure> {
    let host = authority(&request.realm);
    let built = request.build(&site.client).build().map_err(|_| {
        let reason = "the URL of its token endpoint cannot be asked".to_owned();
        Failure::last(Error::Invalid { what: Arc::clone(&what), host: host.clone(), reason })
    })?;
    let asked = Instant::now();
    crate::Counters::add(&dial.counters.tokens, 1);
    let response = dial.send(&site, &what, built, patience).await?;
    let status = response.status();
    if status.is_success() {
        let body = dial.body(&what, &host, response, MAX_TOKEN_ANSWER).await?;
        let Some(token) = read_answer(&body, asked) else {
            let reason = "its token endpoint answered without a token".to_owned();
            return Err(Failure::last(Error::Invalid { what, host, reason }));
        };
        let value = Arc::clone(&token.value);
        tokens.lock().expect("no holder panics").put(key, token, Instant::now());
        return Ok(value);
    }
    Err(token_failure(what, host, status, retry_after::read(response.headers()), request.credential.is_some()))
}

fn token_failure(
    what: Arc<Asked>,
    host: String,
    status: StatusCode,
    retry_after: Option<Duration>,
    has_credential: bool,
) -> Failure {
    let reason = format!("its token endpoint answered {status}");
    match status.as_u16() {
        429 => {
            let again = retry_after.map_or(Again::Soon, Again::After);
            Failure { error: Error::RateLimited { what, host, reason, retry_after }, again, silent: None }
        }
        408 | 500..=599 => {
            Failure { error: Error::Unreachable { what, host, reason }, again: Again::Soon, silent: None }
        }
        400 | 401 | 403 if has_credential => {
            let reason = format!("{reason} to the credentials that were given");
            Failure::last(Error::Denied { what, host, reason })
        }
        400 | 401 | 403 => {
            let reason = format!("{reason} to a request without credentials");
            Failure::last(Error::Denied { what, host, reason })
        }
        _ => Failure::last(Error::Invalid { what, host, reason }),
    }
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(value).ok()?;
    header.set_sensitive(true);
    Some(header)
}
