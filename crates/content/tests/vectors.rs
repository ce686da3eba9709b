//! The file vectors of IPIP-499, from its text and from the tests of the two implementations that it names (Kubo's `cid_profiles_test.go` and
//! `ipip-499-profiles.spec.ts` of js-ipfs-unixfs). Their inputs are key streams of ChaCha20 with the SHA-256 of a seed for a key and a nonce of zeros.

use std::collections::HashMap;

use bytes::Bytes;
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};
use shoal_content::{
    Algorithm, Cid, Digest, LEAF_SIZE, LeafHash,
    dag::{Builder, Child, File, Link, Node, Span, Walk},
};

fn stream(seed: &str) -> ChaCha20Rng {
    let key = Digest::of(Algorithm::Sha256, seed.as_bytes());
    ChaCha20Rng::from_seed(key.hash().try_into().unwrap())
}

fn random(seed: &str, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    stream(seed).fill_bytes(&mut bytes);
    bytes
}

fn root(content: &[u8]) -> String {
    let mut builder = Builder::new();
    for leaf in content.chunks(LEAF_SIZE as usize) {
        builder.leaf(LeafHash::of(leaf), leaf.len() as u64);
    }
    builder.finish().root.to_string()
}

#[test]
fn files_around_one_leaf_have_the_roots_of_the_profile() {
    assert_eq!(root(b"hello world"), "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e");
    let content = random("chunk-v1-seed", LEAF_SIZE as usize + 1);
    let (full, over) = (&content[..LEAF_SIZE as usize], &content[..]);
    assert_eq!(root(full), "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta");
    assert_eq!(root(over), "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64");
    // Not a vector of IPIP-499, but the CID of no bytes at all is known everywhere.
    assert_eq!(root(b""), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
}

#[test]
fn files_around_one_node_of_a_thousand_and_twenty_four_leaves_have_the_roots_of_the_profile() {
    let mut stream = stream("v1-2025-seed");
    let mut builder = Builder::new();
    let mut leaf = vec![0; LEAF_SIZE as usize];
    for _ in 0..1024 {
        stream.fill_bytes(&mut leaf);
        builder.leaf(LeafHash::of(&leaf), LEAF_SIZE);
    }
    stream.fill_bytes(&mut leaf);
    let root_with = |last: &[u8]| {
        let mut builder = builder.clone();
        builder.leaf(LeafHash::of(last), last.len() as u64);
        builder.finish().root.to_string()
    };
    assert_eq!(root_with(&leaf[..1]), "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe");
    assert_eq!(root_with(&leaf), "bafybeihmzokxxjqwxjcryerhp5ezpcog2wcawfryb2xm64xiakgm4a5jue");
    assert_eq!(builder.finish().root.to_string(), "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm");
}

/// The DAG that profile `unixfs-v0-2015` makes: leaves of 256 KiB in dag-pb, 174 links a node, CIDs of version 0.
fn legacy(content: &[u8]) -> (Cid, HashMap<Cid, Bytes>) {
    let mut blocks = HashMap::new();
    let mut close = |file: &File, links: Vec<Link>| {
        let below: u64 = links.iter().filter_map(|link| link.tsize).sum();
        let block = Bytes::from(Node { links, data: Some(file.message()) }.encode());
        let cid = Cid::new_v0(Digest::of(Algorithm::Sha256, &block).multihash()).unwrap();
        let tsize = block.len() as u64 + below;
        blocks.insert(cid, block);
        (Child { cid, size: file.size }, tsize)
    };
    let mut level: Vec<(Child, u64)> = content
        .chunks(256 << 10)
        .map(|leaf| {
            let data = Bytes::copy_from_slice(leaf);
            close(&File { data, children: Vec::new(), size: leaf.len() as u64 }, Vec::new())
        })
        .collect();
    while level.len() > 1 {
        level = level
            .chunks(174)
            .map(|parts| {
                let links = parts.iter().map(|(child, tsize)| Link { cid: child.cid, tsize: Some(*tsize) }).collect();
                let children: Vec<Child> = parts.iter().map(|(child, _)| *child).collect();
                let size = children.iter().map(|child| child.size).sum();
                close(&File { data: Bytes::new(), children, size }, links)
            })
            .collect();
    }
    (level[0].0.cid, blocks)
}

#[test]
fn files_of_the_legacy_profile_are_read_back() {
    let content = random("v0-seed", 44_800 << 10);
    for (size, expected) in [
        (44_544 << 10, "QmUbBALi174SnogsUzLpYbD4xPiBSFANF4iztWCsHbMKh2"),
        (44_800 << 10, "QmepeWtdmS1hHXx1oZXsPUv6bMrfRRKfZcoPPU4eEfjnbf"),
    ] {
        let content = &content[..size];
        let (root, blocks) = legacy(content);
        assert_eq!(root.to_string(), expected, "the fixture is not what Kubo makes");

        let mut walk = Walk::new(root, Span::ALL, 4 << 20).unwrap();
        let mut at = 0;
        while !walk.is_done() {
            while let Some(cid) = walk.next_want() {
                walk.feed(&cid, &blocks[&cid]).unwrap();
            }
            while let Some(part) = walk.next_content() {
                assert!(part == content[at..at + part.len()], "content differs after {at}");
                at += part.len();
            }
        }
        assert_eq!(at, size);
    }
    let (hello, _) = legacy(b"hello world");
    assert_eq!(hello.to_string(), "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD");
}
