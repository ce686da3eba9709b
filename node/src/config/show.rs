//! `shoal config`: the effective configuration, with where each value came from.

use std::fmt::Write as _;

use serde_json::{Map, json};

use super::Effective;

/// As TOML that gives the same configuration when it is read again; sources are comments.
pub fn toml(effective: &Effective) -> String {
    let mut out = String::new();
    for warning in &effective.warnings {
        let _ = writeln!(out, "# warning: {warning}");
    }
    let mut section = "";
    for entry in &effective.entries {
        let (of, name) = entry.key.split_once('.').unwrap_or(("", &entry.key));
        if of != section {
            let _ = writeln!(out, "\n[{of}]");
            section = of;
        }
        let _ = match &entry.value {
            Some(value) => writeln!(out, "{name} = {value}  # {}", entry.source),
            None => writeln!(out, "# {name} is not set  # {}", entry.source),
        };
    }
    out
}

/// As one object: each key with its `value` (null: unset) and `source`.
pub fn json(effective: &Effective) -> serde_json::Value {
    let values: Map<_, _> = effective
        .entries
        .iter()
        .map(|entry| (entry.key.clone(), json!({ "value": entry.value, "source": entry.source.to_string() })))
        .collect();
    json!({ "values": values, "warnings": effective.warnings })
}
