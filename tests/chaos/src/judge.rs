//! Judges a unit by all that is known of it. Pure: what was seen comes in, violations come out.

use jiff::Timestamp;
use my_workers::Run;
use serde_json::Value;

use crate::load::Seen;
use crate::mesh::Fall;
use crate::plan::{Unit, Way};
use crate::stream::{End, Stream};
use crate::work::Work;

/// Ways in which a unit that is not durable may fail while nodes come and go.
const PLAIN_FAILURES: [&str; 7] = [
    "busy",
    "draining",
    "no_capable_node",
    "no_route",
    "no_such_node",
    "no_such_unit",
    "node_lost",
];

/// What a unit's origin reports of it at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) unit: String,
    pub(crate) state: String,
    pub(crate) reason: String,
    pub(crate) outcome: String,
    pub(crate) kind: String,
    pub(crate) message: String,
    pub(crate) executor: Option<String>,
    pub(crate) attempt: u64,
    pub(crate) responses: u64,
    pub(crate) released: bool,
    pub(crate) idempotent: bool,
    /// From its submission to its end.
    pub(crate) life: Option<(Timestamp, Timestamp)>,
}

/// All that is known of a unit at the end.
pub(crate) struct Known<'a> {
    pub(crate) seen: &'a Seen,
    /// What its origin reports; none if the origin does not know it.
    pub(crate) report: Option<&'a Report>,
    /// What the origin gives as its results, if it was asked.
    pub(crate) results: Option<&'a Stream>,
    /// Its runs, oldest first.
    pub(crate) runs: &'a [Run],
    /// When the node that the report names as executor was down.
    pub(crate) falls: &'a [Fall],
}

impl Report {
    /// Reads a row of `work list --json` or the answer of `work show --json`; none if it is no report.
    pub(crate) fn parse(row: &Value) -> Option<Self> {
        let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let time = |key: &str| row[key].as_str()?.parse::<Timestamp>().ok();
        Some(Self {
            unit: row["unit"].as_str()?.to_owned(),
            state: row["state"].as_str()?.to_owned(),
            reason: word("reason"),
            outcome: word("outcome"),
            kind: word("kind"),
            message: word("message"),
            executor: row["executor"].as_str().map(str::to_owned),
            attempt: row["attempt"].as_u64().unwrap_or_default(),
            responses: row["responses"].as_u64().unwrap_or_default(),
            released: row["executor_released"].as_bool().unwrap_or_default(),
            idempotent: row["idempotent"].as_bool().unwrap_or_default(),
            life: time("submitted").zip(time("ended")),
        })
    }

    /// Whether the unit has ended, and its executor was told.
    pub(crate) fn is_settled(&self) -> bool {
        self.state == "ended" && self.released
    }
}

/// What is not as it has to be.
pub(crate) fn judge(unit: &Unit, known: &Known<'_>) -> Vec<String> {
    let mut wrong = known.seen.wrong.clone();
    let ends = &known.seen.ends;
    if ends.windows(2).any(|two| two[0].outcome != two[1].outcome) {
        wrong.push(format!("clients saw different ends: {ends:?}"));
    }
    let outcome = match unit.way {
        Way::Plain => ends.first().map(|end| end.outcome.as_str()),
        Way::Detached | Way::Durable => {
            wrong.extend(judge_report(unit, known));
            known.report.map(|report| report.outcome.as_str())
        }
    };
    if unit.way == Way::Plain
        && let Some(end) = ends.first()
    {
        let may = match end.outcome.as_str() {
            "succeeded" | "lost" => true,
            // A node that is told to stop gives its units a grace, and ends them then.
            "cancelled" => known.seen.cancel_asked || end.kind == "shutdown",
            "expired" => unit.deadline.is_some(),
            _ => PLAIN_FAILURES.contains(&end.kind.as_str()),
        };
        if !may {
            wrong.push(format!("{} as {}: {}", end.outcome, end.kind, end.message));
        }
    }
    if matches!(unit.work, Work::Record(_)) {
        wrong.extend(judge_runs(unit, known, outcome));
    }
    wrong
}

