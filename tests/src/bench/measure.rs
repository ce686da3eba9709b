//! Medians of runs.

use super::{
    Wanted,
    fault::Fault,
    outcome::Run,
    scenario::{Plan, Scenario, System},
};

/// From here on it is the cores that a run waited for.
const CORES_ARE_THE_LIMIT: f64 = 0.85;
/// From here on a run says little, since others had this share of the cores.
const OTHERS_DISTURB: f64 = 0.1;

/// One line of the table: the median of each figure over all runs.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) scenario: Scenario,
    pub(crate) system: System,
    pub(crate) fault: Option<Fault>,
    /// Seconds to the last byte of the last node; none where not even the median run brought all nodes there.
    pub(crate) last: Option<f64>,
    /// The bound in seconds.
    pub(crate) bound: f64,
    /// Smallest and largest of `last ÷ bound`, where all runs have one.
    pub(crate) spread: Option<(f64, f64)>,
    /// Time ÷ that of direct pulls, where these were measured too.
    pub(crate) to_direct: Option<f64>,
    /// The slowest node's own time ÷ what it needs at least by itself.
    pub(crate) slowest: f64,
    /// What upstream sent ÷ the image.
    pub(crate) copies: f64,
    /// CPU seconds for each GB delivered: of what carries the bytes.
    pub(crate) cpu: f64,
    /// The same of all processes, `ctr`, containerd and upstream included.
    pub(crate) cpu_of_all: f64,
    /// MiB.
    pub(crate) peak: f64,
    /// Busy share of all cores.
    pub(crate) busy: f64,
    /// Of which with others' work.
    pub(crate) others: f64,
    /// Seconds that the fault cost.
    pub(crate) lost: Option<f64>,
    pub(crate) runs: Vec<Run>,
}

impl Row {
    /// `earlier` are rows that it may be compared with: the same without the fault, and that of direct pulls.
    pub(crate) fn of(wanted: &Wanted, plan: &Plan, runs: Vec<Run>, earlier: &[Row]) -> Row {
        let time_of = |system: System| {
            let same = |row: &&Row| row.scenario == wanted.scenario && row.system == system && row.fault.is_none();
            earlier.iter().find(same).and_then(|row| row.last)
        };
        let (direct, faultless) = (time_of(System::Direct), time_of(wanted.system));
        let of = |figure: &dyn Fn(&Run) -> f64| median(runs.iter().map(figure).collect());
        let last = of(&|run| run.last(plan).unwrap_or(f64::INFINITY));
        let last = last.is_finite().then_some(last);
        let ratios: Option<Vec<f64>> = runs.iter().map(|run| run.last(plan).map(|last| last / run.bound)).collect();
        let spread = ratios.map(|ratios| {
            (ratios.iter().copied().fold(f64::INFINITY, f64::min), ratios.iter().copied().fold(0.0, f64::max))
        });
        Row {
            scenario: wanted.scenario,
            system: wanted.system,
            fault: wanted.fault,
            last,
            bound: of(&|run| run.bound),
            spread,
            to_direct: direct.zip(last).map(|(direct, last)| last / direct),
            slowest: of(&|run| run.slowest(plan)),
            copies: of(&Run::copies),
            cpu: of(&|run| run.cpu_per_gb(|name| wanted.system.consists_of(name))),
            cpu_of_all: of(&|run| run.cpu_per_gb(|_| true)),
            peak: of(&|run| run.peak as f64 / f64::from(1 << 20)),
            busy: of(&|run| run.busy),
            others: of(&|run| run.others),
            lost: wanted.fault.and(faultless).zip(last).map(|(without, with)| with - without),
            runs,
        }
    }

    /// Time ÷ bound.
    pub(crate) fn ratio(&self) -> Option<f64> {
        self.last.map(|last| last / self.bound)
    }

    /// What a run waited for most: `links`, `cores`, or, where the figures say little, `others`.
    pub(crate) fn limit(&self) -> &'static str {
        if self.others >= OTHERS_DISTURB {
            "others"
        } else if self.busy >= CORES_ARE_THE_LIMIT {
            "cores"
        } else {
            "links"
        }
    }

    /// Over all runs: nodes that have all, of those that live.
    pub(crate) fn whole(&self) -> (usize, usize) {
        let counts = self.runs.iter().map(Run::whole);
        counts.fold((0, 0), |(whole, living), (more, alive)| (whole + more, living + alive))
    }
}

/// The middle one; of an even number the upper of the two in the middle, so that nothing is made to look better.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn of_an_even_number_of_runs_the_worse_of_the_two_in_the_middle_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 3.0);
        // A run without a last node is worse than any.
        assert_eq!(median(vec![f64::INFINITY, 1.0]), f64::INFINITY);
    }
}
