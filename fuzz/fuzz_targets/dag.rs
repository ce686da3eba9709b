//! Blocks of strangers: what decodes is within bounds, and encodes to what decodes to the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use shoal_content::{
    Algorithm, Cid, Digest,
    dag::{DAG_PB, File, MAX_LINKS, Node},
};

fuzz_target!(|bytes: &[u8]| {
    let block = Bytes::copy_from_slice(bytes);
    let Ok(node) = Node::decode(&block) else { return };
    assert!(node.links.len() <= MAX_LINKS);
    let canonical = Bytes::from(node.encode());
    assert_eq!(Node::decode(&canonical).as_ref(), Ok(&node));

    let cid = Cid::new_v1(DAG_PB, Digest::of(Algorithm::Sha256, bytes).multihash());
    let Ok(file) = File::open(&cid, &block) else { return };
    let parts = file.children.iter().map(|child| child.size).sum::<u64>();
    assert_eq!(file.size, file.data.len() as u64 + parts);
    assert_eq!(file.children.len(), node.links.len());
    let again = Node { links: node.links, data: Some(file.message()) };
    assert_eq!(File::from_node(&again), Ok(file));
});
