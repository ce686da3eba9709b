//! What an install or uninstall did, or would do.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::output::Output;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It was not there.
    Created,
    /// Somebody else's file got our entry; `shoal uninstall` gives back what was there.
    Merged,
    /// Our entry was there and is another now.
    Updated,
    /// It is as it should be.
    Unchanged,
    /// What was there before is back, byte for byte.
    Restored,
    /// Our entry is out of a file that others changed in the meantime.
    TakenOut,
    /// It held nothing but our entry.
    Removed,
    /// It was left alone; the reason says why.
    Refused,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The file.
    pub path: PathBuf,
    /// What became of it.
    pub action: Action,
    /// Why, where it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// All files, and what else the operator must know or do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// In the order in which they were handled.
    pub steps: Vec<Step>,
    /// Sentences.
    pub notes: Vec<String>,
}

impl Report {
    pub(crate) fn step(&mut self, path: &Path, action: Action) {
        self.steps.push(Step { path: path.to_owned(), action, reason: None });
    }

    pub(crate) fn refuse(&mut self, path: &Path, reason: impl Into<String>) {
        self.steps.push(Step { path: path.to_owned(), action: Action::Refused, reason: Some(reason.into()) });
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// How many files were left alone against the operator's wish.
    pub fn refused(&self) -> usize {
        self.steps.iter().filter(|step| step.action == Action::Refused).count()
    }

    pub(crate) fn print(&self, out: &mut Output, dry_run: bool) -> std::io::Result<()> {
        if dry_run {
            out.line("dry run: nothing is changed")?;
        }
        for Step { path, action, reason } in &self.steps {
            let word = match action {
                Action::Created => "created",
                Action::Merged => "merged into",
                Action::Updated => "updated",
                Action::Unchanged => "unchanged",
                Action::Restored => "restored",
                Action::TakenOut => "taken out of",
                Action::Removed => "removed",
                Action::Refused => "refused",
            };
            match reason {
                Some(reason) => out.line(format!("{word:12} {} {reason}", path.display()))?,
                None => out.line(format!("{word:12} {}", path.display()))?,
            }
        }
        if self.steps.is_empty() {
            out.line("nothing to do")?;
        }
        for note in &self.notes {
            out.line(format!("note: {note}"))?;
        }
        Ok(())
    }
}
