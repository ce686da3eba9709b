//! Tests of [`Walk`]: what is built is read back, in order, and hostile DAGs end in errors.

use std::collections::VecDeque;

use cid::multihash::Multihash;
use proptest::prelude::*;

use super::*;
use crate::{
    Algorithm, Digest, LeafHash, cid_matches,
    dag::{Builder, Link, Node},
};

/// Content and the blocks of its DAG.
struct Fixture {
    content: Vec<u8>,
    root: Cid,
    blocks: HashMap<Cid, Bytes>,
}

/// Content cut into leaves of `leaf` bytes. Every third leaf is the same, as in files with holes.
fn fixture(size: usize, leaf: usize, width: usize) -> Fixture {
    let content: Vec<u8> =
        (0..size).map(|at| if (at / leaf).is_multiple_of(3) { 0 } else { (at % 251) as u8 }).collect();
    let mut builder = Builder::with_width(width);
    let mut blocks = HashMap::new();
    for leaf in content.chunks(leaf) {
        let hash = LeafHash::of(leaf);
        builder.leaf(hash, leaf.len() as u64);
        blocks.insert(hash.cid(), Bytes::copy_from_slice(leaf));
    }
    let dag = builder.finish();
    if size == 0 {
        blocks.insert(dag.root, Bytes::new());
    }
    blocks.extend(dag.nodes);
    Fixture { content, root: dag.root, blocks }
}

/// Reads with up to `flight` blocks asked for at once; answers come in the order that `pick` gives. Also the number of blocks fetched.
fn read(
    blocks: &HashMap<Cid, Bytes>,
    walk: &mut Walk,
    flight: usize,
    mut pick: impl FnMut(usize) -> usize,
) -> Result<(Vec<u8>, usize), BadBlock> {
    let (mut given, mut fetched) = (Vec::new(), 0);
    let mut in_flight = VecDeque::new();
    while !walk.is_done() {
        while in_flight.len() < flight.max(1) {
            let Some(cid) = walk.next_want() else { break };
            assert!(!in_flight.contains(&cid), "asked for twice");
            in_flight.push_back(cid);
        }
        if let Some(cid) = in_flight.remove(pick(in_flight.len())) {
            let block = blocks.get(&cid).expect("only blocks of the DAG are wanted");
            assert!(cid_matches(&cid, block));
            walk.feed(&cid, block)?;
            fetched += 1;
        }
        assert!(walk.parts.len() <= MAX_PARTS);
        while let Some(content) = walk.next_content() {
            assert!(!content.is_empty());
            given.extend_from_slice(&content);
        }
    }
    assert!(walk.next_want().is_none());
    Ok((given, fetched))
}

fn dag_pb(block: &[u8]) -> Cid {
    Cid::new_v1(DAG_PB, Digest::of(Algorithm::Sha256, block).multihash())
}

/// A node over children, with content of its own; added to `blocks`.
fn inner(blocks: &mut HashMap<Cid, Bytes>, data: &'static [u8], children: &[Child]) -> Child {
    let links = children.iter().map(|child| Link { cid: child.cid, tsize: None }).collect();
    let size = data.len() as u64 + children.iter().fold(0, |sum: u64, child| sum.wrapping_add(child.size));
    let file = File { data: Bytes::from_static(data), children: children.to_vec(), size };
    let block = Bytes::from(Node { links, data: Some(file.message()) }.encode());
    let cid = dag_pb(&block);
    blocks.insert(cid, block);
    Child { cid, size }
}

fn raw(blocks: &mut HashMap<Cid, Bytes>, data: &'static [u8]) -> Child {
    let cid = LeafHash::of(data).cid();
    blocks.insert(cid, Bytes::from_static(data));
    Child { cid, size: data.len() as u64 }
}

fn identity(codec: u64, block: &[u8]) -> Cid {
    Cid::new_v1(codec, Multihash::wrap(IDENTITY, block).unwrap())
}

