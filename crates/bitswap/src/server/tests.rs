use std::collections::BTreeMap;

use super::*;
use crate::seeded::{Random, cid, for_each_seed};

const MIB: usize = 1 << 20;

fn server(config: Config) -> Server {
    Server::new(Arc::new(config), Arc::default())
}

fn want(cid: Cid, priority: i32) -> Entry {
    Entry { cid, priority, cancel: false, want: WantType::Block, send_dont_have: true }
}

fn want_have(cid: Cid) -> Entry {
    Entry { want: WantType::Have, ..want(cid, 1) }
}

fn cancel(cid: Cid) -> Entry {
    Entry { cancel: true, ..want(cid, 1) }
}

/// Carries out all that the server asks for, with blocks of the given sizes, until a block is ready for a stream.
fn next_sending(server: &mut Server, now: Instant, size: impl Fn(&Cid) -> Option<usize>) -> Option<Sending> {
    while let Some(action) = server.next_action(now) {
        match action {
            Action::Look { peer, cids } => {
                let sizes: Vec<_> = cids.iter().map(|cid| (*cid, size(cid).map(|size| size as u64))).collect();
                server.looked(&peer, &sizes);
            }
            Action::Read { job, cid } => {
                let data = size(&cid).map(|size| Bytes::from(vec![0; size]));
                if let Some(sending) = server.read(job, data) {
                    return Some(sending);
                }
            }
        }
    }
    None
}

fn send_all(server: &mut Server, size: impl Fn(&Cid) -> Option<usize>) -> Vec<(PeerId, Cid)> {
    let mut sent = Vec::new();
    let now = Instant::now();
    while let Some(Sending { job, peer, cid, data }) = next_sending(server, now, &size) {
        server.sent(job, data.len(), now);
        sent.push((peer, cid));
    }
    sent
}

#[test]
fn higher_priority_is_sent_first_and_of_equal_priority_what_came_first() {
    let mut server = server(Config::default());
    let peer = PeerId::random();
    server.connected(peer, Instant::now());
    server.receive(&peer, vec![want(cid(1), 1), want(cid(2), 5), want(cid(3), 1), want(cid(4), 5)], false);
    let sent: Vec<Cid> = send_all(&mut server, |_| Some(10)).into_iter().map(|(_, cid)| cid).collect();
    assert_eq!(sent, [2, 4, 1, 3].map(cid));
    assert!(!server.is_busy(&peer));
}

#[test]
fn of_equal_priority_the_block_that_was_sent_least_goes_first() {
    let mut server = server(Config::default());
    let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
    for peer in &peers {
        server.connected(*peer, Instant::now());
        server.receive(peer, (0..40).map(|seed| want(cid(seed), 1)).collect(), false);
    }
    let sent = send_all(&mut server, |_| Some(MIB));
    assert_eq!(sent.len(), 160);
    // The first copy of every block leaves before the second of any. Later ones: a peer cannot be sent again what it
    // has got already, so one may run ahead.
    let different: HashSet<&Cid> = sent[..40].iter().map(|(_, cid)| cid).collect();
    assert_eq!(different.len(), 40);
    let mut counts: HashMap<&Cid, usize> = HashMap::new();
    for (index, (_, cid)) in sent.iter().enumerate() {
        let count = counts.entry(cid).or_default();
        *count += 1;
        assert!(*count <= index / 40 + 2, "copy {count} of a block as number {index}");
    }
}

