//! A picture of where each node's bytes came from, over time: an SVG that needs no script and no font of its own.

use std::fmt::Write as _;

use super::{
    Wanted,
    outcome::{NodeRun, Run, Sample},
    scenario::{Plan, System},
};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 76.0;
const TOP: f64 = 70.0;
const BOTTOM: f64 = 40.0;
/// Height of a row, and of what lies between two.
const ROW: f64 = 52.0;
const GAP: f64 = 12.0;
/// About so many marks on the axis of time.
const MARKS: f64 = 8.0;

// Told apart by those who see no red or green, and in print.
const UPSTREAM: &str = "#d55e00";
const PEERS: &str = "#0072b2";
const LINK: &str = "#7a7a7a";

/// Draws a run. Each row is a node: bytes that it has, as a share of the image, by source; the first is what upstream sent.
pub(crate) fn picture(plan: &Plan, wanted: &Wanted, run: &Run) -> String {
    let rows = plan.nodes.len() + 1;
    let height = TOP + rows as f64 * (ROW + GAP) + BOTTOM;
    let end = run.nodes.iter().map(|node| node.over).fold(run.bound, f64::max) * 1.02;
    let x = |seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    title(&mut svg, plan, wanted, run);
    axis(&mut svg, end, height, x);
    let bottom = height - BOTTOM;
    let dashed = |svg: &mut String, at: f64, name: &str, colour: &str| {
        let at = x(at);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"{colour}\" stroke-dasharray=\"5 4\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"{colour}\">{name}</text>",
            TOP - 6.0
        );
    };

    let copies = run.copies().max(1.0);
    let sent: Vec<(f64, f64)> =
        run.samples.iter().map(|sample| (sample.at, sample.upstream as f64 / run.bytes as f64 / copies)).collect();
    row(&mut svg, 0, "upstream", &format!("{:.2} copies", run.copies()));
    area(&mut svg, 0, x, &sent, None, UPSTREAM);
    for node in 0..plan.nodes.len() {
        let pulled = run.nodes.iter().find(|pulled| pulled.node == node);
        row(&mut svg, node + 1, &format!("node {node}"), &told(plan, node, pulled));
        // A node that has the image before has nothing to receive.
        let share = |of: &dyn Fn(&Sample) -> u64| -> Vec<(f64, f64)> {
            run.samples.iter().map(|sample| (sample.at, (of(sample) as f64 / run.bytes as f64).min(1.0))).collect()
        };
        let told = |sample: &Sample| sample.sources.get(node).copied().unwrap_or_default();
        if wanted.system == System::Shoal {
            let below = share(&|sample| told(sample).upstream);
            let above = share(&|sample| told(sample).upstream + told(sample).peers);
            area(&mut svg, node + 1, x, &below, None, UPSTREAM);
            area(&mut svg, node + 1, x, &above, Some(&below), PEERS);
            // Leaves on their way; or what the runtime fetched itself after it had given up on the node.
            let all = share(&|sample| {
                let counted = told(sample).upstream + told(sample).peers;
                counted.max(sample.received.get(node).copied().unwrap_or(0))
            });
            area(&mut svg, node + 1, x, &all, Some(&above), LINK);
        } else {
            let received = share(&|sample| sample.received.get(node).copied().unwrap_or(0));
            let colour = if wanted.system == System::Direct { UPSTREAM } else { LINK };
            area(&mut svg, node + 1, x, &received, None, colour);
        }
        if let Some(pulled) = pulled {
            let (top, bottom) = edges(node + 1);
            for (at, colour) in [(pulled.began, "#999999"), (pulled.over, "#000000")] {
                let at = x(at);
                let _ = writeln!(svg, "<path d=\"M{at:.1} {top:.1}V{bottom:.1}\" stroke=\"{colour}\"/>");
            }
        }
    }
    dashed(&mut svg, run.bound, "bound", "#555555");
    if let Some(at) = run.fault_at {
        dashed(&mut svg, at, "fault", "#c00000");
    }
    svg.push_str("</svg>\n");
    svg
}

fn told(plan: &Plan, node: usize, pulled: Option<&NodeRun>) -> String {
    match pulled {
        None if node < plan.warm => "has it".to_owned(),
        None if plan.unplugged => "unplugged".to_owned(),
        None => String::new(),
        Some(pulled) if pulled.died => "died".to_owned(),
        Some(pulled) if pulled.failed.is_some() => "failed".to_owned(),
        Some(pulled) => format!("{:.2} s", pulled.over - pulled.began),
    }
}

fn title(svg: &mut String, plan: &Plan, wanted: &Wanted, run: &Run) {
    let fault = wanted.fault.map_or_else(String::new, |fault| format!(", fault: {fault}"));
    let best = plan.nodes.iter().copied().fold(0.0, f64::max);
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}, {}{fault}</text>\n\
         <text x=\"{LEFT}\" y=\"38\" fill=\"#444444\">{:.0} MB; upstream {} Mbit/s, nodes {best} Mbit/s, each way; bound {:.2} s</text>",
        wanted.scenario,
        wanted.system,
        run.bytes as f64 / 1e6,
        plan.upstream,
        run.bound,
    );
    let names: &[(&str, &str)] = match wanted.system {
        System::Direct => &[(UPSTREAM, "from upstream")],
        System::Distribution => &[(LINK, "from the cache")],
        System::Shoal => &[(UPSTREAM, "from upstream"), (PEERS, "from peers"), (LINK, "on the link besides")],
    };
    for (index, (colour, name)) in names.iter().enumerate() {
        let left = WIDTH - RIGHT - 125.0 * (names.len() - index) as f64;
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"10\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"20\">{name}</text>",
            left + 17.0
        );
    }
}

