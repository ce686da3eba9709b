//! UnixFS: what the data of a dag-pb node says of a file.
//!
//! ```text
//! Data { required DataType Type = 1; bytes Data = 2; uint64 filesize = 3; repeated uint64 blocksizes = 4; … }
//! ```
//!
//! Permissions and times (fields 7 and 8) are not content and are skipped.

use std::fmt;

use bytes::Bytes;
use cid::Cid;

use super::{
    DAG_PB, DagError, MAX_BLOCK, MAX_LINKS, Node,
    wire::{Fields, Value, put_bytes, put_number, varint},
};
use crate::leaf::RAW;

const TYPE: u64 = 1;
const DATA: u64 = 2;
const FILE_SIZE: u64 = 3;
const BLOCK_SIZE: u64 = 4;

/// What a UnixFS node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Content without links, as old writers made leaves.
    Raw,
    /// A directory.
    Directory,
    /// A file or a part of one.
    File,
    /// Metadata, which nobody writes.
    Metadata,
    /// A symbolic link.
    Symlink,
    /// A directory spread over many nodes.
    ShardedDirectory,
}

/// A file, or the part of one that is at and below a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Content in the block itself; it comes before that of the children.
    pub data: Bytes,
    /// The parts that follow, in order.
    pub children: Vec<Child>,
    /// Bytes of content at and below the block.
    pub size: u64,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its block.
    pub cid: Cid,
    /// Bytes of content at and below it.
    pub size: u64,
}

impl File {
    /// Reads a block as a file or a part of one. Its hash is not looked at: see [`crate::cid_matches`].
    ///
    /// Takes raw blocks, and dag-pb blocks whose UnixFS message is of type File or Raw, with children, inline content or both: the
    /// leaves and nodes of balanced and trickle DAGs of every Kubo and Helia. The parts must add up to the stated size.
    pub fn open(cid: &Cid, block: &Bytes) -> Result<Self, DagError> {
        match cid.codec() {
            RAW if block.len() > MAX_BLOCK => Err(DagError::TooLarge(block.len())),
            RAW => Ok(Self { data: block.clone(), children: Vec::new(), size: block.len() as u64 }),
            DAG_PB => Self::from_node(&Node::decode(block)?),
            other => Err(DagError::Codec(other)),
        }
    }

    /// Reads a dag-pb node as a file or a part of one.
    pub fn from_node(node: &Node) -> Result<Self, DagError> {
        let data = node.data.as_ref().ok_or(DagError::Node("it has no UnixFS message"))?;
        let message = Message::decode(data)?;
        let sizes = &message.block_sizes;
        if sizes.len() != node.links.len() {
            return Err(DagError::Sizes { links: node.links.len(), sizes: sizes.len() });
        }

        let inline = message.data.len() as u64;
        let actual = sizes.iter().try_fold(inline, |sum, &size| sum.checked_add(size)).ok_or(DagError::Overflow)?;
        if let Some(stated) = message.file_size.filter(|&stated| stated != actual) {
            return Err(DagError::Size { stated, actual });
        }
        let children = node.links.iter().zip(sizes).map(|(link, &size)| Child { cid: link.cid, size }).collect();
        Ok(Self { data: message.data, children, size: actual })
    }

    /// The UnixFS message of this file, as every writer of today makes it: what [`Node::data`] of its node holds.
    pub fn message(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.data.len() + self.children.len() * 4 + 16);
        put_number(&mut out, TYPE, Kind::File as u64);
        if !self.data.is_empty() {
            put_bytes(&mut out, DATA, &self.data);
        }
        put_number(&mut out, FILE_SIZE, self.size);
        for child in &self.children {
            put_number(&mut out, BLOCK_SIZE, child.size);
        }
        out.into()
    }
}

/// A UnixFS message of a file.
struct Message {
    data: Bytes,
    file_size: Option<u64>,
    block_sizes: Vec<u64>,
}

impl Message {
    fn decode(bytes: &Bytes) -> Result<Self, DagError> {
        let (mut kind, mut data, mut file_size, mut block_sizes) = (None, Bytes::new(), None, Vec::new());
        let mut fields = Fields::of(bytes);
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (TYPE, Value::Varint(number)) => kind = Some(Kind::from_number(number)?),
                (DATA, Value::Bytes(content)) => data = bytes.slice_ref(content),
                (FILE_SIZE, Value::Varint(size)) => file_size = Some(size),
                (BLOCK_SIZE, Value::Varint(size)) => push_size(&mut block_sizes, size)?,
                // A list of numbers may be packed into one field, and every reader has to take it.
                (BLOCK_SIZE, Value::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        let (size, rest) = varint(packed)?;
                        push_size(&mut block_sizes, size)?;
                        packed = rest;
                    }
                }
                (TYPE | DATA | FILE_SIZE | BLOCK_SIZE, _) => {
                    return Err(DagError::Node("a field of its UnixFS message is of the wrong type"));
                }
                _ => {}
            }
        }
        match kind {
            Some(Kind::File | Kind::Raw) => Ok(Self { data, file_size, block_sizes }),
            Some(other) => Err(DagError::NotAFile(other)),
            None => Err(DagError::Node("its UnixFS message has no type")),
        }
    }
}

