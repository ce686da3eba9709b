//! Against an importer that is not ours: the JavaScript one, run by `tests/ipfs/importer/import.mjs`.
//!
//! Needs Node.js and `npm ci` in that folder. Where they are missing the tests say so on standard error and pass, except under `CI`, where they fail.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
};

use bytes::Bytes;
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{RngCore, SeedableRng},
};
use serde_json::{Value, json};
use shoal_content::{
    Algorithm, Cid, Digest, LEAF_SIZE, LeafHash, cid_matches,
    dag::{Builder, Span, Walk},
};

fn content(file: &Value) -> Vec<u8> {
    let key = Digest::of(Algorithm::Sha256, file["seed"].as_str().unwrap().as_bytes());
    let mut bytes = vec![0; file["size"].as_u64().unwrap() as usize];
    ChaCha20Rng::from_seed(key.hash().try_into().unwrap()).fill_bytes(&mut bytes);
    bytes
}

/// What the importer answers to each file; `None` where it cannot be run.
fn import(files: &[Value]) -> Option<Vec<Value>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/ipfs/importer");
    let is_installed = folder.join("node_modules/ipfs-unixfs-importer").is_dir();
    let spawn = || {
        Command::new("node")
            .arg("import.mjs")
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()
    };
    let Some(mut node) = is_installed.then(spawn).flatten() else {
        assert!(std::env::var_os("CI").is_none(), "no Node.js, or no `npm ci` in tests/ipfs/importer");
        // Straight to standard error: what is printed by a test that passes is not shown.
        let told = b"SKIPPED: no Node.js, or no `npm ci` in tests/ipfs/importer: not compared with another importer\n";
        let _ = std::io::stderr().write_all(told);
        return None;
    };

    let mut input = node.stdin.take().unwrap();
    let lines: String = files.iter().map(|file| format!("{file}\n")).collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let answers: Vec<Value> = BufReader::new(node.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    writer.join().unwrap().unwrap();
    assert!(node.wait().unwrap().success());
    assert_eq!(answers.len(), files.len());
    Some(answers)
}

#[test]
fn another_importer_gives_blobs_of_any_size_the_same_roots() {
    let mut runner = TestRunner::deterministic();
    let mut random = |most: u64| (0..most).new_tree(&mut runner).unwrap().current();
    let edges = [0, 1, LEAF_SIZE - 1, LEAF_SIZE, LEAF_SIZE + 1, 2 * LEAF_SIZE];
    let sizes = edges.into_iter().chain((0..24).map(|_| random(20 * LEAF_SIZE))).collect::<Vec<_>>();
    let files: Vec<Value> = sizes
        .iter()
        .map(|size| json!({"seed": format!("{size}"), "size": size, "profile": "unixfs-v1-2025"}))
        .collect();
    for (file, answer) in files.iter().zip(import(&files).into_iter().flatten()) {
        let mut builder = Builder::new();
        for leaf in content(file).chunks(LEAF_SIZE as usize) {
            builder.leaf(LeafHash::of(leaf), leaf.len() as u64);
        }
        assert_eq!(builder.finish().root.to_string(), answer["root"].as_str().unwrap(), "{file}");
    }
}

#[test]
fn nodes_of_any_width_are_the_same() {
    let files: Vec<Value> = [(2, 17), (3, 28), (4, 64), (4, 65), (7, 400), (174, 175)]
        .into_iter()
        .map(|(width, leaves)| {
            json!({
                "seed": "width", "size": leaves * 10 - 3, "chunk": 10, "width": width, "layout": "balanced",
                "options": {"rawLeaves": true, "cidVersion": 1},
            })
        })
        .collect();
    for (file, answer) in files.iter().zip(import(&files).into_iter().flatten()) {
        let mut builder = Builder::with_width(file["width"].as_u64().unwrap() as usize);
        for leaf in content(file).chunks(10) {
            builder.leaf(LeafHash::of(leaf), leaf.len() as u64);
        }
        let dag = builder.finish();
        assert_eq!(dag.root.to_string(), answer["root"].as_str().unwrap(), "{file}");
        for (cid, block) in dag.nodes {
            assert_eq!(hex::encode(block), answer["blocks"][cid.to_string()].as_str().unwrap());
        }
    }
}

#[test]
fn files_of_every_shape_that_another_importer_makes_are_read_back() {
    let mut files = Vec::new();
    for (raw_leaves, version, leaf_type, reduce, order) in [
        (true, 1, "file", true, "links-first"),
        (true, 0, "file", true, "links-first"),
        (false, 0, "file", true, "links-first"),
        (false, 1, "raw", false, "links-first"),
        (false, 1, "file", true, "data-first"),
    ] {
        for (layout, size, width) in
            [("balanced", 1000, 4), ("trickle", 1000, 4), ("trickle", 5000, 2), ("balanced", 0, 2), ("balanced", 7, 2)]
        {
            files.push(json!({
                "seed": "shape", "size": size, "chunk": 30, "width": width, "layout": layout,
                "options": {
                    "rawLeaves": raw_leaves, "cidVersion": version, "leafType": leaf_type, "reduceSingleLeafToSelf": reduce, "fieldOrder": order,
                },
            }));
        }
    }
    for (file, answer) in files.iter().zip(import(&files).into_iter().flatten()) {
        let blocks: HashMap<Cid, Bytes> = answer["blocks"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(cid, block)| (cid.parse().unwrap(), hex::decode(block.as_str().unwrap()).unwrap().into()))
            .collect();
        let root: Cid = answer["root"].as_str().unwrap().parse().unwrap();
        let mut walk = Walk::new(root, Span::ALL, 100).unwrap();
        let mut read = Vec::new();
        while !walk.is_done() {
            while let Some(cid) = walk.next_want() {
                let block = blocks.get(&cid).unwrap_or_else(|| panic!("{file}: no block {cid}"));
                assert!(cid_matches(&cid, block));
                walk.feed(&cid, block).unwrap_or_else(|error| panic!("{file}: {error}"));
            }
            while let Some(part) = walk.next_content() {
                read.extend_from_slice(&part);
            }
        }
        assert!(read == content(file), "{file}");
    }
}
