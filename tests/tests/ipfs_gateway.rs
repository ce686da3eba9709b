//! The trustless gateway, seen by a plain HTTP client and by an independent reader of CAR files.
//!
//! Reading CAR files needs Node.js and the packages of `tests/ipfs/helia`; see [`shoal_tests::ipfs`].

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use shoal_tests::{
    blobs::noise,
    http::{self, Answer},
    ipfs::{Folder, Ours, hash_of, helia, missing},
};

const MIB: usize = 1 << 20;

/// Holds nothing of this.
const ELSEWHERE: &str = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

/// The empty block, which its CID carries: what gateways are probed with.
const EMPTY: &str = "bafkqaaa";

fn ask(ours: &Ours, method: &str, target: &str, headers: &[&str]) -> Result<Answer> {
    http::request(TcpStream::connect(ours.ipfs)?, method, target, headers)
}

/// A body without its chunks' sizes.
fn body(answer: &Answer) -> Result<Vec<u8>> {
    if answer.header("transfer-encoding").is_none() {
        return Ok(answer.body.clone());
    }
    let (mut rest, mut whole) = (answer.body.as_slice(), Vec::new());
    loop {
        let at = rest.windows(2).position(|window| window == b"\r\n").context("a chunk without its size")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..at])?, 16)?;
        rest = &rest[at + 2..];
        if size == 0 {
            return Ok(whole);
        }
        ensure!(rest.len() >= size + 2, "a chunk is cut");
        whole.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

#[test]
fn a_block_comes_raw_whole_or_in_part_with_the_headers_of_a_trustless_gateway() -> Result<()> {
    let folder = Folder::new("gateway-raw")?;
    let ours = Ours::start(&folder.0, "pnet", Vec::new())?;
    let content = noise(1, 100_000);
    let (_, root) = ours.hold(content.clone())?;
    let raw = ask(&ours, "GET", &format!("/ipfs/{root}?format=raw"), &[])?;
    ensure!(raw.status == 200 && raw.body == content, "{}", raw.status);
    for (name, value) in [
        ("content-type", "application/vnd.ipld.raw"),
        ("content-length", "100000"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "public, max-age=29030400, immutable"),
        ("x-ipfs-path", &format!("/ipfs/{root}")),
        ("x-ipfs-roots", &root),
        ("content-disposition", &format!("attachment; filename=\"{root}.bin\"")),
        ("etag", &format!("\"{root}.raw\"")),
        ("accept-ranges", "bytes"),
    ] {
        ensure!(raw.header(name) == Some(value), "{name}: {:?}", raw.header(name));
    }

    let path = format!("/ipfs/{root}");
    let accept = "Accept: application/vnd.ipld.raw";
    ensure!(ask(&ours, "GET", &path, &[accept])?.body == content);
    let head = ask(&ours, "HEAD", &path, &[accept])?;
    ensure!(head.status == 200 && head.header("content-length") == Some("100000") && head.body.is_empty());
    let part = ask(&ours, "GET", &path, &[accept, "Range: bytes=10-19"])?;
    ensure!(part.status == 206 && part.body == content[10..20]);
    ensure!(part.header("content-range") == Some("bytes 10-19/100000"));
    ensure!(ask(&ours, "GET", &path, &[accept, "Range: bytes=100000-"])?.status == 416);
    let known = format!("If-None-Match: \"{root}.raw\"");
    let not_modified = ask(&ours, "GET", &path, &[accept, &known]);
    ensure!(not_modified?.status == 304);
    Ok(())
}

#[test]
fn what_cannot_be_answered_says_why_by_its_status() -> Result<()> {
    let folder = Folder::new("gateway-status")?;
    let ours = Ours::start(&folder.0, "pnet", Vec::new())?;
    let (_, root) = ours.hold(noise(2, 10))?;
    for (target, header, status) in [
        (format!("/ipfs/{EMPTY}?format=raw"), "", 200),
        (format!("/ipfs/{ELSEWHERE}?format=raw"), "", 404),
        (format!("/ipfs/{ELSEWHERE}?format=car"), "", 404),
        (format!("/ipfs/{ELSEWHERE}?format=raw"), "Cache-Control: only-if-cached", 412),
        (format!("/ipfs/{root}"), "Accept: text/html", 406),
        (format!("/ipfs/{root}?format=tar"), "", 406),
        (format!("/ipfs/{root}/below?format=raw"), "", 404),
        (format!("/ipfs/{root}?format=car&entity-bytes=x"), "", 400),
        ("/ipfs/not-a-cid?format=raw".to_owned(), "", 400),
        ("/routing/v1/providers/not-a-cid".to_owned(), "", 400),
        ("/ipns/example".to_owned(), "", 404),
    ] {
        let headers: &[&str] = if header.is_empty() { &[] } else { &[header] };
        let answer = ask(&ours, "GET", &target, headers)?;
        ensure!(answer.status == status, "{target}: {} for {status}", answer.status);
    }
    ensure!(ask(&ours, "POST", &format!("/ipfs/{root}?format=raw"), &[])?.status == 405);
    Ok(())
}

