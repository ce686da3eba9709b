//! What one member says, and what it does to the others.

use std::time::Duration;

use shoal_content::{LEAF_SIZE, LeafHash, Outline};
use shoal_coordination::{Coordinator, Failure, Limits, Member, Reply, Source};

const NOW: Duration = Duration::ZERO;

fn hash(leaf: u64) -> LeafHash {
    LeafHash([u8::try_from(leaf).unwrap(); 32])
}

fn outline(leaves: u64) -> Outline {
    Outline::complete(leaves * LEAF_SIZE, &(0..leaves).map(hash).collect::<Vec<_>>()).unwrap()
}

fn member(leaves: u64) -> Member<u32> {
    let mut member = Member::new(Outline::growing(leaves * LEAF_SIZE).unwrap(), Limits::default());
    member.want(0..leaves);
    member
}

fn to(peer: u32, replies: Vec<(u32, Reply<u32>)>) -> Vec<Reply<u32>> {
    replies.into_iter().filter(|(to, _)| *to == peer).map(|(_, reply)| reply).collect()
}

#[test]
fn it_allocates_nothing_and_disputes_nothing_that_it_was_not_granted() {
    assert!(Coordinator::<u32>::new(u64::MAX, Limits::default(), NOW).is_none());
    let mut coordinator = Coordinator::<u32>::new(4 * LEAF_SIZE, Limits::default(), NOW).unwrap();
    coordinator.holder(9, &outline(4), NOW);
    coordinator.search_over(NOW);
    let mut ask = member(4).ask().unwrap();
    ask.slots = 0;
    ask.failed = (0..1000).map(|leaf| (leaf, Source::Peer(9), Failure::Wrong)).collect();
    ask.landed = (4..1000).map(|leaf| (leaf, None)).collect();
    let before = coordinator.memory();
    coordinator.ask(1, ask, NOW);
    assert!(coordinator.memory() < before + 4096);
    let mut ask = member(4).ask().unwrap();
    ask.slots = 4;
    let granted: usize = to(2, coordinator.ask(2, ask, NOW)).iter().map(|reply| reply.grants.len()).sum();
    assert_eq!(granted, 4, "the holder is as good as before");
}

#[test]
fn a_leaf_whose_hash_nobody_told_is_asked_for_and_then_granted() {
    let mut coordinator = Coordinator::<u32>::new(4 * LEAF_SIZE, Limits::default(), NOW).unwrap();
    coordinator.search_over(NOW);
    // It got all of it from others, by the word of a coordinator that is gone.
    let mut first = Member::new(outline(4), Limits::default());
    first.want(0..4);
    first.forget(3);
    let replies = to(1, coordinator.ask(1, first.ask().unwrap(), NOW));
    assert_eq!(replies[0].tell, [(0, 3)]);
    first.reply(replies[0].clone(), NOW);
    let mut second = member(4);
    let mut ask = second.ask().unwrap();
    ask.slots = 4;
    let replies = to(2, coordinator.ask(2, ask, NOW));
    assert!(replies.iter().all(|reply| reply.grants.is_empty()), "nobody knows a hash");
    let replies = coordinator.ask(1, first.ask().unwrap(), NOW);
    let granted = to(2, replies);
    assert!(granted.is_empty(), "its request has been answered");
    let mut ask = second.ask().unwrap_or_else(|| {
        second.reply(Reply::empty(1, None), NOW);
        second.ask().unwrap()
    });
    ask.slots = 4;
    let replies = to(2, coordinator.ask(2, ask, NOW));
    let hashes: Vec<LeafHash> = replies.iter().flat_map(|reply| &reply.grants).map(|grant| grant.hash).collect();
    assert_eq!(hashes, [hash(0), hash(1), hash(2)]);
}