#[test]
fn the_empty_file_is_done_with_its_root() {
    let file = fixture(0, 4, 2);
    let mut walk = Walk::new(file.root, Span::ALL, 10).unwrap();
    assert!(!walk.is_done() && walk.size().is_none());
    assert_eq!(read(&file.blocks, &mut walk, 1, |_| 0).unwrap(), (vec![], 1));
    assert_eq!((walk.size(), walk.range()), (Some(0), Some(0..0)));
}

#[test]
fn a_range_fetches_only_the_blocks_that_it_needs() {
    let file = fixture(1000, 10, 4);
    let fetched = |span| read(&file.blocks, &mut Walk::new(file.root, span, 100).unwrap(), 8, |_| 0).unwrap();
    // Root, three nodes on the way down, one leaf.
    assert_eq!(fetched(Span::Bytes(15..16)), (file.content[15..16].to_vec(), 5));
    assert_eq!(fetched(Span::Last(3)), (file.content[997..].to_vec(), 5));
    // Past the end there is nothing, but the root had to say so.
    assert_eq!(fetched(Span::Bytes(1000..2000)), (vec![], 1));
    assert_eq!(fetched(Span::Bytes(7..7)), (vec![], 1));
    assert_eq!(fetched(Span::Last(5000)).0, file.content);
}

#[test]
fn no_block_beyond_the_window_is_wanted() {
    let file = fixture(1000, 10, 128);
    let mut walk = Walk::new(file.root, Span::ALL, 30).unwrap();
    let root = walk.next_want().unwrap();
    assert!(walk.next_want().is_none());
    walk.feed(&root, &file.blocks[&root]).unwrap();
    let wants: Vec<Cid> = std::iter::from_fn(|| walk.next_want()).collect();
    assert_eq!(wants.len(), 3);
    walk.feed(&wants[1], &file.blocks[&wants[1]]).unwrap();
    assert!(walk.next_content().is_none() && walk.next_want().is_none());
    walk.feed(&wants[0], &file.blocks[&wants[0]]).unwrap();
    assert_eq!(walk.next_content().unwrap(), file.content[..10]);
    assert!(walk.next_want().is_some());
}

#[test]
fn a_block_that_was_not_asked_for_changes_nothing() {
    let file = fixture(100, 10, 4);
    let mut walk = Walk::new(file.root, Span::ALL, 1000).unwrap();
    let leaf = LeafHash::of(&file.content[..10]).cid();
    walk.feed(&leaf, &file.blocks[&leaf]).unwrap();
    walk.feed(&file.root, &file.blocks[&file.root]).unwrap();
    assert!(walk.size().is_none() && walk.next_content().is_none());
    assert_eq!(read(&file.blocks, &mut walk, 4, |_| 0).unwrap().0, file.content);
}

#[test]
fn nodes_may_have_content_of_their_own_and_unequal_depth() {
    let mut blocks = HashMap::new();
    let (two, four) = (raw(&mut blocks, b"two "), raw(&mut blocks, b"four"));
    let three = inner(&mut blocks, b"three ", &[]);
    let deep = inner(&mut blocks, b"", &[three, four]);
    let root = inner(&mut blocks, b"one ", &[two, deep]);
    let mut walk = Walk::new(root.cid, Span::ALL, 100).unwrap();
    assert_eq!(read(&blocks, &mut walk, 4, |count| count.saturating_sub(1)).unwrap().0, b"one two three four");
    let mut walk = Walk::new(root.cid, Span::Bytes(2..9), 100).unwrap();
    assert_eq!(read(&blocks, &mut walk, 4, |_| 0).unwrap().0, b"e two t");
}

