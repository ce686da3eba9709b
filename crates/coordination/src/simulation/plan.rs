//! Worlds made from a seed alone, and what must come of them.

use std::{fmt, time::Duration};

use shoal_content::LEAF_SIZE;

use super::{
    Fault, Habit, Outcome, Peer, Random, Victim, World, mbit, run,
    session::{ASK_AGAIN_AT_LAST, PATIENCE},
    swarm::KEEP_ALIVE,
};

/// What befalls a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing: all start at once or one after another, and live.
    Calm,
    /// Members die or say goodbye, whoever they are.
    Churn,
    /// The coordinator dies, or whoever has read most from upstream.
    Beheaded,
    /// Messages need up to a fifth of a second: members have gone on by themselves before the first answer comes.
    Delays,
    /// Messages are lost.
    Loss,
    /// The network is cut in two for some seconds.
    Cut,
    /// Clocks jump.
    Clocks,
    /// Some members lie.
    Liars,
    /// Two or three of all that.
    Storm,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Calm,
        Self::Churn,
        Self::Beheaded,
        Self::Delays,
        Self::Loss,
        Self::Cut,
        Self::Clocks,
        Self::Liars,
        Self::Storm,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The world of a seed.
pub fn plan(seed: u64) -> (Kind, World) {
    let mut random = Random::new(seed ^ 0x5eed);
    // Most are small: there the corner cases are, and they are quick.
    let (nodes, leaves) = match random.below(1000) {
        0..2 => (random.between(301, 1000), random.between(1, 6)),
        2..20 => (random.between(41, 300), random.between(1, 16)),
        20..200 => (random.between(13, 40), random.between(1, 40)),
        _ => (random.between(3, 12), random.between(1, 60)),
    };
    let mut world = World::calm(seed, usize::try_from(nodes).unwrap_or(3), leaves, 0.0, 0.0);
    world.upstream = mbit(random.between(50, 1000) as f64);
    let rate = mbit(random.between(50, 1000) as f64);
    let spread = random.below(3) * 1000;
    for node in &mut world.nodes {
        (node.up, node.down) = (rate, rate);
        node.starts = Duration::from_millis(random.below(spread + 1));
    }
    world.blobs[0] -= random.below(LEAF_SIZE);
    if random.chance(20) {
        world.blobs.push(1 + random.below(leaves * LEAF_SIZE));
    }
    if random.chance(20) {
        world = world.with_holder();
    }
    world.landing = Duration::from_millis(random.below(5));
    world.first_byte = Duration::from_millis(random.below(100));
    world.search = Duration::from_millis(random.between(1, 40));
    let kind = match random.below(100) {
        0..20 => Kind::Calm,
        20..90 => Kind::ALL[usize::try_from(random.between(1, 7)).unwrap_or(1)],
        _ => Kind::Storm,
    };
    let kinds = match kind {
        Kind::Storm => vec![Kind::ALL[1 + (seed % 7) as usize], Kind::ALL[1 + (seed / 7 % 7) as usize]],
        kind => vec![kind],
    };
    for kind in kinds {
        befall(&mut world, kind, &mut random);
    }
    // By chance of its own: what else a seed stands for stays the same.
    world.ranges = !Random::new(seed ^ 0xb0d1e5).chance(10);
    world.end = quiet(&world) + patience(&world);
    (kind, world)
}

fn befall(world: &mut World, kind: Kind, random: &mut Random) {
    let count = world.nodes.len() as u64;
    // Most faults should strike while there is something to be struck.
    let span = 200 + u64::try_from(world.bound().as_millis()).unwrap_or(0) + 500;
    let when = |random: &mut Random| Duration::from_millis(random.below(span));
    let node = |random: &mut Random| Peer::try_from(random.below(count)).unwrap_or(0);
    match kind {
        Kind::Calm | Kind::Storm => {}
        Kind::Churn => {
            for _ in 0..random.between(1, 1 + count / 3) {
                let who = node(random);
                let fault = match random.below(3) {
                    0 => Fault::Leave(who),
                    _ => Fault::Kill { who: Victim::Node(who), silent: random.chance(50) },
                };
                world.faults.push((when(random), fault));
            }
        }
        Kind::Beheaded => {
            for _ in 0..random.between(1, 2) {
                let who = if random.chance(50) { Victim::Coordinator } else { Victim::Busiest };
                world.faults.push((when(random), Fault::Kill { who, silent: random.chance(50) }));
            }
        }
        Kind::Delays => {
            world.delay =
                (Duration::from_millis(random.between(5, 100)), Duration::from_millis(random.between(0, 100)));
        }
        Kind::Loss => {
            world.loss = random.between(1, 20);
            world.calm = when(random) + Duration::from_secs(1);
        }
        Kind::Cut => {
            let begins = when(random);
            world.faults.push((begins, Fault::Cut(Peer::try_from(random.between(2, 4)).unwrap_or(2))));
            world.faults.push((begins + Duration::from_millis(random.between(100, 6000)), Fault::Heal));
        }
        Kind::Clocks => {
            for _ in 0..random.between(1, 3) {
                let far = *[100, 2_000, 60_000, 3_600_000].get(random.below(4) as usize).unwrap_or(&100);
                let by = if random.chance(50) { far } else { -far };
                world.faults.push((when(random), Fault::Jump(node(random), by)));
            }
        }
        Kind::Liars => {
            let habit = [Habit::Hoards, Habit::Boasts, Habit::Disputes][random.below(3) as usize];
            for _ in 0..random.between(1, 1 + count / 10) {
                let liar = node(random) as usize;
                let honest = world.nodes.iter().filter(|node| node.habit == Habit::Honest && !node.holds).count();
                if honest > 2 && !world.nodes[liar].holds {
                    world.nodes[liar].habit = habit;
                }
            }
        }
    }
}

