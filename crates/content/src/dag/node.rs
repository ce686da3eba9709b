//! dag-pb: a block that is a list of links and some data.
//!
//! ```text
//! PBLink { bytes Hash = 1; string Name = 2; uint64 Tsize = 3 }
//! PBNode { repeated PBLink Links = 2; bytes Data = 1 }
//! ```
//!
//! The canonical form has the links in front of the data, and writes the name of a file's link as an empty string.

use bytes::Bytes;
use cid::Cid;

use super::{
    DagError, MAX_BLOCK, MAX_LINKS,
    wire::{Fields, Value, put_bytes, put_number},
};

const NODE_DATA: u64 = 1;
const NODE_LINK: u64 = 2;
const LINK_HASH: u64 = 1;
const LINK_NAME: u64 = 2;
const LINK_TSIZE: u64 = 3;

/// A link to a child. Names are left out: the links of a file have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The child.
    pub cid: Cid,
    /// Bytes of all blocks at and below the child, as whoever wrote the link counted them; a hint that nothing here relies on.
    pub tsize: Option<u64>,
}

/// A dag-pb node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Links to the children, in order.
    pub links: Vec<Link>,
    /// The data; of a file it is a UnixFS message.
    pub data: Option<Bytes>,
}

impl Node {
    /// Reads a block. The data shares the block's memory.
    ///
    /// Unknown fields are skipped, and the data may stand before, after or amid the links.
    pub fn decode(block: &Bytes) -> Result<Self, DagError> {
        if block.len() > MAX_BLOCK {
            return Err(DagError::TooLarge(block.len()));
        }
        let mut node = Self::default();
        let mut fields = Fields::of(block);
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (NODE_LINK, Value::Bytes(link)) => {
                    if node.links.len() == MAX_LINKS {
                        return Err(DagError::TooManyLinks);
                    }
                    node.links.push(Link::decode(link)?);
                }
                (NODE_DATA, Value::Bytes(_)) if node.data.is_some() => {
                    return Err(DagError::Node("it has data twice"));
                }
                (NODE_DATA, Value::Bytes(data)) => node.data = Some(block.slice_ref(data)),
                (NODE_LINK | NODE_DATA, _) => return Err(DagError::Node("a field is of the wrong type")),
                _ => {}
            }
        }
        Ok(node)
    }

    /// The canonical block.
    pub fn encode(&self) -> Vec<u8> {
        // A link to a sha2-256 CID is 50 bytes or a little more.
        let mut out = Vec::with_capacity(self.links.len() * 52 + self.data.as_ref().map_or(0, Bytes::len) + 8);
        let mut message = Vec::with_capacity(64);
        for link in &self.links {
            message.clear();
            link.encode(&mut message);
            put_bytes(&mut out, NODE_LINK, &message);
        }
        if let Some(data) = &self.data {
            put_bytes(&mut out, NODE_DATA, data);
        }
        out
    }
}

impl Link {
    fn decode(message: &[u8]) -> Result<Self, DagError> {
        let (mut cid, mut tsize) = (None, None);
        let mut fields = Fields::of(message);
        while let Some((field, value)) = fields.next()? {
            let is_second = match (field, value) {
                (LINK_HASH, Value::Bytes(hash)) => cid.replace(exact_cid(hash)?).is_some(),
                (LINK_TSIZE, Value::Varint(size)) => tsize.replace(size).is_some(),
                (LINK_NAME, Value::Bytes(_)) => false,
                (LINK_HASH | LINK_NAME | LINK_TSIZE, _) => {
                    return Err(DagError::Node("a link's field is of the wrong type"));
                }
                _ => false,
            };
            if is_second {
                return Err(DagError::Node("a link has a field twice"));
            }
        }
        let cid = cid.ok_or(DagError::Node("a link has no hash"))?;
        Ok(Self { cid, tsize })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, LINK_HASH, &self.cid.to_bytes());
        put_bytes(out, LINK_NAME, b"");
        if let Some(tsize) = self.tsize {
            put_number(out, LINK_TSIZE, tsize);
        }
    }
}