#[test]
fn a_node_names_itself_as_provider_of_what_it_holds_and_nobody_of_the_rest() -> Result<()> {
    let folder = Folder::new("gateway-routing")?;
    let ours = Ours::start(&folder.0, "pnet", Vec::new())?;
    let (_, root) = ours.hold(noise(3, 3 * MIB))?;
    let held = ask(&ours, "GET", &format!("/routing/v1/providers/{root}"), &[])?;
    ensure!(held.header("content-type") == Some("application/json"));
    let providers: Value = serde_json::from_slice(&held.body)?;
    let this = &providers["Providers"][0];
    ensure!(this["Schema"] == "peer" && this["ID"] == ours.peer.as_str(), "{providers}");
    ensure!(this["Protocols"][0] == "transport-bitswap");
    ensure!(ours.address().starts_with(this["Addrs"][0].as_str().context("an address")?), "{providers}");

    let lines = ask(&ours, "GET", &format!("/routing/v1/providers/{root}"), &["Accept: application/x-ndjson"])?;
    ensure!(serde_json::from_slice::<Value>(&lines.body)? == *this && lines.body.ends_with(b"\n"));
    let nobody = ask(&ours, "GET", &format!("/routing/v1/providers/{ELSEWHERE}"), &[])?;
    ensure!(
        nobody.status == 200 && serde_json::from_slice::<Value>(&nobody.body)?["Providers"] == serde_json::json!([])
    );
    Ok(())
}

#[test]
fn a_file_comes_as_a_car_that_an_independent_reader_makes_the_file_of() -> Result<()> {
    let Some(node) = helia::node() else { return missing("the reader of CAR files, which comes with Helia,") };
    let folder = Folder::new("gateway-car")?;
    let ours = Ours::start(&folder.0, "pnet", Vec::new())?;
    for size in [0, 1, MIB, MIB + 1, 20 * MIB + 7] {
        let content = noise(size as u64 + 4, size);
        let (_, root) = ours.hold(content.clone())?;
        let leaves = size.div_ceil(MIB).max(1);
        let whole = ask(&ours, "GET", &format!("/ipfs/{root}?format=car"), &[])?;
        ensure!(whole.status == 200);
        ensure!(whole.header("content-type") == Some("application/vnd.ipld.car; version=1; order=dfs; dups=y"));
        let car = helia::read_car(&node, &body(&whole)?, None)?;
        ensure!(car["roots"] == serde_json::json!([root]) && car["bad"] == serde_json::json!([]), "{car}");
        ensure!(car["file"]["sha256"] == hash_of(&content), "{size}: {}", car["file"]);
        let blocks = car["blocks"].as_array().context("blocks")?;
        ensure!(blocks[0] == root.as_str() && blocks.len() == leaves + usize::from(leaves > 1), "{size}");

        let block = ask(&ours, "GET", &format!("/ipfs/{root}?format=car&dag-scope=block"), &[])?;
        let car = helia::read_car(&node, &body(&block)?, None)?;
        ensure!(car["blocks"] == serde_json::json!([root]), "{size}: {car}");
    }
    let content = noise(5, 20 * MIB + 7);
    let (_, root) = ours.hold(content.clone())?;
    let (from, to) = (3 * MIB + 5, 6 * MIB);
    let target = format!("/ipfs/{root}?format=car&dag-scope=entity&entity-bytes={from}:{}", to - 1);
    let part = ask(&ours, "GET", &target, &[])?;
    let car = helia::read_car(&node, &body(&part)?, Some((from as u64, to as u64)))?;
    ensure!(car["file"]["sha256"] == hash_of(&content[from..to]), "{}", car["file"]);
    // The root, and the three leaves that hold the bytes.
    ensure!(car["blocks"].as_array().map(Vec::len) == Some(4), "{}", car["blocks"]);
    Ok(())
}

#[test]
fn clients_that_connect_and_say_nothing_do_not_keep_others_out_for_good() -> Result<()> {
    let folder = Folder::new("gateway-idle")?;
    let ours = Ours::start(&folder.0, "pnet", Vec::new())?;
    // More than are taken at once; they are let go when they have sent no head in time.
    let idle: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(ours.ipfs)).collect::<Result<_, _>>()?;
    let answer = ask(&ours, "GET", &format!("/ipfs/{EMPTY}?format=raw"), &[])?;
    ensure!(answer.status == 200);
    drop(idle);
    Ok(())
}
