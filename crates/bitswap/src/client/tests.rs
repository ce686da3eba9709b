use super::*;
use crate::seeded::{Random, cid, for_each_seed};

fn client() -> (Client, PeerId, Instant) {
    client_with(Config::default())
}

fn client_with(config: Config) -> (Client, PeerId, Instant) {
    let mut client = Client::new(Arc::new(config));
    let (peer, now) = (PeerId::random(), Instant::now());
    client.connected(peer, now);
    (client, peer, now)
}

fn have(seed: u64, have: bool) -> Presence {
    Presence { cid: cid(seed), have }
}

fn cids(entries: &[Entry], cancel: bool) -> Vec<Cid> {
    entries.iter().filter(|entry| entry.cancel == cancel).map(|entry| entry.cid).collect()
}

#[test]
fn wants_and_cancels_of_one_moment_make_one_message() {
    let (mut client, peer, now) = client();
    for seed in 0..20 {
        client.want(&peer, cid(seed), Ask::Block, 1, now).unwrap();
    }
    let (entries, full) = client.next_entries(&peer).unwrap();
    assert_eq!((entries.len(), full), (20, false));
    assert!(client.next_entries(&peer).is_none());
    client.cancel(&peer, &cid(3));
    client.want(&peer, cid(30), Ask::Have, 1, now).unwrap();
    client.want(&peer, cid(31), Ask::Block, 1, now).unwrap();
    client.cancel(&peer, &cid(31));
    let (entries, _) = client.next_entries(&peer).unwrap();
    assert_eq!(cids(&entries, true), [cid(3)]);
    assert_eq!(cids(&entries, false), [cid(30)], "what the peer never heard of needs no cancel");
    assert!(!client.has_entries(&peer));
}

#[test]
fn a_want_that_was_answered_is_not_cancelled() {
    let (mut client, peer, now) = client();
    client.want(&peer, cid(1), Ask::Block, 1, now).unwrap();
    client.next_entries(&peer);
    assert_eq!(client.block(&peer, Some(&cid(1)), 10, now), Arrival::Wanted);
    client.cancel(&peer, &cid(1));
    assert!(client.next_entries(&peer).is_none());

    // Nor when the block crossed the cancel before it left.
    client.want(&peer, cid(2), Ask::Block, 1, now).unwrap();
    client.next_entries(&peer);
    client.cancel(&peer, &cid(2));
    assert_eq!(client.block(&peer, Some(&cid(2)), 10, now), Arrival::Late);
    assert!(client.next_entries(&peer).is_none());
}

#[test]
fn only_what_was_asked_of_this_peer_is_accepted() {
    let (mut client, peer, now) = client();
    let other = PeerId::random();
    client.connected(other, now);
    client.want(&peer, cid(1), Ask::Block, 1, now).unwrap();
    assert_eq!(client.presence(&peer, &have(1, false), now), News::Unasked, "it has not been sent");
    client.next_entries(&peer);
    assert_eq!(client.block(&other, Some(&cid(1)), 10, now), Arrival::Unasked);
    assert_eq!(client.block(&peer, Some(&cid(2)), 10, now), Arrival::Unasked);
    assert_eq!(client.block(&peer, None, 10, now), Arrival::Unasked);
    assert_eq!(client.presence(&other, &have(1, false), now), News::Unasked);
    assert_eq!(client.presence(&peer, &have(1, true), now), News::Unasked, "a block was asked for, not news");
    assert_eq!(client.block(&peer, Some(&cid(1)), 10, now), Arrival::Wanted);
    assert_eq!(client.block(&peer, Some(&cid(1)), 10, now), Arrival::Late);
    let mut ledger = Ledger::default();
    client.fill(&peer, &mut ledger);
    assert_eq!((ledger.blocks_received, ledger.late_blocks, ledger.bad_blocks), (1, 1, 2));
}

#[test]
fn dont_have_ends_a_want_and_is_withdrawn_but_not_an_awaited_one() {
    let (mut client, peer, now) = client();
    client.want(&peer, cid(1), Ask::Block, 1, now).unwrap();
    client.want(&peer, cid(2), Ask::Await, 1, now).unwrap();
    client.want(&peer, cid(3), Ask::Have, 1, now).unwrap();
    let (entries, _) = client.next_entries(&peer).unwrap();
    let asks: Vec<(WantType, bool)> = entries.iter().map(|entry| (entry.want, entry.send_dont_have)).collect();
    assert_eq!(asks, [(WantType::Block, true), (WantType::Block, false), (WantType::Have, true)]);
    assert_eq!(client.presence(&peer, &have(1, false), now), News::DontHave);
    assert_eq!(client.presence(&peer, &have(2, false), now), News::Unasked);
    assert_eq!(client.presence(&peer, &have(3, true), now), News::Have);
    assert_eq!(cids(&client.next_entries(&peer).unwrap().0, true), [cid(1)]);
    assert_eq!(client.block(&peer, Some(&cid(2)), 10, now), Arrival::Wanted);
}

