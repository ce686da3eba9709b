//! Plays the worlds of many seeds, and names those that break a rule.
//!
//! ```text
//! cargo run --release -p shoal-coordination --example seeds -- 100000          # so many, from 0 on
//! cargo run --release -p shoal-coordination --example seeds -- 1 4711          # this one, and what happened in it
//! ```

use std::{
    collections::BTreeMap,
    io::Write as _,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use shoal_coordination::simulation::{Kind, check, plan, run};

/// Seeds of a kind that are named.
const MOST_NAMED: usize = 20;

#[derive(Default)]
struct Row {
    worlds: u64,
    copies: Vec<f64>,
    factors: Vec<f64>,
    late: f64,
    wrong: Vec<(u64, String)>,
}

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let count = numbers.first().copied().unwrap_or(1000);
    let first = numbers.get(1).copied().unwrap_or(0);
    if count == 1 {
        let (_, mut world) = plan(first);
        world.told = true;
        let _ = std::io::stdout().write_all((run(&world).story.join("\n") + "\n").as_bytes());
    }
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let parts: Vec<BTreeMap<Kind, Row>> = std::thread::scope(|scope| {
        let work = || {
            let mut rows: BTreeMap<Kind, Row> = BTreeMap::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return rows;
                }
                let (kind, world, outcome, wrong) = check(seed);
                let row = rows.entry(kind).or_default();
                row.worlds += 1;
                row.copies.push(outcome.upstream / world.size() as f64);
                row.factors.push(outcome.last().as_secs_f64() / world.bound().as_secs_f64());
                row.late = row.late.max(outcome.last().as_secs_f64());
                row.wrong.extend(wrong.map(|wrong| (seed, wrong)));
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let mut rows: BTreeMap<Kind, Row> = BTreeMap::new();
    for (kind, mut part) in parts.into_iter().flatten() {
        let row = rows.entry(kind).or_default();
        row.worlds += part.worlds;
        row.copies.append(&mut part.copies);
        row.factors.append(&mut part.factors);
        row.late = row.late.max(part.late);
        row.wrong.append(&mut part.wrong);
    }
    let mut text = format!(
        "{:9} {:>7} {:>30} {:>23} {:>7}\n",
        "kind", "worlds", "copies: median p99 most", "last ÷ bound: median p99", "wrong"
    );
    let mut is_wrong = false;
    for (kind, row) in &mut rows {
        row.copies.sort_by(f64::total_cmp);
        row.factors.sort_by(f64::total_cmp);
        let at = |values: &[f64], part: f64| values[((values.len() - 1) as f64 * part) as usize];
        text += &format!(
            "{:9} {:>7} {:>14.3} {:>7.3} {:>7.3} {:>15.2} {:>7.2} {:>7}\n",
            kind.to_string(),
            row.worlds,
            at(&row.copies, 0.5),
            at(&row.copies, 0.99),
            at(&row.copies, 1.0),
            at(&row.factors, 0.5),
            at(&row.factors, 0.99),
            row.wrong.len(),
        );
        is_wrong |= !row.wrong.is_empty();
    }
    for (kind, row) in &rows {
        for (seed, wrong) in row.wrong.iter().take(MOST_NAMED) {
            text += &format!("seed {seed} ({kind}): {wrong}\n");
        }
    }
    text += &format!("{count} seeds in {:.1} s\n", began.elapsed().as_secs_f64());
    let _ = std::io::stdout().write_all(text.as_bytes());
    if is_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
