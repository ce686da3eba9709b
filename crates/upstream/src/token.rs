//! Tokens: which are held, until when, and how one is fetched.
//!
//! Pure: [`TokenRequest`] builds the request and [`read_answer`] reads what comes back; who sends it is
//! [`crate::auth`]. Lifetimes run on the monotonic clock from before the request was sent: what the server says about
//! its own clock is not looked at.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Method, header};
use serde::Deserialize;
use shoal_content::Registry;
use url::{Url, form_urlencoded};

use crate::secret::{Credential, CredentialKey, Redacted};

/// Tokens held at once: one for each repository and credential. Beyond it the one that ends soonest goes.
const MAX_TOKENS: usize = 4096;
/// How long a token lives when the server does not say (distribution's token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// No token is used longer than this, whatever the server says.
const LONGEST_LIFETIME: Duration = Duration::from_secs(3600);
/// Largest answer of a token endpoint. Tokens that list many rights reach some tens of KiB.
pub(crate) const MAX_TOKEN_ANSWER: usize = 256 * 1024;

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    pub(crate) registry: Registry,
    pub(crate) scope: String,
    pub(crate) credential: CredentialKey,
}

/// The tokens that are held.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    held: HashMap<TokenKey, Token>,
}

/// A token, and the last moment at which it is used.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) value: Arc<Redacted>,
    pub(crate) until: Instant,
}

/// What to ask a token endpoint.
#[derive(Clone, Debug)]
pub(crate) struct TokenRequest {
    pub(crate) realm: Url,
    pub(crate) service: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) credential: Option<Credential>,
}

// === impl Tokens ===

impl Tokens {
    pub(crate) fn get(&self, key: &TokenKey, now: Instant) -> Option<Arc<Redacted>> {
        self.held.get(key).filter(|token| now < token.until).map(|token| Arc::clone(&token.value))
    }

    pub(crate) fn put(&mut self, key: TokenKey, token: Token, now: Instant) {
        if self.held.len() >= MAX_TOKENS && !self.held.contains_key(&key) {
            self.held.retain(|_, token| now < token.until);
        }
        if self.held.len() >= MAX_TOKENS && !self.held.contains_key(&key) {
            let soonest = self.held.iter().min_by_key(|(_, token)| token.until).map(|(key, _)| key.clone());
            if let Some(soonest) = soonest {
                self.held.remove(&soonest);
            }
        }
        self.held.insert(key, token);
    }

    /// The registry refused this token. One that has replaced it meanwhile stays.
    pub(crate) fn refused(&mut self, key: &TokenKey, refused: &Arc<Redacted>) {
        if self.held.get(key).is_some_and(|token| Arc::ptr_eq(&token.value, refused)) {
            self.held.remove(key);
        }
    }
}

// === impl TokenRequest ===

impl TokenRequest {
    /// The HTTP request: GET with Basic for a password or nobody, an OAuth2 form for a refresh token.
    pub(crate) fn build(&self, client: &reqwest::Client) -> reqwest::RequestBuilder {
        if let Some(Credential::Identity(refresh)) = &self.credential {
            let mut form = form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("client_id", "shoal");
            form.append_pair("refresh_token", refresh.expose());
            form.append_pair("scope", &self.scopes.join(" "));
            if let Some(service) = &self.service {
                form.append_pair("service", service);
            }
            return client
                .request(Method::POST, self.realm.clone())
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form.finish());
        }
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            for scope in &self.scopes {
                query.append_pair("scope", scope);
            }
        }
        let request = client.get(url);
        match self.credential.as_ref().and_then(Credential::authorization) {
            Some(authorization) => request.header(header::AUTHORIZATION, authorization.expose()),
            None => request,
        }
    }
}

/// Reads a token endpoint's answer; `asked` is when the request was sent. `None` where there is no token in it.
pub(crate) fn read_answer(body: &[u8], asked: Instant) -> Option<Token> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<String>,
        access_token: Option<String>,
        expires_in: Option<f64>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let value = answer.token.filter(|token| !token.is_empty()).or(answer.access_token)?;
    let is_header_text = |byte: u8| (0x21..0x7f).contains(&byte);
    if value.is_empty() || !value.bytes().all(is_header_text) {
        return None;
    }
    let lifetime = answer
        .expires_in
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|lifetime| !lifetime.is_zero())
        .unwrap_or(DEFAULT_LIFETIME)
        .min(LONGEST_LIFETIME);
    // A tenth less, so that no token ends between being taken and being judged.
    Some(Token { value: Arc::new(Redacted::new(value)), until: asked + lifetime.mul_f64(0.9) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(scope: impl Into<String>) -> TokenKey {
        TokenKey { registry: "a.example".parse().unwrap(), scope: scope.into(), credential: CredentialKey::ANONYMOUS }
    }

    fn token(until: Instant) -> Token {
        Token { value: Arc::new(Redacted::new("t")), until }
    }

    #[test]
    fn a_token_is_used_until_its_end_and_not_after_it() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let second = Duration::from_secs(1);
        tokens.put(key("a"), token(now + second), now);
        assert!(tokens.get(&key("a"), now).is_some());
        assert!(tokens.get(&key("a"), now + second).is_none());
        assert!(tokens.get(&key("b"), now).is_none());
        let other = TokenKey { credential: Credential::basic("u", "p").key(), ..key("a") };
        assert!(tokens.get(&other, now).is_none());
    }

    #[test]
    fn a_refused_token_goes_and_its_successor_stays() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        let old = token(now + Duration::from_secs(9));
        tokens.put(key("a"), old.clone(), now);
        tokens.put(key("a"), token(now + Duration::from_secs(9)), now);
        tokens.refused(&key("a"), &old.value);
        let new = tokens.get(&key("a"), now).unwrap();
        tokens.refused(&key("a"), &new);
        assert!(tokens.get(&key("a"), now).is_none());
    }

    #[test]
    fn the_cache_is_bounded_and_drops_what_ends_soonest() {
        let (mut tokens, now) = (Tokens::default(), Instant::now());
        for number in 0..=MAX_TOKENS {
            tokens.put(key(number.to_string()), token(now + Duration::from_secs(100 + number as u64)), now);
        }
        assert_eq!(tokens.held.len(), MAX_TOKENS);
        assert!(tokens.get(&key("0"), now).is_none());
        assert!(tokens.get(&key(MAX_TOKENS.to_string()), now).is_some());
    }

    #[test]
    fn answers_of_token_endpoints_are_read_with_their_lifetime() {
        let now = Instant::now();
        let lifetime = |body: &str| read_answer(body.as_bytes(), now).map(|token| (token.until - now).as_secs());
        assert_eq!(lifetime(r#"{"token":"a","expires_in":300}"#), Some(270));
        assert_eq!(lifetime(r#"{"access_token":"a"}"#), Some(54));
        assert_eq!(lifetime(r#"{"token":"a","expires_in":1e300}"#), Some(54));
        assert_eq!(lifetime(r#"{"token":"a","expires_in":-1}"#), Some(54));
        assert_eq!(lifetime(r#"{"token":"a","expires_in":999999999}"#), Some(3240));
        for bad in ["", "{}", r#"{"token":""}"#, r#"{"token":"a b"}"#, "{\"token\":\"a\\r\\nX: y\"}", "[]"] {
            assert_eq!(lifetime(bad), None, "{bad}");
        }
    }
}
