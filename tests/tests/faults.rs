//! What a runtime gets when a source lies, dies or hangs in the middle of a blob.

use std::{fs::File, os::unix::fs::FileExt, thread::JoinHandle, time::Duration};

use anyhow::{Result, anyhow};
use shoal_tests::{
    Host, RealImage, Registry, Setup, Shoal, Testbed,
    http::{self, Answer, Cut},
    registry::REPOSITORY,
    shoal, wait_for,
};

/// Slow enough that the largest layer is under way for several seconds.
const SLOW_MBIT: u32 = 80;
/// So much of it has come when the fault happens.
const MIDDLE: u64 = 12 << 20;
const LIMIT: Duration = Duration::from_secs(60);

struct Bed {
    image: RealImage,
    registry: Registry,
    bed: Testbed,
}

impl Bed {
    fn new() -> Result<Bed> {
        let bed = Testbed::new()?;
        let image = RealImage::get()?;
        let registry = Registry::start(&bed.host("registry")?, &image)?;
        Ok(Bed { image, registry, bed })
    }

    fn node(&self, host: &Host, peers: &[&Host]) -> Result<Shoal> {
        let setup = Setup {
            registries: vec![(self.registry.name(), self.registry.url())],
            peers: peers.iter().map(|peer| shoal::swarm_address(peer)).collect(),
            ..Setup::default()
        };
        Shoal::start(host, &setup)
    }

    fn target(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}?ns={}", self.digest(), self.registry.name().replace(':', "%3A"))
    }

    fn digest(&self) -> &str {
        &self.image.largest_layer().digest
    }

    fn expected(&self) -> Result<Vec<u8>> {
        self.image.read(self.digest())
    }

    /// A node that has the blob.
    fn holder(&self, host: &Host, peers: &[&Host]) -> Result<Shoal> {
        let node = self.node(host, peers)?;
        self.assert_whole(&node.get(&self.target(), &[])?)?;
        wait_for("the blob in its place", LIMIT, || Ok(node.blob_file(self.digest()).exists().then_some(())))?;
        Ok(node)
    }

    /// Asks for the blob meanwhile.
    fn ask(&self, host: &Host) -> Result<JoinHandle<Result<Answer>>> {
        let stream = host.connect(([127, 0, 0, 1], shoal::GATEWAY_PORT).into())?;
        let target = self.target();
        Ok(std::thread::spawn(move || http::request(stream, "GET", &target, &[])))
    }

    fn assert_whole(&self, answer: &Answer) -> Result<()> {
        assert_eq!((answer.status, answer.cut), (200, None), "after {} bytes", answer.body.len());
        assert!(answer.body == self.expected()?, "the bytes are wrong");
        Ok(())
    }

    /// Ends short, by FIN, and what came is right; or no body was begun.
    fn assert_short_but_right(&self, answer: &Answer) -> Result<()> {
        if answer.status != 200 {
            assert!(matches!(answer.status, 404 | 502 | 503 | 504), "status {}", answer.status);
            return Ok(());
        }
        assert_eq!(answer.cut, Some(Cut::Closed), "after {} bytes", answer.body.len());
        assert!(self.expected()?.starts_with(&answer.body), "the bytes are wrong");
        Ok(())
    }
}

fn middle_of(host: &Host) -> Result<()> {
    let before = host.traffic()?.received;
    wait_for("the middle of a blob", LIMIT, || Ok((host.traffic()?.received > before + MIDDLE).then_some(())))
}

fn end_of(asking: JoinHandle<Result<Answer>>) -> Result<Answer> {
    asking.join().map_err(|_| anyhow!("asking panicked"))?
}

