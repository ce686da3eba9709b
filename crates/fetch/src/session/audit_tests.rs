//! Swarms that doubt a blob, under seeds: honest nodes with an audit each, and liars who say what they like.

use super::*;

const LEAVES: u64 = 60;
const STEP: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(1);

fn right(leaf: u64) -> LeafHash {
    LeafHash::of(&leaf.to_be_bytes())
}

fn wrong(liar: u64, leaf: u64) -> LeafHash {
    LeafHash::of(&[liar.to_be_bytes(), leaf.to_be_bytes()].concat())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Liar {
    /// Abides by what it vouched for, and reads nothing again.
    Idle,
    /// Gives a wrong word on every leaf.
    Contradicts,
    /// Gives the same wrong words as the other liars.
    Colludes,
}

struct Outcome {
    reads: u64,
    took: Duration,
}

/// `nodes` peers, of which the first `liars` lie about `share` of every hundred leaves that they vouched for.
fn run(seed: u64, nodes: u64, liars: u64, kind: Liar, share: u64) -> Outcome {
    let witness = |leaf: u64| mix(seed, leaf) % nodes;
    let lie = |peer: u64, leaf: u64| if kind == Liar::Colludes { wrong(0, leaf) } else { wrong(peer, leaf) };
    let is_lied = |leaf: u64| witness(leaf) < liars && mix(seed + 1, leaf) % 100 < share;
    let here = |leaf: u64| if is_lied(leaf) { lie(witness(leaf), leaf) } else { right(leaf) };
    let readers: BTreeMap<u64, u64> = (0..nodes).map(|peer| (peer, mix(peer, 77))).collect();
    // What each has read from upstream by itself.
    let mut own: Vec<BTreeMap<u64, LeafHash>> = (0..nodes)
        .map(|peer| (0..LEAVES).filter(|leaf| witness(*leaf) == peer).map(|leaf| (leaf, here(leaf))).collect())
        .collect();
    let mut audits: BTreeMap<u64, Audit<u64>> = (liars..nodes)
        .map(|peer| {
            let doubtful = (0..LEAVES).filter(|leaf| witness(*leaf) != peer);
            let leaves = doubtful.map(|leaf| (leaf, here(leaf), Some(witness(leaf))));
            (peer, Audit::new(peer, readers.clone(), leaves, Duration::ZERO))
        })
        .collect();
    let mut finished: BTreeSet<u64> = BTreeSet::new();
    let mut outcome = Outcome { reads: 0, took: Duration::ZERO };
    for step in 0..10_000 {
        let now = STEP * step;
        for (peer, audit) in &mut audits {
            if finished.contains(peer) {
                continue;
            }
            for other in (0..nodes).filter(|other| other != peer) {
                let said = |leaf: u64| match own[other as usize].get(&leaf) {
                    Some(hash) => Some(*hash),
                    None if other < liars && kind != Liar::Idle => Some(lie(other, leaf)),
                    None if finished.contains(&other) => Some(right(leaf)),
                    None => None,
                };
                audit.word(other, said, now);
            }
            for change in audit.changes() {
                audit.is_here(change.leaf, change.hash);
            }
            let matches = audit.leaves.iter().all(|(leaf, doubted)| doubted.here == right(*leaf));
            if matches {
                finished.insert(*peer);
                outcome.took = now;
                continue;
            }
            audit.pass_over(PATIENCE, now);
            if let Some(run) = audit.next_run() {
                let leaf = run.start;
                audit.read(leaf, right(leaf));
                own[*peer as usize].insert(leaf, right(leaf));
                outcome.reads += 1;
            } else {
                assert!(audit.ask_more(), "seed {seed}: all has been read, and it does not match");
            }
        }
        if finished.len() as u64 == nodes - liars {
            return outcome;
        }
    }
    panic!("seed {seed}: {nodes} nodes, {liars} liars, {kind:?}: no end");
}

#[test]
fn one_liar_is_found_with_at_most_one_copy_read_again() {
    for seed in 0..48 {
        let nodes = 3 + seed % 8;
        for (kind, share) in [(Liar::Idle, 100), (Liar::Idle, 10), (Liar::Contradicts, 100)] {
            let outcome = run(seed, nodes, 1, kind, share);
            // Who contradicts everybody makes everybody suspect: a second word is needed on every leaf, and a third on some.
            let bound = if kind == Liar::Idle { LEAVES + LEAVES / nodes + nodes } else { 5 * LEAVES / 2 };
            assert!(outcome.reads <= bound, "seed {seed}: {nodes} nodes, {kind:?} {share}: {} reads", outcome.reads);
            assert!(outcome.took < PATIENCE * 3, "seed {seed}: {:?}", outcome.took);
        }
    }
}

#[test]
fn liars_who_agree_with_one_another_are_found_too() {
    for seed in 0..24 {
        let nodes = 5 + seed % 6;
        let outcome = run(seed, nodes, 2, Liar::Colludes, 50);
        assert!(outcome.reads <= (nodes - 2) * LEAVES, "seed {seed}: {} reads", outcome.reads);
    }
}

#[test]
fn a_node_that_is_alone_reads_all_that_it_doubts_in_one_run() {
    let leaves = (0..10).map(|leaf| (leaf, wrong(1, leaf), None));
    let mut audit = Audit::new(1u64, BTreeMap::from([(1, 7)]), leaves, Duration::ZERO);
    assert_eq!(audit.next_run(), Some(0..10));
    for leaf in 0..10 {
        audit.read(leaf, right(leaf));
    }
    assert_eq!((audit.next_run(), audit.changes().len()), (None, 10));
    for change in audit.changes() {
        audit.is_here(change.leaf, change.hash);
    }
    assert!(!audit.ask_more(), "nothing is left to be asked");
}

#[test]
fn what_a_witness_denies_is_not_believed_of_it() {
    let leaves = [(0, wrong(9, 0), Some(2)), (1, right(1), Some(2))];
    let mut audit = Audit::new(1u64, BTreeMap::from([(1, 7), (2, 8)]), leaves, Duration::ZERO);
    audit.word(2, |leaf| Some(right(leaf)), Duration::ZERO);
    assert_eq!(audit.changes(), [Change { leaf: 0, hash: right(0), from: vec![2] }]);
    assert_eq!(audit.said(&2, 0), Some(right(0)));
}
