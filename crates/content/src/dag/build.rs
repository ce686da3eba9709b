//! Building the DAG over a blob's leaves, as they come.
//!
//! The layout is IPIP-499's `balanced`: all leaves are equally far from the root. Each level fills up to the width, and is closed into a node of the level above
//! only when one more child comes: 1024 leaves have one node, 1025 have two and a root. A last node of one child stays.

use bytes::Bytes;
use cid::{Cid, multihash::Multihash};

use super::{Child, DAG_PB, File, Link, Node, WIDTH};
use crate::{leaf::LeafHash, sha256::Sha256};

/// Builds the DAG of profile `unixfs-v1-2025` over a blob's leaves, streaming.
///
/// Holds at most [`WIDTH`] links a level, and the nodes that nobody has [taken](Self::take_nodes) yet.
///
/// ```
/// use shoal_content::{LEAF_SIZE, LeafHash, dag::Builder};
///
/// let leaf = vec![0; LEAF_SIZE as usize];
/// let mut builder = Builder::new();
/// builder.leaf(LeafHash::of(&leaf), LEAF_SIZE);
/// builder.leaf(LeafHash::of(b"tail"), 4);
/// let dag = builder.finish();
/// assert_eq!(dag.nodes.len(), 1);
/// assert_eq!(dag.root, dag.nodes[0].0);
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    width: usize,
    /// Of each level, the children of the node that is not closed yet; leaves first.
    levels: Vec<Vec<Part>>,
    nodes: Vec<(Cid, Bytes)>,
}

/// A finished DAG: its root and its inner nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dag {
    /// CID of the root; for a blob of one leaf the leaf itself.
    pub root: Cid,
    /// Inner nodes that were not taken before, children before parents: CID and encoded dag-pb bytes.
    pub nodes: Vec<(Cid, Bytes)>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    child: Child,
    /// Bytes of all blocks at and below.
    tsize: u64,
}

impl Builder {
    /// A builder that has seen no leaf.
    pub fn new() -> Self {
        Self::with_width(WIDTH)
    }

    /// A builder of nodes of `width` links: the roots are of no profile, but small blobs have deep DAGs to test readers with.
    ///
    /// # Panics
    /// When `width` is less than two: such a DAG has no end.
    pub fn with_width(width: usize) -> Self {
        assert!(width >= 2, "a node of a DAG has two links or more");
        Self { width, levels: Vec::new(), nodes: Vec::new() }
    }

    /// Adds the next leaf, of `size` bytes. All but the last have [`LEAF_SIZE`](crate::LEAF_SIZE).
    pub fn leaf(&mut self, hash: LeafHash, size: u64) {
        self.push(0, Part { child: Child { cid: hash.cid(), size }, tsize: size });
    }

    /// The nodes closed since the last call, children before parents: CID and encoded dag-pb bytes.
    ///
    /// Whoever streams a large blob takes them now and then, so that they do not pile up (50 KiB a GiB).
    pub fn take_nodes(&mut self) -> Vec<(Cid, Bytes)> {
        std::mem::take(&mut self.nodes)
    }

    /// Closes the DAG. Without any leaf it is that of the empty blob.
    pub fn finish(mut self) -> Dag {
        if self.levels.is_empty() {
            self.leaf(LeafHash::of(b""), 0);
        }
        let mut level = 0;
        let root = loop {
            let is_top = level + 1 == self.levels.len();
            if let ([only], true) = (&self.levels[level][..], is_top) {
                break only.child.cid;
            }
            let parent = self.close(level);
            level += 1;
            self.push(level, parent);
        };
        Dag { root, nodes: self.nodes }
    }

    fn push(&mut self, level: usize, part: Part) {
        if level == self.levels.len() {
            self.levels.push(Vec::new());
        }
        if self.levels[level].len() == self.width {
            let parent = self.close(level);
            self.push(level + 1, parent);
        }
        self.levels[level].push(part);
    }

    /// Makes a node of what the level holds.
    fn close(&mut self, level: usize) -> Part {
        let parts = std::mem::take(&mut self.levels[level]);
        let children: Vec<Child> = parts.iter().map(|part| part.child).collect();
        let size = children.iter().map(|child| child.size).sum();
        let links = parts.iter().map(|part| Link { cid: part.child.cid, tsize: Some(part.tsize) }).collect();
        let message = File { data: Bytes::new(), children, size }.message();
        let block = Bytes::from(Node { links, data: Some(message) }.encode());

        let hash = Multihash::wrap(0x12, &Sha256::of(&block)).expect("32 bytes fit a 64 byte multihash");
        let cid = Cid::new_v1(DAG_PB, hash);
        let tsize = block.len() as u64 + parts.iter().map(|part| part.tsize).sum::<u64>();
        self.nodes.push((cid, block));
        Part { child: Child { cid, size }, tsize }
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dag::unixfs::File;

    fn build(width: usize, leaves: u64) -> Dag {
        let mut builder = Builder::with_width(width);
        for index in 0..leaves {
            builder.leaf(LeafHash::of(&index.to_be_bytes()), 8);
        }
        builder.finish()
    }

    /// Number of leaves below a node, each checked to be `depth` links away.
    fn leaves_below(dag: &Dag, cid: &Cid, depth: usize) -> u64 {
        let Some((_, block)) = dag.nodes.iter().find(|(node, _)| node == cid) else {
            assert_eq!(depth, 0);
            return 1;
        };
        let file = File::open(cid, block).unwrap();
        let leaves = file.children.iter().map(|child| leaves_below(dag, &child.cid, depth - 1)).sum();
        assert_eq!(file.size, leaves * 8);
        leaves
    }

    #[test]
    fn a_blob_of_one_leaf_is_that_leaf() {
        let dag = build(4, 1);
        assert_eq!((dag.root, dag.nodes.len()), (LeafHash::of(&0u64.to_be_bytes()).cid(), 0));
        assert_eq!(Builder::new().finish().root, LeafHash::of(b"").cid());
    }

    #[test]
    fn a_node_is_closed_only_when_one_more_child_comes() {
        for (leaves, nodes) in [(2, 1), (4, 1), (5, 3), (8, 3), (16, 5), (17, 8), (64, 21), (65, 25)] {
            assert_eq!(build(4, leaves).nodes.len(), nodes, "{leaves} leaves");
        }
    }

    proptest! {
        #[test]
        fn all_leaves_are_equally_deep_and_none_is_lost(width in 2usize..6, leaves in 1u64..200) {
            let dag = build(width, leaves);
            let mut depth = 0;
            while (width as u64).pow(depth) < leaves {
                depth += 1;
            }
            prop_assert_eq!(leaves_below(&dag, &dag.root, depth as usize), leaves);
        }

        #[test]
        fn nodes_taken_on_the_way_are_those_that_finish_gives(width in 2usize..6, leaves in 1u64..200, every in 1u64..20) {
            let whole = build(width, leaves);
            let mut builder = Builder::with_width(width);
            let mut nodes = Vec::new();
            for index in 0..leaves {
                builder.leaf(LeafHash::of(&index.to_be_bytes()), 8);
                if index.is_multiple_of(every) {
                    nodes.extend(builder.take_nodes());
                }
            }
            let rest = builder.finish();
            nodes.extend(rest.nodes);
            prop_assert_eq!(Dag { root: rest.root, nodes }, whole);
        }
    }
}
