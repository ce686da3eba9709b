//! CAR files, version 1: a header that names the root, then blocks, each with its length and its CID.
//!
//! Blocks come in the order of a walk, depth first, each as often as it stands in the DAG: nothing has to be remembered of what was sent, however large
//! the file is. What one answer holds in memory is one block, and the links of the nodes above it.

use std::{io, ops::Range};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use shoal_content::{
    Cid,
    dag::{DagError, File, MAX_DEPTH, Span},
};
use shoal_store::Store;

use super::{IDENTITY, Refused, asked::Part, read};

/// What the answer is, in the words of the specification.
const CONTENT_TYPE: &str = "application/vnd.ipld.car; version=1; order=dfs; dups=y";

/// The answer with a root that was read, and what is wanted of the DAG below it.
pub(super) fn answer(store: &Store, root: &Cid, block: &Bytes, part: &Part) -> Result<Response, Refused> {
    let not_a_file = |error: DagError| Refused::failed(format!("{root} is no file that this node can read: {error}"));
    let mut walk = Walk { store: store.clone(), range: 0..0, pending: Vec::new() };
    if let Part::File(bytes) = part {
        let file = File::open(root, block).map_err(not_a_file)?;
        if let Span::Bytes(range) = bytes.within(file.size) {
            walk.range = range;
        }
        walk.enter(&file, 0, 0).map_err(not_a_file)?;
    }
    let mut first = header(root);
    first.extend(section(root, block));
    let rest = futures::stream::try_unfold(walk, async |mut walk| {
        let section = walk.next().await.map_err(io::Error::other)?;
        Ok::<_, io::Error>(section.map(|section| (section, walk)))
    });
    let first = futures::stream::once(async { Ok(Bytes::from(first)) });
    let body = Body::from_stream(futures::StreamExt::chain(first, rest));
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE), (header::ACCEPT_RANGES, "none")], body).into_response())
}

/// Blocks of a file's DAG that are still to be sent.
struct Walk {
    store: Store,
    /// Bytes of the file whose blocks are wanted.
    range: Range<u64>,
    /// The next is the last.
    pending: Vec<Pending>,
}

struct Pending {
    cid: Cid,
    /// Where in the file it begins.
    start: u64,
    depth: u8,
}

impl Walk {
    /// Takes up those parts of a node that hold bytes of the range.
    fn enter(&mut self, file: &File, start: u64, depth: u8) -> Result<(), DagError> {
        let depth = depth + 1;
        if depth > MAX_DEPTH && !file.children.is_empty() {
            return Err(DagError::TooDeep);
        }
        let mut at = start.saturating_add(file.data.len() as u64);
        let before = self.pending.len();
        for child in &file.children {
            let end = at.saturating_add(child.size);
            if at < self.range.end && end > self.range.start {
                self.pending.push(Pending { cid: child.cid, start: at, depth });
            }
            at = end;
        }
        self.pending[before..].reverse();
        Ok(())
    }

    /// The next block, as it stands in the file.
    async fn next(&mut self) -> Result<Option<Bytes>, String> {
        let Some(Pending { cid, start, depth }) = self.pending.pop() else { return Ok(None) };
        let block = read(&self.store, cid).await.map_err(|Refused(_, reason)| reason)?;
        let block = block.ok_or_else(|| format!("block {cid} has gone"))?;
        let file = File::open(&cid, &block).map_err(|error| format!("block {cid}: {error}"))?;
        self.enter(&file, start, depth).map_err(|error| format!("block {cid}: {error}"))?;
        Ok(Some(section(&cid, &block).into()))
    }
}

/// `{"roots": [root], "version": 1}` in DAG-CBOR, with its length before it.
fn header(root: &Cid) -> Vec<u8> {
    let cid = root.to_bytes();
    // A map of two; the text of five "roots"; an array of one; tag 42; bytes, whose length follows in one byte.
    let mut map = b"\xa2\x65roots\x81\xd8\x2a\x58".to_vec();
    // A CID holds at most 64 bytes of hash, so its length fits.
    map.push(u8::try_from(cid.len() + 1).unwrap_or(u8::MAX));
    // The prefix by which CBOR tells that the CID is in binary.
    map.push(0);
    map.extend(cid);
    map.extend_from_slice(b"\x67version\x01");
    let mut out = Vec::with_capacity(map.len() + 2);
    varint(&mut out, map.len());
    out.extend(map);
    out
}

/// A block with its CID and the length of both; none for a CID that carries its block.
fn section(cid: &Cid, block: &Bytes) -> Vec<u8> {
    if cid.hash().code() == IDENTITY {
        return Vec::new();
    }
    let name = cid.to_bytes();
    let mut out = Vec::with_capacity(name.len() + block.len() + 10);
    varint(&mut out, name.len() + block.len());
    out.extend(name);
    out.extend_from_slice(block);
    out
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
