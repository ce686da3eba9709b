//! A plan among simulated holders and a simulated upstream, under many seeds.

use super::*;

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Good,
    Refuses,
    Stalls { after: u64 },
    Vanishes { at: Duration },
}

struct Peer {
    kind: Kind,
    /// Time that one leaf takes, in steps.
    pace: u64,
    /// Leaves asked of it and the step at which each is delivered.
    due: Vec<(u64, u64)>,
    delivered: u64,
    gone: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Registry {
    Good,
    Dead,
    /// Gives some leaves a time, then cuts.
    Cuts,
}

struct Outcome {
    steps: u64,
    failed: bool,
    from_upstream: u64,
    duplicates: u64,
}

const STEP: Duration = Duration::from_millis(10);
const LIMIT_STEPS: u64 = 60_000;

fn run(seed: u64, leaves: u64, kinds: &[Kind], registry: Registry) -> Outcome {
    let mut random = Random(seed);
    let limits = Limits::default();
    let mut plan = Plan::<u8>::new(LeafSet::empty(leaves), limits.clone());
    plan.want(vec![0..leaves]);
    let mut peers: BTreeMap<u8, Peer> = BTreeMap::new();
    for (kind, id) in kinds.iter().zip(0..) {
        let pace = 1 + random.below(8);
        peers.insert(id, Peer { kind: *kind, pace, due: Vec::new(), delivered: 0, gone: false });
    }
    let found_at: Vec<u64> = kinds.iter().map(|_| random.below(12)).collect();
    let mut outcome = Outcome { steps: 0, failed: false, from_upstream: 0, duplicates: 0 };
    let mut reading: Option<(Range<u64>, u64)> = None;

    for step in 0..LIMIT_STEPS {
        let now = STEP * u32::try_from(step).unwrap();
        outcome.steps = step;
        for (at, id) in found_at.iter().zip(0u8..) {
            if *at == step && !peers[&id].gone {
                plan.outline_known();
                plan.holder_found(id, now);
            }
        }
        if step == 13 {
            plan.search_over();
        }

        let mut needless = Vec::new();
        for (id, peer) in &mut peers {
            if let Kind::Vanishes { at } = peer.kind
                && now >= at
                && !peer.gone
            {
                peer.gone = true;
                peer.due.clear();
                plan.holder_gone(*id);
            }
            let (ready, later): (Vec<_>, Vec<_>) =
                std::mem::take(&mut peer.due).into_iter().partition(|(_, at)| *at <= step);
            peer.due = later;
            for (leaf, _) in ready {
                if peer.kind == Kind::Refuses && leaf % 3 != 0 {
                    plan.refused(*id, leaf);
                    continue;
                }
                if let Kind::Stalls { after } = peer.kind
                    && peer.delivered >= after
                {
                    continue;
                }
                peer.delivered += 1;
                outcome.duplicates += u64::from(plan.done().contains(leaf));
                needless.extend(plan.landed(leaf, Source::Peer(*id), now));
            }
        }
        if let Some((range, at)) = reading.clone()
            && at <= step
        {
            if registry == Registry::Cuts && random.chance(30) {
                reading = None;
                plan.read_ended();
            } else {
                outcome.from_upstream += 1;
                needless.extend(plan.landed(range.start, Source::Upstream, now));
                let rest = range.start + 1..range.end;
                reading = (!rest.is_empty()).then(|| (rest, step + 1 + random.below(4)));
            }
        }
        if plan.is_complete() {
            assert!(plan.asks.is_empty() || plan.asks.keys().all(|leaf| !plan.done.contains(*leaf)));
            return outcome;
        }

        let actions = plan.next(now);
        for action in needless.into_iter().chain(actions) {
            match action {
                Action::Ask { peer, leaf } => {
                    assert!(!plan.done.contains(leaf), "seed {seed}: leaf {leaf} is there and was asked for");
                    let peer = peers.get_mut(&peer).unwrap();
                    assert!(!peer.gone, "seed {seed}: a holder that is gone was asked");
                    assert!(
                        peer.due.iter().all(|(asked, _)| *asked != leaf) || matches!(peer.kind, Kind::Stalls { .. })
                    );
                    peer.due.push((leaf, step + peer.pace));
                }
                Action::Cancel { peer, leaf } => {
                    peers.get_mut(&peer).unwrap().due.retain(|(asked, _)| *asked != leaf);
                }
                Action::Read(range) => {
                    assert!(reading.is_none(), "seed {seed}: two reads at once");
                    assert!(!range.is_empty());
                    if registry == Registry::Dead {
                        plan.upstream_failed();
                    } else {
                        reading = Some((range, step + 1 + random.below(4)));
                    }
                }
                Action::StopReading => reading = None,
                Action::Fail => {
                    outcome.failed = true;
                    return outcome;
                }
            }
        }
        for holder in plan.holders.values() {
            assert!(holder.in_flight <= limits.sole_window + 1, "seed {seed}: {} leaves in flight", holder.in_flight);
        }
    }
    panic!("seed {seed}: neither complete nor failed after {LIMIT_STEPS} steps: {kinds:?} {registry:?}");
}

fn kind(random: &mut Random) -> Kind {
    match random.below(4) {
        0 => Kind::Good,
        1 => Kind::Refuses,
        2 => Kind::Stalls { after: random.below(20) },
        _ => Kind::Vanishes { at: STEP * u32::try_from(random.below(100)).unwrap() },
    }
}

#[test]
fn a_blob_completes_while_any_source_is_left_and_fails_when_none_is() {
    for seed in 0..3_000 {
        let mut random = Random(seed);
        let kinds: Vec<Kind> = (0..random.below(6)).map(|_| kind(&mut random)).collect();
        let registry = [Registry::Good, Registry::Dead, Registry::Cuts][usize::try_from(random.below(3)).unwrap()];
        let leaves = 1 + random.below(120);
        let outcome = run(seed, leaves, &kinds, registry);
        if registry != Registry::Dead || kinds.contains(&Kind::Good) {
            assert!(!outcome.failed, "seed {seed}: failed with {kinds:?} and {registry:?}");
        }
        if kinds.is_empty() && registry == Registry::Dead {
            assert!(outcome.failed, "seed {seed}: complete without a source");
        }
    }
}

#[test]
fn upstream_is_spared_where_good_holders_are_found_in_time() {
    for seed in 0..500 {
        let outcome = run(seed, 100, &[Kind::Good, Kind::Good, Kind::Good, Kind::Good], Registry::Good);
        let before_the_first_delivery = 20;
        assert!(outcome.from_upstream <= before_the_first_delivery, "seed {seed}: {} leaves", outcome.from_upstream);
        assert!(outcome.duplicates <= 2, "seed {seed}: {} duplicates", outcome.duplicates);
    }
}

#[test]
fn a_stalled_holder_costs_about_the_stall_time_and_no_more() {
    for seed in 0..200 {
        let with = run(seed, 100, &[Kind::Good, Kind::Good, Kind::Stalls { after: 3 }], Registry::Dead);
        let without = run(seed, 100, &[Kind::Good, Kind::Good], Registry::Dead);
        let lost = STEP * u32::try_from(with.steps.saturating_sub(without.steps)).unwrap();
        assert!(lost <= Duration::from_millis(1_500), "seed {seed}: {lost:?} lost");
    }
}

#[test]
fn a_blob_that_nobody_holds_is_read_from_upstream_in_one_run_as_soon_as_the_search_ends() {
    let mut plan = Plan::<u8>::new(LeafSet::empty(10), Limits::default());
    plan.want(vec![0..10]);
    assert_eq!(plan.next(Duration::from_millis(1)), []);
    plan.search_over();
    assert_eq!(plan.next(Duration::from_millis(2)), [Action::Read(0..10)]);
}

#[test]
fn the_swarm_that_does_not_answer_within_the_budget_is_passed_by() {
    let mut plan = Plan::<u8>::new(LeafSet::empty(10), Limits::default());
    plan.want(vec![0..10]);
    assert_eq!(plan.next(Duration::from_millis(49)), []);
    assert_eq!(plan.next(Duration::from_millis(50)), [Action::Read(0..10)]);
}

#[test]
fn a_reader_of_a_range_makes_only_its_leaves_be_read() {
    let mut plan = Plan::<u8>::new(LeafSet::empty(10), Limits::default());
    plan.want(vec![4..6]);
    plan.search_over();
    assert_eq!(plan.next(Duration::ZERO), [Action::Read(4..6)]);
    plan.landed(4, Source::Upstream, Duration::ZERO);
    plan.landed(5, Source::Upstream, Duration::ZERO);
    assert!(plan.missing().next().is_none() && !plan.is_complete());
    assert_eq!(plan.next(Duration::ZERO), []);
}

#[test]
fn reading_stops_when_its_reader_is_gone() {
    let mut plan = Plan::<u8>::new(LeafSet::empty(10), Limits::default());
    plan.want(vec![0..10]);
    plan.search_over();
    plan.next(Duration::ZERO);
    plan.want(vec![]);
    assert_eq!(plan.next(Duration::ZERO), [Action::StopReading]);
}

#[test]
fn a_leaf_that_was_wrong_is_asked_for_again() {
    let mut plan = Plan::<u8>::new(LeafSet::full(3), Limits::default());
    plan.want(vec![0..3]);
    plan.search_over();
    assert!(plan.is_complete());
    plan.forget(1);
    assert_eq!(plan.next(Duration::ZERO), [Action::Read(1..2)]);
}