#[test]
fn a_cid_that_carries_its_block_is_never_asked_for() {
    let mut walk = Walk::new(identity(RAW, b"tiny"), Span::ALL, 100).unwrap();
    assert_eq!(read(&HashMap::new(), &mut walk, 1, |_| 0).unwrap(), (b"tiny".to_vec(), 0));
    let mut walk = Walk::new(identity(RAW, b""), Span::ALL, 100).unwrap();
    assert_eq!(read(&HashMap::new(), &mut walk, 1, |_| 0).unwrap(), (vec![], 0));

    let mut blocks = HashMap::new();
    let inline = Child { cid: identity(RAW, b"in"), size: 2 };
    let out = raw(&mut blocks, b"out");
    let root = inner(&mut blocks, b"", &[inline, out, inline]);
    let mut walk = Walk::new(root.cid, Span::ALL, 100).unwrap();
    assert_eq!(read(&blocks, &mut walk, 1, |_| 0).unwrap(), (b"inoutin".to_vec(), 2));
    // It is held to its size like any other.
    let root = inner(&mut blocks, b"", &[Child { size: 3, ..inline }]);
    let mut walk = Walk::new(root.cid, Span::ALL, 100).unwrap();
    let error = read(&blocks, &mut walk, 1, |_| 0).unwrap_err();
    assert_eq!(error.reason, DagError::Size { stated: 3, actual: 2 });
}

#[test]
fn a_child_of_another_size_than_its_parent_says_is_refused() {
    let mut blocks = HashMap::new();
    let leaf = raw(&mut blocks, b"leaf");
    let root = inner(&mut blocks, b"", &[Child { size: 5, ..leaf }]);
    let mut walk = Walk::new(root.cid, Span::ALL, 100).unwrap();
    let error = read(&blocks, &mut walk, 1, |_| 0).unwrap_err();
    assert_eq!(error, BadBlock { cid: leaf.cid, reason: DagError::Size { stated: 5, actual: 4 } });
}

#[test]
fn sizes_up_to_the_largest_number_do_not_overflow() {
    let mut blocks = HashMap::new();
    let leaf = raw(&mut blocks, b"leaf");
    let root = inner(&mut blocks, b"", &[leaf, Child { size: u64::MAX - 4, ..leaf }]);
    let mut walk = Walk::new(root.cid, Span::Last(8), u64::MAX).unwrap();
    assert!(read(&blocks, &mut walk, 1, |_| 0).is_err());
    let mut walk = Walk::new(root.cid, Span::Bytes(0..4), u64::MAX).unwrap();
    assert_eq!(read(&blocks, &mut walk, 1, |_| 0).unwrap().0, b"leaf");
    assert_eq!(walk.size(), Some(u64::MAX));
}

#[test]
fn roots_that_cannot_be_read_or_checked_are_refused_at_once() {
    let digest = Digest::of(Algorithm::Sha256, b"");
    let refused = |cid| Walk::new(cid, Span::ALL, 1).unwrap_err().reason;
    assert_eq!(refused(Cid::new_v1(0x71, digest.multihash())), DagError::Codec(0x71));
    let blake = Multihash::wrap(0xb220, digest.hash()).unwrap();
    assert_eq!(refused(Cid::new_v1(RAW, blake)), DagError::Hash(0xb220));
}

#[test]
fn a_chain_deeper_than_the_bound_is_refused() {
    let mut blocks = HashMap::new();
    let mut node = raw(&mut blocks, b"deep");
    for _ in 0..MAX_DEPTH {
        node = inner(&mut blocks, b"", &[node]);
    }
    let mut walk = Walk::new(node.cid, Span::ALL, 1).unwrap();
    assert_eq!(read(&blocks, &mut walk, 1, |_| 0).unwrap().0, b"deep");
    node = inner(&mut blocks, b"", &[node]);
    let mut walk = Walk::new(node.cid, Span::ALL, 1).unwrap();
    assert_eq!(read(&blocks, &mut walk, 1, |_| 0).unwrap_err().reason, DagError::TooDeep);
}

#[test]
fn parts_without_content_are_never_fetched() {
    let mut blocks = HashMap::new();
    let leaf = raw(&mut blocks, b"leaf");
    let bomb = Child { cid: dag_pb(b"nobody has this"), size: 0 };
    let mut children = vec![bomb; MAX_LINKS - 1];
    children.insert(100, leaf);
    let root = inner(&mut blocks, b"", &children);
    let mut walk = Walk::new(root.cid, Span::ALL, 100).unwrap();
    assert_eq!(read(&blocks, &mut walk, 4, |_| 0).unwrap(), (b"leaf".to_vec(), 2));
}

