//! A read-only trustless gateway: what this node holds, for any IPFS tool, over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `GET`, `HEAD /ipfs/<cid>?format=raw` | a block |
//! | `GET`, `HEAD /ipfs/<cid>?format=car` | the DAG, or a part of it: `dag-scope=block\|entity\|all`, `entity-bytes=from:to` |
//! | `GET /routing/v1/providers/<cid>` | this node, where it holds the block |
//!
//! `Accept` does what `format` does. The specifications are those of specs.ipfs.tech: trustless gateway, and routing V1 over HTTP.
//!
//! Nothing is fetched for who asks here: what is not held is 404. Whoever reaches the port reads every blob of the node, those of private images
//! too, so it listens only where `ipfs.listen` says so. Bytes go out as they are on disk, and the client checks them, as it has to with every gateway.
//!
//! | module | what it holds |
//! |---|---|
//! | `door` | connections: how many, and how slow one may be |
//! | `asked` | what a request asks for, without input or output |
//! | `block`, `car` | the answers of `/ipfs/<cid>` |
//! | `providers` | the answer of `/routing/v1/providers/<cid>` |

mod asked;
mod block;
mod car;
mod door;
mod providers;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use shoal_content::Cid;
use shoal_store::Store;
use shoal_swarm::Swarm;

use self::asked::{Asked, Format, Refusal};

pub(crate) use self::door::serve;

/// Half a year less a few days, as other gateways say: what a CID names never changes.
const FOREVER: &str = "public, max-age=29030400, immutable";

/// Multihash code of a CID that carries its block itself.
const IDENTITY: u64 = 0;

/// What is asked.
#[derive(Clone)]
pub(crate) struct Shown {
    store: Store,
    swarm: Swarm,
}

impl Shown {
    pub(crate) fn new(store: Store, swarm: Swarm) -> Self {
        Self { store, swarm }
    }
}

pub(crate) fn router(shown: Shown) -> Router {
    Router::new()
        .route("/ipfs/{*path}", get(content))
        .route("/routing/v1/providers/{cid}", get(providers::providers))
        .with_state(Arc::new(shown))
}

/// Why there is no answer.
#[derive(Debug)]
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{}\n", self.1)).into_response()
    }
}

impl Refused {
    fn failed(what: impl std::fmt::Display) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, what.to_string())
    }
}

async fn content(
    State(shown): State<Arc<Shown>>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let asked = asked::parse(&path, query.as_deref().unwrap_or_default(), accept).map_err(|refusal| {
        let status = match refusal {
            Refusal::NotAcceptable(_) => StatusCode::NOT_ACCEPTABLE,
            Refusal::Malformed(_) => StatusCode::BAD_REQUEST,
            Refusal::BelowFile => StatusCode::NOT_FOUND,
        };
        Refused(status, refusal.to_string())
    })?;

    let Some(block) = read(&shown.store, asked.cid).await? else {
        let wants_cached = headers.get(header::CACHE_CONTROL).is_some_and(|value| {
            value.to_str().is_ok_and(|value| value.split(',').any(|one| one.trim() == "only-if-cached"))
        });
        let status = if wants_cached { StatusCode::PRECONDITION_FAILED } else { StatusCode::NOT_FOUND };
        return Err(Refused(status, format!("this node does not hold {}", asked.cid)));
    };
    let etag = asked.etag();
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|value| {
        let matches = |one: &str| one == "*" || one.trim_start_matches("W/") == etag.trim_start_matches("W/");
        value.to_str().is_ok_and(|value| value.split(',').any(|one| matches(one.trim())))
    });
    let mut answer = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match &asked.format {
            Format::Raw => block::answer(&asked.cid, block, headers.get(header::RANGE)),
            Format::Car(part) => car::answer(&shown.store, &asked.cid, &block, part)?,
        }
    };
    describe(answer.headers_mut(), &asked, &etag);
    Ok(answer)
}

/// What every answer says of its content. All of it is made of a CID and of words of ours, so it is always a header's value.
fn describe(headers: &mut HeaderMap, asked: &Asked, etag: &str) {
    let cid = asked.cid;
    for (name, value) in [
        (header::ETAG, etag.to_owned()),
        (header::CACHE_CONTROL, FOREVER.to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::VARY, "Accept".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{cid}.{}\"", asked.format.suffix())),
        (header::HeaderName::from_static("x-ipfs-path"), format!("/ipfs/{cid}")),
        (header::HeaderName::from_static("x-ipfs-roots"), cid.to_string()),
    ] {
        if let Ok(value) = value.parse() {
            headers.insert(name, value);
        }
    }
}

/// A block that this node holds, or that its CID carries.
async fn read(store: &Store, cid: Cid) -> Result<Option<Bytes>, Refused> {
    if cid.hash().code() == IDENTITY {
        return Ok(Some(Bytes::copy_from_slice(cid.hash().digest())));
    }
    let store = store.clone();
    let read = tokio::task::spawn_blocking(move || match store.block(&cid)?.map(|block| block.read()).transpose() {
        // Evicted between the two.
        Err(shoal_store::Error::Gone(_)) => Ok(None),
        other => other,
    });
    let block = read.await.map_err(Refused::failed)?;
    block.map_err(|error: shoal_store::Error| {
        tracing::warn!(%cid, %error, "a block cannot be read for an IPFS client");
        Refused::failed(format!("block {cid} cannot be read"))
    })
}
