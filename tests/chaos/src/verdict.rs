//! What became of a run: every unit is judged, every node is looked at for what it has kept.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use my_workers::Run;
use workmesh_tests::LIMIT;

use crate::footprint::{Footprint, leftovers};
use crate::interrupt;
use crate::judge::{Known, Report, judge};
use crate::load::Seen;
use crate::mesh::{Mesh, lock};
use crate::plan::{Unit, Way, name};
use crate::stream::Stream;

/// Commands at once while results are read.
const READERS: usize = 4;
/// Pause between two looks at a node that is not yet as it was.
const LOOK: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Units by how they were submitted and what became of them.
    outcomes: BTreeMap<(Way, String), u64>,
    footprints: Vec<(String, Footprint, Footprint)>,
    /// Durable units that nodes have offered in batches since they were last started.
    batched: u64,
    /// Everything that must not be.
    pub(crate) violations: Vec<String>,
}

impl Verdict {
    /// Adds what must not be.
    pub(crate) fn add(&mut self, wrong: impl IntoIterator<Item = String>) {
        self.violations.extend(wrong);
    }

    /// Judges every unit by what its clients saw, what the nodes report, and its runs; of those that are to be `read`, by their results too.
    pub(crate) fn judge_units(
        &mut self,
        mesh: &Mesh,
        units: &[Unit],
        seen: &[Seen],
        reports: &[Vec<Report>],
        read: impl Fn(&Unit) -> bool + Sync,
    ) -> Result<()> {
        let mut runs: BTreeMap<_, Vec<Run>> = BTreeMap::new();
        for run in Run::read(&mesh.runs_file()).context("read the runs")? {
            runs.entry(run.unit).or_default().push(run);
        }
        let reports: BTreeMap<_, _> = reports
            .iter()
            .enumerate()
            .flat_map(|(node, reports)| {
                reports
                    .iter()
                    .map(move |report| ((node, &report.unit[..]), report))
            })
            .collect();
        let report = |unit: &Unit| reports.get(&(unit.origin, &unit.id.to_string()[..])).copied();
        let results = read_results(mesh, units, |unit| report(unit).is_some() && read(unit));
        for ((unit, seen), results) in units.iter().zip(seen).zip(&results) {
            let report = report(unit);
            let executor = report.and_then(|report| report.executor.as_deref());
            let executor =
                executor.and_then(|executor| (0..mesh.nodes()).find(|node| name(*node) == executor));
            let known = Known {
                seen,
                report,
                results: results.as_ref(),
                runs: runs.get(&unit.id).map_or(&[], Vec::as_slice),
                falls: &executor.map(|node| mesh.falls(node)).unwrap_or_default(),
            };
            let wrong = judge(unit, &known);
            if !wrong.is_empty() && report.is_some() {
                keep_history(mesh, unit)?;
            }
            self.violations
                .extend(wrong.iter().map(|text| format!("unit {unit}: {text}")));
            *self.outcomes.entry((unit.way, fate(seen, report))).or_default() += 1;
        }
        Ok(())
    }