/// A CID and nothing after it.
fn exact_cid(mut bytes: &[u8]) -> Result<Cid, DagError> {
    let cid = Cid::read_bytes(&mut bytes).map_err(|_| DagError::Node("a link's hash is not a CID"))?;
    if bytes.is_empty() { Ok(cid) } else { Err(DagError::Node("a link's hash has bytes after the CID")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::LeafHash;

    fn node(links: u8) -> Node {
        let links = (0..links).map(|at| Link { cid: LeafHash([at; 32]).cid(), tsize: Some(u64::from(at)) }).collect();
        Node { links, data: Some(Bytes::from_static(b"data")) }
    }

    #[test]
    fn the_canonical_form_has_links_in_front_and_empty_names() {
        let block = node(1).encode();
        let cid = LeafHash([0; 32]).cid().to_bytes();
        let link = [&[0x0a, 36], &cid[..], &[0x12, 0, 0x18, 0]].concat();
        assert_eq!(block, [&[0x12, link.len() as u8], &link[..], b"\x0a\x04data"].concat());
    }

    #[test]
    fn data_may_stand_before_the_links() {
        let expected = node(3);
        let without_data = Node { data: None, ..expected.clone() };
        let block = [b"\x0a\x04data", &without_data.encode()[..]].concat();
        assert_eq!(Node::decode(&block.into()), Ok(expected));
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let block = [&node(2).encode()[..], &[0x7a, 1, 9], &[0x50, 5]].concat();
        assert_eq!(Node::decode(&block.into()), Ok(node(2)));
    }

    #[test]
    fn a_malformed_node_is_refused() {
        let cid = LeafHash([7; 32]).cid().to_bytes();
        let link = |message: &[u8]| [&[0x12, message.len() as u8], message].concat();
        let hash = [&[0x0a, 36], &cid[..]].concat();
        assert!(Node::decode(&link(&hash).into()).is_ok());
        let bad: [Vec<u8>; 8] = [
            b"\x0a\x00\x0a\x00".to_vec(),
            b"\x08\x00".to_vec(),
            b"\x10\x00".to_vec(),
            link(b""),
            link(&[&hash[..], &hash[..]].concat()),
            link(&[&[0x0a, 37], &cid[..], &[0]].concat()),
            link(&hash[..20]),
            link(&[&hash[..], &[0x1a, 0]].concat()),
        ];
        for block in bad {
            assert!(Node::decode(&block.clone().into()).is_err(), "{block:?}");
        }
    }

    #[test]
    fn size_and_links_are_bounded() {
        assert_eq!(Node::decode(&vec![0; MAX_BLOCK + 1].into()), Err(DagError::TooLarge(MAX_BLOCK + 1)));
        let mut wide = node(1);
        wide.links = vec![wide.links[0]; MAX_LINKS];
        assert_eq!(Node::decode(&wide.encode().into()).unwrap(), wide);
        wide.links.push(wide.links[0]);
        assert_eq!(Node::decode(&wide.encode().into()), Err(DagError::TooManyLinks));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_the_same_or_are_refused(bytes: Vec<u8>) {
            if let Ok(node) = Node::decode(&bytes.into()) {
                prop_assert_eq!(Node::decode(&node.encode().into()), Ok(node));
            }
        }

        #[test]
        fn a_mutated_node_decodes_or_is_refused(links in 0u8..5, at: prop::sample::Index, to: u8, cut: prop::sample::Index) {
            let mut block = node(links).encode();
            let place = at.index(block.len());
            block[place] = to;
            block.truncate(cut.index(block.len()) + 1);
            if let Ok(node) = Node::decode(&block.into()) {
                prop_assert_eq!(Node::decode(&node.encode().into()), Ok(node));
            }
        }
    }
}
