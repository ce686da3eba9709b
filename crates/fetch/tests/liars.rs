//! Peers that lie, among nodes that pull together: what it costs, and that they are found.

mod common;

use std::time::{Duration, Instant};

use common::{
    Bed, Node, content,
    liar::{Grants, Liar, Member, Target},
};
use shoal_content::{Algorithm, Digest, Origin};
use shoal_fetch::{Config, Serve};
use shoal_swarm::PeerId;
use shoal_upstream::fake::Fake;
use tokio::sync::{Mutex, MutexGuard};

const MIB: usize = 1 << 20;
const REPOSITORY: &str = "app";
const NODES: usize = 6;
const LEN: usize = 24 * MIB + 7;

/// What a liar may cost beside what is read again.
const MOST_LOST: Duration = Duration::from_secs(3);

/// One swarm at a time: seven nodes are enough for one machine.
static TURN: Mutex<()> = Mutex::const_new(());

/// Nodes that pull, and one that lies.
struct Swarm {
    registry: Fake,
    origin: Origin,
    nodes: Vec<Node>,
    liar: Liar,
    seed: u64,
    _turn: MutexGuard<'static, ()>,
}

/// What one pull by all nodes came to.
#[derive(Debug)]
struct Pull {
    took: Duration,
    /// Bytes of upstream ÷ bytes of the blob.
    copies: f64,
    /// And how much more that is than without a liar.
    more: f64,
    /// Attempts of each node's runtime.
    attempts: Vec<usize>,
}

impl Swarm {
    async fn new(serve: Serve) -> Self {
        let turn = TURN.lock().await;
        let registry = Fake::start().await;
        let origin = registry.origin(REPOSITORY);
        let mut bed = Bed::new();
        let mut config = Config { serve, ..Config::default() };
        // Several nodes of a development build in one process answer late.
        config.limits.budget = Duration::from_secs(1);
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            nodes.push(bed.node_with(&registry, config.clone(), |_| {}).await);
        }
        let liar = Liar::join(&mut bed).await;
        for node in &nodes {
            common::until("all are connected", async || node.swarm.peers().await.unwrap().len() == NODES).await;
        }
        registry.set_rate(Some(10 * MIB as u64));
        Self { registry, origin, nodes, liar, seed: 1, _turn: turn }
    }

    /// A blob that the liar coordinates, or does not.
    async fn blob(&mut self, by_liar: bool) -> Target {
        loop {
            self.seed += 1;
            let bytes = content(self.seed, LEN);
            let digest = Digest::of(Algorithm::Sha256, &bytes);
            if (self.liar.swarm.nearest(&digest, 1).await.unwrap() == [None]) == by_liar {
                assert_eq!(self.registry.put_blob(REPOSITORY, bytes.clone()), digest);
                return Target { digest, bytes };
            }
        }
    }

    /// All nodes pull at once, each again until it succeeds.
    async fn pull(&self, target: &Target) -> Pull {
        let began = Instant::now();
        let pulls = self.nodes.iter().map(|node| async move {
            for attempt in 1.. {
                let (read, end) = node.read(&self.origin, &target.digest).await;
                if end.is_ok() {
                    assert!(read == target.bytes, "a whole body is right");
                    return attempt;
                }
                assert!(read.len() < target.bytes.len(), "a body that is wrong is never whole");
                assert!(attempt < 5, "{end:?}");
            }
            unreachable!("it ends by its end")
        });
        let attempts = futures::future::join_all(pulls).await;
        let took = began.elapsed();
        for node in &self.nodes {
            let blob = node.store.get(&target.digest).unwrap().expect("the blob is stored");
            assert!(blob.read_at(0, LEN).unwrap() == target.bytes);
        }
        let copies = self.registry.sent(&target.digest) as f64 / target.bytes.len() as f64;
        Pull { took, copies, more: 0.0, attempts }
    }

    fn report(&self, what: &str, without: &Pull, with: &mut Pull) {
        with.more = with.copies - without.copies;
        use std::io::Write as _;
        let lost = with.took.saturating_sub(without.took);
        let _ = writeln!(
            std::io::stdout(),
            "{what:32} {:5.2} s beside {:5.2} s without: {:4.2} s lost; {:.2} copies beside {:.2}; attempts {:?}",
            with.took.as_secs_f64(),
            without.took.as_secs_f64(),
            lost.as_secs_f64(),
            with.copies,
            without.copies,
            with.attempts,
        );
        // Where a whole copy is read again, that takes as long as the first did.
        assert!(lost <= MOST_LOST + without.took, "{what}: {lost:?} lost");
    }

    fn somebody_avoids_the_liar(&self) -> bool {
        self.avoided().any(|peer| peer == self.liar.peer())
    }

    fn nobody_else_is_avoided(&self) -> bool {
        self.avoided().all(|peer| peer == self.liar.peer())
    }

    fn avoided(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.nodes.iter().flat_map(|node| node.fetch.avoided()).map(|(peer, _)| peer)
    }

    /// All nodes avoid the liar, and nobody but it.
    fn all_avoid_the_liar(&self) -> bool {
        self.nodes.iter().all(|node| {
            let avoided = node.fetch.avoided();
            avoided.len() == 1 && avoided[0].0 == self.liar.peer()
        })
    }
}