fn axis(svg: &mut String, end: f64, height: f64, x: impl Fn(f64) -> f64) {
    let bottom = height - BOTTOM;
    // 1, 2 or 5 times a power of ten.
    let rough = end / MARKS;
    let power = 10f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|times| times * power).find(|step| *step >= rough).unwrap_or(rough);
    let mut mark = 0.0;
    while mark <= end {
        let at = x(mark);
        let name = if step < 1.0 { format!("{mark:.1}") } else { format!("{mark:.0}") };
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#eeeeee\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            bottom + 16.0
        );
        mark += step;
    }
    let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\">s</text>", WIDTH - RIGHT + 8.0, bottom + 16.0);
}

/// Top and bottom of a row.
fn edges(index: usize) -> (f64, f64) {
    let top = TOP + index as f64 * (ROW + GAP);
    (top, top + ROW)
}

fn row(svg: &mut String, index: usize, name: &str, told: &str) {
    let (top, bottom) = edges(index);
    let middle = (top + bottom) / 2.0 + 4.0;
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {bottom}H{right}\" stroke=\"#bbbbbb\"/><text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>\
         <text x=\"{}\" y=\"{middle}\">{told}</text>",
        LEFT - 8.0,
        WIDTH - RIGHT + 8.0,
        right = WIDTH - RIGHT,
    );
}

/// A filled line over another, or over the row's bottom. Points are seconds and a share of the row's height.
fn area(
    svg: &mut String,
    index: usize,
    x: impl Fn(f64) -> f64,
    line: &[(f64, f64)],
    below: Option<&[(f64, f64)]>,
    colour: &str,
) {
    let (_, bottom) = edges(index);
    let (Some(first), Some(last)) = (line.first(), line.last()) else { return };
    let point = |(at, share): (f64, f64)| format!("{:.1} {:.1}", x(at), bottom - share * ROW);
    let forth = line.iter().map(|at| point(*at)).collect::<Vec<_>>().join("L");
    let back = match below {
        Some(below) => below.iter().rev().map(|at| point(*at)).collect::<Vec<_>>().join("L"),
        None => format!("{}L{}", point((last.0, 0.0)), point((first.0, 0.0))),
    };
    let _ = writeln!(svg, "<path d=\"M{forth}L{back}Z\" fill=\"{colour}\" fill-opacity=\"0.85\"/>");
}

#[cfg(test)]
mod tests {
    use super::{LINK, PEERS, UPSTREAM, picture};
    use crate::bench::{
        Wanted,
        admin::Sources,
        options::Options,
        outcome::{NodeRun, Run, Sample},
        scenario::{Scenario, System},
    };

    const IMAGE: u64 = 1000;

    fn run() -> Run {
        let sample = |at: f64, part: u64| Sample {
            at,
            upstream: part,
            received: vec![0, part],
            sources: vec![Sources::default(), Sources { upstream: part / 4, peers: part - part / 4 }],
        };
        Run {
            bytes: IMAGE,
            distinct: IMAGE,
            bound: 1.0,
            nodes: vec![NodeRun { node: 1, began: 0.0, over: 2.0, failed: None, died: false }],
            upstream_sent: IMAGE,
            upstream_blobs: IMAGE,
            upstream_requests: 3,
            cpu: [("shoal".to_owned(), 1.0), ("ctr".to_owned(), 2.0)].into(),
            interrupts: 0.0,
            busy: 0.5,
            others: 0.0,
            peak: 0,
            samples: vec![sample(0.0, 0), sample(1.0, 400), sample(2.0, IMAGE)],
            fault_at: None,
        }
    }

    #[test]
    fn a_picture_has_a_row_for_each_node_and_an_area_for_each_source() {
        let plan = Scenario::Rollout.plan(&Options { nodes: 2, ..Options::default() });
        let drawn = |system| picture(&plan, &Wanted { scenario: Scenario::Rollout, system, fault: None }, &run());
        let areas = |svg: &str, colour: &str| svg.matches(&format!("fill=\"{colour}\" fill-opacity")).count();
        let shoal = drawn(System::Shoal);
        assert!(shoal.contains(">node 0<") && shoal.contains(">has it<"), "{shoal}");
        assert!(shoal.contains(">node 1<") && shoal.contains(">2.00 s<") && shoal.contains(">1.00 copies<"), "{shoal}");
        assert_eq!((areas(&shoal, UPSTREAM), areas(&shoal, PEERS), areas(&shoal, LINK)), (3, 2, 2));
        assert_eq!(areas(&drawn(System::Distribution), LINK), 2);
        // Each element is closed, and nothing is a number that is none.
        assert_eq!(shoal.matches("<text").count(), shoal.matches("</text>").count());
        assert!(!shoal.contains("NaN") && !shoal.contains("inf"), "{shoal}");
    }

    #[test]
    fn cpu_is_counted_for_what_a_runtime_was_given() {
        assert_eq!(run().cpu_per_gb(|name| System::Shoal.consists_of(name)), 1.0 / (IMAGE as f64 / 1e9));
        assert_eq!(run().cpu_per_gb(|_| true), 3.0 / (IMAGE as f64 / 1e9));
        assert_eq!(run().cpu_per_gb(|name| System::Direct.consists_of(name)), 0.0);
    }
}
