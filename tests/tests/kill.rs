//! SIGKILL at random moments of a pull.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};
use shoal_tests::{
    Setup, Shoal,
    blobs::{Blobs, noise},
    http::Answer,
    shoal::Listens,
    testbed::work_folder,
    wait_for,
};

/// As many as the store is to stand in every run.
const ROUNDS: u64 = 200;
/// Longer than a pull of these blobs takes, so that some are killed after it too.
const LATEST_KILL: u64 = 120;
const LIMIT: Duration = Duration::from_secs(20);

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What a failure left is what explains it.
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn target(upstream: &Blobs, digest: &str) -> String {
    format!("/v2/a/b/blobs/{digest}?ns={}", upstream.name().replace(':', "%3A"))
}

fn assert_right(upstream: &Blobs, digest: &str, answer: &Answer) {
    let content = upstream.content(digest).expect("only what there is is asked for");
    if answer.status == 200 && !content.starts_with(&answer.body) {
        let at = content.iter().zip(&answer.body).position(|(right, came)| right != came);
        panic!("wrong bytes of {digest}: {} of {} came, differing from {at:?} on", answer.body.len(), content.len());
    }
}

#[test]
fn no_kill_at_any_moment_makes_a_wrong_byte_or_loses_a_committed_blob() -> Result<()> {
    let folder = Folder(work_folder()?.join(format!("kill-{}", std::process::id())));
    let upstream = Blobs::start()?;
    let listens = Listens { gateway: free_address()?, swarm: free_address()?, metrics: free_address()? };
    let setup =
        Setup { registries: vec![(upstream.name(), format!("http://{}", upstream.name()))], ..Setup::default() };
    let mut node = Shoal::start_on_loopback(&folder.0, listens, &setup)?;
    let mut committed: Vec<String> = Vec::new();
    let mut unfinished = 0_u64;

    for round in 0..ROUNDS {
        let random = u64::from_le_bytes(noise(round, 8).try_into().expect("eight bytes were asked for"));
        // One to six leaves, the last one seldom full.
        let length = (1 << 20) + (random % (5 << 20)) as usize;
        let digest = upstream.add(noise(ROUNDS + round, length));
        let address = target(&upstream, &digest);
        let after = Duration::from_millis((random >> 32) % LATEST_KILL);

        std::thread::scope(|scope| -> Result<()> {
            let node_ref = &node;
            let asking = scope.spawn(|| node_ref.get(&address, &[]));
            // The moment itself is what is drawn here: nothing is waited for.
            #[allow(clippy::disallowed_methods)]
            std::thread::sleep(after);
            let pid = node.pid().to_string();
            shoal_tests::run(std::process::Command::new("kill").args(["-KILL", &pid]))?;
            if let Ok(answer) = asking.join().expect("asking does not panic") {
                assert_right(&upstream, &digest, &answer);
            }
            Ok(())
        })?;
        node.kill()?;
        let is_committed = node.blob_file(&digest).exists();

        upstream.set_down(is_committed);
        node.restart().with_context(|| format!("round {round}"))?;
        let sent = upstream.sent();
        let answer = wait_for("a whole answer after the restart", LIMIT, || {
            let answer = node.get(&address, &[])?;
            assert_right(&upstream, &digest, &answer);
            Ok((answer.status == 200 && answer.cut.is_none()).then_some(answer))
        })
        .with_context(|| {
            format!(
                "round {round}, killed after {after:?}, committed: {is_committed}\n{}",
                node.log().unwrap_or_default()
            )
        })?;
        assert_eq!(answer.body.len(), length);
        if is_committed {
            assert_eq!(upstream.sent(), sent, "a committed blob was asked of upstream");
        } else {
            unfinished += 1;
        }
        upstream.set_down(false);
        wait_for("the blob in its place", LIMIT, || Ok(node.blob_file(&digest).exists().then_some(())))?;
        committed.push(digest);
    }

    upstream.set_down(true);
    for digest in &committed {
        let answer = node.get(&target(&upstream, digest), &[])?;
        assert_eq!((answer.status, answer.cut), (200, None), "{digest}");
        assert_right(&upstream, digest, &answer);
    }
    // Else the moments were badly drawn and nothing was shown.
    assert!(unfinished >= ROUNDS / 10, "only {unfinished} of {ROUNDS} were killed before the blob was committed");
    node.stop()
}
