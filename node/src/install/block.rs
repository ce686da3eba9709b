//! What Shoal writes into a file: a block between two marker lines, so that it can be told from what others wrote,
//! be it the whole file or a part of it.

use std::{collections::HashSet, ops::Range};

use toml::de::DeTable;

/// The first line of a block begins with this.
const BEGIN: &str = "# >>> shoal";
/// The last line of a block is this.
const END: &str = "# <<< shoal";
/// The second line: how many directories above the file were made for it.
const MADE: &str = "# directories made: ";

/// Why a file cannot be written into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BlockError {
    /// The file is not TOML, so the runtime does not read it either.
    #[error("is not valid TOML ({0}): mend or remove it first")]
    NotToml(String),
    /// One of the marker lines is gone.
    #[error("has a line `{BEGIN}` without its `{END}`: remove what is left of the entry by hand")]
    Torn,
    /// Somebody wrote an entry for the gateway themselves.
    #[error("has an entry for {0} that `shoal install` did not write: left as it is")]
    AlreadyThere(String),
    /// The entry cannot be put first without touching the rest.
    #[error("cannot be extended without rewriting it: add the entry by hand")]
    CannotExtend,
}

/// A block: marker lines around `body`, which ends with a newline.
pub(crate) fn render(body: &str, made: usize) -> String {
    format!("{BEGIN}: written by `shoal install`, taken back by `shoal uninstall`\n{MADE}{made}\n{body}{END}\n")
}

/// Where the block stands in a file; `None` when there is none.
pub(crate) fn find(text: &str) -> Result<Option<Range<usize>>, BlockError> {
    let Some(start) = line_starting_with(text, BEGIN, 0) else { return Ok(None) };
    let end = line_starting_with(text, END, start).ok_or(BlockError::Torn)?;
    let end = text[end..].find('\n').map_or(text.len(), |newline| end + newline + 1);
    Ok(Some(start..end))
}

fn line_starting_with(text: &str, start: &str, from: usize) -> Option<usize> {
    let mut offset = from;
    for line in text[from..].split_inclusive('\n') {
        if line.starts_with(start) {
            return Some(offset);
        }
        offset += line.len();
    }
    None
}

/// How many directories were made for the file of this block. Never more than a path may have, whatever stands there.
pub(crate) fn made(block: &str) -> usize {
    const DEEPEST: usize = 16;
    let line = block.lines().find_map(|line| line.strip_prefix(MADE));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0).min(DEEPEST)
}

/// The file without its block.
pub(crate) fn without(text: &str, block: Range<usize>) -> String {
    format!("{}{}", &text[..block.start], &text[block.end..])
}

/// The file with a block before its first table: keys of the root stay before it, other tables after it.
pub(crate) fn insert(original: &str, block: &str) -> String {
    let mut offset = 0;
    for line in original.split_inclusive('\n') {
        if line.trim_start().starts_with('[') {
            break;
        }
        offset += line.len();
    }
    let (before, after) = original.split_at(offset);
    let newline = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    format!("{before}{newline}{block}{after}")
}

/// Checks that `merged` says what `original` says, and one entry `host.<gateway>` before all others.
pub(crate) fn check_hosts(original: &str, merged: &str, gateway: &str) -> Result<(), BlockError> {
    let mut expected: toml::Table = parse(original)?;
    let hosts = |table: &toml::Table| -> HashSet<String> {
        let hosts = table.get("host").and_then(toml::Value::as_table);
        hosts.map(|hosts| hosts.keys().cloned().collect()).unwrap_or_default()
    };
    if hosts(&expected).contains(gateway) {
        return Err(BlockError::AlreadyThere(gateway.to_owned()));
    }
    let mut found: toml::Table = merged.parse().map_err(|_| BlockError::CannotExtend)?;
    if first_host(merged).as_deref() != Some(gateway) {
        return Err(BlockError::CannotExtend);
    }
    if !expected.contains_key("server") {
        found.remove("server");
    }
    if let Some(toml::Value::Table(hosts)) = found.get_mut("host") {
        hosts.remove(gateway);
        if hosts.is_empty() && !expected.contains_key("host") {
            found.remove("host");
        }
    }
    if let Some(toml::Value::Table(hosts)) = expected.get("host")
        && hosts.is_empty()
    {
        expected.remove("host");
        found.remove("host");
    }
    if found == expected { Ok(()) } else { Err(BlockError::CannotExtend) }
}

pub(crate) fn parse(text: &str) -> Result<toml::Table, BlockError> {
    text.parse().map_err(|error: toml::de::Error| BlockError::NotToml(error.message().to_owned()))
}

/// containerd asks hosts in the order in which they stand in the file.
fn first_host(text: &str) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let (_, hosts) = table.get_ref().iter().find(|(key, _)| key.get_ref() == "host")?;
    let hosts = hosts.get_ref().as_table()?;
    let first = hosts.iter().min_by_key(|(key, _)| key.span().start)?;
    Some(first.0.get_ref().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: &str = "http://127.0.0.1:5050";

    fn block() -> String {
        render(&format!("[host.\"{GATEWAY}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"), 1)
    }

    #[test]
    fn a_block_goes_before_the_first_table_and_comes_out_without_a_trace() {
        for original in [
            "",
            "server = \"https://a.example\"\n",
            "server = \"https://a.example\"\n\n# theirs\n[host.\"https://b.example\"]\n  capabilities = [\"pull\"]\n",
            "[host.\"https://b.example\"]\r\n  capabilities = [\"pull\"]\r\n",
        ] {
            let merged = insert(original, &block());
            check_hosts(original, &merged, GATEWAY).unwrap();
            let found = find(&merged).unwrap().unwrap();
            assert_eq!(made(&merged[found.clone()]), 1);
            assert_eq!(without(&merged, found), original);
        }
    }

    #[test]
    fn a_file_that_cannot_be_extended_is_refused_with_the_reason() {
        let refused = |original: &str| check_hosts(original, &insert(original, &block()), GATEWAY).unwrap_err();
        assert!(matches!(refused("server = \n"), BlockError::NotToml(_)));
        assert_eq!(refused(&format!("[host.\"{GATEWAY}\"]\n")), BlockError::AlreadyThere(GATEWAY.to_owned()));
        assert_eq!(refused("host = { \"https://b.example\" = {} }\n"), BlockError::CannotExtend);
        assert_eq!(refused("x = [\n[1],\n]\n"), BlockError::CannotExtend);
    }

    #[test]
    fn a_block_without_its_end_is_not_guessed_at() {
        let torn = block().replace(END, "");
        assert_eq!(find(&torn), Err(BlockError::Torn));
        assert_eq!(find("# a comment\n"), Ok(None));
    }

    #[test]
    fn a_count_that_somebody_changed_removes_no_more_than_there_is() {
        assert_eq!(made("# directories made: 99999999999999999999\n"), 0);
        assert_eq!(made("# directories made: 9999\n"), 16);
        assert_eq!(made("nothing"), 0);
    }
}
