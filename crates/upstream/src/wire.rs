//! A request to a registry, from the first attempt to an answer: proof, redirects, retries.
//!
//! What decides is elsewhere and pure ([`crate::backoff`], [`crate::circuit`], [`crate::challenge`],
//! [`crate::redirect`]); this does as they say. Nothing here is retried that the registry has answered with a verdict.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use oci_distribution::errors::OciEnvelope;
use reqwest::Response;
use url::Url;

use crate::{
    auth::{Access, Auth, Authorization},
    config::{Config, Retry},
    counters::Counters,
    credentials::NodeCredentials,
    dial::{Dial, Patience},
    error::{Again, Asked, Error, Failure, Item},
    redirect::{self, PlaceKey, Places},
    retry_after,
    site::{Site, authority, same_place},
};

/// As much of an error's body as is read to find the registry's words in it.
const MAX_ERROR_BODY: usize = 16 * 1024;
/// As much of a registry's words as is repeated.
const MAX_MESSAGE: usize = 200;

/// A request for something of a repository.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) what: Arc<Asked>,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// Read the whole body, of at most so many bytes, as part of the attempt. `None` leaves it open.
    pub(crate) body_limit: Option<usize>,
}

/// What a registry, or the store that it pointed to, answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) what: Arc<Asked>,
    pub(crate) host: String,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// The body, where it was read.
    pub(crate) body: Bytes,
    /// The response with its body, where that was left open.
    pub(crate) open: Option<Response>,
    url: Url,
}

/// All that requests share.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) dial: Arc<Dial>,
    pub(crate) retry: Retry,
    auth: Auth,
    places: Mutex<Places>,
    max_redirects: u32,
}

// === impl Wire ===

impl Wire {
    pub(crate) fn new(config: &Config, counters: Arc<Counters>) -> Self {
        let dial = Arc::new(Dial::new(config.timeouts, config.pause, counters));
        Self {
            auth: Auth::new(Arc::clone(&dial), NodeCredentials::new(config.docker_config.clone())),
            dial,
            retry: config.retry,
            places: Mutex::new(Places::new(config.remember_redirects)),
            max_redirects: config.max_redirects,
        }
    }

    /// Sends `request`, again where that may help, until there is an answer: any but 401, 408, 429 and 5xx.
    pub(crate) async fn send(&self, site: &Arc<Site>, request: &Request, access: &Access) -> Result<Answer, Error> {
        // A token and five redirects have deadlines of their own, whose sum nobody would wait for.
        let deadline = self.retry.budget + self.dial.timeouts.headers;
        match tokio::time::timeout(deadline, self.send_again(site, request, access)).await {
            Ok(result) => result,
            Err(_) => {
                let reason = format!("no answer within {} s, all attempts together", deadline.as_secs_f32());
                let (what, host) = (Arc::clone(&request.what), authority(&site.endpoint));
                Err(Error::Unreachable { what, host, reason })
            }
        }
    }

    async fn send_again(&self, site: &Arc<Site>, request: &Request, access: &Access) -> Result<Answer, Error> {
        let first = Instant::now();
        let mut attempt = 0;
        loop {
            let failure = match self.attempt(site, request, access, Patience::Fresh).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let wait = self.wait(&failure, attempt);
            attempt += 1;
            match wait {
                Some(wait) if attempt < self.retry.attempts && first.elapsed() + wait <= self.retry.budget => {
                    tracing::debug!(error = %failure.error, ?wait, "asking again");
                    Counters::add(&self.dial.counters.retries, 1);
                    tokio::time::sleep(wait).await;
                }
                _ => {
                    if let Some(host) = &failure.silent {
                        self.dial.gave_no_answer(host);
                    }
                    return Err(failure.error);
                }
            }
        }
    }

    /// How long to wait before trying again after `failure`; `None` where trying again is no use.
    pub(crate) fn wait(&self, failure: &Failure, attempt: u32) -> Option<Duration> {
        match failure.again {
            Again::Never => None,
            Again::Soon => Some(self.retry.backoff.wait(attempt, rand::random())),
            Again::After(wait) => (wait <= self.retry.longest_retry_after).then_some(wait),
        }
    }

    /// One attempt, which may be several requests: for a token, with it, and along redirects.
    pub(crate) async fn attempt(
        &self,
        site: &Arc<Site>,
        request: &Request,
        access: &Access,
        patience: Patience,
    ) -> Result<Answer, Failure> {
        let place = place_key(request, access);
        if let Some(answer) = self.attempt_place(site, request, place.as_ref(), patience).await {
            return Ok(answer);
        }
        let what = &request.what;
        let mut proof = self.auth.anticipate(site, what, access, patience).await?;
        let mut answer = self.follow(site, request, request.url.clone(), proof.as_ref(), patience).await?;
        if answer.status == StatusCode::UNAUTHORIZED && same_place(&answer.url, &site.endpoint) {
            proof = Some(self.auth.answer(site, what, access, &answer.headers, proof.as_ref(), patience).await?);
            answer = self.follow(site, request, request.url.clone(), proof.as_ref(), patience).await?;
        }
        if answer.status == StatusCode::UNAUTHORIZED {
            let reason = self.auth.advice(site, access).await;
            return Err(Failure::last(Error::Denied { what: Arc::clone(what), host: answer.host, reason }));
        }
        self.judge(&answer)?;
        if let Some(key) = place
            && answer.status.is_success()
            && !same_place(&answer.url, &site.endpoint)
        {
            self.places().put(key, answer.url.clone(), Instant::now());
        }
        Ok(answer)
    }

