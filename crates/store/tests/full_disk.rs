//! A real file system that is really full: a tmpfs, mounted by the test. Needs root; says so where it cannot mount.

mod common;

use std::{
    ffi::CString,
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    time::{Duration, Instant},
};

use common::{content, options, read_all, sha256, write};
use shoal_content::LEAF_SIZE;
use shoal_store::{Options, Store, TagRecord};

struct Mount(tempfile::TempDir);

impl Mount {
    fn new(bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let target = CString::new(directory.path().as_os_str().as_bytes()).unwrap();
        let size = CString::new(format!("size={bytes}")).unwrap();
        // SAFETY: all strings end with NUL and outlive the call.
        let mounted =
            unsafe { libc::mount(c"tmpfs".as_ptr(), target.as_ptr(), c"tmpfs".as_ptr(), 0, size.as_ptr().cast()) };
        (mounted == 0).then_some(Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let target = CString::new(self.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: the string ends with NUL and outlives the call.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

#[allow(clippy::disallowed_methods, reason = "no runtime here; looks again until a deadline")]
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that cannot run says so")]
fn a_store_on_a_file_system_that_others_fill_goes_on_serving_and_recovers() {
    let Some(mount) = Mount::new(24 * LEAF_SIZE) else {
        eprintln!("left out: mounting a tmpfs needs root");
        return;
    };
    let store_at = || Store::open(Options { quota: 1 << 30, ..options(mount.path()) }).unwrap();
    let store = store_at();
    let kept = content(1, 3 * LEAF_SIZE + 5);
    let kept_digest = sha256(&kept);
    common::store_whole(&store, &kept_digest, &kept);
    store.pin(&kept_digest, true).unwrap();

    let wanted = content(2, 8 * LEAF_SIZE);
    let partial = store.partial(&sha256(&wanted), 8 * LEAF_SIZE).unwrap();
    write(&partial, &wanted, 0).unwrap();
    // Somebody else takes all that is left.
    let hog = mount.path().join("hog");
    let _ = fs::write(&hog, vec![1; 24 * LEAF_SIZE as usize]);
    let mut refused = 0;
    for index in 1..8 {
        match write(&partial, &wanted, index) {
            Ok(_) => {}
            Err(error) if error.is_no_space() => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused >= 6, "the file system was to be full");
    // What needs the index too: neither hangs nor panics, and what is held is served.
    for seed in 10..40 {
        let small = content(seed, 2000);
        if let Err(error) = store.put(&sha256(&small), &small) {
            assert!(error.is_no_space(), "{error}");
        }
    }
    // Only the index grows here: it fails, or says nothing until it is flushed.
    let tag = |number: u64| TagRecord { digest: kept_digest, media_type: "a/b".into(), size: 1, resolved_at: number };
    let mut failed = 0;
    for number in 0..9000 {
        failed +=
            u32::from(store.set_tag(&format!("docker.io/library/some-image-{number}:latest"), &tag(number)).is_err());
    }
    assert!(failed > 0 || store.flush().is_err(), "the index was to be full too");
    assert!(read_all(&store.get(&kept_digest).unwrap().unwrap()) == kept);

    fs::remove_file(&hog).unwrap();
    eventually("the index opens again", || store.flush().is_ok() && store.set_tag("late", &tag(1)).is_ok());
    let root = store.get(&kept_digest).unwrap().unwrap().root().unwrap();
    eventually("what is held is found by block", || store.block(&root).is_ok_and(|block| block.is_some()));
    for index in 1..8 {
        write(&partial, &wanted, index).unwrap();
    }
    assert!(read_all(&partial.commit().unwrap()) == wanted);
    for seed in 10..40 {
        let small = content(seed, 2000);
        store.put(&sha256(&small), &small).unwrap();
    }
    drop((partial, store));
    let store = store_at();
    store.wait_verified();
    for digest in [kept_digest, sha256(&wanted), sha256(&content(10, 2000)), sha256(&content(39, 2000))] {
        assert!(store.get(&digest).unwrap().is_some(), "{digest}");
    }
    assert_eq!(store.tag("late").unwrap(), Some(tag(1)));
    let info = store.blobs().unwrap().into_iter().find(|info| info.digest == kept_digest).unwrap();
    assert!(info.pinned);
}

#[test]
#[allow(clippy::print_stderr, reason = "a test that cannot run says so")]
fn a_store_opens_and_serves_on_a_full_file_system() {
    let Some(mount) = Mount::new(12 * LEAF_SIZE) else {
        eprintln!("left out: mounting a tmpfs needs root");
        return;
    };
    let store_at = || Store::open(options(mount.path())).unwrap();
    let kept = content(1, 3 * LEAF_SIZE + 5);
    let digest = sha256(&kept);
    let store = store_at();
    common::store_whole(&store, &digest, &kept);
    store.pin(&digest, true).unwrap();
    drop(store);
    let hog = mount.path().join("hog");
    let _ = fs::write(&hog, vec![1; 12 * LEAF_SIZE as usize]);
    let store = store_at();
    assert!(read_all(&store.get(&digest).unwrap().unwrap()) == kept);
    drop(store);
    fs::remove_file(&hog).unwrap();
    let store = store_at();
    assert!(store.blobs().unwrap()[0].pinned, "the index was not given up because the disk was full");
}
