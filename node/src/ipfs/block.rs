//! One block, or a range of it.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use shoal_content::Cid;
use shoal_gateway::range::{self, Asked};

use super::asked::RAW;

/// The answer with the block; several ranges at once are answered with all of it, as HTTP allows.
pub(super) fn answer(cid: &Cid, block: Bytes, wanted: Option<&HeaderValue>) -> Response {
    let size = block.len() as u64;
    let wanted = wanted.and_then(|value| value.to_str().ok()).and_then(|value| range::parse(value).ok());
    let common = [(header::CONTENT_TYPE, RAW), (header::ACCEPT_RANGES, "bytes")];
    let Some(Asked::One(spec)) = wanted else {
        return (common, block).into_response();
    };
    match spec.within(size) {
        Ok(within) => {
            let at = |offset: u64| usize::try_from(offset).unwrap_or(block.len());
            let part = block.slice(at(within.start)..at(within.end));
            let content_range = [(header::CONTENT_RANGE, range::content_range(&within, size))];
            (StatusCode::PARTIAL_CONTENT, common, content_range, part).into_response()
        }
        Err(outside) => {
            let content_range = [(header::CONTENT_RANGE, range::content_range_outside(size))];
            (StatusCode::RANGE_NOT_SATISFIABLE, common, content_range, format!("{cid}: {outside}\n")).into_response()
        }
    }
}