#[test]
fn wide_nodes_side_by_side_are_read_within_bounds() {
    let mut blocks = HashMap::new();
    let byte = raw(&mut blocks, b"x");
    let wide = inner(&mut blocks, b"", &vec![byte; MAX_LINKS]);
    // Different nodes, so that each is asked for by itself, all within the window.
    let children: Vec<Child> = [&b"a"[..], b"b", b"c", b"d", b"e", b"f", b"g", b"h"]
        .into_iter()
        .map(|data| inner(&mut blocks, data, &vec![byte; MAX_LINKS]))
        .chain([wide; 4])
        .collect();
    let root = inner(&mut blocks, b"", &children);
    let mut walk = Walk::new(root.cid, Span::ALL, u64::MAX).unwrap();
    let (content, fetched) = read(&blocks, &mut walk, 64, |count| count.saturating_sub(1)).unwrap();
    assert_eq!(content.len() as u64, root.size);
    assert!(fetched < 60, "{fetched} blocks fetched");
}

#[test]
fn nodes_too_wide_on_every_level_are_refused() {
    let mut blocks = HashMap::new();
    let byte = raw(&mut blocks, b"x");
    let mut node = byte;
    for _ in 0..9 {
        let mut children = vec![byte; MAX_LINKS - 1];
        children.insert(0, node);
        node = inner(&mut blocks, b"", &children);
    }
    let mut walk = Walk::new(node.cid, Span::ALL, u64::MAX).unwrap();
    assert_eq!(read(&blocks, &mut walk, 1, |_| 0).unwrap_err().reason, DagError::TooWide);
}

#[test]
fn a_little_content_does_not_keep_a_large_block_alive() {
    let padded = [b"\x0a\x07\x08\x02\x12\x01x\x18\x01\x7a".as_slice(), &[0x80, 0x80, 0x40], &vec![0; 1 << 20]].concat();
    let block = Bytes::from(padded);
    let mut walk = Walk::new(dag_pb(&block), Span::ALL, 1).unwrap();
    let cid = walk.next_want().unwrap();
    walk.feed(&cid, &block).unwrap();
    let content = walk.next_content().unwrap();
    assert_eq!(content, "x");
    assert!(!block.as_ptr_range().contains(&content.as_ptr()));
}

proptest! {
    #[test]
    fn what_was_built_is_read_back_whatever_the_order_of_answers(
        size in 0usize..3000, leaf in 1usize..50, width in 2usize..9, window in 0u64..4000, flight in 1usize..20,
        bounds in any::<(u64, u64)>(), whole: bool, picks in prop::collection::vec(any::<prop::sample::Index>(), 1..50),
    ) {
        let file = fixture(size, leaf, width);
        let total = size as u64 + 1;
        let start = if whole { 0 } else { bounds.0 % total };
        let end = if whole { u64::MAX } else { start + bounds.1 % total };
        let mut walk = Walk::new(file.root, Span::Bytes(start..end), window).unwrap();
        let mut picks = picks.iter().cycle();
        let (content, _) = read(&file.blocks, &mut walk, flight, |count| {
            picks.next().map_or(0, |pick| if count == 0 { 0 } else { pick.index(count) })
        }).unwrap();
        let end = end.min(size as u64);
        prop_assert_eq!(content, &file.content[start.min(end) as usize..end as usize]);
        prop_assert_eq!(walk.size(), Some(size as u64));
    }

    #[test]
    fn a_walk_over_mutated_blocks_ends(size in 1usize..300, at: prop::sample::Index, to: u8, window in 1u64..400) {
        let file = fixture(size, 7, 3);
        let mut walk = Walk::new(file.root, Span::ALL, window).unwrap();
        let mut turns = 0;
        'walk: while !walk.is_done() {
            let Some(cid) = walk.next_want() else { break };
            let Some(block) = file.blocks.get(&cid) else { break };
            let mut block = block.to_vec();
            let place = at.index(block.len());
            block[place] = to;
            if walk.feed(&cid, &block.into()).is_err() {
                break 'walk;
            }
            while walk.next_content().is_some() {}
            turns += 1;
            prop_assert!(turns <= 1000);
        }
    }
}
