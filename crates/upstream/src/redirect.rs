//! Where a registry sends a request on to: which redirects are followed, and which are remembered.
//!
//! Pure. A blob of Docker Hub lies in an object store behind a signed URL. A session that reads a layer leaf by leaf
//! would ask the registry again for every leaf; it goes to the remembered place instead, until that refuses or the
//! memory ends.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use shoal_content::{Digest, Origin};
use url::Url;

use crate::secret::CredentialKey;

/// Places remembered at once.
const MAX_PLACES: usize = 1024;

/// Resolves `location` against `from`. `Err` is the rule that forbids following it.
pub(crate) fn next(from: &Url, location: &str, allow_downgrade: bool) -> Result<Url, &'static str> {
    let to = from.join(location).map_err(|_| "it redirects to something that is not a URL")?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") if allow_downgrade => {}
        ("https", "http") => {
            return Err(
                "it redirects from HTTPS to plain HTTP: if that is right, set `allow_downgrade` for the registry",
            );
        }
        _ => return Err("it redirects to something that is not HTTP"),
    }
    if to.host().is_none() {
        return Err("it redirects to a URL without a host");
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("it redirects to a URL with a user name in it");
    }
    Ok(to)
}

/// What a place was shown for: the right to one repository says nothing about another.
pub(crate) type PlaceKey = (Origin, Digest, CredentialKey);

/// Where blobs were found lately.
#[derive(Debug)]
pub(crate) struct Places {
    lifetime: Duration,
    found: HashMap<PlaceKey, (Url, Instant)>,
}

impl Places {
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self { lifetime, found: HashMap::new() }
    }

    pub(crate) fn get(&self, key: &PlaceKey, now: Instant) -> Option<Url> {
        self.found.get(key).filter(|(_, until)| now < *until).map(|(url, _)| url.clone())
    }

    pub(crate) fn put(&mut self, key: PlaceKey, url: Url, now: Instant) {
        if self.lifetime.is_zero() {
            return;
        }
        if self.found.len() >= MAX_PLACES {
            self.found.retain(|_, (_, until)| now < *until);
        }
        if self.found.len() >= MAX_PLACES {
            self.found.clear();
        }
        self.found.insert(key, (url, now + self.lifetime));
    }

    pub(crate) fn forget(&mut self, key: &PlaceKey) {
        self.found.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use shoal_content::Algorithm;

    use super::*;

    fn step(from: &str, location: &str, allow_downgrade: bool) -> Option<String> {
        next(&from.parse().unwrap(), location, allow_downgrade).ok().map(String::from)
    }

    #[test]
    fn redirects_are_resolved_and_may_not_leave_https_unasked() {
        let from = "https://a.example/v2/x";
        assert_eq!(step(from, "/y", false).unwrap(), "https://a.example/y");
        assert_eq!(step(from, "//b.example/y?sig=1", false).unwrap(), "https://b.example/y?sig=1");
        assert_eq!(step(from, "http://b.example/", false), None);
        assert_eq!(step(from, "http://b.example/", true).unwrap(), "http://b.example/");
        assert_eq!(step("http://a.example/", "http://b.example/", false).unwrap(), "http://b.example/");
        assert_eq!(step("http://a.example/", "https://b.example/", false).unwrap(), "https://b.example/");
        for bad in ["file:///etc/passwd", "ftp://b.example/", "https://u:p@b.example/", "https://", "data:,x"] {
            assert_eq!(step(from, bad, true), None, "{bad}");
        }
    }

    #[test]
    fn places_are_remembered_for_their_time_and_for_who_was_shown_them() {
        let now = Instant::now();
        let mut places = Places::new(Duration::from_secs(5));
        let origin = |name: &str| Origin { registry: "a.example".parse().unwrap(), repository: name.parse().unwrap() };
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let key = (origin("a"), digest, CredentialKey::NODE);
        places.put(key.clone(), "https://b.example/".parse().unwrap(), now);
        assert!(places.get(&key, now).is_some());
        assert!(places.get(&key, now + Duration::from_secs(5)).is_none());
        assert!(places.get(&(origin("b"), digest, CredentialKey::NODE), now).is_none());
        assert!(places.get(&(origin("a"), digest, CredentialKey::ANONYMOUS), now).is_none());
        places.forget(&key);
        assert!(places.get(&key, now).is_none());
        for number in 0..2 * MAX_PLACES {
            let digest = Digest::of(Algorithm::Sha256, &number.to_be_bytes());
            places.put((origin("a"), digest, CredentialKey::NODE), "https://b.example/".parse().unwrap(), now);
        }
        assert!(places.found.len() <= MAX_PLACES);
    }
}