/// A blob without a liar, one with, and one more, all in the same swarm.
async fn with_member(how: Member, serve: Serve) -> (Swarm, Pull, Pull) {
    let mut swarm = Swarm::new(serve).await;
    let target = swarm.blob(false).await;
    let without = swarm.pull(&target).await;
    let target = swarm.blob(false).await;
    let task = swarm.liar.takes_part(target.clone(), how);
    let mut with = swarm.pull(&target).await;
    task.abort();
    swarm.report(&format!("{how:?} {serve:?}"), &without, &mut with);
    // The next layer of the same image.
    let target = swarm.blob(false).await;
    let task = swarm.liar.takes_part(target.clone(), how);
    let mut again = swarm.pull(&target).await;
    task.abort();
    swarm.report(&format!("{how:?} {serve:?}, again"), &without, &mut again);
    (swarm, with, again)
}

async fn with_coordinator(how: Grants, serve: Serve) -> (Swarm, Pull, Pull) {
    let mut swarm = Swarm::new(serve).await;
    let target = swarm.blob(false).await;
    let without = swarm.pull(&target).await;
    let targets = vec![swarm.blob(true).await, swarm.blob(true).await];
    swarm.liar.coordinates(targets.clone(), how);
    let mut with = swarm.pull(&targets[0]).await;
    swarm.report(&format!("coordinator: {how:?} {serve:?}"), &without, &mut with);
    let mut again = swarm.pull(&targets[1]).await;
    swarm.report(&format!("coordinator: {how:?} {serve:?}, again"), &without, &mut again);
    (swarm, with, again)
}

fn no_attempt_is_lost(pull: &Pull) {
    assert!(pull.attempts.iter().all(|attempts| *attempts == 1), "{pull:?}");
}

fn one_attempt_is_lost_at_most(pull: &Pull) {
    assert!(pull.attempts.iter().all(|attempts| *attempts <= 2), "{pull:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_leaves_are_found_and_their_liar_is_named_by_all() {
    for (how, serve) in [
        (Member::WrongLeaves, Serve::Verified),
        (Member::WrongLeaves, Serve::Stream),
        (Member::WrongLeavesDenied, Serve::Verified),
    ] {
        let (swarm, with, again) = with_member(how, serve).await;
        match serve {
            Serve::Verified => no_attempt_is_lost(&with),
            Serve::Stream => one_attempt_is_lost_at_most(&with),
        }
        assert!(swarm.all_avoid_the_liar(), "{how:?} {serve:?}");
        assert!(with.more <= 1.5, "{with:?}");
        no_attempt_is_lost(&again);
        assert!(again.more <= 1.0, "{again:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_do_nothing_of_what_they_say_cost_no_attempt() {
    for how in [Member::Idle, Member::Offers, Member::Disputes] {
        let (swarm, with, again) = with_member(how, Serve::Verified).await;
        for pull in [&with, &again] {
            no_attempt_is_lost(pull);
            assert!(pull.more <= 1.0, "{how:?}: {pull:?}");
        }
        assert!(swarm.nobody_else_is_avoided(), "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_that_nobody_has_cost_no_attempt_and_no_copy() {
    let (swarm, with, again) = with_member(Member::OffersOthers, Serve::Verified).await;
    for pull in [&with, &again] {
        no_attempt_is_lost(pull);
        assert!(pull.more <= 1.0, "{pull:?}");
    }
    assert!(swarm.nobody_else_is_avoided());
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_blocks_cost_no_attempt_and_their_sender_is_named() {
    let (swarm, with, again) = with_member(Member::Corrupt, Serve::Verified).await;
    no_attempt_is_lost(&with);
    no_attempt_is_lost(&again);
    assert!(again.more <= 1.0, "{again:?}");
    assert!(swarm.somebody_avoids_the_liar() && swarm.nobody_else_is_avoided());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_grants_nonsense_is_left_for_the_next_one() {
    for how in [Grants::Nothing, Grants::Hopeless, Grants::EmptySources, Grants::AllToOne] {
        let (swarm, with, again) = with_coordinator(how, Serve::Verified).await;
        for pull in [&with, &again] {
            no_attempt_is_lost(pull);
            // One node reads all of it where it is told to; the others share one copy more.
            assert!(pull.more <= if how == Grants::AllToOne { 1.5 } else { 1.0 }, "{how:?}: {pull:?}");
        }
        assert!(swarm.somebody_avoids_the_liar() && swarm.nobody_else_is_avoided(), "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_names_wrong_hashes_is_found_out_whoever_it_says_reported_them() {
    for how in [Grants::WrongHashes, Grants::WrongHashesOwn] {
        let (swarm, with, again) = with_coordinator(how, Serve::Verified).await;
        no_attempt_is_lost(&with);
        no_attempt_is_lost(&again);
        assert!(with.more <= 1.5 && again.more <= 1.0, "{how:?}: {with:?} {again:?}");
        assert!(swarm.all_avoid_the_liar(), "{how:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_does_not_answer_is_passed_by() {
    let (swarm, with, again) = with_coordinator(Grants::Silence, Serve::Verified).await;
    no_attempt_is_lost(&with);
    no_attempt_is_lost(&again);
    assert!(with.more <= 2.0 && again.more <= 1.0, "{with:?} {again:?}");
    // It may stand behind a slow link: that alone makes nobody a liar, and it need not be named by those who never waited for it.
    assert!(swarm.nobody_else_is_avoided());
}