#[test]
fn a_stronger_ask_or_another_priority_is_sent_again() {
    let (mut client, peer, now) = client();
    client.want(&peer, cid(1), Ask::Have, 1, now).unwrap();
    client.next_entries(&peer);
    assert!(!client.wants_blocks(&peer));
    client.want(&peer, cid(1), Ask::Block, 7, now).unwrap();
    assert!(client.wants_blocks(&peer));
    let (entries, _) = client.next_entries(&peer).unwrap();
    assert_eq!((entries[0].want, entries[0].priority), (WantType::Block, 7));
    client.want(&peer, cid(1), Ask::Have, 1, now).unwrap();
    client.want(&peer, cid(1), Ask::Block, 7, now).unwrap();
    assert!(client.next_entries(&peer).is_none());
}

#[test]
fn wants_beyond_the_limit_of_an_old_peer_or_of_an_unknown_hash_fail_at_once() {
    let (mut client, peer, now) = client_with(Config { max_wants: 3, ..Config::default() });
    for seed in 0..3 {
        client.want(&peer, cid(seed), if seed == 0 { Ask::Have } else { Ask::Block }, 1, now).unwrap();
    }
    assert_eq!(client.want(&peer, cid(9), Ask::Block, 1, now), Err(Failure::TooMany));
    assert_eq!(client.is_old(&peer, true), [cid(0)]);
    assert_eq!(client.want(&peer, cid(9), Ask::Have, 1, now), Err(Failure::Unsupported));
    let blake2b = Cid::new_v1(0x55, libp2p::multihash::Multihash::wrap(0xb220, &[1; 32]).unwrap());
    assert_eq!(client.want(&peer, blake2b, Ask::Block, 1, now), Err(Failure::Unsupported));
    assert_eq!(client.want(&PeerId::random(), cid(9), Ask::Block, 1, now), Err(Failure::Disconnected));
}

#[test]
fn a_want_fails_when_the_peer_is_silent_or_its_life_is_over() {
    let config = Config::default();
    let (timeout, lifetime) = (config.want_timeout, config.want_lifetime);
    let (mut client, peer, start) = client_with(config);
    client.want(&peer, cid(1), Ask::Block, 1, start).unwrap();
    client.want(&peer, cid(2), Ask::Await, 1, start).unwrap();
    client.next_entries(&peer);
    assert!(client.expire(start + timeout / 2).is_empty());
    client.heard(&peer, start + timeout / 2);
    assert!(client.expire(start + timeout).is_empty());
    assert_eq!(client.expire(start + timeout * 3 / 2), [(peer, cid(1))]);
    assert_eq!(cids(&client.next_entries(&peer).unwrap().0, true), [cid(1)]);
    assert_eq!(client.expire(start + lifetime), [(peer, cid(2))]);
    assert!(!client.has_wants());
}

#[test]
fn after_a_lost_stream_the_whole_wantlist_is_sent() {
    let (mut client, peer, now) = client();
    for seed in 0..5 {
        client.want(&peer, cid(seed), Ask::Block, 1, now).unwrap();
    }
    client.next_entries(&peer);
    client.cancel(&peer, &cid(0));
    client.resend(&peer);
    let (entries, full) = client.next_entries(&peer).unwrap();
    let mut wanted = cids(&entries, false);
    wanted.sort_unstable();
    let mut expected: Vec<Cid> = (1..5).map(cid).collect();
    expected.sort_unstable();
    assert_eq!((wanted, full, cids(&entries, true).len()), (expected, true, 0));
}

#[test]
fn after_all_wants_failed_nothing_is_sent_until_something_is_wanted_and_then_all_is_said() {
    let (mut client, peer, now) = client();
    client.want(&peer, cid(1), Ask::Block, 1, now).unwrap();
    client.next_entries(&peer);
    assert_eq!(client.fail_all(&peer), [cid(1)]);
    assert!(!client.has_entries(&peer));
    assert!(client.next_entries(&peer).is_none());
    client.want(&peer, cid(2), Ask::Block, 1, now).unwrap();
    let (entries, full) = client.next_entries(&peer).unwrap();
    assert_eq!((cids(&entries, false), full), (vec![cid(2)], true));
    assert_eq!(client.block(&peer, Some(&cid(1)), 10, now), Arrival::Late);
}

