//! What a [`Fake`](super::Fake) answers.

use std::sync::Arc;

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State as Shared},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use shoal_content::Digest;

use super::{
    Demand, Seen, State,
    body::{self, Break},
    fault::{self, Does, For},
};

/// Largest body of a request, in bytes: a form with a refresh token.
const MAX_FORM: usize = 16 * 1024;

pub(super) async fn handle(Shared(state): Shared<Arc<State>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let is_head = request.method() == Method::HEAD;
    let wanted = wanted(&path);
    let faults = {
        let mut inner = state.inner();
        inner.seen.push(seen(&request));
        fault::take(&mut inner.faults, &wanted, is_head)
    };
    state.seen.send_modify(|seen| *seen += 1);
    for fault in &faults {
        match fault {
            Does::SlowHeaders(wait) => tokio::time::sleep(*wait).await,
            Does::Status(status) => return error(*status, "UNAVAILABLE", "to order"),
            Does::RetryAfter(status, seconds) => {
                let mut response = error(*status, "TOOMANYREQUESTS", "to order");
                set(response.headers_mut(), "retry-after", &seconds.to_string());
                return response;
            }
            Does::Redirect(base) => {
                return redirect(&format!("{}{path}", base.trim_end_matches('/')));
            }
            Does::RedirectTo(url) => return redirect(url),
            _ => {}
        }
    }
    if wanted == For::Token {
        return token(&state, request).await;
    }
    if let Some(refusal) = refusal(&state, request.headers()) {
        return refusal;
    }
    let mut response = content(&state, &path, request.headers(), &faults);
    if is_head {
        *response.body_mut() = Body::empty();
    }
    adorn(response.headers_mut(), &faults);
    response
}

fn seen(request: &Request) -> Seen {
    let text = |name: HeaderName| {
        let values: Vec<_> = request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    };
    Seen {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().map(str::to_owned),
        range: text(header::RANGE),
        authorization: text(header::AUTHORIZATION),
        accept: text(header::ACCEPT),
    }
}

fn wanted(path: &str) -> For {
    if path == "/token" {
        return For::Token;
    }
    match path.rsplit_once("/blobs/").and_then(|(_, digest)| digest.parse().ok()) {
        Some(digest) => For::Blob(digest),
        None if path.contains("/manifests/") => For::Manifest,
        None => For::Other,
    }
}

fn content(state: &Arc<State>, path: &str, headers: &HeaderMap, faults: &[Does]) -> Response {
    let Some(rest) = path.strip_prefix("/v2/") else { return error(404, "NOT_FOUND", "no such path") };
    if rest.is_empty() {
        return StatusCode::OK.into_response();
    }
    if let Some((repository, digest)) = rest.rsplit_once("/blobs/") {
        let found = digest.parse::<Digest>().ok().and_then(|digest| {
            let bytes = state.inner().blobs.get(&(repository.to_owned(), digest)).cloned()?;
            Some((digest, bytes))
        });
        return match found {
            Some((digest, bytes)) => blob(state, digest, bytes, headers, faults),
            None => error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        };
    }
    if let Some((repository, reference)) = rest.rsplit_once("/manifests/") {
        let key = (repository.to_owned(), reference.to_owned());
        let Some((media_type, bytes)) = state.inner().manifests.get(&key).cloned() else {
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        let digest = Digest::of(shoal_content::Algorithm::Sha256, &bytes);
        let mut response = send(state, None, bytes, faults);
        set(response.headers_mut(), "content-type", &media_type);
        set(response.headers_mut(), "docker-content-digest", &digest.to_string());
        return response;
    }
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        let inner = state.inner();
        let of_repository = inner.manifests.keys().filter(|(name, _)| name == repository);
        let mut tags: Vec<_> = of_repository.map(|(_, tag)| tag.clone()).filter(|tag| !tag.contains(':')).collect();
        tags.sort();
        let mut response = serde_json::json!({"name": repository, "tags": tags}).to_string().into_response();
        set(response.headers_mut(), "content-type", "application/json");
        let link = format!("<http://{}/v2/{repository}/tags/list?last=x>; rel=\"next\"", address(&inner));
        set(response.headers_mut(), "link", &link);
        return response;
    }
    error(404, "NOT_FOUND", "no such path")
}

