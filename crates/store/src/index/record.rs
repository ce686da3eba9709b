//! What the index knows of a blob and of a tag, and how it is written down.
//!
//! A record's form, integers big-endian: version (1 byte, 1), size (8), flags (1; bit 0: pinned), root codec (1: 0x55 or 0x70), root hash (32),
//! length of the media type (2) and it, number of inner nodes (4), and of each its hash (32) and size (4).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_content::{
    Cid, Digest, LeafHash,
    dag::{Builder, Dag},
    leaf::leaf_range,
};

use super::{DAG_PB, cid};

const VERSION: u8 = 1;
const PINNED: u8 = 1;

/// What is known of a whole blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
    /// Root of its DAG.
    pub(crate) root: Cid,
    /// Inner nodes of its DAG, children before parents; none for a blob of one leaf.
    pub(crate) nodes: Vec<InnerNode>,
    /// Milliseconds since 1970, as `Table` counts them. Kept apart from the rest, see `Index::touch`.
    pub(crate) last_use: u64,
    pub(crate) pinned: bool,
    pub(crate) media_type: Option<String>,
}

/// An inner node of a blob's DAG. Its bytes are built again from the leaves when they are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InnerNode {
    /// SHA-256 of its dag-pb bytes.
    pub(crate) hash: [u8; 32],
    /// Bytes.
    pub(crate) size: u32,
}

/// What a tag named when upstream was last asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// The manifest or index.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// When upstream said so, in seconds since 1970.
    pub resolved_at: u64,
}

impl Record {
    /// The record of a blob with these leaves: builds its DAG.
    pub(crate) fn new(digest: Digest, size: u64, leaves: &[LeafHash], last_use: u64) -> Self {
        let dag = dag_of(size, leaves);
        let node = |(cid, bytes): &(Cid, Bytes)| InnerNode {
            hash: cid.hash().digest().try_into().expect("inner nodes are named by SHA-256"),
            size: u32::try_from(bytes.len()).expect("an inner node is smaller than a block"),
        };
        let nodes = dag.nodes.iter().map(node).collect();
        Self { digest, size, root: dag.root, nodes, last_use, pinned: false, media_type: None }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let media_type = self.media_type.as_deref().unwrap_or_default().as_bytes();
        let mut out = Vec::with_capacity(49 + media_type.len() + self.nodes.len() * 36);
        out.push(VERSION);
        out.extend_from_slice(&self.size.to_be_bytes());
        out.push(if self.pinned { PINNED } else { 0 });
        out.push(self.root.codec() as u8);
        out.extend_from_slice(self.root.hash().digest());
        out.extend_from_slice(&(media_type.len() as u16).to_be_bytes());
        out.extend_from_slice(media_type);
        out.extend_from_slice(&(self.nodes.len() as u32).to_be_bytes());
        for node in &self.nodes {
            out.extend_from_slice(&node.hash);
            out.extend_from_slice(&node.size.to_be_bytes());
        }
        out
    }

    /// `None` when the bytes are of another version or damaged.
    pub(crate) fn decode(digest: Digest, last_use: u64, bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let [version] = take(&mut rest)?;
        let size = u64::from_be_bytes(take(&mut rest)?);
        let [flags] = take(&mut rest)?;
        let [codec] = take(&mut rest)?;
        let root = take::<32>(&mut rest)?;
        let codec = u64::from(codec);
        if version != VERSION || (codec != DAG_PB && codec != shoal_content::leaf::RAW) {
            return None;
        }
        let media_type_len = usize::from(u16::from_be_bytes(take(&mut rest)?));
        let (media_type, after) = rest.split_at_checked(media_type_len)?;
        let media_type = String::from_utf8(media_type.to_vec()).ok()?;
        rest = after;
        let count = usize::try_from(u32::from_be_bytes(take(&mut rest)?)).ok()?;
        if rest.len() != count.checked_mul(36)? {
            return None;
        }
        let nodes = rest
            .chunks_exact(36)
            .map(|mut node| Some(InnerNode { hash: take(&mut node)?, size: u32::from_be_bytes(take(&mut node)?) }));
        Some(Self {
            digest,
            size,
            root: cid(codec, &root),
            nodes: nodes.collect::<Option<_>>()?,
            last_use,
            pinned: flags & PINNED != 0,
            media_type: (!media_type.is_empty()).then_some(media_type),
        })
    }
}

/// The DAG over a blob's leaves.
pub(crate) fn dag_of(size: u64, leaves: &[LeafHash]) -> Dag {
    let mut builder = Builder::new();
    for (leaf, index) in leaves.iter().zip(0..) {
        let range = leaf_range(size, index);
        builder.leaf(*leaf, range.end - range.start);
    }
    builder.finish()
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use shoal_content::Algorithm;

    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written_and_no_prefix_of_it_does() {
        let node = InnerNode { hash: [3; 32], size: 77 };
        let record = Record {
            digest: Digest::of(Algorithm::Sha256, b"x"),
            size: 1 << 33,
            root: cid(DAG_PB, &[9; 32]),
            nodes: vec![node; 3],
            last_use: 5,
            pinned: true,
            media_type: Some("application/vnd.oci.image.layer.v1.tar+gzip".into()),
        };
        let bytes = record.encode();
        assert_eq!(Record::decode(record.digest, 5, &bytes).as_ref(), Some(&record));
        for cut in 0..bytes.len() {
            assert_eq!(Record::decode(record.digest, 5, &bytes[..cut]), None);
        }
    }
}
