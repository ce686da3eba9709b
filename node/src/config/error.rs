//! What may be wrong with a configuration, and where.

use std::{fmt, path::PathBuf};

use super::value::Value;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave one.
    Default,
    /// A line of the file, counted from 1.
    File {
        /// The file.
        path: String,
        /// The line of the key.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag, without its dashes.
    Flag(String),
}

/// Why there is no configuration. Each names what is wrong, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {reason}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{path}:{line}:{column}: {message}")]
    Syntax {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What the TOML parser said.
        message: String,
    },
    /// A key that Shoal does not know.
    #[error("{place}: unknown key {key}{hint}", place = .at.place())]
    Unknown {
        /// The key as it stands there.
        key: String,
        /// Where.
        at: Place,
        /// A key that may have been meant, ready to be appended.
        hint: String,
    },
    /// A value that the key cannot have.
    #[error("{place}: {key} = {value}: {reason}", place = .at.place())]
    Bad {
        /// The key.
        key: String,
        /// The value, shortened.
        value: String,
        /// Where.
        at: Place,
        /// What it must be.
        reason: String,
    },
    /// A key without a value that needs one.
    #[error("{key} must be set")]
    Missing {
        /// The key.
        key: String,
    },
}

/// A [`Source`] inside an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(pub Source);

/// An error quotes no more of a value than this many characters.
const QUOTED: usize = 80;

impl ConfigError {
    pub(crate) fn bad(key: &str, value: &Value, source: &Source, reason: impl Into<String>) -> Self {
        let value = value.to_string();
        let value = if value.chars().count() > QUOTED {
            format!("{}…", value.chars().take(QUOTED).collect::<String>())
        } else {
            value
        };
        Self::Bad { key: key.to_owned(), value, at: Place(source.clone()), reason: reason.into() }
    }

    /// An unknown key; `known` are the names that could have been meant.
    pub(crate) fn unknown<'a>(key: &str, source: Source, known: impl Iterator<Item = &'a str>) -> Self {
        let key: String = key.chars().take(QUOTED).collect();
        // Two slips of the finger make another word; more than that makes another key.
        const NEAR: usize = 2;
        let nearest = known.map(|name| (distance(&key, name), name)).min();
        let hint = match nearest {
            Some((distance, name)) if distance <= NEAR => format!(", did you mean {name}?"),
            _ => ": `shoal config` prints those there are".to_owned(),
        };
        Self::Unknown { key: key.escape_debug().to_string(), at: Place(source), hint }
    }
}

impl Place {
    fn place(&self) -> String {
        match &self.0 {
            Source::Default => "default".to_owned(),
            Source::File { path, line } => format!("{}:{line}", path.escape_debug()),
            Source::Env(name) => format!("environment variable {name}"),
            Source::Flag(name) => format!("flag --{name}"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { path, line } => write!(f, "file {}:{line}", path.escape_debug()),
            Source::Env(name) => write!(f, "env {name}"),
            Source::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// Insertions, deletions and replacements that make one text the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
