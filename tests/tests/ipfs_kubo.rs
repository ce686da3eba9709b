//! With Kubo in one private swarm: each finds what the other holds by DHT, and fetches it by CID.
//!
//! Needs Kubo, not root; see [`shoal_tests::ipfs`].

use anyhow::{Result, ensure};
use shoal_tests::{
    blobs::noise,
    ipfs::{Folder, Kubo, Ours, file, hash_of, hash_of_file, kubo, missing},
};

const MIB: usize = 1 << 20;
const SIZES: [usize; 4] = [1, MIB, MIB + 1, 300 * MIB];

/// Shapes that Kubo gives to files: its profile of today, the leaves of 256 KiB that most of what is out there has, and what it did at first.
const SHAPES: [&[&str]; 3] = [
    &[],
    &["--chunker=size-262144", "--raw-leaves", "--cid-version=1"],
    &["--chunker=size-262144", "--raw-leaves=false", "--cid-version=0"],
];

#[test]
fn kubo_finds_and_fetches_what_shoal_holds_and_gives_it_the_same_root() -> Result<()> {
    let Some(program) = kubo::program()? else { return missing("Kubo") };
    let folder = Folder::new("kubo-fetches")?;
    let ours = Ours::start(&folder.0.join("shoal"), "pnet", Vec::new())?;
    let kubo = Kubo::start(&program, &folder.0.join("kubo"), Some(&ours.key), &[ours.address()])?;
    kubo.wait_for_peer(&ours.peer)?;
    for size in SIZES {
        let content = noise(size as u64, size);
        let expected = (hash_of(&content), size as u64);
        let path = file(&folder.0, "content", &content)?;
        let (from, to) = (size / 3, size - size / 4);
        let part = (hash_of(&content[from..to]), (to - from) as u64);
        let (digest, root) = ours.hold(content)?;

        ensure!(kubo.add(&path, &["--only-hash"])? == root, "{size}: another root than Kubo's");
        kubo.finds(&root, &ours.peer)?;
        ensure!(kubo.cat(&root, Some((from as u64, (to - from) as u64)))? == part, "{size}: the range");
        ensure!(kubo.cat(&root, None)? == expected, "{size}: the whole");
        if size <= MIB {
            // A blob of one block is found by the very digest that its image names: raw, SHA-256, in base 16.
            let named = digest.replace("sha256:", "f01551220");
            ensure!(kubo.cat(&named, None)? == expected, "{size}: by digest");
        }
    }
    Ok(())
}

#[test]
fn shoal_fetches_by_cid_what_only_kubo_provides_whatever_its_shape() -> Result<()> {
    let Some(program) = kubo::program()? else { return missing("Kubo") };
    let folder = Folder::new("kubo-provides")?;
    let ours = Ours::start(&folder.0.join("shoal"), "pnet", Vec::new())?;
    let kubo = Kubo::start(&program, &folder.0.join("kubo"), Some(&ours.key), &[ours.address()])?;
    ours.node.wait_for_peers(1)?;
    for size in SIZES {
        for (number, shape) in SHAPES.iter().enumerate() {
            // Other bytes for each shape, so that nothing is there already.
            let content = noise((size + number) as u64, size);
            let path = file(&folder.0, "content", &content)?;
            let root = kubo.add(&path, shape)?;
            kubo.ipfs(&["routing", "provide", &root])?;
            let got = folder.0.join("got");
            ours.get(&root, &got)?;
            ensure!(hash_of_file(&got)? == (hash_of(&content), size as u64), "{size} {shape:?}: {root}");
        }
    }
    Ok(())
}

#[test]
fn shoal_finds_by_dht_whom_it_is_not_connected_to() -> Result<()> {
    let Some(program) = kubo::program()? else { return missing("Kubo") };
    let folder = Folder::new("kubo-dht")?;
    let ours = Ours::start(&folder.0.join("shoal"), "pnet", Vec::new())?;
    let middle = Kubo::start(&program, &folder.0.join("middle"), Some(&ours.key), &[ours.address()])?;
    // It knows only the one in the middle, which keeps its record.
    let far = Kubo::start(&program, &folder.0.join("far"), Some(&ours.key), std::slice::from_ref(&middle.address))?;
    middle.wait_for_peer(&far.peer)?;
    ours.node.wait_for_peers(1)?;
    let content = noise(77, 5 * MIB);
    let root = far.add(&file(&folder.0, "content", &content)?, &[])?;
    far.ipfs(&["routing", "provide", &root])?;
    let got = folder.0.join("got");
    ours.get(&root, &got)?;
    ensure!(hash_of_file(&got)?.0 == hash_of(&content));
    Ok(())
}

#[test]
fn a_peer_with_another_key_is_not_admitted() -> Result<()> {
    let Some(program) = kubo::program()? else { return missing("Kubo") };
    let folder = Folder::new("kubo-stranger")?;
    let ours = Ours::start(&folder.0.join("shoal"), "pnet", Vec::new())?;
    let other = "/key/swarm/psk/1.0.0/\n/base16/\n".to_owned() + &"5a".repeat(32) + "\n";
    let key = file(&folder.0, "other.key", other.as_bytes())?;
    let kubo = Kubo::start(&program, &folder.0.join("kubo"), Some(&key), &[])?;
    ensure!(kubo.ipfs(&["swarm", "connect", &ours.address()]).is_err(), "a stranger was let in");
    ensure!(ours.node.peers()? == 0);
    Ok(())
}
