//! A process that stores, evicts and removes is killed at random moments, over and over, in one directory. After each kill the store is opened
//! here and has to hold every blob whose commit had returned, and to serve nothing that is wrong.
//!
//! The child says on its standard output what it is about to do and what is done: `begin <seed>`, `commit <seed>`, `drop <seed>` (before
//! it removes one), `evict <digest>` (from the store's own word, before the child goes on). Content follows from the seed alone.
//!
//! `KILL_SEED` replays a run's choices, `KILL_ROUNDS` says how many rounds there are.

#![allow(
    clippy::print_stdout,
    reason = "a program of its own: this is how parent and child talk, and how the parent reports"
)]

mod common;

use std::{
    collections::{HashMap, HashSet},
    env,
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use common::{content, leaf, options, read_all, write};
use shoal_content::{Algorithm, Digest, LEAF_SIZE, LeafHash, leaf::leaf_count};
use shoal_store::{Change, Options, Store};

const CHILD: &str = "SHOAL_STORE_KILL_CHILD";
const ROUNDS: u64 = 200;
/// Small enough that blobs are evicted in every run of the child.
const QUOTA: u64 = 24 * LEAF_SIZE;
/// Longest life of a child. Most of what it does takes less than a millisecond to a few.
const LONGEST_LIFE: Duration = Duration::from_millis(60);
/// An opening that takes longer than this is not quick, even on a machine that does other work.
const QUICK: Duration = Duration::from_secs(2);

fn main() {
    match env::var(CHILD) {
        Ok(seed) => child(Path::new(&env::args().nth(1).expect("a directory")), seed.parse().expect("a number")),
        Err(_) => parent(),
    }
}

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn limits(directory: &Path) -> Options {
    Options { quota: QUOTA, ..options(directory) }
}

/// Every so many seeds there is a blob of many leaves, for the lives that only write.
const LARGE_EVERY: u64 = 1009;

/// Blob `seed`: its digest and its bytes.
fn blob(seed: u64) -> (Digest, Vec<u8>) {
    let mut random = Random(seed);
    let size = match random.below(4) {
        _ if seed.is_multiple_of(LARGE_EVERY) => 8 * LEAF_SIZE + random.below(LEAF_SIZE),
        0 => random.below(5000),
        1 => LEAF_SIZE,
        2 => LEAF_SIZE + 1 + random.below(1000),
        _ => random.below(5 * LEAF_SIZE),
    };
    let algorithm = if random.below(5) == 0 { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let content = content(seed, size);
    (Digest::of(algorithm, &content), content)
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The parent reads to the end after the kill; what a pipe was given is not lost with the process.
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("the parent is there");
}

fn child(directory: &Path, seed: u64) {
    let on_change = |change: Change| {
        if let Change::Removed { digest, .. } = change {
            say(&format!("evict {digest}"));
        }
    };
    let store = Store::open(Options { on_change: Some(Arc::new(on_change)), ..limits(directory) }).expect("open");
    let mut random = Random(seed);
    if random.below(3) == 0 {
        write_only(&store, seed / LARGE_EVERY * LARGE_EVERY);
    }
    let mut held: Vec<u64> = Vec::new();
    loop {
        let next = seed.wrapping_mul(1_000_003).wrapping_add(random.below(1 << 20));
        let (digest, content) = blob(next);
        say(&format!("begin {next}"));
        if content.len() < 5000 {
            store.put(&digest, &content).expect("put");
        } else if let Ok(partial) = store.partial(&digest, content.len() as u64) {
            let count = leaf_count(content.len() as u64);
            let first = random.below(count);
            for step in 0..count {
                write(&partial, &content, (first + step) % count).expect("write");
            }
            if random.below(8) == 0 {
                // Left half way, for a later life to resume.
                continue;
            }
            partial.commit().expect("commit");
        } else {
            continue;
        }
        say(&format!("commit {next}"));
        held.push(next);
        match random.below(6) {
            0 => {
                let gone = held.swap_remove(random.below(held.len() as u64) as usize);
                say(&format!("drop {gone}"));
                store.remove(&blob(gone).0).expect("remove");
            }
            1 => drop(store.get(&blob(held[random.below(held.len() as u64) as usize]).0).expect("get")),
            _ => {}
        }
    }
}

/// Begins the same blob over and over: death comes in the middle of a leaf, not of an `fsync`, which takes most of the time otherwise.
fn write_only(store: &Store, seed: u64) {
    let (digest, content) = blob(seed);
    let count = leaf_count(content.len() as u64);
    let hashes: Vec<_> = (0..count).map(|index| LeafHash::of(leaf(&content, index))).collect();
    say(&format!("begin {seed}"));
    // A later life may have stored it whole, or not have the room.
    while let Ok(partial) = store.partial(&digest, content.len() as u64) {
        partial.discard().expect("discard");
        drop(partial);
        let partial = store.partial(&digest, content.len() as u64).expect("partial");
        for (index, hash) in (0..).zip(&hashes) {
            partial.write_leaf(index, &Bytes::copy_from_slice(leaf(&content, index)), *hash).expect("write");
        }
    }
}

fn parent() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    let number = |name, default| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, rounds) = (number("KILL_SEED", now % 1_000_000_007), number("KILL_ROUNDS", ROUNDS));
    println!("killing a store {rounds} times; KILL_SEED={seed} repeats the choices");

    let directory = tempfile::tempdir().expect("a directory");
    let mut random = Random(seed);
    let mut expected: HashMap<Digest, u64> = HashMap::new();
    let mut totals = Totals::default();
    let started = Instant::now();
    for round in 0..rounds {
        let life = Duration::from_micros(random.below(LONGEST_LIFE.as_micros() as u64));
        let early = random.below(4) == 0;
        let begun = live_and_die(directory.path(), seed.wrapping_add(round), life, early, &mut expected, &mut totals);
        check(directory.path(), &begun, &mut expected, &mut totals, &format!("round {round}, KILL_SEED={seed}"));
    }
    let Totals { commits, checked, resumed, evictions, unlisted, slowest } = totals;
    println!(
        "{rounds} kills in {:.1} s: {commits} commits, {evictions} evictions, {checked} blobs checked, {resumed} leaves resumed, \
         {unlisted} blobs that the index had lost, slowest opening {slowest:?}",
        started.elapsed().as_secs_f64()
    );
    if rounds >= ROUNDS {
        assert!(
            commits > rounds / 4 && evictions > 0 && resumed > 0,
            "the child was killed before it did anything worth it"
        );
    }
}