#[test]
fn peers_are_served_evenly_in_bytes_whatever_the_sizes_and_whoever_comes_late() {
    let sizes = [MIB, 100_000, 2 * MIB, 500];
    let mut server = server(Config::default());
    let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
    let known: HashMap<Cid, Option<usize>> =
        (0..4_000).map(|seed| (cid(seed), Some(sizes[seed as usize / 1000]))).collect();
    let now = Instant::now();
    let mut bytes: BTreeMap<PeerId, usize> = BTreeMap::new();
    for (index, peer) in peers.iter().enumerate().take(3) {
        server.connected(*peer, Instant::now());
        let first = 1000 * index as u64;
        server.receive(peer, (first..first + 1000).map(|seed| want(cid(seed), 1)).collect(), false);
    }
    for step in 0..2_000 {
        if step == 1_000 {
            bytes.clear();
            let late = peers[3];
            server.connected(late, Instant::now());
            server.receive(&late, (3_000..4_000).map(|seed| want(cid(seed), 1)).collect(), false);
        }
        let Some(Sending { job, peer, data, .. }) = next_sending(&mut server, now, |cid| known[cid]) else { break };
        server.sent(job, data.len(), now);
        *bytes.entry(peer).or_default() += data.len().max(MIN_COST as usize);
        let backlogged =
            peers.iter().filter(|peer| server.peers.get(*peer).is_some_and(|state| state.wants.ready() > 0));
        let served: Vec<usize> = backlogged.map(|peer| bytes.get(peer).copied().unwrap_or(0)).collect();
        let (least, most) = (served.iter().min().unwrap_or(&0), served.iter().max().unwrap_or(&0));
        assert!(most - least <= 4 * MIB, "step {step}: {served:?}");
    }
}

#[test]
fn peers_that_accept_nothing_hold_a_block_each_and_only_for_a_moment_hold_back_the_others() {
    let mut server = server(Config::default());
    let stalled: Vec<PeerId> = (0..6).map(|_| PeerId::random()).collect();
    let other = PeerId::random();
    for (index, &peer) in stalled.iter().chain([&other]).enumerate() {
        server.connected(peer, Instant::now());
        let first = 100 * index as u64;
        server.receive(&peer, (first..first + 100).map(|seed| want(cid(seed), 1)).collect(), false);
    }
    let mut now = Instant::now();
    let mut to_other = 0;
    let mut held: HashMap<PeerId, usize> = HashMap::new();
    while to_other < 100 {
        while let Some(Sending { job, peer, data, .. }) = next_sending(&mut server, now, |_| Some(MIB)) {
            if peer == other {
                server.sent(job, data.len(), now);
                to_other += 1;
            } else {
                *held.entry(peer).or_default() += data.len();
            }
        }
        if to_other < 100 {
            let until = server.blocked_until().expect("somebody waits");
            assert!(until > now);
            now = until;
        }
    }
    assert!(held.values().all(|&held| held == FIRST_WINDOW), "{held:?}");
    assert!(now.elapsed().is_zero() && now - Instant::now() <= 2 * SLOW_AFTER);
}

#[test]
fn presences_are_given_as_asked() {
    let mut server = server(Config::default());
    let peer = PeerId::random();
    server.connected(peer, Instant::now());
    let silent = Entry { send_dont_have: false, ..want(cid(4), 1) };
    let large = want_have(cid(1));
    let tiny = want_have(cid(2));
    server.receive(&peer, vec![large, tiny, want_have(cid(3)), silent, want(cid(5), 1)], false);
    let size = |of: &Cid| if *of == cid(1) { Some(2000) } else { (*of == cid(2)).then_some(1024) };
    assert_eq!(send_all(&mut server, size), [(peer, cid(2))]);
    let presence = |seed, have| Presence { cid: cid(seed), have };
    assert_eq!(server.take_presences(&peer), [presence(1, true), presence(3, false), presence(5, false)]);
    assert!(!server.has_presences(&peer));

    // The block arrives: those who wait get it, the one who asked for news gets news.
    let size = |of: &Cid| if *of == cid(3) { Some(2000) } else { Some(10) };
    for seed in [3, 4, 5] {
        server.arrived(&cid(seed));
    }
    let mut sent = send_all(&mut server, size);
    sent.sort_by_key(|(_, of)| *of != cid(4));
    assert_eq!(sent, [(peer, cid(4)), (peer, cid(5))]);
    assert_eq!(server.take_presences(&peer), [presence(3, true)]);
    assert!(!server.is_busy(&peer));
}

