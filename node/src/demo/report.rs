//! What the demonstration showed, as a table and as JSON.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::{admin::types::BytesBySource, output::Output};

/// One pull.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) node: String,
    pub(super) step: &'static str,
    pub(super) seconds: f64,
    /// Bytes of config and layers that the client got.
    pub(super) pulled: u64,
    /// Where the node had them from.
    pub(super) bytes: BytesBySource,
}

/// The whole demonstration.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) nodes: u8,
    pub(super) image_bytes: u64,
    pub(super) layers: usize,
    pub(super) upstream_mbit: u64,
    pub(super) direct_seconds: f64,
    pub(super) direct_bytes: u64,
    pub(super) stampede_seconds: f64,
    pub(super) upstream_bytes: u64,
    pub(super) rows: Vec<Row>,
}

impl Report {
    /// Prints it, for people or as one JSON object.
    pub(super) fn print(&self, out: &mut Output, json: bool) -> Result<()> {
        if json {
            return Ok(out.json(self)?);
        }
        let rate = match self.upstream_mbit {
            0 => "as fast as this machine allows".to_owned(),
            mbit => format!("{mbit} Mbit/s for all together"),
        };
        out.line(format!(
            "\nan image of {} in {} layers; the registry sends {rate}\n",
            megabytes(self.image_bytes),
            self.layers
        ))?;
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["node", "pull", "time", "from upstream", "from peers", "from disk"]);
        for row in &self.rows {
            table.add_row([
                row.node.clone(),
                row.step.to_owned(),
                format!("{:.2} s", row.seconds),
                megabytes(row.bytes.upstream),
                megabytes(row.bytes.peers),
                megabytes(row.bytes.disk),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        out.line(table.to_string())?;

        let copies = |bytes: u64| bytes as f64 / self.image_bytes.max(1) as f64;
        let mut summary = Table::new();
        summary.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        summary.set_header([
            format!("{} nodes at once", self.nodes),
            "last node".into(),
            "from upstream".into(),
            "copies".into(),
        ]);
        summary.add_row([
            "without Shoal".to_owned(),
            format!("{:.2} s", self.direct_seconds),
            megabytes(self.direct_bytes),
            format!("{:.2}", copies(self.direct_bytes)),
        ]);
        summary.add_row([
            "with Shoal".to_owned(),
            format!("{:.2} s", self.stampede_seconds),
            megabytes(self.upstream_bytes),
            format!("{:.2}", copies(self.upstream_bytes)),
        ]);
        for column in summary.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        Ok(out.line(format!("\n{summary}"))?)
    }
}

fn megabytes(bytes: u64) -> String {
    if bytes > 0 && bytes < 50_000 {
        format!("{:.1} kB", bytes as f64 / 1e3)
    } else {
        format!("{:.1} MB", bytes as f64 / 1e6)
    }
}
