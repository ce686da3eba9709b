//! Figures: medians of runs, and whether they are what is wanted.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Value, json};

/// What is wanted of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    None,
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Limit::None => true,
            Limit::AtMost(most) => value <= most,
            Limit::AtLeast(least) => value >= least,
        }
    }
}

/// Figures of one run of one thing.
#[derive(Clone, Debug)]
pub(super) struct Row {
    part: &'static str,
    name: String,
    figures: Vec<(&'static str, f64, Limit)>,
}

impl Row {
    pub(super) fn new(part: &'static str, name: &str) -> Self {
        Self { part, name: name.to_owned(), figures: Vec::new() }
    }

    pub(super) fn with(mut self, name: &'static str, value: f64, limit: Limit) -> Self {
        self.figures.push((name, value, limit));
        self
    }
}

/// All that was measured; the runs of one thing are rows of one name.
#[derive(Debug, Default)]
pub(super) struct Report {
    rows: Vec<Row>,
}

impl Report {
    #[expect(clippy::print_stderr, reason = "a long measurement says how it goes")]
    pub(super) fn add(&mut self, row: Row) {
        eprintln!("{:12} {:26} {}", row.part, row.name, figures(&row.figures));
        self.rows.push(row);
    }

    /// Medians, one line for each thing; figures that are not what is wanted are marked.
    pub(super) fn table(&self) -> String {
        let mut table = String::from("\nMedians; a figure with ! is not what is wanted.\n");
        for (part, name, figures_) in self.medians() {
            let _ = writeln!(table, "{part:12} {name:26} {}", figures(&figures_));
        }
        table
    }

    /// The medians, what is wanted, and all runs.
    pub(super) fn json(&self) -> Result<String> {
        let medians: Vec<Value> = self
            .medians()
            .into_iter()
            .map(|(part, name, figures)| {
                let figures: serde_json::Map<String, Value> = figures
                    .iter()
                    .map(|(figure, value, limit)| {
                        let wanted = match limit {
                            Limit::None => Value::Null,
                            Limit::AtMost(most) => json!({ "at_most": most }),
                            Limit::AtLeast(least) => json!({ "at_least": least }),
                        };
                        let runs: Vec<f64> = self.values(part, &name, figure);
                        let holds = limit.holds(*value);
                        (
                            (*figure).to_owned(),
                            json!({ "median": value, "wanted": wanted, "holds": holds, "runs": runs }),
                        )
                    })
                    .collect();
                json!({ "part": part, "name": name, "figures": figures })
            })
            .collect();
        Ok(serde_json::to_string_pretty(&json!({ "rows": medians }))?)
    }

    fn values(&self, part: &str, name: &str, figure: &str) -> Vec<f64> {
        let rows = self.rows.iter().filter(|row| row.part == part && row.name == name);
        rows.flat_map(|row| &row.figures).filter(|(found, ..)| *found == figure).map(|(_, value, _)| *value).collect()
    }

    fn medians(&self) -> Vec<Median> {
        let mut medians: Vec<Median> = Vec::new();
        for row in &self.rows {
            if medians.iter().any(|(part, name, _)| *part == row.part && *name == row.name) {
                continue;
            }
            let middle = |(figure, _, limit): &(&'static str, f64, Limit)| {
                (*figure, median(self.values(row.part, &row.name, figure)), *limit)
            };
            medians.push((row.part, row.name.clone(), row.figures.iter().map(middle).collect()));
        }
        medians
    }
}

/// Part and name of some rows, and the medians of their figures.
type Median = (&'static str, String, Vec<(&'static str, f64, Limit)>);

fn figures(figures: &[(&str, f64, Limit)]) -> String {
    let one = |(name, value, limit): &(&str, f64, Limit)| {
        let mark = if limit.holds(*value) { "" } else { "!" };
        let digits = if value.abs() < 10.0 { 2 } else { 0 };
        format!("{name} {value:.digits$}{mark}")
    };
    figures.iter().map(one).collect::<Vec<_>>().join("  ")
}

/// The middle one; of an even number the mean of the two in the middle.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        count => (values[(count - 1) / 2] + values[count / 2]) / 2.0,
    }
}

/// The value that 99 of 100 do not pass.
pub(super) fn p99(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() * 99).div_ceil(100).saturating_sub(1);
    values.get(index).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_medians_and_marks_what_is_not_as_wanted() {
        let mut report = Report::default();
        for value in [0.5, 0.9, 0.6] {
            report.add(Row::new("part", "name").with("of bare", value, Limit::AtLeast(0.7)));
        }
        assert!(report.table().contains("of bare 0.60!"), "{}", report.table());
        let json: Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["rows"][0]["figures"]["of bare"]["holds"], false);
    }

    #[test]
    fn one_in_a_hundred_may_pass_the_ninety_ninth() {
        assert_eq!(p99((1..=100).map(f64::from).collect()), 99.0);
        assert_eq!(p99(vec![5.0]), 5.0);
    }
}
