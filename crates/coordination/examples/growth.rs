//! How coordination grows with nodes and bytes: the tables of docs/coordination.md.
//!
//! ```text
//! cargo run --release -p shoal-coordination --example growth               # all
//! cargo run --release -p shoal-coordination --example growth -- 100 1024   # up to 100 nodes, up to 1024 leaves of 1 MiB
//! ```

use std::io::Write as _;

use shoal_content::leaf::leaf_count;
use shoal_coordination::simulation::{World, run};

const NODES: [usize; 5] = [10, 30, 100, 300, 1000];
/// 100 MiB, 316 MiB, 1 GiB, 3.2 GiB, 10 GiB.
const LEAVES: [u64; 5] = [100, 316, 1024, 3236, 10240];

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let most_nodes = numbers.first().copied().unwrap_or(usize::MAX);
    let most_leaves = numbers.get(1).map_or(u64::MAX, |leaves| *leaves as u64);
    // Past this many transfers a world takes minutes.
    let most_transfers = numbers.get(2).map_or(u64::MAX, |transfers| *transfers as u64);
    for (title, has_holder) in
        [("stampede, upstream 200, nodes 400 Mbit/s", false), ("rollout, nodes 400 Mbit/s", true)]
    {
        say(&format!(
            "\n{title}\n\n| nodes | MiB | ÷ bound | copies | a node: messages for a leaf | a node: bytes for a leaf | coordinator: messages/s | coordinator: Mbit/s | coordinator: ÷ a blob | CPU µs for a grant | memory KiB |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
        ));
        for nodes in NODES.into_iter().filter(|nodes| *nodes <= most_nodes) {
            for leaves in LEAVES.into_iter().filter(|leaves| *leaves <= most_leaves) {
                let mut world = World::calm(1, nodes, leaves, 200.0, 400.0);
                if has_holder {
                    world = world.with_holder();
                }
                if nodes as u64 * leaves > most_transfers {
                    continue;
                }
                world.measured = true;
                say(&row(&world));
            }
        }
    }
}

fn row(world: &World) -> String {
    let outcome = run(world);
    let nodes = world.nodes.iter().filter(|node| !node.holds).count() as f64;
    let size = world.size() as f64;
    let leaves = leaf_count(world.blobs[0]) as f64;
    let scarce = if world.nodes.iter().any(|node| node.holds) { outcome.holders } else { outcome.upstream };
    let messages = (outcome.asks + outcome.replies) as f64;
    let bytes = (outcome.ask_bytes + outcome.reply_bytes) as f64;
    let last = outcome.last().as_secs_f64();
    let whole = if outcome.unfinished.is_empty() { "" } else { " UNFINISHED" };
    format!(
        "| {nodes} | {leaves} | {:.2}{whole} | {:.2} | {:.2} | {:.0} | {:.0} | {:.2} | {:.3} | {:.1} | {} |\n",
        last / world.bound().as_secs_f64(),
        scarce / size,
        messages / nodes / leaves,
        bytes / nodes / leaves,
        messages / last,
        bytes * 8.0 / last / 1e6,
        bytes / size,
        outcome.coordinating * 1e6 / outcome.grants.max(1) as f64,
        outcome.coordinator_memory / 1024,
    )
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