#[test]
fn a_block_that_arrives_during_its_lookup_is_not_missed() {
    let mut server = server(Config::default());
    let peer = PeerId::random();
    server.connected(peer, Instant::now());
    server.receive(&peer, vec![Entry { send_dont_have: false, ..want(cid(1), 1) }], false);
    let Some(Action::Look { .. }) = server.next_action(Instant::now()) else { panic!("a lookup") };
    server.arrived(&cid(1));
    server.looked(&peer, &[(cid(1), None)]);
    assert_eq!(send_all(&mut server, |_| Some(10)), [(peer, cid(1))]);
}

#[test]
fn a_cancelled_want_is_not_sent_even_when_it_has_been_read() {
    let mut server = server(Config::default());
    let peer = PeerId::random();
    server.connected(peer, Instant::now());
    server.receive(&peer, vec![want(cid(1), 1)], false);
    let Some(Action::Look { .. }) = server.next_action(Instant::now()) else { panic!("a lookup") };
    server.looked(&peer, &[(cid(1), Some(10))]);
    let Some(Action::Read { job, .. }) = server.next_action(Instant::now()) else { panic!("a read") };
    server.receive(&peer, vec![cancel(cid(1))], false);
    assert_eq!(server.read(job, Some(Bytes::from_static(b"0123456789"))), None);
    assert_eq!((server.outstanding, server.jobs.len()), (0, 0));
}

#[test]
fn a_full_wantlist_replaces_what_was_there() {
    let mut server = server(Config::default());
    let peer = PeerId::random();
    server.connected(peer, Instant::now());
    server.receive(&peer, (0..10).map(|seed| want(cid(seed), 1)).collect(), false);
    server.receive(&peer, vec![want(cid(3), 1), want(cid(20), 1)], true);
    let sent: Vec<Cid> = send_all(&mut server, |_| Some(10)).into_iter().map(|(_, cid)| cid).collect();
    assert_eq!(sent, [3, 20].map(cid));
    server.receive(&peer, vec![want(cid(30), 1)], false);
    server.receive(&peer, Vec::new(), true);
    assert_eq!(send_all(&mut server, |_| Some(10)), []);
}

#[test]
fn wants_beyond_the_limit_are_refused_and_said_to_be() {
    let mut server = server(Config::default());
    let peer = PeerId::random();
    server.connected(peer, Instant::now());
    for first in (0..100_000).step_by(4_000) {
        server.receive(&peer, (first..first + 4_000).map(|seed| want(cid(seed), 1)).collect(), false);
    }
    assert_eq!(server.peers[&peer].wants.len(), 1024);
    assert!(server.peers[&peer].unknown.len() <= 2048);
    assert_eq!(server.peers[&peer].presences.len(), 1024);
    assert_eq!(server.tally.refused_wants.get(), 100_000 - 1024);
    server.disconnected(&peer);
    assert_empty(&server);
}

#[test]
fn a_block_that_is_gone_when_it_is_read_or_too_large_is_said_to_be_missing() {
    let mut server = server(Config::default());
    let peer = PeerId::random();
    server.connected(peer, Instant::now());
    server.receive(&peer, vec![want(cid(1), 1), want(cid(2), 1)], false);
    let Some(Action::Look { cids, .. }) = server.next_action(Instant::now()) else { panic!("a lookup") };
    server.looked(&peer, &[(cids[0], Some(10)), (cids[1], Some(3 << 20))]);
    let Some(Action::Read { job, .. }) = server.next_action(Instant::now()) else { panic!("a read") };
    assert_eq!(server.read(job, None), None);
    let missing: Vec<Cid> = server.take_presences(&peer).iter().map(|presence| presence.cid).collect();
    assert_eq!(missing, [2, 1].map(cid));
    assert_eq!(server.outstanding, 0);
}

#[test]
fn a_crowd_that_has_gone_leaves_no_large_tables() {
    let mut server = server(Config::default());
    let crowd: Vec<PeerId> = (0..20).map(|_| PeerId::random()).collect();
    for (number, peer) in (0..).zip(&crowd) {
        server.connected(*peer, Instant::now());
        server.receive(peer, (0..1000).map(|seed| want(cid(number * 1000 + seed), 1)).collect(), false);
    }
    assert!(server.wanted.capacity() >= 20_000);
    for peer in &crowd {
        server.disconnected(peer);
    }
    assert_empty(&server);
    assert!(server.wanted.capacity() < 5_000, "{}", server.wanted.capacity());
}