    /// Looks at what the nodes hold on to, until it is as it was or time is up.
    pub(crate) fn judge_nodes(&mut self, mesh: &Mesh, start: &[Footprint]) -> Result<()> {
        let asked = Instant::now();
        for (node, start) in start.iter().enumerate() {
            loop {
                let now = Footprint::of(mesh.process(node).pid())?;
                let mut wrong = now.leaks(*start);
                wrong.extend(leftovers(mesh.data_dir(node)));
                wrong.extend(busy(mesh, node));
                if wrong.is_empty() || asked.elapsed() > LIMIT || interrupt::stopped() {
                    self.add(wrong.into_iter().map(|text| format!("{}: {text}", name(node))));
                    self.footprints.push((name(node), *start, now));
                    self.batched += batched(mesh, node);
                    break;
                }
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }
}

/// Writes down what a unit's origin tells of it, before it is released.
fn keep_history(mesh: &Mesh, unit: &Unit) -> Result<()> {
    let id = unit.id.to_string();
    let shown = mesh.run(unit.origin, &["work", "show", &id]).stdout;
    std::fs::write(mesh.dir().join(format!("{id}.txt")), shown).context("write a unit's history")
}

/// Reads the results of the durable units that `is_known`, and of each all there are.
fn read_results(mesh: &Mesh, units: &[Unit], is_known: impl Fn(&Unit) -> bool + Sync) -> Vec<Option<Stream>> {
    let results: Vec<Mutex<Option<Stream>>> = units.iter().map(|_| Mutex::default()).collect();
    let turns: Vec<_> = units.iter().zip(&results).collect();
    let next = AtomicUsize::new(0);
    let reader = || {
        while let Some((unit, into)) = turns.get(next.fetch_add(1, Ordering::Relaxed)) {
            if is_known(unit) && !interrupt::stopped() {
                *lock(into) = Some(read(mesh, unit));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(reader);
        }
    });
    let inner = |stream: Mutex<_>| {
        stream
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    };
    results.into_iter().map(inner).collect()
}

fn read(mesh: &Mesh, unit: &Unit) -> Stream {
    let args = ["work", "results", &unit.id.to_string(), "--json"].map(str::to_owned);
    let mut client = mesh.begin(unit.origin, &args, Vec::new(), LIMIT);
    let mut stream = Stream::new(unit.id, unit.work);
    while let Some(line) = client.running.next_line() {
        stream.line(&line);
    }
    // Its status is that of the unit.
    client.end();
    stream
}

/// What a node still does.
fn busy(mesh: &Mesh, node: usize) -> Option<String> {
    let Some(status) = mesh.ask(node, &["status", "--json"]) else {
        return Some("does not answer".to_owned());
    };
    let pool = &status.first()?["pool"];
    let figure = |key: &str| pool[key].as_u64().unwrap_or(u64::MAX);
    let idle = figure("running") == 0 && figure("queued") == 0;
    (!idle).then(|| format!("units are left in its pool: {pool}"))
}

/// Durable units that a node has offered in batches.
fn batched(mesh: &Mesh, node: usize) -> u64 {
    let status = mesh.ask(node, &["status", "--json"]).unwrap_or_default();
    let counters = status.first().map(|status| &status["counters"]);
    counters.map_or(0, |counters| counters["work.batched"].as_u64().unwrap_or(0))
}

/// What became of a unit, in a word.
fn fate(seen: &Seen, report: Option<&Report>) -> String {
    let end = seen.ends.first().map(|end| &end.outcome);
    let told = report
        .map(|report| &report.outcome)
        .or(end)
        .filter(|told| !told.is_empty());
    match (told, &seen.refused) {
        (Some(outcome), _) => outcome.clone(),
        (None, Some(_)) => "refused".to_owned(),
        (None, None) => "unknown".to_owned(),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u64 = 1024;
        writeln!(f, "{:8}  {:9}  {:>6}", "units", "end", "number")?;
        for ((way, fate), number) in &self.outcomes {
            writeln!(f, "{way:8}  {fate:9}  {number:6}")?;
        }
        if !self.footprints.is_empty() {
            writeln!(
                f,
                "{:8}  {:>11}  {:>11}  {:>15}",
                "node", "descriptors", "threads", "memory KiB"
            )?;
        }
        for (node, start, now) in &self.footprints {
            let (before, after) = (start.memory_bytes / KIB, now.memory_bytes / KIB);
            let fds = format!("{} -> {}", start.fds, now.fds);
            let threads = format!("{} -> {}", start.threads, now.threads);
            writeln!(
                f,
                "{node:8}  {fds:>11}  {threads:>11}  {:>15}",
                format!("{before} -> {after}")
            )?;
        }
        writeln!(f, "offered in batches since the last starts: {}", self.batched)?;
        for violation in &self.violations {
            writeln!(f, "VIOLATION  {violation}")?;
        }
        write!(f, "violations: {}", self.violations.len())
    }
}
