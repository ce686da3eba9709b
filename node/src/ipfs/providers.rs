//! Routing V1 over HTTP: who provides a CID, as far as it is this node.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use shoal_content::Cid;

use super::{Refused, Shown};

const NDJSON: &str = "application/x-ndjson";

/// Blobs come and go; an empty answer soon is one no longer.
const WHILE_HELD: &str = "public, max-age=60";
const WHILE_NOT: &str = "public, max-age=15";

pub(super) async fn providers(
    State(shown): State<Arc<Shown>>,
    Path(cid): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let cid: Cid =
        cid.parse().map_err(|error| Refused(StatusCode::BAD_REQUEST, format!("{cid:?} is not a CID: {error}")))?;
    let is_held = holds(&shown, cid).await?;
    let this = json!({
        "Schema": "peer",
        "ID": shown.swarm.local_peer().to_string(),
        "Addrs": shown.swarm.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "Protocols": ["transport-bitswap"],
    });
    let wants_lines =
        headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().is_ok_and(|value| value.contains(NDJSON)));
    let (media_type, body) = match (wants_lines, is_held) {
        (true, true) => (NDJSON, format!("{this}\n")),
        (true, false) => (NDJSON, String::new()),
        (false, true) => ("application/json", json!({ "Providers": [this] }).to_string()),
        (false, false) => ("application/json", json!({ "Providers": [] }).to_string()),
    };
    let cache = if is_held { WHILE_HELD } else { WHILE_NOT };
    Ok(([(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, cache), (header::VARY, "Accept")], body)
        .into_response())
}

async fn holds(shown: &Shown, cid: Cid) -> Result<bool, Refused> {
    let store = shown.store.clone();
    let held = tokio::task::spawn_blocking(move || store.block(&cid).map(|block| block.is_some()));
    held.await.map_err(Refused::failed)?.map_err(Refused::failed)
}
