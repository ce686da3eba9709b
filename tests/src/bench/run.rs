//! One run: everything started anew, links shaped, pulls begun, counters read before and after.

use std::{
    collections::{BTreeMap, HashSet},
    mem,
    ops::Range,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Wanted, admin,
    bed::{Bed, Fleet},
    fault::{self, Fault},
    link,
    options::Options,
    outcome::{NodeRun, Run, Sample},
    pull::{Ended, Pull},
    scenario::{Plan, Start, System},
    stop, usage,
};
use crate::{Daemon, Host, Shoal, testbed::Traffic, wait_for};

/// Between two samples of all counters.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// A pull may take this many times what it takes where nodes do not share.
const PATIENCE: f64 = 3.0;
/// And this much more, for what does not depend on the rates.
const MORE_PATIENCE: Duration = Duration::from_secs(30);
/// Half of an image.
const HALF: f64 = 0.5;

/// Carries out one run.
pub(crate) fn run(bed: &mut Bed, options: &Options, plan: &Plan, wanted: &Wanted) -> Result<Run> {
    let mut fleet = bed.start(options, plan, wanted.system)?;
    bed.shape(plan)?;
    let watched = Watch::begin(bed, &mut fleet, options, plan, wanted).and_then(Watch::finish);
    if let Some(fault) = wanted.fault {
        // Of two errors the first tells more.
        let cleared = fault::clear(fault, bed);
        return watched.and_then(|run| cleared.map(|()| run));
    }
    watched
}

/// A run under way.
struct Watch<'a> {
    bed: &'a mut Bed,
    fleet: &'a mut Fleet,
    plan: &'a Plan,
    fault: Option<Fault>,
    silent: bool,
    limit: Duration,
    hosts: Vec<Host>,
    /// The image of each pull.
    images: Vec<String>,
    bytes: u64,
    /// Admin sockets of nodes that are asked for their sources.
    sockets: Vec<PathBuf>,
    before: Before,
    began: Instant,
    pulls: Vec<State>,
    samples: Vec<Sample>,
    /// CPU seconds in this run by name, of processes that have been read last before they were killed.
    processes: usage::Processes,
    peak: u64,
    struck: Option<Instant>,
    healed: bool,
}

/// Counters before the first pull.
struct Before {
    upstream: Traffic,
    nodes: Vec<Traffic>,
    sources: Vec<admin::Sources>,
    processes: usage::Processes,
    machine: usage::Machine,
    requests: usize,
}

/// A node's pull.
enum State {
    Waiting,
    UnderWay(Pull),
    /// And the CPU seconds of `ctr`.
    Over(NodeRun, f64),
}

