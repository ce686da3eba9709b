//! What `cargo xtask bench bitswap` measures, in small: how blocks are shared out and what abuse may cost do not depend on how fast the
//! machine is. Times are not looked at.

use std::{path::Path, process::Command};

use serde_json::Value;

/// Runs the bench; the medians of its rows.
fn bench(name: &str, arguments: &[&str]) -> Value {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bitswap-{name}.json"));
    let mut bench = Command::new(env!("CARGO_BIN_EXE_bitswap"));
    bench.args(arguments).args(["--runs", "1", "--json"]).arg(&file);
    let output = bench.output().expect("the bench starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = std::fs::read(&file).expect("its report");
    serde_json::from_slice::<Value>(&report).expect("JSON")["rows"].clone()
}

fn figure(rows: &Value, name: &str, figure: &str) -> f64 {
    let row = rows.as_array().into_iter().flatten().find(|row| row["name"] == name);
    let value = row.and_then(|row| row["figures"][figure]["median"].as_f64());
    value.unwrap_or_else(|| panic!("no {figure} of {name} in {rows:#}"))
}

#[test]
fn four_holders_share_a_blob_evenly_and_a_faulty_one_is_avoided() {
    let rows = bench("holders", &["--only", "holders", "--shared", "64MiB"]);
    assert!(figure(&rows, "4 holders", "duplicates %") <= 1.0, "{rows:#}");
    // A leaf more or less is 6 % of a holder's share here.
    assert!(figure(&rows, "4 holders", "farthest from even %") <= 40.0, "{rows:#}");
    assert_eq!(figure(&rows, "4 holders, one lies", "avoided"), 1.0, "{rows:#}");
    for fault in ["slow", "stalls", "lies"] {
        let asked = figure(&rows, &format!("4 holders, one {fault}"), "asked after");
        assert!(asked <= 12.0, "a holder that {fault} was asked for {asked} leaves more");
    }
}

#[test]
fn askers_are_served_alike_and_pass_on_what_they_have() {
    let rows = bench("askers", &["--only", "askers", "--shared", "32MiB"]);
    // A leaf or two more or less of the 32.
    assert!(figure(&rows, "8, blobs of their own", "farthest from even %") <= 25.0, "{rows:#}");
    assert!(figure(&rows, "8, the same blob", "copies sent by the holder") <= 2.0, "{rows:#}");
}

#[test]
fn abuse_costs_little_memory_and_only_for_a_while() {
    let rows = bench("abuse", &["--only", "abuse"]);
    for row in rows.as_array().expect("rows") {
        let name = row["name"].as_str().expect("a name");
        assert!(figure(&rows, name, "done") >= 1.0, "{row:#}");
        assert!(figure(&rows, name, "grew MiB") <= 32.0, "{row:#}");
        assert!(figure(&rows, name, "kept MiB") <= 16.0, "{row:#}");
    }
}