#[test]
fn a_peer_that_sent_what_it_was_not_asked_for_is_no_longer_waited_for() {
    let (mut client, peer, now) = client();
    client.want(&peer, cid(1), Ask::Block, 1, now).unwrap();
    client.want(&peer, cid(2), Ask::Await, 1, now).unwrap();
    client.want(&peer, cid(3), Ask::Have, 1, now).unwrap();
    client.next_entries(&peer);
    client.want(&peer, cid(4), Ask::Block, 1, now).unwrap();
    assert_eq!(client.block(&peer, Some(&cid(9)), 10, now), Arrival::Unasked);
    let failed: HashSet<Cid> = client.distrust(&peer).into_iter().collect();
    assert_eq!(failed, [cid(1), cid(2)].into(), "what it did not know of yet, and news, are still wanted");
    let (entries, full) = client.next_entries(&peer).unwrap();
    assert_eq!((cids(&entries, true).len(), cids(&entries, false), full), (2, vec![cid(4)], false));
    // What it was about to send is late, and no further lie.
    assert_eq!(client.block(&peer, Some(&cid(2)), 10, now), Arrival::Late);
    assert!(client.distrust(&peer).contains(&cid(4)));
    assert!(client.distrust(&peer).is_empty());
}

/// A client, and a peer that keeps exactly the wantlist it is told, over a thousand random lives.
#[test]
fn the_peer_always_knows_what_is_wanted_and_nothing_stays_behind() {
    for_each_seed(1_000, life);
}

fn life(seed: u64) {
    let mut random = Random(seed);
    let max_wants = 1 + random.below(30);
    let (mut client, peer, mut now) = client_with(Config { max_wants, ..Config::default() });
    // What the peer was told, and what the user waits for.
    let mut told: HashMap<Cid, Entry> = HashMap::new();
    let mut waiting: HashSet<Cid> = HashSet::new();
    for _ in 0..300 {
        let one = cid(random.below(40) as u64);
        match random.below(13) {
            0..=3 => {
                let ask = *random.pick(&[Ask::Block, Ask::Await, Ask::Have]).unwrap();
                match client.want(&peer, one, ask, random.below(3) as i32, now) {
                    Ok(()) => drop(waiting.insert(one)),
                    Err(reason) => assert_eq!((reason, waiting.len()), (Failure::TooMany, max_wants)),
                }
            }
            4 => {
                client.cancel(&peer, &one);
                waiting.remove(&one);
            }
            5..=7 => {
                if let Some((entries, full)) = client.next_entries(&peer) {
                    if full {
                        told.clear();
                    }
                    for entry in entries {
                        if entry.cancel {
                            told.remove(&entry.cid)
                        } else {
                            told.insert(entry.cid, entry)
                        };
                    }
                }
                if !client.has_entries(&peer) {
                    let known: HashSet<Cid> = told.keys().copied().collect();
                    assert_eq!(known, waiting);
                }
            }
            8 => {
                let arrival = client.block(&peer, Some(&one), 10, now);
                assert_eq!(arrival == Arrival::Wanted, waiting.remove(&one));
                told.remove(&one);
            }
            9 => {
                let presence = Presence { cid: one, have: random.chance(50) };
                if client.presence(&peer, &presence, now) != News::Unasked {
                    assert!(waiting.remove(&one));
                    if presence.have {
                        told.remove(&one);
                    }
                }
            }
            10 => {
                now += Duration::from_secs(random.below(40) as u64);
                for (_, cid) in client.expire(now) {
                    assert!(waiting.remove(&cid));
                }
            }
            11 if random.chance(20) => client.resend(&peer),
            12 if random.chance(20) => {
                for cid in client.distrust(&peer) {
                    assert!(waiting.remove(&cid));
                }
            }
            _ => {}
        }
        let state = &client.peers[&peer];
        assert!(state.wants.len() <= max_wants);
        assert_eq!(state.wants.len(), waiting.len());
        assert!(state.unsent.len() <= 2 * max_wants + 1);
        assert!(state.cancels.len() <= told.len(), "nothing is withdrawn that the peer does not know of");
        assert!(state.recent.order.len() <= RECENT && state.recent.count.len() <= RECENT);
        assert_eq!(state.blocks, state.wants.values().filter(|want| want.ask != Ask::Have).count());
    }
    let failed: HashSet<Cid> = client.disconnected(&peer).into_iter().collect();
    assert_eq!(failed, waiting);
    assert!(client.peers.is_empty());
}