fn judge_report(unit: &Unit, known: &Known<'_>) -> Vec<String> {
    let seen = known.seen;
    let Some(report) = known.report else {
        // One that was cancelled while its payload was on its way was never stored.
        let given_up = |end: &End| end.outcome == "cancelled" && seen.cancel_asked;
        let lost = seen.stored || !seen.ends.iter().all(given_up);
        return Vec::from_iter(lost.then(|| "was stored, and its origin does not know it".to_owned()));
    };
    if report.state != "ended" {
        return vec![format!("has not ended: {}: {}", report.state, report.reason)];
    }
    let mut wrong = Vec::new();
    if let Some(end) = seen.ends.iter().find(|end| end.outcome != report.outcome) {
        wrong.push(format!(
            "{} for its origin, {} for its client",
            report.outcome, end.outcome
        ));
    }
    if !report.released {
        wrong.push("its executor was not told of its end".to_owned());
    }
    // Workers can say so too; the recording ones do as their units do.
    let said = unit.idempotent || !matches!(unit.work, Work::Record(_));
    if unit.idempotent && !report.idempotent || report.idempotent && !said {
        wrong.push(format!("idempotent is {} at its origin", report.idempotent));
    }
    let fell = report.life.is_some_and(|(submitted, ended)| {
        let during = |fall: &Fall| fall.began <= ended && fall.ended >= submitted;
        known.falls.iter().any(during)
    });
    let may = match report.outcome.as_str() {
        "succeeded" => true,
        "cancelled" => seen.cancel_asked || fell && report.kind == "shutdown",
        "expired" => unit.deadline.is_some(),
        "lost" => fell && !report.idempotent,
        _ => false,
    };
    if !may {
        let (outcome, kind, message) = (&report.outcome, &report.kind, &report.message);
        let executor = report.executor.as_deref().unwrap_or("nobody");
        wrong.push(format!("{outcome} as {kind} at {executor}: {message}"));
    }
    if report.outcome == "succeeded" && report.responses != unit.work.responses() {
        wrong.push(format!("{} responses are reported", report.responses));
    }
    if let Some(results) = known.results {
        wrong.extend(results.wrong.iter().map(|text| format!("results: {text}")));
        let (given, told) = (results.responses, report.responses);
        // An end other than success may come in the middle of a response, which is told and not complete.
        let fits = given == told || report.outcome != "succeeded" && given + 1 == told;
        if !fits {
            wrong.push(format!("{given} responses are given, {told} reported"));
        }
        if results.ends.iter().any(|end| end.outcome != report.outcome) {
            wrong.push(format!("results end as {:?}", results.ends));
        }
    }
    wrong
}

fn judge_runs(unit: &Unit, known: &Known<'_>, outcome: Option<&str>) -> Vec<String> {
    let mut wrong = Vec::new();
    let runs = known.runs;
    let whereabouts = || {
        let places = runs.iter().map(|run| format!("{} pid {}", run.node, run.pid));
        places.collect::<Vec<_>>().join(", ")
    };
    if runs.len() > 1 && !unit.idempotent {
        wrong.push(format!("ran {} times: {}", runs.len(), whereabouts()));
    }
    if let Some(report) = known.report
        && runs.len() as u64 > report.attempt
        && unit.idempotent
    {
        wrong.push(format!("ran {} times in {} attempts", runs.len(), report.attempt));
    }
    if outcome == Some("succeeded") && runs.is_empty() {
        wrong.push("succeeded and never ran".to_owned());
    }
    let taken_nowhere = known.seen.refused.is_some() && known.report.is_none() && known.seen.ends.is_empty();
    if taken_nowhere && !runs.is_empty() {
        wrong.push(format!("was refused, and ran: {}", whereabouts()));
    }
    if let (Some(run), Some(report)) = (runs.last(), known.report)
        && report.outcome == "succeeded"
        && !unit.idempotent
        && report.executor.as_ref() != Some(&run.node)
    {
        wrong.push(format!(
            "ran on {}, its origin says {:?}",
            run.node, report.executor
        ));
    }
    wrong
}

#[cfg(test)]
mod tests;
