//! The path and query of a request: what they name is named again by the plain form, whatever encodings the first one used.

#![no_main]

#[allow(dead_code)]
#[path = "../../gateway/src/path.rs"]
mod path;

use libfuzzer_sys::fuzz_target;
use path::{Place, Request};

fuzz_target!(|input: &str| {
    let (target, query) = match input.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (input, None),
    };
    let Ok(request) = path::parse(target, query) else { return };
    let Some(name) = request.name() else { return };
    let (end, upstream) = match &request {
        Request::Ping => return,
        Request::Manifest(_, reference) => (format!("manifests/{reference}"), None),
        Request::Blob(_, digest) => (format!("blobs/{digest}"), None),
        Request::Tags(_, query) => ("tags/list".to_owned(), query.as_deref()),
        Request::Referrers(_, digest, query) => (format!("referrers/{digest}"), query.as_deref()),
    };
    let (host, ns) = match &name.place {
        Place::Ns(registry) => (String::new(), Some(format!("ns={registry}"))),
        Place::Path(registry) => (format!("/https://{registry}"), None),
        Place::Unnamed => (String::new(), None),
    };
    let plain = format!("{host}/v2/{}/{end}", name.repository.as_str());
    assert!(!plain.contains(['%', '\\', '\0', ' ']) && !plain.contains("/../"));
    let query = [ns.as_deref(), upstream].into_iter().flatten().collect::<Vec<_>>().join("&");
    assert_eq!(path::parse(&plain, Some(&query)), Ok(request));
});