impl<'a> Watch<'a> {
    fn begin(
        bed: &'a mut Bed,
        fleet: &'a mut Fleet,
        options: &Options,
        plan: &'a Plan,
        wanted: &Wanted,
    ) -> Result<Watch<'a>> {
        let registry = bed.registry(plan.payload)?;
        let (bytes, requests) = (registry.image.size(), registry.requests()?.len());
        let images = plan.cold().map(|node| registry.by_tag(node)).collect();
        let hosts = bed.hosts(plan).to_vec();
        // Being asked costs a node little, and still nothing where nobody looks.
        let asked = wanted.system == System::Shoal && options.draw.is_some();
        let sockets: Vec<PathBuf> = hosts.iter().filter(|_| asked).map(admin::socket).collect();
        let (upstream, nodes) = counted(bed, &hosts)?;
        let before = Before {
            upstream,
            nodes,
            sources: sockets.iter().map(|socket| admin::sources(socket).unwrap_or_default()).collect(),
            processes: usage::cpu(&everyone(bed, &hosts))?,
            machine: usage::machine()?,
            requests,
        };
        Ok(Watch {
            bed,
            fleet,
            plan,
            fault: wanted.fault,
            silent: options.silent,
            limit: options.limit.unwrap_or_else(|| limit(plan, bytes)),
            hosts,
            images,
            bytes,
            sockets,
            before,
            began: Instant::now(),
            pulls: plan.cold().map(|_| State::Waiting).collect(),
            samples: Vec::new(),
            processes: usage::Processes::new(),
            peak: 0,
            struck: None,
            healed: false,
        })
    }

    fn finish(mut self) -> Result<Run> {
        // The latest start is that of a node which waits for another's half.
        let watched = wait_for("all pulls", self.limit * 2 + MORE_PATIENCE, || self.look());
        for pull in &mut self.pulls {
            if let State::UnderWay(pull) = pull {
                pull.kill();
            }
        }
        if let (Some(fault), Some(_), false) = (self.fault, self.struck, self.healed) {
            fault::heal(fault, self.bed, self.plan)?;
        }
        watched?;
        self.close()
    }

    fn look(&mut self) -> Result<Option<()>> {
        stop::check()?;
        let now = Instant::now();
        if self.samples.last().is_none_or(|last| self.since(now) - last.at >= SAMPLE_EVERY.as_secs_f64()) {
            self.sample(now)?;
        }
        for index in 0..self.pulls.len() {
            if matches!(self.pulls[index], State::Waiting) && self.is_due(index, now) {
                let node = self.node(index);
                self.pulls[index] = State::UnderWay(Pull::start(&self.fleet.containerds[node], &self.images[index])?);
            }
            if let State::UnderWay(pull) = &mut self.pulls[index]
                && now > pull.began + self.limit
            {
                pull.kill();
            }
            self.settle(index)?;
        }
        if let Some(fault) = self.fault {
            self.strike(fault, now)?;
        }
        Ok(self.pulls.iter().all(|pull| matches!(pull, State::Over(..))).then_some(()))
    }

    fn sample(&mut self, now: Instant) -> Result<()> {
        let (upstream, nodes) = counted(self.bed, &self.hosts)?;
        let received = nodes.iter().zip(&self.before.nodes).map(|(now, then)| now.received - then.received).collect();
        let sources = self.sockets.iter().enumerate().map(|(node, socket)| {
            let base = self.before.sources[node];
            // One that was killed has what it had.
            let last = self.samples.last().and_then(|sample| sample.sources.get(node)).copied().unwrap_or_default();
            admin::sources(socket).map_or(last, |now| now.since(base))
        });
        let sources = sources.collect();
        let upstream = upstream.sent - self.before.upstream.sent;
        self.samples.push(Sample { at: self.since(now), upstream, received, sources });
        Ok(())
    }

    fn is_due(&self, index: usize, now: Instant) -> bool {
        match self.plan.start {
            Start::Together => true,
            Start::Apart(gap) => now >= self.began + gap * index as u32,
            Start::HalfAtHalf => {
                let first = self.plan.pulling.div_ceil(2);
                let over = |pull: &State| matches!(pull, State::Over(..));
                index < first || self.progress(0..first) >= HALF || self.pulls[..first].iter().all(over)
            }
        }
    }

    /// How much of the image some of the pulling nodes have received, on average.
    fn progress(&self, pulls: Range<usize>) -> f64 {
        let Some(sample) = self.samples.last() else { return 0.0 };
        let received: u64 = pulls.clone().map(|index| sample.received[self.node(index)]).sum();
        received as f64 / pulls.len() as f64 / self.bytes as f64
    }

    fn strike(&mut self, fault: Fault, now: Instant) -> Result<()> {
        match self.struck {
            None if self.progress(0..self.pulls.len()) >= HALF => {
                // While those that are about to die can still be read.
                self.read_processes()?;
                let victims = fault::strike(fault, self.silent, self.bed, self.plan, self.fleet)?;
                self.struck = Some(now);
                self.bury(&victims.into_iter().collect())
            }
            Some(at) if fault == Fault::Cut && !self.healed && now >= at + fault::CUT => {
                self.healed = true;
                fault::heal(fault, self.bed, self.plan)
            }
            _ => Ok(()),
        }
    }

    /// Machines are gone, and their runtimes with them.
    fn bury(&mut self, nodes: &HashSet<usize>) -> Result<()> {
        for index in (0..self.pulls.len()).filter(|index| nodes.contains(&(self.plan.warm + index))) {
            if let State::UnderWay(pull) = &mut self.pulls[index] {
                pull.kill();
                wait_for("an end of ctr after SIGKILL", MORE_PATIENCE, || Ok((!pull.is_under_way()).then_some(())))?;
            }
            self.settle(index)?;
            let (node, now) = (self.node(index), self.since(Instant::now()));
            let never_began = NodeRun { node, began: now, over: now, failed: None, died: true };
            match &mut self.pulls[index] {
                State::Over(run, _) => run.died = true,
                other => *other = State::Over(never_began, 0.0),
            }
        }
        Ok(())
    }

    /// Takes the result of a pull that has ended.
    fn settle(&mut self, index: usize) -> Result<()> {
        if !matches!(&self.pulls[index], State::UnderWay(pull) if !pull.is_under_way()) {
            return Ok(());
        }
        if let State::UnderWay(pull) = mem::replace(&mut self.pulls[index], State::Waiting) {
            let (began, last_words) = (self.since(pull.began), pull.last_words());
            let Ended { at, whole, cpu } = pull.ended()?;
            let failed = (!whole).then_some(last_words);
            let run = NodeRun { node: self.node(index), began, over: self.since(at), failed, died: false };
            self.pulls[index] = State::Over(run, cpu);
        }
        Ok(())
    }

    fn read_processes(&mut self) -> Result<()> {
        self.processes.extend(usage::cpu(&everyone(self.bed, &self.hosts))?);
        let pids = self.fleet.shoals.iter().map(Shoal::pid).chain(self.fleet.cache.iter().map(Daemon::pid));
        // One that was killed has been read before that.
        self.peak = pids.filter_map(|pid| usage::peak_resident(pid).ok()).fold(self.peak, u64::max);
        Ok(())
    }

    fn close(mut self) -> Result<Run> {
        let machine = usage::machine()?;
        self.sample(Instant::now())?;
        self.read_processes()?;
        let mut cpu: BTreeMap<String, f64> = BTreeMap::new();
        let [upstream, cache] = [&self.bed.upstream, &self.bed.cache].map(|host| usage::cpu(&[host]));
        let (upstream, cache) = (upstream?, cache?);
        let shoals: HashSet<u32> = self.fleet.shoals.iter().map(Shoal::pid).collect();
        for (pid, (program, seconds)) in &self.processes {
            let name = match pid {
                // Whatever the file is called that SHOAL_BIN names.
                pid if shoals.contains(pid) => "shoal",
                pid if upstream.contains_key(pid) => "upstream",
                pid if cache.contains_key(pid) => "cache",
                _ => program.as_str(),
            };
            let before = self.before.processes.get(pid).map_or(0.0, |(_, seconds)| *seconds);
            *cpu.entry(name.to_owned()).or_default() += seconds - before;
        }
        let mut nodes = Vec::new();
        for pull in mem::take(&mut self.pulls) {
            let State::Over(node, seconds) = pull else { continue };
            *cpu.entry("ctr".to_owned()).or_default() += seconds;
            nodes.push(node);
        }

        // Where all begin together, that they do so one after the other is this machine's fault.
        let late = nodes.iter().filter(|_| self.plan.start != Start::Together).map(|node| node.began);
        let last_start = late.fold(0.0, f64::max);
        let elapsed = (machine.total - self.before.machine.total).max(f64::EPSILON);
        let interrupts = machine.interrupts - self.before.machine.interrupts;
        let busy = machine.busy - self.before.machine.busy;
        let ours = cpu.values().sum::<f64>() + interrupts;
        let requests = self.bed.registry(self.plan.payload)?.requests()?.split_off(self.before.requests);
        let of_blobs = requests.iter().filter(|request| request.method == "GET" && request.path.contains("/blobs/"));
        Ok(Run {
            bytes: self.bytes,
            distinct: self.plan.payload.distinct().max(self.bytes),
            bound: self.plan.bound(self.bytes, last_start),
            nodes,
            upstream_sent: self.samples.last().map_or(0, |sample| sample.upstream),
            upstream_blobs: of_blobs.map(|request| request.bytes).sum(),
            upstream_requests: requests.len() as u64,
            cpu,
            interrupts,
            busy: busy / elapsed,
            others: (busy - ours).max(0.0) / elapsed,
            peak: self.peak,
            fault_at: self.struck.map(|at| self.since(at)),
            samples: self.samples,
        })
    }

    fn node(&self, index: usize) -> usize {
        self.plan.warm + index
    }

    fn since(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64()
    }
}

/// What upstream's link and the nodes' have carried so far.
fn counted(bed: &Bed, hosts: &[Host]) -> Result<(Traffic, Vec<Traffic>)> {
    let all: Vec<&Host> = std::iter::once(&bed.upstream).chain(hosts).collect();
    let mut all = link::traffic(&all)?;
    Ok((all.remove(0), all))
}

fn everyone<'a>(bed: &'a Bed, hosts: &'a [Host]) -> Vec<&'a Host> {
    hosts.iter().chain([&bed.cache, &bed.upstream]).collect()
}

/// A pull may take so long.
fn limit(plan: &Plan, bytes: u64) -> Duration {
    let slowest = plan.cold().map(|node| plan.alone(node, bytes)).fold(0.0, f64::max);
    let source = if plan.warm > 0 { plan.upstream.min(plan.nodes[0]) } else { plan.upstream };
    let one_by_one = bytes as f64 * 8.0 / 1e6 * plan.pulling as f64 / source;
    Duration::from_secs_f64(one_by_one.max(slowest) * PATIENCE) + MORE_PATIENCE
}
