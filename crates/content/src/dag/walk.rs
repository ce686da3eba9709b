//! Reading a byte range of a file DAG, without input or output: a [`Walk`] says which blocks it wants next, is fed them in any order, and
//! gives their content in order.
//!
//! What is known of the range is kept as a map from offset to either content that waits for what comes before it, or a block yet to come. Opening a block replaces it
//! by its parts. Parts without content, or outside the range, are left out, so the offsets are all different and follow one another without gap.
//!
//! Memory is bounded: a block is wanted only if its content starts less than the window beyond the next byte to be given, and a node whose links do not find
//! room among [`MAX_PARTS`] is forgotten and wanted again when its turn comes.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use bytes::Bytes;
use cid::Cid;

use super::{BadBlock, Child, DAG_PB, DagError, File, MAX_DEPTH, MAX_LINKS};
use crate::{
    leaf::RAW,
    verify::{IDENTITY, is_verifiable},
};

/// Parts that a walk keeps, some ten megabytes of them. No DAG of use comes near: it has three levels of a thousand links.
pub const MAX_PARTS: usize = 8 * MAX_LINKS;

/// Parts that nodes ahead of the first may fill, so that those before them always find room to be opened.
const MAX_PARTS_AHEAD: usize = MAX_PARTS / 2;

/// Parts above which no node ahead of the first is asked for. A node that found no room leaves at least this many, so it is not asked for again at once.
const MAX_PARTS_TO_ASK: usize = MAX_PARTS_AHEAD - MAX_LINKS;

/// Which bytes of a file to read. What lies beyond its end is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Span {
    /// Bytes from the range's start up to its end.
    Bytes(Range<u64>),
    /// The last bytes, this many.
    Last(u64),
}

impl Span {
    /// The whole file.
    pub const ALL: Self = Self::Bytes(0..u64::MAX);

    /// The bytes of a file of `size` bytes that are meant.
    fn within(&self, size: u64) -> Range<u64> {
        match self {
            Span::Bytes(range) => {
                let start = range.start.min(size);
                start..range.end.clamp(start, size)
            }
            Span::Last(count) => size.saturating_sub(*count)..size,
        }
    }
}

/// Reads a byte range of a file DAG.
///
/// ```
/// use std::collections::HashMap;
/// use bytes::Bytes;
/// use shoal_content::{LeafHash, cid_matches, dag::{Builder, Span, Walk}};
///
/// let mut builder = Builder::with_width(2);
/// let leaves = ["one ", "two ", "three"].map(|text| (LeafHash::of(text.as_bytes()).cid(), Bytes::from(text)));
/// for (cid, text) in &leaves {
///     builder.leaf(LeafHash::from_cid(cid).unwrap(), text.len() as u64);
/// }
/// let dag = builder.finish();
/// let blocks: HashMap<_, _> = leaves.into_iter().chain(dag.nodes).collect();
///
/// let mut walk = Walk::new(dag.root, Span::Bytes(2..10), 1 << 20)?;
/// let mut read = Vec::new();
/// while !walk.is_done() {
///     while let Some(cid) = walk.next_want() {
///         let block = blocks[&cid].clone();
///         assert!(cid_matches(&cid, &block));
///         walk.feed(&cid, &block)?;
///     }
///     while let Some(content) = walk.next_content() {
///         read.extend_from_slice(&content);
///     }
/// }
/// assert_eq!(read, b"e two th");
/// # Ok::<(), shoal_content::dag::BadBlock>(())
/// ```
#[derive(Clone, Debug)]
pub struct Walk {
    span: Span,
    /// The size of the file and the bytes of it that are given, once the root has been opened.
    file: Option<(u64, Range<u64>)>,
    window: u64,
    /// Offset of the next byte to be given.
    position: u64,
    /// By the offset in the file where they start.
    parts: BTreeMap<u64, Part>,
    /// Every part before this offset is content or has been asked for.
    asked_to: u64,
    /// The blocks asked for, and the offsets of the parts that are waiting for each.
    waiting: HashMap<Cid, Vec<u64>>,
}

#[derive(Clone, Debug)]
enum Part {
    Content(Bytes),
    Block {
        cid: Cid,
        depth: u8,
        /// Bytes at and below it by what its parent says; the root has no parent.
        size: Option<u64>,
        is_asked: bool,
    },
}

impl Walk {
    /// Begins to read `span` of the file at `root`.
    ///
    /// `window` is how far beyond the next byte to be given blocks are wanted, in bytes: what is in flight or waits for what comes before it stays below
    /// twice the window and two blocks. At least one block is always wanted. Fails when the root is of a kind that cannot be read or checked.
    pub fn new(root: Cid, span: Span, window: u64) -> Result<Self, BadBlock> {
        let mut walk = Self {
            span,
            file: None,
            window: window.max(1),
            position: 0,
            parts: BTreeMap::new(),
            asked_to: 0,
            waiting: HashMap::new(),
        };
        walk.expect(0, root, 0, None)?;
        Ok(walk)
    }

    /// Size of the whole file in bytes; `None` until the root has been fed.
    pub fn size(&self) -> Option<u64> {
        self.file.as_ref().map(|(size, _)| *size)
    }

    /// The bytes of the file that are given; `None` until the root has been fed.
    pub fn range(&self) -> Option<Range<u64>> {
        self.file.as_ref().map(|(_, range)| range.clone())
    }

    /// Whether all of the range has been given.
    pub fn is_done(&self) -> bool {
        self.parts.is_empty()
    }