/// When the last fault has struck and the last node has started.
fn quiet(world: &World) -> Duration {
    let last_fault = world.faults.iter().map(|(when, _)| *when).max().unwrap_or_default();
    let last_start = world.nodes.iter().map(|node| node.starts).max().unwrap_or_default();
    last_fault.max(last_start).max(world.calm)
}

/// How long after that a node may still need: as long as all nodes by themselves, where it is short, and time for what was silent to be
/// noticed.
fn patience(world: &World) -> Duration {
    Duration::from_secs(30) + world.bound() * 4 + (world.delay.0 + world.delay.1) * 20
}

/// Plays the world of a seed; gives what is wrong with its outcome, if anything is.
pub fn check(seed: u64) -> (Kind, World, Outcome, Option<String>) {
    let (kind, world) = plan(seed);
    let outcome = run(&world);
    let wrong = wrong(kind, &world, &outcome);
    (kind, world, outcome, wrong)
}

/// Bytes that upstream may send, those aside that nodes had read which died.
///
/// Where nothing happens, and whoever lies and whatever clocks show, 1.03 copies; 1.3 else, and for each time that nodes lose their
/// coordinator, or cannot hear it, what upstream sends until all have found the next one together: [`REGROUPED`].
///
/// Where upstream ignores ranges, what it sends from the moment when the first find out until one of them alone reads, and its bytes again for
/// each fault, since who takes over begins anew.
///
/// One that lies takes nothing from the others by its word alone. Each one more can, with another, have a source passed over that gave them
/// nothing, and so have read again what a member takes at once: in a blob of a few leaves that is more than 0.3 copies.
pub fn allowed(kind: Kind, world: &World) -> f64 {
    let size = world.size() as f64;
    let apart = world.faults.iter().map(|(when, fault)| match fault {
        // Until it is known to be gone, those who cannot hear it go on by themselves.
        Fault::Kill { silent: true, .. } => KEEP_ALIVE + REGROUPED,
        Fault::Kill { .. } | Fault::Leave(_) => REGROUPED,
        Fault::Heal => REGROUPED + *when,
        Fault::Cut(_) | Fault::Jump(..) => Duration::ZERO,
    });
    let mut apart: Duration = apart.sum();
    if world.loss > 0 {
        apart += world.calm + REGROUPED;
    }
    if world.delay.0 + world.delay.1 > world.limits.budget / 4 {
        apart += world.nodes.iter().map(|node| node.starts).max().unwrap_or_default() + REGROUPED;
    }
    let messages = world.first_byte + (world.delay.0 + world.delay.1) * 4;
    let anew = if world.ranges { 0.0 } else { world.upstream * messages.as_secs_f64() };
    let anew = match kind {
        Kind::Calm | Kind::Clocks => anew,
        _ if world.ranges => 0.0,
        _ => anew + size * (1 + world.faults.len()) as f64,
    };
    let allowed = match kind {
        Kind::Calm | Kind::Clocks => size * 1.03,
        Kind::Liars => {
            let liars = world.nodes.iter().filter(|node| node.habit != Habit::Honest).count();
            let again = liars.saturating_sub(1) as u64 * u64::from(world.limits.downloads) * LEAF_SIZE;
            size * 1.3 + again as f64
        }
        _ => size * 1.3 + world.upstream * apart.as_secs_f64(),
    };
    allowed + anew
}

/// Until nodes that had different coordinators have one again: who has just asked the right one in vain waits for the answer, then until it
/// asks again.
pub const REGROUPED: Duration = PATIENCE.saturating_add(ASK_AGAIN_AT_LAST);

fn wrong(kind: Kind, world: &World, outcome: &Outcome) -> Option<String> {
    if let Some(broken) = outcome.broken.first() {
        return Some(broken.clone());
    }
    if !outcome.unfinished.is_empty() {
        return Some(format!(
            "{} nodes, such as {:?}, did not finish within {:?}",
            outcome.unfinished.len(),
            outcome.unfinished[0],
            world.end
        ));
    }
    let copies = |bytes: f64| bytes / world.size() as f64;
    let (sent, allowed) = (outcome.upstream - outcome.lost, allowed(kind, world));
    (sent > allowed).then(|| format!("upstream sent {:.3} copies, {:.3} are allowed", copies(sent), copies(allowed)))
}
