//! What only upstream can answer, passed on: lists of tags and of referrers. Pure but for the request, which
//! [`crate::Upstream`] makes.

use bytes::Bytes;
use http::header;
use shoal_content::Digest;
use url::Url;

use crate::wire::Answer;

/// Largest answer passed on, in bytes: the size to which the distribution specification bounds a referrers list.
pub const MAX_PASSED: usize = 4 * 1024 * 1024;
/// Longest query passed on, in bytes.
const MAX_QUERY: usize = 4096;
/// Headers that a client needs.
const PASSED_HEADERS: [&str; 3] = ["content-type", "oci-filters-applied", "docker-content-digest"];

/// An answer of upstream, passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// HTTP status: a success, or a verdict such as 400 or 404.
    pub status: u16,
    /// `Content-Type`, `Link` (relative to the host), `OCI-Filters-Applied`, `Docker-Content-Digest`.
    pub headers: Vec<(String, String)>,
    /// At most [`MAX_PASSED`] bytes.
    pub body: Bytes,
}

/// Whether this is something to pass on. `Err` says why not.
pub(crate) fn check(tail: &str, query: Option<&str>) -> Result<(), &'static str> {
    let is_known = match tail.strip_prefix("referrers/") {
        Some(digest) => digest.parse::<Digest>().is_ok(),
        None => tail == "tags/list",
    };
    let is_plain = |byte: u8| (0x21..0x7f).contains(&byte) && byte != b'#';
    match query {
        _ if !is_known => Err("only `tags/list` and `referrers/<digest>` are passed on"),
        Some(query) if query.len() > MAX_QUERY || !query.bytes().all(is_plain) => Err("the query cannot be passed on"),
        _ => Ok(()),
    }
}

/// What of an answer is passed on; `endpoint` is where `/v2/` is.
pub(crate) fn pass(answer: Answer, endpoint: &Url) -> Passed {
    let mut headers = Vec::new();
    for name in PASSED_HEADERS {
        if let Some(value) = answer.header(name) {
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    if let Some(link) = answer.header(header::LINK).and_then(|link| relative(link, endpoint)) {
        headers.push(("link".to_owned(), link));
    }
    Passed { status: answer.status.as_u16(), headers, body: answer.body }
}

/// A `Link` such that its reader stays with us: the path from `/v2/` on and the query. `None` where it leads elsewhere.
fn relative(link: &str, endpoint: &Url) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let url = endpoint.join(target).ok()?;
    if url.host() != endpoint.host() {
        return None;
    }
    let path = url.path().strip_prefix(endpoint.path().trim_end_matches('/'))?;
    if !path.starts_with("/v2/") {
        return None;
    }
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    Some(format!("<{path}{query}>{parameters}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lists_of_tags_and_referrers_are_passed_on() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(check("tags/list", None).is_ok());
        assert!(check("tags/list", Some("n=10&last=a%2fb")).is_ok());
        assert!(check(&format!("referrers/{digest}"), Some("artifactType=a/b")).is_ok());
        for bad in
            ["", "tags", "tags/list/", "blobs/uploads/", "referrers/latest", "referrers/../tags/list", "_catalog"]
        {
            assert!(check(bad, None).is_err(), "{bad}");
        }
        for bad in ["a b", "a#b", "a\r\nX: y", &"q".repeat(MAX_QUERY + 1)] {
            assert!(check("tags/list", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_link_keeps_its_reader_with_us() {
        let at = |endpoint: &str, link: &str| relative(link, &endpoint.parse().unwrap());
        let next = r#"; rel="next""#;
        let wanted = Some(format!("</v2/app/tags/list?n=2&last=b>{next}"));
        assert_eq!(at("https://a.example", &format!("</v2/app/tags/list?n=2&last=b>{next}")), wanted);
        assert_eq!(at("https://a.example", &format!("<https://a.example/v2/app/tags/list?n=2&last=b>{next}")), wanted);
        assert_eq!(at("https://a.example/p/", &format!("</p/v2/app/tags/list?n=2&last=b>{next}")), wanted);
        assert_eq!(at("https://a.example", "<https://evil.example/v2/>"), None);
        assert_eq!(at("https://a.example", "</elsewhere>"), None);
        assert_eq!(at("https://a.example", "nonsense"), None);
    }
}