    /// The next block to fetch, each once; `None` when all within the window have been asked for.
    ///
    /// Ask again after [`feed`](Self::feed) and [`next_content`](Self::next_content). A block that did not come is the caller's to fetch
    /// elsewhere: the walk goes on waiting for it.
    pub fn next_want(&mut self) -> Option<Cid> {
        let horizon = self.position.saturating_add(self.window);
        let first = *self.parts.first_key_value()?.0;
        let is_roomy = self.parts.len() < MAX_PARTS_TO_ASK;
        for (&start, part) in self.parts.range_mut(self.asked_to..) {
            let Part::Block { cid, is_asked: is_asked @ false, .. } = part else { continue };
            // Only nodes need room for more parts, and the first one has to be opened for the walk to go on at all.
            let waits_for_room = cid.codec() == DAG_PB && !is_roomy && start != first;
            if start >= horizon || waits_for_room {
                return None;
            }
            *is_asked = true;
            self.asked_to = start + 1;
            let waiting = self.waiting.entry(*cid).or_default();
            waiting.push(start);
            if waiting.len() == 1 {
                return Some(*cid);
            }
        }
        None
    }

    /// Takes a block that was wanted; others are ignored.
    ///
    /// The caller has seen to it that the block is the one that `cid` names, by [`cid_matches`](crate::cid_matches) or because whoever gave it has. An error means
    /// that the DAG itself is malformed: no other copy of the block is better.
    pub fn feed(&mut self, cid: &Cid, block: &Bytes) -> Result<(), BadBlock> {
        let Some(starts) = self.waiting.remove(cid) else { return Ok(()) };
        let file = File::open(cid, block).map_err(|reason| BadBlock { cid: *cid, reason })?;
        let file = File { data: compact(file.data, block), ..file };
        for start in starts {
            self.replace(start, cid, &file)?;
        }
        Ok(())
    }

    /// The next content of the range, in order; `None` when a block has to come first.
    pub fn next_content(&mut self) -> Option<Bytes> {
        let first = self.parts.first_entry()?;
        if !matches!(first.get(), Part::Content(_)) {
            return None;
        }
        let Part::Content(content) = first.remove() else { return None };
        self.position += content.len() as u64;
        Some(content)
    }

    /// Puts the parts of an opened block in the place of the block.
    fn replace(&mut self, start: u64, cid: &Cid, file: &File) -> Result<(), BadBlock> {
        let is_first = self.parts.first_key_value().is_some_and(|(&first, _)| first == start);
        let bound = if is_first { MAX_PARTS } else { MAX_PARTS_AHEAD };
        let room = bound.saturating_sub(self.parts.len());
        let Some(Part::Block { depth, size, is_asked, .. }) = self.parts.get_mut(&start) else { return Ok(()) };
        let (depth, size) = (*depth, *size);
        if file.children.len() > room {
            if is_first {
                return Err(BadBlock { cid: *cid, reason: DagError::TooWide });
            }
            *is_asked = false;
            self.asked_to = self.asked_to.min(start);
            return Ok(());
        }
        self.parts.remove(&start);
        self.place(start, cid, depth, size, file)
    }

    /// Takes up the parts of a block that covers the file from `start` on.
    fn place(&mut self, start: u64, cid: &Cid, depth: u8, size: Option<u64>, file: &File) -> Result<(), BadBlock> {
        let refuse = |reason| BadBlock { cid: *cid, reason };
        if let Some(stated) = size.filter(|&stated| stated != file.size) {
            return Err(refuse(DagError::Size { stated, actual: file.size }));
        }
        let range = match &self.file {
            Some((_, range)) => range.clone(),
            None => {
                let range = self.span.within(file.size);
                self.position = range.start;
                self.file = Some((file.size, range.clone()));
                range
            }
        };

        let inline = start..start + file.data.len() as u64;
        if let Some(overlap) = overlap(&inline, &range) {
            let at = |offset: u64| usize::try_from(offset - start).expect("an offset within a block in memory");
            let content = file.data.slice(at(overlap.start)..at(overlap.end));
            self.parts.insert(overlap.start, Part::Content(content));
        }
        let mut next = inline.end;
        for Child { cid, size } in &file.children {
            // The sum was checked to fit when the block was opened, and the root's when its children were taken up.
            let covered = next..next + size;
            next = covered.end;
            if overlap(&covered, &range).is_some() {
                self.expect(covered.start, *cid, depth + 1, Some(*size))?;
            }
        }
        Ok(())
    }

    /// Takes up a block that covers the file from `start` on; opens it at once when its CID carries it.
    fn expect(&mut self, start: u64, cid: Cid, depth: u8, size: Option<u64>) -> Result<(), BadBlock> {
        let refuse = |reason| BadBlock { cid, reason };
        if depth > MAX_DEPTH {
            return Err(refuse(DagError::TooDeep));
        }
        if !matches!(cid.codec(), RAW | DAG_PB) {
            return Err(refuse(DagError::Codec(cid.codec())));
        }
        if !is_verifiable(&cid) {
            return Err(refuse(DagError::Hash(cid.hash().code())));
        }
        if cid.hash().code() == IDENTITY {
            let block = Bytes::copy_from_slice(cid.hash().digest());
            let file = File::open(&cid, &block).map_err(refuse)?;
            return self.place(start, &cid, depth, size, &file);
        }
        self.asked_to = self.asked_to.min(start);
        self.parts.insert(start, Part::Block { cid, depth, size, is_asked: false });
        Ok(())
    }
}

/// Content that keeps no block alive which is mostly something else.
fn compact(content: Bytes, block: &Bytes) -> Bytes {
    if content.len() < block.len() / 2 { Bytes::copy_from_slice(&content) } else { content }
}

/// The bytes that two ranges share, if any.
fn overlap(one: &Range<u64>, other: &Range<u64>) -> Option<Range<u64>> {
    let shared = one.start.max(other.start)..one.end.min(other.end);
    (!shared.is_empty()).then_some(shared)
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