fn corrupt(node: &Shoal, digest: &str, at: u64) -> Result<()> {
    let file = File::options().read(true).write(true).open(node.blob_file(digest))?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ 1], at)?;
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's docker-registry, skopeo, umoci"]
fn a_block_that_rotted_on_a_peers_disk_is_taken_from_upstream() -> Result<()> {
    let bed = Bed::new()?;
    let [a, b] = [bed.bed.host("a")?, bed.bed.host("b")?];
    let first = bed.holder(&a, &[])?;
    corrupt(&first, bed.digest(), 20 << 20)?;
    let second = bed.node(&b, &[&a])?;
    second.wait_for_peers(1)?;
    bed.assert_whole(&second.get(&bed.target(), &[])?)?;
    let bytes = second.bytes()?;
    assert!(bytes.upstream > 0, "a rotten block was taken for a good one: {bytes:?}");
    assert!(bytes.peers > 0, "one rotten block cost all others: {bytes:?}");
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's docker-registry, skopeo, umoci"]
fn a_block_that_rotted_on_the_only_disk_ends_the_answer_short() -> Result<()> {
    let mut bed = Bed::new()?;
    let [a, b] = [bed.bed.host("a")?, bed.bed.host("b")?];
    let first = bed.holder(&a, &[])?;
    corrupt(&first, bed.digest(), 20 << 20)?;
    bed.registry.kill()?;
    let second = bed.node(&b, &[&a])?;
    second.wait_for_peers(1)?;
    bed.assert_short_but_right(&second.get(&bed.target(), &[])?)
}

#[test]
#[ignore = "needs root and Debian's docker-registry, skopeo, umoci"]
fn a_peer_that_is_killed_in_the_middle_of_a_blob_is_replaced_by_upstream() -> Result<()> {
    let bed = Bed::new()?;
    let [a, b] = [bed.bed.host("a")?, bed.bed.host("b")?];
    let mut first = bed.holder(&a, &[])?;
    let second = bed.node(&b, &[&a])?;
    second.wait_for_peers(1)?;
    a.limit_upload(SLOW_MBIT)?;
    let asking = bed.ask(&b)?;
    middle_of(&b)?;
    first.kill()?;
    bed.assert_whole(&end_of(asking)?)
}

#[test]
#[ignore = "needs root and Debian's docker-registry, skopeo, umoci"]
fn a_peer_that_hangs_in_the_middle_of_a_blob_is_replaced_within_seconds() -> Result<()> {
    let bed = Bed::new()?;
    let [a, b] = [bed.bed.host("a")?, bed.bed.host("b")?];
    let mut first = bed.holder(&a, &[])?;
    let second = bed.node(&b, &[&a])?;
    second.wait_for_peers(1)?;
    a.limit_upload(SLOW_MBIT)?;
    let asking = bed.ask(&b)?;
    middle_of(&b)?;
    first.freeze()?;
    let frozen = std::time::Instant::now();
    bed.assert_whole(&end_of(asking)?)?;
    assert!(frozen.elapsed() < Duration::from_secs(10), "it took {:?} to get over one peer", frozen.elapsed());
    Ok(())
}

#[test]
#[ignore = "needs root and Debian's docker-registry, skopeo, umoci"]
fn a_peer_that_is_killed_in_the_middle_of_a_blob_is_replaced_by_another_while_upstream_is_gone() -> Result<()> {
    let mut bed = Bed::new()?;
    let [a, b, c] = [bed.bed.host("a")?, bed.bed.host("b")?, bed.bed.host("c")?];
    let mut first = bed.holder(&a, &[])?;
    let _other = bed.holder(&c, &[&a])?;
    bed.registry.kill()?;
    let second = bed.node(&b, &[&a, &c])?;
    second.wait_for_peers(2)?;
    b.limit_download(SLOW_MBIT)?;
    let asking = bed.ask(&b)?;
    middle_of(&b)?;
    first.kill()?;
    bed.assert_whole(&end_of(asking)?)
}

#[test]
#[ignore = "needs root and Debian's docker-registry, skopeo, umoci"]
fn upstream_that_is_killed_in_the_middle_of_a_blob_is_replaced_by_a_peer() -> Result<()> {
    let mut bed = Bed::new()?;
    let [a, b] = [bed.bed.host("a")?, bed.bed.host("b")?];
    let _first = bed.holder(&a, &[])?;
    // The peer is out of reach when the pull begins, so that it begins upstream.
    a.unplug()?;
    let second = bed.node(&b, &[&a])?;
    bed.registry.host.limit_upload(SLOW_MBIT / 2)?;
    let asking = bed.ask(&b)?;
    middle_of(&b)?;
    a.plug_in()?;
    second.wait_for_peers(1)?;
    assert!(!asking.is_finished(), "the blob came too fast for this test");
    bed.registry.kill()?;
    bed.assert_whole(&end_of(asking)?)
}

#[test]
#[ignore = "needs root and Debian's docker-registry, skopeo, umoci"]
fn when_no_source_is_left_the_answer_ends_short_and_the_next_one_is_whole_when_there_is_one_again() -> Result<()> {
    let mut bed = Bed::new()?;
    let [a, b] = [bed.bed.host("a")?, bed.bed.host("b")?];
    let mut first = bed.holder(&a, &[])?;
    let second = bed.node(&b, &[&a])?;
    second.wait_for_peers(1)?;
    bed.registry.kill()?;
    a.limit_upload(SLOW_MBIT)?;
    let asking = bed.ask(&b)?;
    middle_of(&b)?;
    first.kill()?;
    let answer = end_of(asking)?;
    bed.assert_short_but_right(&answer)?;
    assert!(!answer.body.is_empty(), "nothing came of a blob whose middle had come");

    first.restart()?;
    second.wait_for_peers(1)?;
    wait_for("a whole answer", LIMIT, || {
        let answer = second.get(&bed.target(), &[])?;
        if answer.status == 200 && answer.cut.is_none() {
            bed.assert_whole(&answer)?;
            return Ok(Some(()));
        }
        bed.assert_short_but_right(&answer)?;
        Ok(None)
    })
}
