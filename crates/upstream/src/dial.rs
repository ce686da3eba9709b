//! One HTTP request to one host: address rule, circuit, time-out, and what went wrong in words without secrets.

use std::{
    error::Error as StdError,
    io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use reqwest::{Request, Response};

use crate::{
    circuit::{Admission, Circuits},
    config::Timeouts,
    counters::Counters,
    error::{Again, Asked, Error, Failure},
    guard::{self, Forbidden},
    site::{Site, authority},
};

/// Sends single requests.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) timeouts: Timeouts,
    pub(crate) counters: Arc<Counters>,
    circuits: Mutex<Circuits>,
}

/// How a request stands towards hosts that just failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// A new request: fails at once where the host just failed.
    Fresh,
    /// A body that broke and waits between attempts anyway.
    Resuming,
}

impl Dial {
    pub(crate) fn new(timeouts: Timeouts, pause: (Duration, Duration), counters: Arc<Counters>) -> Self {
        let circuits = Circuits::new(pause.0, pause.1, timeouts.connect + timeouts.headers);
        Self { timeouts, counters, circuits: Mutex::new(circuits) }
    }

    /// Sends `request` and waits for the answer's headers.
    pub(crate) async fn send(
        &self,
        site: &Site,
        what: &Arc<Asked>,
        request: Request,
        patience: Patience,
    ) -> Result<Response, Failure> {
        let host = authority(request.url());
        if let Err(forbidden) = guard::check_literal(request.url(), site.rules.allow_private) {
            return Err(refused(site, what, host, &forbidden));
        }
        let admission = match patience {
            Patience::Fresh => self.circuits().admit(&host, Instant::now()),
            Patience::Resuming => Admission::Free,
        };
        if let Admission::Blocked(wait) = admission {
            Counters::add(&self.counters.blocked, 1);
            let reason = format!("it gave no answer just now, and is asked again in {:.1} s", wait.as_secs_f32());
            return Err(Failure::last(Error::Unreachable { what: Arc::clone(what), host, reason }));
        }
        Counters::add(&self.counters.sent, 1);
        let failure = match tokio::time::timeout(self.timeouts.headers, site.client.execute(request)).await {
            Ok(Ok(response)) => {
                self.circuits().answered(&host);
                return Ok(response);
            }
            Ok(Err(error)) => explain(site, what, host.clone(), error),
            Err(_) => {
                let reason = format!("no answer within {} s", self.timeouts.headers.as_secs_f32());
                silent(what, host.clone(), reason)
            }
        };
        if admission == Admission::Probe && failure.silent.is_some() {
            self.gave_no_answer(&host);
            return Err(Failure { again: Again::Never, ..failure });
        }
        Err(failure)
    }

    /// Retries are over, and `host` never answered: new requests leave it alone for a while.
    pub(crate) fn gave_no_answer(&self, host: &str) {
        self.circuits().failed(host, Instant::now());
    }

    /// Reads a body of at most `limit` bytes.
    pub(crate) async fn body(
        &self,
        what: &Arc<Asked>,
        host: &str,
        mut response: Response,
        limit: usize,
    ) -> Result<Bytes, Failure> {
        let too_long = || {
            let reason = format!("its body is longer than {limit} bytes");
            Failure::last(Error::Invalid { what: Arc::clone(what), host: host.to_owned(), reason })
        };
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk(what, host, &mut response).await? {
            if body.len() + chunk.len() > limit {
                return Err(too_long());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// The next piece of a body; a stall is a failure.
    pub(crate) async fn chunk(
        &self,
        what: &Arc<Asked>,
        host: &str,
        response: &mut Response,
    ) -> Result<Option<Bytes>, Failure> {
        let broke = |reason: String| Failure {
            error: Error::Unreachable { what: Arc::clone(what), host: host.to_owned(), reason },
            again: Again::Soon,
            silent: None,
        };
        match tokio::time::timeout(self.timeouts.stall, response.chunk()).await {
            Ok(Ok(chunk)) => {
                Counters::add(&self.counters.bytes, chunk.as_ref().map_or(0, |chunk| chunk.len() as u64));
                Ok(chunk)
            }
            Ok(Err(error)) => Err(broke(format!("the body broke off: {}", chain(&error.without_url())))),
            Err(_) => Err(broke(format!("no byte for {} s", self.timeouts.stall.as_secs_f32()))),
        }
    }

    fn circuits(&self) -> std::sync::MutexGuard<'_, Circuits> {
        self.circuits.lock().expect("no holder panics")
    }
}

fn silent(what: &Arc<Asked>, host: String, reason: String) -> Failure {
    let error = Error::Unreachable { what: Arc::clone(what), host: host.clone(), reason };
    Failure { error, again: Again::Soon, silent: Some(host) }
}

fn refused(site: &Site, what: &Arc<Asked>, host: String, forbidden: &Forbidden) -> Failure {
    let reason = forbidden.advice(site.registry.as_str());
    Failure::last(Error::Refused { what: Arc::clone(what), host, reason })
}

fn explain(site: &Site, what: &Arc<Asked>, host: String, error: reqwest::Error) -> Failure {
    // URLs of object stores are signed: they are secrets.
    let error = error.without_url();
    if let Some(forbidden) = find::<Forbidden>(&error) {
        return refused(site, what, host, forbidden);
    }
    if let Some(rustls::Error::InvalidCertificate(reason)) = find::<rustls::Error>(&error) {
        let reason = format!("its certificate is not valid here ({reason:?}): set `ca` for registry {}", site.registry);
        return Failure { again: Again::Never, ..silent(what, host, reason) };
    }
    silent(what, host, chain(&error))
}

/// The first cause of type `T`, also inside I/O errors, which hide what they carry from `source`.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(|error| error.get_ref());
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// An error and its causes on one line.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_inside_an_io_error_is_found() {
        let inner = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, inner));
        assert!(find::<rustls::Error>(&error).is_some());
        assert!(find::<Forbidden>(&error).is_none());
    }
}
