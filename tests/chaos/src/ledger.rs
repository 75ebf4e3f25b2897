//! What the origins report of their durable units: asked again and again while the run lasts, since an end that was told once
//! must stay.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::interrupt;
use crate::judge::Report;
use crate::mesh::{Mesh, lock};
use crate::plan::name;

/// Pause between two looks at all nodes.
const EVERY: Duration = Duration::from_secs(3);
/// How many rows are asked for: all.
const ALL: &str = "0";

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The outcome of each unit that was reported as ended, by id, and the node that reported it.
    ended: Mutex<BTreeMap<String, (usize, String)>>,
    wrong: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Ledger {
    /// Looks until [`end`](Self::end) is called.
    pub(crate) fn follow(&self, mesh: &Mesh) {
        while !self.over.load(Ordering::Relaxed) && interrupt::sleep_until(Instant::now() + EVERY) {
            for node in 0..mesh.nodes() {
                // A node that is down or stands still is asked again later.
                let _unknown = self.look(mesh, node);
            }
        }
    }

    /// Ends [`follow`](Self::follow).
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// The reports of a node; none if it does not answer.
    pub(crate) fn look(&self, mesh: &Mesh, node: usize) -> Option<Vec<Report>> {
        let rows = mesh.ask(node, &["work", "list", "--json", "--limit", ALL])?;
        let reports: Vec<_> = rows.iter().flat_map(each).filter_map(Report::parse).collect();
        self.compare(node, &reports);
        Some(reports)
    }

    /// Waits until every unit has ended and its executor was told, at all nodes; gives all reports, by node.
    pub(crate) fn settle(&self, mesh: &Mesh, limit: Duration) -> Vec<Vec<Report>> {
        let started = Instant::now();
        let settled = |reports: &Option<Vec<Report>>| {
            let reports = reports.as_deref();
            reports.is_some_and(|reports| reports.iter().all(Report::is_settled))
        };
        let mut nodes = Vec::new();
        for node in 0..mesh.nodes() {
            let mut reports = self.look(mesh, node);
            while !settled(&reports) && started.elapsed() < limit && !interrupt::stopped() {
                thread::sleep(EVERY / 10);
                reports = self.look(mesh, node);
            }
            if reports.is_none() {
                lock(&self.wrong).push(format!("{} does not list its units", name(node)));
            }
            nodes.push(reports.unwrap_or_default());
        }
        nodes
    }

    /// What was reported and must not be.
    pub(crate) fn wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }

    fn compare(&self, node: usize, reports: &[Report]) {
        let mut ended = lock(&self.ended);
        let mut wrong = lock(&self.wrong);
        let mut now = BTreeMap::new();
        for report in reports {
            let outcome = if report.state == "ended" {
                &report.outcome
            } else {
                &report.state
            };
            if now.insert(&report.unit, outcome).is_some() {
                wrong.push(format!("{} is listed twice at {}", report.unit, name(node)));
            }
        }
        for (unit, (_, before)) in ended.iter().filter(|(_, (at, _))| *at == node) {
            match now.get(unit) {
                Some(outcome) if *outcome == before => {}
                Some(outcome) => wrong.push(format!("{unit} had ended as {before} and is {outcome}")),
                None => wrong.push(format!("{unit} had ended as {before} and is gone")),
            }
        }
        for report in reports.iter().filter(|report| report.state == "ended") {
            let told = || (node, report.outcome.clone());
            let (at, _) = ended.entry(report.unit.clone()).or_insert_with(told);
            if *at != node {
                wrong.push(format!(
                    "{} is at {} and at {}",
                    report.unit,
                    name(*at),
                    name(node)
                ));
            }
        }
    }
}

/// The rows of a value: a page of them, or one.
fn each(value: &Value) -> &[Value] {
    value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(unit: &str, state: &str, outcome: &str) -> Report {
        Report::parse(&json!({"unit": unit, "state": state, "outcome": outcome})).unwrap()
    }

    fn compared(looks: &[(usize, &[Report])]) -> Vec<String> {
        let ledger = Ledger::default();
        for (node, reports) in looks {
            ledger.compare(*node, reports);
        }
        ledger.wrong()
    }

    #[test]
    fn an_end_stays_where_and_as_it_was() {
        let (runs, done) = (row("u", "running", ""), row("u", "ended", "succeeded"));
        let lost = row("u", "ended", "lost");
        let one = std::slice::from_ref::<Report>;
        assert!(compared(&[(0, one(&runs)), (0, one(&done)), (0, one(&done)), (1, &[])]).is_empty());
        for (after, text) in [
            ((0, one(&lost)), "had ended as succeeded and is lost"),
            ((0, one(&runs)), "had ended as succeeded and is running"),
            ((0, &[][..]), "is gone"),
            ((1, one(&done)), "is at n0 and at n1"),
        ] {
            let wrong = compared(&[(0, one(&done)), after]);
            assert!(
                wrong.iter().any(|found| found.contains(text)),
                "{text}: {wrong:?}"
            );
        }
        let twice = compared(&[(0, &[done.clone(), done.clone()])]);
        assert!(twice[0].contains("listed twice"), "{twice:?}");
    }

    #[test]
    fn a_page_has_many_rows_and_a_row_is_one() {
        assert_eq!(each(&json!([1, 2])).len(), 2);
        assert_eq!(each(&json!({"unit": 1})).len(), 1);
    }
}
