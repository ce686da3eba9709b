mod common;
use std::time::{Duration, Instant};
use common::{Node, config, within};
fn cpu() -> f64 { let s = std::fs::read_to_string("/proc/self/stat").unwrap(); let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect(); (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0 }
#[tokio::test(flavor = "multi_thread")]
async fn measure() {
    let n: usize = std::env::var("N").unwrap().parse().unwrap();
    let began = Instant::now();
    let mut nodes = vec![Node::start(config()).await];
    for _ in 1..n { let mut c = config(); c.seeds = vec![nodes[0].seed()]; nodes.push(Node::start(c).await); }
    tokio::time::sleep(Duration::from_secs(8)).await;
    let mut degrees = vec![]; for node in &nodes { degrees.push(node.swarm.peers().await.unwrap().len()); }
    degrees.sort(); println!("{n} nodes after {:?}: peers min {} median {} max {}; cpu {:.2}s", began.elapsed(), degrees[0], degrees[n/2], degrees[n-1], cpu());
    let c = cpu(); tokio::time::sleep(Duration::from_secs(10)).await; println!("idle cpu {:.4} of a core a node", (cpu() - c) / 10.0 / n as f64);
    let digests: Vec<_> = (0..40u32).map(|i| nodes[n - 1].hold(&i.to_be_bytes()).0).collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (mut first, mut all, mut miss) = (vec![], vec![], 0);
    for node in &nodes[..n - 1] { for d in digests.iter().take(10) {
        let t = Instant::now(); let mut r = node.swarm.providers(d);
        if within(r.recv()).await.is_some() { first.push(t.elapsed()); } else { miss += 1; }
        while within(r.recv()).await.is_some() {} all.push(t.elapsed());
    } }
    first.sort(); all.sort();
    println!("first: median {:?} p99 {:?} max {:?}; end of search median {:?} max {:?}; missed {miss}", first[first.len()/2], first[first.len()*99/100], first.last().unwrap(), all[all.len()/2], all.last().unwrap());
    let rss = std::fs::read_to_string("/proc/self/status").unwrap(); println!("{}", rss.lines().find(|l| l.starts_with("VmRSS")).unwrap());
}
