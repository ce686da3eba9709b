//! With Helia in one private swarm: each finds what the other holds by DHT, and fetches it by CID.
//!
//! Needs Node.js 22 and Helia, not root; see [`shoal_tests::ipfs`].

use std::time::Duration;

use anyhow::{Result, ensure};
use shoal_tests::{
    blobs::noise,
    ipfs::{Folder, Helia, Ours, file, hash_of, hash_of_file, helia, missing},
    wait_for,
};

const MIB: usize = 1 << 20;
const SIZES: [usize; 4] = [1, MIB, MIB + 1, 300 * MIB];
const FOUND: Duration = Duration::from_secs(60);

#[test]
fn helia_finds_and_fetches_what_shoal_holds_and_gives_it_the_same_root() -> Result<()> {
    let Some(node) = helia::node() else { return missing("Helia") };
    let folder = Folder::new("helia-fetches")?;
    let ours = Ours::start(&folder.0.join("shoal"), "pnet", Vec::new())?;
    let mut helia = Helia::start(&node, &ours.key, &[ours.address()])?;
    for size in SIZES {
        let content = noise(size as u64, size);
        let whole = (hash_of(&content), size as u64);
        let path = file(&folder.0, "content", &content)?;
        let (from, to) = (size / 3, size - size / 4);
        let part = (hash_of(&content[from..to]), (to - from) as u64);
        let (_, root) = ours.hold(content)?;

        wait_for("helia finds the provider", FOUND, || Ok(helia.names(&root, &ours.peer)?.then_some(())))?;
        ensure!(helia.cat(&root, from as u64, to as u64)? == part, "{size}: the range");
        ensure!(helia.cat(&root, 0, size as u64)? == whole, "{size}: the whole");
        ensure!(helia.root(&path)? == root, "{size}: another root than Helia's");
    }
    Ok(())
}

#[test]
fn shoal_fetches_by_cid_what_only_helia_provides_whatever_its_shape() -> Result<()> {
    let Some(node) = helia::node() else { return missing("Helia") };
    let folder = Folder::new("helia-provides")?;
    let ours = Ours::start(&folder.0.join("shoal"), "pnet", Vec::new())?;
    let mut helia = Helia::start(&node, &ours.key, &[ours.address()])?;
    ours.node.wait_for_peers(1)?;
    for size in SIZES {
        for (number, (chunk, raw, version)) in
            [(MIB, true, 1), (256 << 10, true, 1), (256 << 10, false, 0)].into_iter().enumerate()
        {
            let content = noise((size + number) as u64, size);
            let path = file(&folder.0, "content", &content)?;
            let root = helia.add(&path, chunk as u64, raw, version)?;
            let got = folder.0.join("got");
            ours.get(&root, &got)?;
            ensure!(hash_of_file(&got)? == (hash_of(&content), size as u64), "{size} {chunk} {version}: {root}");
        }
    }
    Ok(())
}
