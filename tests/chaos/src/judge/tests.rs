//! Every rule of the judge, kept and broken.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::plan::Whim;
use crate::stream::End;
use crate::work::Responses;

fn unit(way: Way) -> Unit {
    Unit {
        at: Duration::ZERO,
        id: Uuid::nil(),
        origin: 0,
        to: None,
        way,
        work: Work::Record(Responses {
            count: 1,
            bytes: 1,
            chunk: 0,
            sleep_ms: 0,
        }),
        deadline: None,
        idempotent: false,
        whim: Whim::None,
    }
}

fn report(outcome: &str) -> Report {
    let row = json!({
        "unit": Uuid::nil(), "state": "ended", "outcome": outcome, "kind": "k", "executor": "n1", "attempt": 1,
        "responses": 1, "executor_released": true, "idempotent": false,
        "submitted": "2030-01-01T00:00:10Z", "ended": "2030-01-01T00:00:20Z",
    });
    Report::parse(&row).unwrap()
}

fn run(node: &str) -> Run {
    Run {
        unit: Uuid::nil(),
        node: node.to_owned(),
        pid: 1,
        at_ms: 0,
    }
}

fn stored() -> Seen {
    Seen {
        stored: true,
        ..Seen::default()
    }
}

fn ended(outcome: &str, kind: &str) -> Seen {
    Seen {
        ends: vec![End {
            outcome: outcome.to_owned(),
            kind: kind.to_owned(),
            message: String::new(),
        }],
        ..Seen::default()
    }
}

fn known<'a>(seen: &'a Seen, report: Option<&'a Report>, runs: &'a [Run]) -> Known<'a> {
    Known {
        seen,
        report,
        results: None,
        runs,
        falls: &[],
    }
}

#[track_caller]
fn clean(unit: &Unit, known: &Known<'_>) {
    assert_eq!(judge(unit, known), Vec::<String>::new());
}

#[track_caller]
fn broken(unit: &Unit, known: &Known<'_>, rule: &str) {
    let wrong = judge(unit, known);
    assert!(wrong.iter().any(|text| text.contains(rule)), "{rule}: {wrong:?}");
}

#[test]
fn a_stored_unit_that_succeeded_and_ran_once_is_clean() {
    let report = report("succeeded");
    clean(
        &unit(Way::Detached),
        &known(&stored(), Some(&report), &[run("n1")]),
    );
}

#[test]
fn a_stored_unit_that_is_gone_or_unfinished_is_not() {
    let detached = unit(Way::Detached);
    broken(&detached, &known(&stored(), None, &[]), "does not know it");
    clean(&detached, &known(&Seen::default(), None, &[]));
    let mut given_up = ended("cancelled", "cancelled");
    given_up.cancel_asked = true;
    clean(&detached, &known(&given_up, None, &[]));
    given_up.stored = true;
    broken(&detached, &known(&given_up, None, &[]), "does not know it");
    broken(
        &detached,
        &known(&ended("succeeded", "ok"), None, &[]),
        "does not know it",
    );
    let waits = Report {
        state: "waiting".to_owned(),
        ..report("")
    };
    broken(&detached, &known(&stored(), Some(&waits), &[]), "has not ended");
}

#[test]
fn both_sides_have_to_agree() {
    let detached = unit(Way::Durable);
    let succeeded = report("succeeded");
    let seen = ended("lost", "node_lost");
    broken(
        &detached,
        &known(&seen, Some(&succeeded), &[run("n1")]),
        "for its client",
    );
    let mut two = ended("lost", "node_lost");
    two.ends.extend(ended("succeeded", "ok").ends);
    broken(
        &detached,
        &known(&two, Some(&succeeded), &[run("n1")]),
        "different ends",
    );
    let elsewhere = [run("n2")];
    broken(
        &detached,
        &known(&stored(), Some(&succeeded), &elsewhere),
        "ran on n2",
    );
    let untold = Report {
        released: false,
        ..succeeded
    };
    broken(
        &detached,
        &known(&stored(), Some(&untold), &[run("n1")]),
        "not told",
    );
}

#[test]
fn a_unit_runs_once_unless_it_may_run_again() {
    let twice = [run("n1"), run("n1")];
    let succeeded = report("succeeded");
    broken(
        &unit(Way::Detached),
        &known(&stored(), Some(&succeeded), &twice),
        "ran 2 times",
    );
    broken(
        &unit(Way::Plain),
        &known(&Seen::default(), None, &twice),
        "ran 2 times",
    );
    broken(
        &unit(Way::Detached),
        &known(&stored(), Some(&succeeded), &[]),
        "never ran",
    );
    let again = Unit {
        idempotent: true,
        ..unit(Way::Detached)
    };
    let mut second = Report {
        idempotent: true,
        attempt: 2,
        ..succeeded
    };
    clean(&again, &known(&stored(), Some(&second), &twice));
    second.attempt = 1;
    broken(&again, &known(&stored(), Some(&second), &twice), "in 1 attempts");
}

#[test]
fn a_unit_is_lost_only_by_a_fall_of_its_executor() {
    let detached = unit(Way::Detached);
    let lost = report("lost");
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let fall = |began: &str, ended: &str| {
        [Fall {
            began: time(began),
            ended: time(ended),
        }]
    };
    let during = fall("2030-01-01T00:00:15Z", "2030-01-01T00:00:16Z");
    let before = fall("2030-01-01T00:00:01Z", "2030-01-01T00:00:02Z");
    let seen = stored();
    let with = |falls| Known {
        falls,
        ..known(&seen, Some(&lost), &[])
    };
    clean(&detached, &with(&during[..]));
    broken(&detached, &with(&before[..]), "lost as k at n1");
    broken(&detached, &with(&[]), "lost as k at n1");
}

#[test]
fn an_end_needs_its_reason() {
    for (outcome, kind) in [
        ("cancelled", "cancelled"),
        ("expired", "expired"),
        ("failed", "internal"),
    ] {
        broken(
            &unit(Way::Plain),
            &known(&ended(outcome, kind), None, &[]),
            &format!("{outcome} as {kind}"),
        );
        broken(
            &unit(Way::Detached),
            &known(&stored(), Some(&report(outcome)), &[]),
            &format!("{outcome} as k"),
        );
    }
    clean(&unit(Way::Plain), &known(&ended("failed", "busy"), None, &[]));
    let asked = Seen {
        cancel_asked: true,
        ..stored()
    };
    clean(
        &unit(Way::Detached),
        &known(&asked, Some(&report("cancelled")), &[]),
    );
    let late = Unit {
        deadline: Some(Duration::ZERO),
        ..unit(Way::Detached)
    };
    clean(&late, &known(&stored(), Some(&report("expired")), &[]));
}

#[test]
fn a_refused_unit_runs_nowhere() {
    let refused = Seen {
        refused: Some("busy".to_owned()),
        ..Seen::default()
    };
    broken(
        &unit(Way::Detached),
        &known(&refused, None, &[run("n1")]),
        "was refused, and ran",
    );
    clean(&unit(Way::Detached), &known(&refused, None, &[]));
}

#[test]
fn results_have_to_be_those_that_are_reported() {
    let detached = unit(Way::Detached);
    let (seen, succeeded, runs) = (stored(), report("succeeded"), [run("n1")]);
    let nothing = Stream::new(detached.id, detached.work);
    let known = Known {
        results: Some(&nothing),
        ..known(&seen, Some(&succeeded), &runs)
    };
    broken(&detached, &known, "0 responses are given, 1 reported");
}
