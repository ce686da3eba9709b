//! Whom blocks are asked of.

use shoal_content::LeafHash;

use super::*;

const STALL: Duration = Duration::from_millis(900);

fn cid(number: u8) -> Cid {
    LeafHash::of(&[number]).cid()
}

fn all(sources: &mut Sources, now: Instant) -> Vec<Step> {
    std::iter::from_fn(|| sources.next(now)).collect()
}

fn asked(steps: &[Step]) -> Vec<(PeerId, Cid)> {
    let ask = |step: &Step| match step {
        Step::Ask { peer, cid, .. } => Some((*peer, *cid)),
        _ => None,
    };
    steps.iter().filter_map(ask).collect()
}

#[test]
fn a_block_that_nobody_is_known_to_have_is_searched_once_and_then_lost() {
    let (now, mut sources) = (Instant::now(), Sources::new(STALL));
    sources.wanted(cid(0));
    assert_eq!(all(&mut sources, now), [Step::Search(cid(0))]);
    let peer = PeerId::random();
    sources.found(peer, now);
    assert_eq!(asked(&all(&mut sources, now)), [(peer, cid(0))]);
    sources.refused(&cid(0), peer, &Refusal::DoesNotHave);
    assert_eq!(all(&mut sources, now), [], "the search may still find somebody");
    sources.search_over();
    let refusals = vec![format!("{peer} does not have it")];
    assert_eq!(sources.next(now), Some(Step::Lost { cid: cid(0), refusals }));
}

#[test]
fn blocks_are_spread_over_all_who_have_the_file_and_the_earlier_come_first() {
    let (now, mut sources) = (Instant::now(), Sources::new(STALL));
    let peers = [PeerId::random(), PeerId::random()];
    peers.iter().for_each(|peer| sources.found(*peer, now));
    (0..6).for_each(|number| sources.wanted(cid(number)));
    let steps = all(&mut sources, now);
    for peer in peers {
        assert_eq!(asked(&steps).iter().filter(|(asked, _)| *asked == peer).count(), 3);
    }
    let priorities: Vec<_> = steps
        .iter()
        .map(|step| match step {
            Step::Ask { priority, .. } => *priority,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(priorities.is_sorted_by(|one, other| one > other));
}

#[test]
fn a_peer_is_never_asked_for_more_than_its_share_and_is_refilled_as_it_answers() {
    let (now, mut sources) = (Instant::now(), Sources::new(STALL));
    let peer = PeerId::random();
    sources.found(peer, now);
    (0..60).for_each(|number| sources.wanted(cid(number)));
    assert_eq!(all(&mut sources, now).len(), MAX_ASKED);
    sources.came(&cid(0), peer, now);
    assert!(sources.forget(&cid(0)));
    assert_eq!(all(&mut sources, now).len(), 1);
}

#[test]
fn what_a_silent_peer_was_asked_for_is_asked_of_another_as_well() {
    let (now, mut sources) = (Instant::now(), Sources::new(STALL));
    let silent = PeerId::random();
    sources.found(silent, now);
    (0..4).for_each(|number| sources.wanted(cid(number)));
    assert_eq!(all(&mut sources, now).len(), 4);
    assert_eq!(sources.next_look(now), None, "there is nobody else to ask");

    let other = PeerId::random();
    sources.found(other, now);
    assert_eq!(all(&mut sources, now), []);
    assert_eq!(sources.next_look(now), Some(now + STALL));
    let later = now + STALL;
    let steps = asked(&all(&mut sources, later));
    assert_eq!(steps.len(), 4);
    assert!(steps.iter().all(|(peer, _)| *peer == other));
    // The silent one answers in the end: both are free again.
    sources.came(&cid(0), silent, later);
    assert!(sources.forget(&cid(0)) && !sources.forget(&cid(0)));
    assert_eq!(sources.peers[&silent].asked, 3);
    assert_eq!(sources.peers[&other].asked, 3);
}

#[test]
fn the_blocks_of_a_peer_that_fails_go_to_others() {
    let (now, mut sources) = (Instant::now(), Sources::new(STALL));
    let (broken, good) = (PeerId::random(), PeerId::random());
    sources.found(broken, now);
    sources.wanted(cid(0));
    sources.wanted(cid(1));
    assert_eq!(all(&mut sources, now).len(), 2);
    sources.refused(&cid(0), broken, &Refusal::Failed("reset".into()));
    sources.found(good, now);
    assert_eq!(asked(&all(&mut sources, now)), [(good, cid(0)), (good, cid(1))]);
    // Its other wants fail too; nobody waits for them any more.
    sources.refused(&cid(1), broken, &Refusal::Failed("reset".into()));
    assert_eq!(all(&mut sources, now), []);
    assert_eq!(sources.peers[&good].asked, 2);
}

#[test]
fn a_peer_that_breaks_off_is_taken_up_again_when_it_is_found_again_but_not_for_ever() {
    let (now, mut sources) = (Instant::now(), Sources::new(STALL));
    let flapping = PeerId::random();
    for number in 0..MAX_FAILURES as u8 {
        sources.wanted(cid(number));
        assert_eq!(all(&mut sources, now), [Step::Search(cid(number))]);
        sources.found(flapping, now);
        sources.search_over();
        assert_eq!(asked(&all(&mut sources, now)), [(flapping, cid(number))]);
        sources.refused(&cid(number), flapping, &Refusal::Failed("reset".into()));
        assert!(matches!(sources.next(now), Some(Step::Lost { .. })), "it was searched once");
        assert!(sources.forget(&cid(number)));
    }
    sources.wanted(cid(9));
    assert_eq!(all(&mut sources, now), [Step::Search(cid(9))]);
    sources.found(flapping, now);
    sources.search_over();
    assert!(matches!(sources.next(now), Some(Step::Lost { .. })));
}

#[test]
fn two_blocks_are_never_searched_at_once() {
    let (now, mut sources) = (Instant::now(), Sources::new(STALL));
    sources.wanted(cid(0));
    sources.wanted(cid(1));
    assert_eq!(all(&mut sources, now), [Step::Search(cid(0))]);
    sources.search_over();
    assert!(matches!(sources.next(now), Some(Step::Lost { cid: lost, .. }) if lost == cid(0)));
    assert!(sources.forget(&cid(0)));
    assert_eq!(sources.next(now), Some(Step::Search(cid(1))));
}
