//! DAGs of every shape, grown from the input: honest ones are read back to the byte, whatever the order of answers;
//! ones that lie about their sizes end in an error or in no more bytes than they stated.

#![no_main]

use std::collections::HashMap;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use shoal_content::{
    Algorithm, Cid, Digest, LeafHash, cid_matches,
    dag::{Child, DAG_PB, File, Link, Node, Span, Walk},
};

/// More than any bound on depth or shape needs, and few enough to try many inputs a second.
const MAX_NODES: usize = 300;

struct Dag<'a> {
    input: &'a [u8],
    blocks: HashMap<Cid, Bytes>,
    nodes: usize,
    is_honest: bool,
    deepest: usize,
}

impl Dag<'_> {
    /// The next byte of the input; zeros behind its end.
    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.input.split_first() else { return 0 };
        self.input = rest;
        byte
    }

    fn content(&mut self, most: u8) -> Vec<u8> {
        let (len, fill) = (self.byte() % most, self.byte());
        (0..len).map(|at| fill.wrapping_add(at)).collect()
    }

    fn add(&mut self, cid: Cid, block: Vec<u8>) -> Cid {
        assert!(cid_matches(&cid, &block));
        self.blocks.insert(cid, block.into());
        cid
    }

    fn node(&mut self, file: &File) -> Cid {
        let links = file.children.iter().map(|child| Link { cid: child.cid, tsize: None }).collect();
        let block = Node { links, data: Some(file.message()) }.encode();
        let digest = Digest::of(Algorithm::Sha256, &block).multihash();
        let cid = if self.byte() & 1 == 0 { Cid::new_v1(DAG_PB, digest) } else { Cid::new_v0(digest).unwrap() };
        self.add(cid, block)
    }

    /// Grows a part of a file; gives it and what it holds.
    fn grow(&mut self, depth: usize) -> (Child, Vec<u8>) {
        self.nodes += 1;
        self.deepest = self.deepest.max(depth);
        let (child, content) = match self.byte() % 8 {
            0 | 1 => {
                let content = self.content(200);
                let cid = self.add(LeafHash::of(&content).cid(), content.clone());
                (Child { cid, size: content.len() as u64 }, content)
            }
            2 => {
                let content = self.content(64);
                let hash = Digest::of(Algorithm::Sha512, &content).multihash();
                let cid = self.add(Cid::new_v1(0x55, hash), content.clone());
                (Child { cid, size: content.len() as u64 }, content)
            }
            3 => {
                let content = self.content(64);
                let cid = identity(&content);
                (Child { cid, size: content.len() as u64 }, content)
            }
            _ => {
                let mut content = self.content(9);
                let data = Bytes::from(content.clone());
                let mut children = Vec::new();
                for _ in 0..self.byte() % 7 {
                    if self.nodes >= MAX_NODES {
                        break;
                    }
                    let (child, part) = self.grow(depth + 1);
                    children.push(child);
                    content.extend(part);
                }
                let Some(size) = children.iter().try_fold(data.len() as u64, |sum, child| sum.checked_add(child.size))
                else {
                    self.is_honest = false;
                    return (Child { cid: identity(b""), size: 0 }, Vec::new());
                };
                let file = File { data, children, size };
                (Child { cid: self.node(&file), size }, content)
            }
        };
        let lie = match self.byte() {
            255 => self.byte(),
            _ => 0,
        };
        if lie == 0 {
            return (child, content);
        }
        self.is_honest = false;
        let size = if lie == 1 { u64::MAX - 9 } else { child.size ^ u64::from(lie) };
        (Child { size, ..child }, content)
    }
}

fn identity(content: &[u8]) -> Cid {
    let bytes = [&[0x01, 0x55, 0x00, content.len() as u8], content].concat();
    Cid::try_from(bytes).expect("fewer than 64 bytes of content")
}

fuzz_target!(|input: &[u8]| {
    let [start, len, window, kind, input @ ..] = input else { return };
    let mut dag = Dag { input, blocks: HashMap::new(), nodes: 0, is_honest: true, deepest: 0 };
    let (root, content) = dag.grow(0);
    let total = content.len() as u64;
    let (span, expected) = match kind % 3 {
        0 => (Span::ALL, 0..total),
        1 => {
            let range = u64::from(*start) * 3..u64::from(*start) * 3 + u64::from(*len) * 5;
            (Span::Bytes(range.clone()), range.start.min(total)..range.end.min(total))
        }
        _ => (Span::Last(u64::from(*len)), total.saturating_sub(u64::from(*len))..total),
    };

    let mut walk = match Walk::new(root.cid, span, u64::from(*window) * 4) {
        Ok(walk) => walk,
        Err(error) => panic!("{error}"),
    };
    let mut read = Vec::new();
    let mut fed = 0;
    let ended = loop {
        let mut wants = std::iter::from_fn(|| walk.next_want()).collect::<Vec<_>>();
        if kind & 0x80 != 0 {
            wants.reverse();
        }
        let answers = wants.iter().try_for_each(|cid| walk.feed(cid, &dag.blocks[cid]));
        fed += wants.len();
        assert!(fed <= 2 * MAX_NODES, "blocks are asked for again and again");
        while let Some(part) = walk.next_content() {
            assert!(!part.is_empty());
            read.extend_from_slice(&part);
        }
        if answers.is_err() || walk.is_done() {
            break answers;
        }
    };
    if let (Ok(()), Some(range)) = (&ended, walk.range()) {
        assert_eq!(read.len() as u64, range.end - range.start);
    }
    if dag.is_honest {
        let expected = &content[expected.start as usize..expected.end as usize];
        match ended {
            Ok(()) => assert_eq!(read, expected),
            Err(error) => assert!(dag.deepest > 32, "{error}"),
        }
    }
});