fn blob(state: &Arc<State>, digest: Digest, bytes: Bytes, headers: &HeaderMap, faults: &[Does]) -> Response {
    let has = |wanted: fn(&Does) -> bool| faults.iter().any(wanted);
    let size = bytes.len();
    let asked = headers.get(header::RANGE).and_then(|value| value.to_str().ok()).and_then(parse_range);
    let mut response = match asked {
        Some(_) if has(|fault| matches!(fault, Does::IgnoreRange)) => send(state, Some(digest), bytes, faults),
        Some((first, _)) if first >= size => {
            let mut response = error(416, "RANGE_INVALID", "range not satisfiable");
            set(response.headers_mut(), "content-range", &format!("bytes */{size}"));
            return response;
        }
        Some((first, last)) => {
            let first = if has(|fault| matches!(fault, Does::ShiftedRange)) { first + 1 } else { first };
            let end = last.map_or(size, |last| (last + 1).min(size)).max(first);
            let mut response = send(state, Some(digest), bytes.slice(first..end), faults);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            if !has(|fault| matches!(fault, Does::NoContentRange)) {
                let range = format!("bytes {first}-{}/{size}", end.saturating_sub(1));
                set(response.headers_mut(), "content-range", &range);
            }
            response
        }
        None => send(state, Some(digest), bytes, faults),
    };
    set(response.headers_mut(), "content-type", "application/octet-stream");
    set(response.headers_mut(), "docker-content-digest", &digest.to_string());
    if !has(|fault| matches!(fault, Does::IgnoreRange)) {
        set(response.headers_mut(), "accept-ranges", "bytes");
    }
    response
}

/// `bytes=first-[last]`.
fn parse_range(value: &str) -> Option<(usize, Option<usize>)> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
    Some((first.parse().ok()?, last))
}

fn send(state: &Arc<State>, digest: Option<Digest>, mut bytes: Bytes, faults: &[Does]) -> Response {
    let (mut breaks, mut has_length) = (None, true);
    for fault in faults {
        match fault {
            Does::CutAfter(after) => breaks = Some(Break::Cut(*after)),
            Does::StallAfter(after) => breaks = Some(Break::Stall(*after)),
            Does::NoLength => has_length = false,
            Does::Longer(more) => {
                has_length = false;
                bytes = [&bytes[..], &vec![0; *more]].concat().into();
            }
            Does::WrongBytes if !bytes.is_empty() => {
                let mut wrong = bytes.to_vec();
                wrong[0] ^= 1;
                bytes = wrong.into();
            }
            _ => {}
        }
    }
    let length = bytes.len();
    let mut response = Response::new(body::body(Arc::clone(state), digest, bytes, breaks));
    if has_length {
        set(response.headers_mut(), "content-length", &length.to_string());
    }
    response
}

/// Headers that faults change.
fn adorn(headers: &mut HeaderMap, faults: &[Does]) {
    for fault in faults {
        match fault {
            Does::NoContentDigest => {
                headers.remove("docker-content-digest");
            }
            Does::ContentDigest(digest) => set(headers, "docker-content-digest", digest),
            Does::ContentType(media_type) => set(headers, "content-type", media_type),
            Does::Header(name, value) => set(headers, name, value),
            _ => {}
        }
    }
}

/// The 401 that this request gets, if it does.
fn refusal(state: &State, headers: &HeaderMap) -> Option<Response> {
    let inner = state.inner();
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let challenge = match &inner.demand {
        Demand::Nothing => return None,
        Demand::Basic(user, password) if given == Some(&basic(user, password)) => return None,
        Demand::Basic(..) => "Basic realm=\"fake\"".to_owned(),
        Demand::Bearer { realm, .. } => {
            let token = given.and_then(|given| given.strip_prefix("Bearer "));
            if token.is_some_and(|token| inner.tokens.iter().any(|held| held == token)) {
                return None;
            }
            let own = format!("http://{}/token", address(&inner));
            let realm = realm.as_ref().unwrap_or(&own);
            format!("Bearer realm=\"{realm}\",service=\"fake\",scope=\"repository:x:pull\"")
        }
    };
    let mut response = error(401, "UNAUTHORIZED", "authentication required");
    set(response.headers_mut(), "www-authenticate", &challenge);
    Some(response)
}

async fn token(state: &State, request: Request) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let form = to_bytes(request.into_body(), MAX_FORM).await.unwrap_or_default();
    let mut inner = state.inner();
    let is_welcome = match &inner.demand {
        // A refresh token is the password, sent as a form.
        Demand::Bearer { user: Some((user, password)), .. } => {
            let refresh = format!("refresh_token={password}");
            given == Some(basic(user, password))
                || form.split(|&byte| byte == b'&').any(|pair| pair == refresh.as_bytes())
        }
        _ => true,
    };
    if !is_welcome {
        return error(401, "UNAUTHORIZED", "wrong user or password");
    }
    inner.issued += 1;
    let token = format!("token-{}", inner.issued);
    inner.tokens.push(token.clone());
    serde_json::json!({"token": token, "expires_in": 300}).to_string().into_response()
}

fn address(inner: &super::Inner) -> String {
    inner.address.map(|address| address.to_string()).unwrap_or_default()
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn redirect(location: &str) -> Response {
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    set(response.headers_mut(), "location", location);
    response
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let body = serde_json::json!({"errors": [{"code": code, "message": message}]}).to_string();
    let mut response = body.into_response();
    *response.status_mut() = StatusCode::from_u16(status).expect("a test names a status");
    set(response.headers_mut(), "content-type", "application/json");
    response
}

fn set(headers: &mut HeaderMap, name: &str, value: &str) {
    let name = HeaderName::from_bytes(name.as_bytes()).expect("a test names a header");
    headers.insert(name, HeaderValue::from_str(value).expect("a test gives a header's value"));
}
