//! A saturated pool: what runs, what waits, what is refused, and what is not disturbed.

use rustix::process::Signal;
use serde_json::Value;
use workmesh_tests::{Spec, TestMesh, wait_until};

fn states(ping: &Value) -> Vec<String> {
    let work = ping["active_work"].as_array().unwrap().iter();
    let mut states: Vec<_> = work
        .map(|unit| unit["state"].as_str().unwrap().to_owned())
        .collect();
    states.sort();
    states
}

#[test]
fn two_run_three_wait_and_the_sixth_is_refused_at_once() {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A")).address();
    mesh.start(
        Spec::new("B")
            .peer(a)
            .args(&["--max-workers", "2", "--queue", "3"]),
    );
    mesh.wait_until_all_routes();
    let submit = [
        "submit",
        "--to",
        "B",
        "--directive",
        "sleep:execute",
        "--format",
        "json",
        r#"{"duration":600}"#,
    ];
    let mut units: Vec<_> = (0..5).map(|_| mesh.begin("A", &submit)).collect();
    for unit in &mut units {
        assert_eq!(unit.next_object()["type"], "accepted");
    }
    wait_until("two units run", || mesh.ping("A", "B")["pool"]["running"] == 2);
    let ping = mesh.ping("A", "B");
    assert_eq!(
        states(&ping),
        ["queued", "queued", "queued", "running", "running"]
    );
    let pool = &ping["pool"];
    assert_eq!(
        [
            &pool["slots"],
            &pool["running"],
            &pool["queued"],
            &pool["queue_limit"]
        ],
        [2, 2, 3, 3]
    );

    let sixth = mesh.at("A", &submit);
    assert_eq!(sixth.status, 5);
    let eof: Value = serde_json::from_str(sixth.text().trim_end()).unwrap();
    assert_eq!(eof["kind"], "busy");
    assert!(mesh.ping("A", "B")["rtt_ms"].is_number());

    // A queued unit that is cancelled never runs; a running one makes room for one that waits.
    for unit in units.drain(..).rev() {
        unit.signal(Signal::INT);
        assert_eq!(unit.finish().status, 130);
    }
    wait_until("the pool is empty", || {
        mesh.ping("A", "B")["pool"]["running"] == 0
    });
    assert_eq!(
        mesh.at("A", &["submit", "--to", "B", "--directive", "text:upper", "room"])
            .ok()
            .text(),
        "ROOM"
    );
}

#[test]
fn a_worker_that_never_returns_loses_its_slot_to_others() {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A")).address();
    mesh.start(
        Spec::new("B")
            .peer(a)
            .own_workers()
            .args(&["--max-workers", "1", "--queue", "3"]),
    );
    mesh.wait_until_all_routes();
    let stuck = [
        "submit",
        "--to",
        "B",
        "--directive",
        "test:stuck",
        "--deadline",
        "200ms",
    ];
    assert_eq!(mesh.at("A", &stuck).status, 4);
    // Accepted behind the stuck one, and run once that is given up.
    assert_eq!(
        mesh.at("A", &["submit", "--to", "B", "--directive", "text:upper", "next"])
            .ok()
            .text(),
        "NEXT"
    );
    assert_eq!(states(&mesh.ping("A", "B")), ["abandoned"]);
    assert_eq!(mesh.status("B")["pool"]["abandoned"], 1);
}