#[derive(Default)]
struct Totals {
    commits: u64,
    checked: u64,
    resumed: u64,
    evictions: u64,
    unlisted: u64,
    slowest: Duration,
}

/// One life of a child, counted from its beginning when it is to die `early`, else from when it has opened the store and begun a blob. Gives the seeds that it began, and keeps `expected` to what has to be there now.
fn live_and_die(
    directory: &Path,
    seed: u64,
    life: Duration,
    early: bool,
    expected: &mut HashMap<Digest, u64>,
    totals: &mut Totals,
) -> HashSet<u64> {
    let mut child = Command::new(env::current_exe().expect("this program"))
        .arg(directory)
        .env(CHILD, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child");
    let out = BufReader::new(child.stdout.take().expect("its output"));
    let (began, has_begun) = mpsc::sync_channel(1);
    let reader = thread::spawn(move || {
        let lines = out.lines().map_while(Result::ok);
        // Only the first is waited for, if any: that the queue is full is no matter.
        let tell = |line: &String| _ = line.starts_with("begin").then(|| began.try_send(()));
        lines.inspect(tell).collect::<Vec<_>>()
    });
    if !early {
        has_begun.recv_timeout(Duration::from_secs(20)).expect("the child opens the store and begins");
    }
    #[allow(clippy::disallowed_methods, reason = "not a wait for something: the moment of death is the point")]
    thread::sleep(life);
    child.kill().expect("kill");
    let status = child.wait().expect("wait");
    assert!(status.code().is_none(), "the child ended by itself: {status}");

    let mut begun = HashSet::new();
    for line in reader.join().expect("its lines") {
        let (word, what) = line.split_once(' ').unwrap_or((&line, ""));
        let seed = || what.parse::<u64>().expect("a seed");
        match word {
            "begin" => drop(begun.insert(seed())),
            "commit" => {
                totals.commits += 1;
                expected.insert(blob(seed()).0, seed());
            }
            "drop" => drop(expected.remove(&blob(seed()).0)),
            "evict" => {
                totals.evictions += 1;
                expected.remove(&what.parse().expect("a digest"));
            }
            _ => {}
        }
    }
    begun
}

fn check(
    directory: &Path,
    begun: &HashSet<u64>,
    expected: &mut HashMap<Digest, u64>,
    totals: &mut Totals,
    context: &str,
) {
    let opening = Instant::now();
    // With room for everything: looking must not evict.
    let store = Store::open(options(directory)).unwrap_or_else(|error| panic!("{context}: {error}"));
    let took = opening.elapsed();
    assert!(took < QUICK, "{context}: opening took {took:?}");
    totals.slowest = totals.slowest.max(took);
    totals.unlisted += store.usage().unverified;
    store.wait_verified();
    assert_eq!(store.usage().quarantined, 0, "{context}: a file was not what its name says");

    // An eviction unlinks before it says so: one, at the moment of death, may be unsaid. More may not be missing.
    let missing: Vec<_> = expected.keys().filter(|digest| !store.contains(digest)).copied().collect();
    let evicted_unsaid = missing.len();
    assert!(evicted_unsaid <= 1, "{context}: {evicted_unsaid} committed blobs are lost: {missing:?}");
    for digest in &missing {
        expected.remove(digest);
    }

    for info in store.blobs().unwrap_or_else(|error| panic!("{context}: {error}")) {
        let blob = store.get(&info.digest).unwrap_or_else(|error| panic!("{context}: {error}")).expect("it was listed");
        let bytes = read_all(&blob);
        assert_eq!(Digest::of(info.digest.algorithm(), &bytes), info.digest, "{context}: wrong bytes");
        for index in 0..leaf_count(info.size) {
            let leaf = leaf(&bytes, index);
            let block = store.block(&LeafHash::of(leaf).cid()).unwrap_or_else(|error| panic!("{context}: {error}"));
            let block = block.unwrap_or_else(|| panic!("{context}: leaf {index} of {} is not found", info.digest));
            assert!(block.read().is_ok_and(|bytes| bytes == leaf), "{context}: wrong block");
        }
        totals.checked += 1;
        // Committed, though the child had no time to say so.
        expected.entry(info.digest).or_insert(0);
    }

    for &seed in begun {
        let (digest, content) = blob(seed);
        let Ok(partial) = store.partial(&digest, content.len() as u64) else { continue };
        for index in partial.have().iter() {
            let right = leaf(&content, index);
            let found = partial.read_at(index * LEAF_SIZE, LEAF_SIZE as usize);
            assert!(found.is_ok_and(|found| found == right), "{context}: leaf {index} of a partial is wrong");
            totals.resumed += 1;
        }
    }
}
