//! Ranges of a blob that is still on its way: parallel layer fetch as containerd 2.1 does it, and readers far ahead of what has come.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread::ScopedJoinHandle,
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use shoal_tests::{
    Host, RealImage, Registry, Setup, Shoal, Testbed,
    http::{self, Answer},
    registry::REPOSITORY,
    shoal, wait_for,
};

/// What Bottlerocket sets, and what containerd asks for side by side where nothing is said.
const CHUNK: usize = 8 << 20;
const WORKERS: usize = 3;
/// Slow enough that the largest layer is under way for several seconds.
const SLOW_MBIT: u32 = 80;
const LIMIT: Duration = Duration::from_secs(60);

struct Bed {
    image: RealImage,
    registry: Registry,
    a: Shoal,
    b: Shoal,
    hosts: [Host; 2],
    _bed: Testbed,
}

impl Bed {
    fn new() -> Result<Bed> {
        let bed = Testbed::new()?;
        let image = RealImage::get()?;
        let registry = Registry::start(&bed.host("registry")?, &image)?;
        let hosts = [bed.host("a")?, bed.host("b")?];
        let node = |host: &Host, peers: &[&Host]| {
            let setup = Setup {
                registries: vec![(registry.name(), registry.url())],
                peers: peers.iter().map(|peer| shoal::swarm_address(peer)).collect(),
                ..Setup::default()
            };
            Shoal::start(host, &setup)
        };
        let a = node(&hosts[0], &[])?;
        let b = node(&hosts[1], &[&hosts[0]])?;
        b.wait_for_peers(1)?;
        Ok(Bed { image, registry, a, b, hosts, _bed: bed })
    }

    fn digest(&self) -> &str {
        &self.image.largest_layer().digest
    }

    fn expected(&self) -> Result<Vec<u8>> {
        self.image.read(self.digest())
    }

    fn target(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}?ns={}", self.digest(), self.registry.name().replace(':', "%3A"))
    }

    /// The first `limit` bytes of an answer to this range.
    fn take(&self, host: &Host, range: &str, limit: usize) -> Result<Answer> {
        let stream = host.connect(([127, 0, 0, 1], shoal::GATEWAY_PORT).into())?;
        http::take(stream, &self.target(), &[&format!("Range: bytes={range}")], limit)
    }

    /// As containerd 2.1: the blob in chunks, each asked for to the end and hung up after the chunk, the next one by the first worker that is free.
    fn fetch_in_chunks(&self, host: &Host) -> Result<()> {
        let expected = self.expected()?;
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let work = || -> Result<()> {
                loop {
                    let start = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if start >= expected.len() {
                        return Ok(());
                    }
                    let answer = self.take(host, &format!("{start}-"), CHUNK)?;
                    let status = if start == 0 { 200 } else { 206 };
                    ensure!(answer.status == status, "{} to {start}-", answer.status);
                    let end = expected.len().min(start + CHUNK);
                    ensure!(answer.body == expected[start..end], "other bytes than {start}..{end}: {:?}", answer.cut);
                }
            };
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(ended)
        })
    }
}

fn ended<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

#[test]
#[ignore = "needs root and Debian's docker-registry, skopeo, umoci"]
fn chunks_side_by_side_of_a_blob_on_its_way_cost_upstream_one_copy_and_a_peer_gives_them_when_upstream_is_gone()
-> Result<()> {
    let mut bed = Bed::new()?;
    bed.registry.host.limit_upload(SLOW_MBIT)?;
    bed.fetch_in_chunks(&bed.hosts[0])?;
    let (size, bytes) = (bed.image.largest_layer().size, bed.a.bytes()?);
    ensure!((size..=size * 101 / 100).contains(&bytes.upstream), "{bytes:?} of {size}");
    wait_for("the blob in its place", LIMIT, || Ok(bed.a.blob_file(bed.digest()).exists().then_some(())))?;

    bed.registry.kill()?;
    bed.hosts[0].limit_upload(SLOW_MBIT)?;
    bed.fetch_in_chunks(&bed.hosts[1])?;
    let bytes = bed.b.bytes()?;
    ensure!(bytes.upstream == 0 && (size..=size * 101 / 100).contains(&bytes.peers), "{bytes:?} of {size}");
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's docker-registry, skopeo, umoci"]
fn a_range_far_ahead_of_what_has_come_is_right_and_costs_upstream_nothing_more() -> Result<()> {
    let bed = Bed::new()?;
    let expected = bed.expected()?;
    let a = &bed.hosts[0];
    bed.registry.host.limit_upload(SLOW_MBIT)?;
    std::thread::scope(|scope| {
        let before = a.traffic()?.received;
        let whole = scope.spawn(|| bed.take(a, "0-", usize::MAX));
        wait_for("the first bytes", LIMIT, || Ok((a.traffic()?.received > before + (2 << 20)).then_some(())))?;
        // What a lazy puller asks for first: the table of contents, at the end. It comes in its turn, not before it.
        let start = expected.len() - (100 << 10);
        let tail = bed.take(a, &format!("{start}-{}", expected.len() - 1), usize::MAX)?;
        ensure!(tail.status == 206 && tail.body == expected[start..], "{}: {:?}", tail.status, tail.cut);
        let whole = ended(whole)?;
        ensure!(whole.status == 200 && whole.cut.is_none() && whole.body == expected, "the whole: {:?}", whole.cut);
        Ok(())
    })?;
    let (size, bytes) = (bed.image.largest_layer().size, bed.a.bytes()?);
    ensure!((size..=size * 101 / 100).contains(&bytes.upstream), "{bytes:?} of {size}");
    Ok(())
}