    /// Asks where the blob was found last; `None` where that is not known, or no longer gives it.
    async fn attempt_place(
        &self,
        site: &Arc<Site>,
        request: &Request,
        key: Option<&PlaceKey>,
        patience: Patience,
    ) -> Option<Answer> {
        let key = key?;
        let url = self.places().get(key, Instant::now())?;
        let is_good =
            |answer: &Answer| answer.status.is_success() || answer.status == StatusCode::RANGE_NOT_SATISFIABLE;
        match self.follow(site, request, url, None, patience).await {
            Ok(answer) if is_good(&answer) => Some(answer),
            _ => {
                self.places().forget(key);
                None
            }
        }
    }

    /// Sends the request to `url`, and on to where that points.
    async fn follow(
        &self,
        site: &Site,
        request: &Request,
        mut url: Url,
        proof: Option<&Authorization>,
        patience: Patience,
    ) -> Result<Answer, Failure> {
        let what = &request.what;
        let refused = |url: &Url, reason: String| {
            Failure::last(Error::Refused { what: Arc::clone(what), host: authority(url), reason })
        };
        for _ in 0..=self.max_redirects {
            let mut sent = reqwest::Request::new(request.method.clone(), url.clone());
            sent.headers_mut().clone_from(&request.headers);
            if let Some(proof) = proof
                && same_place(&url, &site.endpoint)
            {
                sent.headers_mut().insert(header::AUTHORIZATION, proof.header.clone());
            }
            let response = self.dial.send(site, what, sent, patience).await?;
            match location(&response) {
                None => return self.read(request, url, response).await,
                Some(location) => {
                    let next = redirect::next(&url, location, site.rules.allow_downgrade)
                        .map_err(|reason| refused(&url, reason.to_owned()))?;
                    Counters::add(&self.dial.counters.redirects, 1);
                    url = next;
                }
            }
        }
        Err(refused(&url, format!("more than {} redirects", self.max_redirects)))
    }

    async fn read(&self, request: &Request, url: Url, response: Response) -> Result<Answer, Failure> {
        let (what, host) = (&request.what, authority(&url));
        let (status, headers) = (response.status(), response.headers().clone());
        let (body, open) = match request.body_limit {
            _ if request.method == Method::HEAD => (Bytes::new(), None),
            // Words about an error are welcome and not needed.
            _ if !status.is_success() => {
                let body = self.dial.body(what, &host, response, MAX_ERROR_BODY).await.unwrap_or_default();
                (body, None)
            }
            Some(limit) => (self.dial.body(what, &host, response, limit).await?, None),
            None => (Bytes::new(), Some(response)),
        };
        Ok(Answer { what: Arc::clone(what), host, status, headers, body, open, url })
    }

    /// Answers that are no verdict on what was asked for.
    fn judge(&self, answer: &Answer) -> Result<(), Failure> {
        let again = retry_after::read(&answer.headers).map_or(Again::Soon, Again::After);
        let (what, host, reason) = (Arc::clone(&answer.what), answer.host.clone(), answer.reason());
        match answer.status.as_u16() {
            429 => {
                let retry_after = retry_after::read(&answer.headers);
                Err(Failure { error: Error::RateLimited { what, host, reason, retry_after }, again, silent: None })
            }
            // 501 and 505 say that it will never do this.
            408 | 500 | 502..=504 | 506..=599 => {
                Err(Failure { error: Error::Unreachable { what, host, reason }, again, silent: None })
            }
            _ => Ok(()),
        }
    }

    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().expect("no holder panics")
    }
}

/// Only bodies of blobs are remembered by place: manifests are small, and signatures may cover the method.
fn place_key(request: &Request, access: &Access) -> Option<PlaceKey> {
    match &request.what.item {
        Item::Blob(digest) if request.method == Method::GET => {
            Some((request.what.origin.clone(), *digest, access.key()))
        }
        _ => None,
    }
}

fn location(response: &Response) -> Option<&str> {
    match response.status().as_u16() {
        301 | 302 | 303 | 307 | 308 => response.headers().get(header::LOCATION)?.to_str().ok(),
        _ => None,
    }
}

// === impl Answer ===

impl Answer {
    /// A header as text.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).map(HeaderValue::to_str)?.ok()
    }

    /// `Content-Length` as it was sent, also where there is no body.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// The error that this answer is.
    pub(crate) fn into_error(self) -> Error {
        let (reason, what, host) = (self.reason(), self.what, self.host);
        match self.status.as_u16() {
            404 | 410 => Error::NotFound { what, host, reason },
            401 | 403 | 451 => Error::Denied { what, host, reason },
            _ => Error::Invalid { what, host, reason },
        }
    }

    /// An error about an answer that looked right.
    pub(crate) fn invalid(&self, reason: impl Into<String>) -> Error {
        Error::Invalid { what: Arc::clone(&self.what), host: self.host.clone(), reason: reason.into() }
    }

    /// The status, and the registry's words where it has any.
    fn reason(&self) -> String {
        let status = self.status.as_u16();
        let words = serde_json::from_slice::<OciEnvelope>(&self.body).ok().and_then(|envelope| {
            let error = envelope.errors.into_iter().next()?;
            let code = serde_json::to_value(&error.code).ok()?;
            Some(format!("{} {}", code.as_str().unwrap_or_default(), error.message))
        });
        match words {
            Some(words) => {
                let words: String = words.chars().filter(|letter| !letter.is_control()).take(MAX_MESSAGE).collect();
                format!("HTTP {status}, {}", words.trim())
            }
            None => format!("HTTP {status}"),
        }
    }
}