fn assert_empty(server: &Server) {
    assert!(server.peers.is_empty());
    assert!(server.wanted.is_empty(), "{:?}", server.wanted);
    assert!(server.jobs.is_empty());
    assert!(server.look_turn.is_empty());
    assert_eq!(server.outstanding, 0);
}

/// One random life of a server: peers that come and go, want, cancel, stall and fail; blocks that arrive; a store that
/// answers in any order.
#[test]
fn a_thousand_random_lives_break_no_limit_and_leave_nothing_behind() {
    for_each_seed(1_000, |seed| Life::new(seed).run());
}

struct Life {
    random: Random,
    server: Server,
    peers: Vec<PeerId>,
    /// Sizes of the blocks that are here.
    store: HashMap<Cid, usize>,
    absent: Vec<Cid>,
    actions: Vec<Action>,
    sendings: Vec<Sending>,
    now: Instant,
}

impl Life {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let config = Config {
            max_wants: 1 + random.below(30),
            max_reads: 1 + random.below(5),
            max_block_len: 4_000,
            upload_budget: 1 + random.below(8_000),
            send_budget: 1 + random.below(12_000),
            peer_send_budget: 1 + random.below(2 << 20),
            max_sent_counts: random.below(20),
            ..Config::default()
        };
        let mut store = HashMap::new();
        let mut absent = Vec::new();
        for seed in 0..40 {
            if random.chance(70) {
                store.insert(cid(seed), random.below(4_500));
            } else {
                absent.push(cid(seed));
            }
        }
        let (peers, actions, sendings) = (Vec::new(), Vec::new(), Vec::new());
        let now = Instant::now();
        Self { random, server: server(config), peers, store, absent, actions, sendings, now }
    }

    fn run(mut self) {
        for step in 0..300 {
            self.step();
            if step % 7 == 0 {
                self.check();
            }
        }
        self.check();
        self.settle();
        for peer in std::mem::take(&mut self.peers) {
            self.server.disconnected(&peer);
        }
        assert_empty(&self.server);
        assert_eq!(self.server.in_flight, 0);
    }

    fn step(&mut self) {
        if self.random.chance(10) {
            self.now += Duration::from_millis(self.random.below(400) as u64);
        }
        match self.random.below(20) {
            0 if self.peers.len() < 6 => {
                let peer = PeerId::random();
                self.peers.push(peer);
                self.server.connected(peer, self.now);
            }
            1 if self.random.chance(30) => {
                if let Some(&peer) = self.random.pick(&self.peers) {
                    self.peers.retain(|&other| other != peer);
                    self.sendings.retain(|sending| sending.peer != peer);
                    self.server.disconnected(&peer);
                }
            }
            2 => {
                if let Some(cid) = self.absent.pop() {
                    self.store.insert(cid, self.random.below(4_500));
                    self.server.arrived(&cid);
                }
            }
            3 => {
                if let Some(&peer) = self.random.pick(&self.peers) {
                    self.sendings.retain(|sending| sending.peer != peer);
                    self.server.requeue(&peer);
                }
            }
            4 => {
                if let Some(&peer) = self.random.pick(&self.peers) {
                    self.server.take_presences(&peer);
                }
            }
            5..=9 => self.receive(),
            10..=13 => self.actions.extend(self.server.next_action(self.now)),
            14..=16 => self.answer(),
            _ => self.accept(),
        }
    }

    fn receive(&mut self) {
        let Some(&peer) = self.random.pick(&self.peers) else { return };
        let entries = (0..self.random.below(8))
            .map(|_| Entry {
                cid: cid(self.random.below(40) as u64),
                priority: self.random.below(3) as i32,
                cancel: self.random.chance(20),
                want: if self.random.chance(30) { WantType::Have } else { WantType::Block },
                send_dont_have: self.random.chance(50),
            })
            .collect();
        let full = self.random.chance(10);
        self.server.receive(&peer, entries, full);
    }

    fn answer(&mut self) {
        if self.actions.is_empty() {
            return;
        }
        let at = self.random.below(self.actions.len());
        match self.actions.swap_remove(at) {
            Action::Look { peer, cids } => {
                let sizes: Vec<_> =
                    cids.iter().map(|cid| (*cid, self.store.get(cid).map(|&size| size as u64))).collect();
                self.server.looked(&peer, &sizes);
            }
            Action::Read { job, cid } => {
                let gone = self.random.chance(3);
                let data = self.store.get(&cid).filter(|_| !gone).map(|&size| Bytes::from(vec![0; size]));
                self.sendings.extend(self.server.read(job, data));
            }
        }
    }

    fn accept(&mut self) {
        if self.sendings.is_empty() {
            return;
        }
        let at = self.random.below(self.sendings.len());
        let Sending { job, data, .. } = self.sendings.swap_remove(at);
        if self.random.chance(5) {
            self.server.failed(job);
        } else {
            self.server.sent(job, data.len(), self.now);
        }
    }

    fn check(&self) {
        let Server { config, peers, jobs, .. } = &self.server;
        assert!(self.server.in_flight <= config.max_reads);
        assert_eq!(self.server.in_flight, self.actions.len());
        let outstanding: usize = jobs.values().map(|job| job.size).sum();
        assert_eq!(outstanding, self.server.outstanding);
        // A block may be larger than the whole budget; it is then the only one.
        let with_bytes = jobs.values().filter(|job| job.size > 0).count();
        assert!(outstanding <= config.send_budget || with_bytes <= 1, "{outstanding} {jobs:?}");
        let prompt: usize = peers.values().filter(|peer| !peer.slow).map(|peer| peer.outstanding).sum();
        let eager = peers.values().filter(|peer| !peer.slow && peer.outstanding > 0).count();
        // A slow peer that became prompt again brings its block with it.
        assert!(prompt <= config.upload_budget + eager * config.max_block_len);
        assert_eq!(peers.len(), self.peers.len());
        for (id, peer) in peers {
            assert!(peer.wants.len() <= config.max_wants);
            assert!(peer.presences.len() <= config.max_wants);
            assert!(peer.unknown.len() <= 2 * config.max_wants + LOOK_BATCH);
            let own: usize = jobs.values().filter(|job| job.peer == *id).map(|job| job.size).sum();
            assert_eq!(own, peer.outstanding);
            assert!(own < peer.window + config.max_block_len);
            let ready =
                peer.wants.cids().filter(|cid| matches!(peer.wants.get(cid).unwrap().state, State::Ready { .. }));
            assert_eq!(ready.count(), peer.wants.ready());
            for cid in peer.wants.cids() {
                assert_eq!(self.server.wanted[cid].iter().filter(|other| *other == id).count(), 1);
            }
        }
        let listed: usize = self.server.wanted.values().map(Vec::len).sum();
        assert_eq!(listed, peers.values().map(|peer| peer.wants.len()).sum::<usize>());
        assert!(self.sendings.iter().all(|sending| self.peers.contains(&sending.peer)));
        assert!(self.server.look_turn.len() <= peers.len());
    }

    /// Without more faults, every want comes to its end.
    fn settle(&mut self) {
        loop {
            self.actions.extend(self.server.next_action(self.now));
            if self.actions.is_empty() && self.sendings.is_empty() {
                break;
            }
            self.answer();
            while let Some(Sending { job, data, .. }) = self.sendings.pop() {
                self.server.sent(job, data.len(), self.now);
            }
            self.check();
        }
        for peer in self.server.peers.values() {
            for cid in peer.wants.cids() {
                assert_eq!(peer.wants.get(cid).unwrap().state, State::Missing);
                // Read as gone once, it stays so until it is said to have arrived; else it is really not here.
            }
        }
        assert!(self.server.jobs.is_empty());
    }
}