fn push_size(sizes: &mut Vec<u64>, size: u64) -> Result<(), DagError> {
    if sizes.len() == MAX_LINKS {
        return Err(DagError::TooManyLinks);
    }
    sizes.push(size);
    Ok(())
}

impl Kind {
    fn from_number(number: u64) -> Result<Self, DagError> {
        Ok(match number {
            0 => Kind::Raw,
            1 => Kind::Directory,
            2 => Kind::File,
            3 => Kind::Metadata,
            4 => Kind::Symlink,
            5 => Kind::ShardedDirectory,
            _ => return Err(DagError::Node("its UnixFS type is unknown")),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Raw => "raw node",
            Kind::Directory => "directory",
            Kind::File => "file",
            Kind::Metadata => "metadata node",
            Kind::Symlink => "symbolic link",
            Kind::ShardedDirectory => "sharded directory",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{LeafHash, dag::Link};

    fn node(message: &[u8], links: usize) -> Node {
        let link = Link { cid: LeafHash([1; 32]).cid(), tsize: None };
        Node { links: vec![link; links], data: Some(Bytes::copy_from_slice(message)) }
    }

    fn read(message: &[u8], links: usize) -> Result<File, DagError> {
        File::from_node(&node(message, links))
    }

    #[test]
    fn inline_content_comes_with_or_without_a_stated_size() {
        for message in [&b"\x08\x02\x12\x02hi\x18\x02"[..], b"\x08\x02\x12\x02hi", b"\x08\x00\x12\x02hi\x18\x02"] {
            assert_eq!(read(message, 0).unwrap().data, "hi");
        }
        assert_eq!(read(b"\x08\x02", 0).unwrap().size, 0);
    }

    #[test]
    fn block_sizes_may_be_packed() {
        let plain = read(b"\x08\x02\x18\x07\x20\x03\x20\x04", 2).unwrap();
        assert_eq!(plain, read(b"\x08\x02\x18\x07\x22\x02\x03\x04", 2).unwrap());
        assert_eq!(plain.children.iter().map(|child| child.size).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn permissions_and_times_are_skipped() {
        assert!(read(b"\x08\x02\x12\x02hi\x18\x02\x38\xa4\x03\x42\x02\x08\x01", 0).is_ok());
    }

    #[test]
    fn sizes_must_add_up() {
        assert_eq!(read(b"\x08\x02\x18\x08\x20\x03\x20\x04", 2), Err(DagError::Size { stated: 8, actual: 7 }));
        assert_eq!(read(b"\x08\x02\x18\x03\x20\x03", 2), Err(DagError::Sizes { links: 2, sizes: 1 }));
        assert_eq!(read(b"\x08\x02\x12\x02hi\x18\x03", 0), Err(DagError::Size { stated: 3, actual: 2 }));
        let max = [&[0xff; 9][..], &[1]].concat();
        let overflow = [b"\x08\x02\x20", &max[..], b"\x20\x01"].concat();
        assert_eq!(read(&overflow, 2), Err(DagError::Overflow));
    }

    #[test]
    fn what_is_no_file_is_refused_by_name() {
        assert_eq!(read(b"\x08\x01", 0), Err(DagError::NotAFile(Kind::Directory)));
        assert_eq!(read(b"\x08\x05", 0), Err(DagError::NotAFile(Kind::ShardedDirectory)));
        assert_eq!(read(b"\x08\x04", 0).unwrap_err().to_string(), "node is a symbolic link, not a file");
        assert!(read(b"", 0).is_err() && read(b"\x08\x09", 0).is_err());
        assert!(File::from_node(&Node::default()).is_err());
    }

    #[test]
    fn packed_sizes_are_bounded() {
        let mut message = b"\x08\x02\x22".to_vec();
        crate::dag::wire::put_varint(&mut message, MAX_LINKS as u64 + 1);
        message.extend(vec![0; MAX_LINKS + 1]);
        assert_eq!(read(&message, 0), Err(DagError::TooManyLinks));
    }

    proptest! {
        #[test]
        fn any_message_reads_as_what_writes_the_same_or_is_refused(message: Vec<u8>, links in 0usize..4) {
            if let Ok(file) = read(&message, links) {
                prop_assert_eq!(read(&file.message(), links), Ok(file));
            }
        }

        #[test]
        fn a_mutated_message_is_read_or_refused(sizes in prop::collection::vec(any::<u64>(), 0..4), data: Vec<u8>, at: prop::sample::Index, to: u8) {
            let cid = LeafHash([1; 32]).cid();
            let children: Vec<_> = sizes.iter().map(|&size| Child { cid, size }).collect();
            let file = File { data: data.into(), children, size: sizes.iter().fold(0, |sum: u64, size| sum.wrapping_add(*size)) };
            let mut message = file.message().to_vec();
            let place = at.index(message.len());
            message[place] = to;
            if let Ok(file) = read(&message, sizes.len()) {
                prop_assert_eq!(read(&file.message(), sizes.len()), Ok(file));
            }
        }
    }
}
