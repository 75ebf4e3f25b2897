//! Nodes that stop or drain: the mesh hears first, new units are refused, running ones have their grace, and what is left is
//! told that it was stopped.

use rustix::process::Signal;
use workmesh_tests::{Running, Spec, TestMesh, wait_until};

const STOPPING: &str = "stopping; send the signal again to stop at once";

/// A and B, linked; B has the workers of the tests, and `grace`.
fn pair(grace: &str) -> TestMesh {
    let mut mesh = TestMesh::new();
    let a = mesh
        .start(Spec::new("A").args(&["--drain-grace", grace]))
        .address();
    mesh.start(
        Spec::new("B")
            .peer(a)
            .own_workers()
            .args(&["--drain-grace", grace, "--max-workers", "1"]),
    );
    mesh.wait_until_all_routes();
    mesh
}

/// A unit at `to` that has been accepted, submitted at `from`.
fn begin(mesh: &TestMesh, from: &str, to: &str, directive: &str, payload: &str) -> Running {
    let submit = [
        "submit",
        "--to",
        to,
        "--directive",
        directive,
        "--format",
        "json",
        "--param",
        "count=60",
        payload,
    ];
    let mut unit = mesh.begin(from, &submit);
    assert_eq!(unit.next_object()["type"], "accepted");
    unit
}

fn begin_endless(mesh: &TestMesh, from: &str, to: &str) -> Running {
    begin(mesh, from, to, "sleep:execute", r#"{"duration":86400}"#)
}

fn all_ticks_come(mut unit: Running) {
    for tick in 1..=60 {
        assert_eq!(unit.next_object()["data"], tick.to_string());
    }
    assert_eq!(unit.next_object()["outcome"], "succeeded");
    assert_eq!(unit.finish().status, 0);
}

fn ends_by_shutdown(mut unit: Running) {
    let end = unit.next_object();
    assert_eq!(
        (&end["outcome"], &end["kind"]),
        (&"cancelled".into(), &"shutdown".into())
    );
    assert_eq!(unit.finish().status, 3);
}

fn advertises(mesh: &TestMesh, at: &str, node: &str) -> bool {
    let workers = mesh.at(at, &["workers", "--json"]).ok().json_lines();
    workers.iter().any(|row| row["node"] == node)
}

fn running(mesh: &TestMesh, node: &str) -> u64 {
    mesh.ping("A", node)["pool"]["running"].as_u64().unwrap()
}

#[test]
fn units_that_do_not_end_within_the_grace_end_by_shutdown() {
    let mesh = pair("0s");
    let units = [(); 2].map(|()| begin_endless(&mesh, "A", "B"));
    wait_until("one runs, one waits", || running(&mesh, "B") == 1);
    mesh.node("B").signal(Signal::TERM);
    units.into_iter().for_each(ends_by_shutdown);
    assert_eq!(mesh.node("B").wait(), 0);
}

#[test]
fn a_node_that_stops_advertises_nothing_while_its_unit_still_runs() {
    let mesh = pair("24h");
    let unit = begin_endless(&mesh, "A", "B");
    assert!(advertises(&mesh, "A", "B"));
    mesh.node("B").signal(Signal::TERM);
    wait_until("A knows no worker of B", || !advertises(&mesh, "A", "B"));
    assert_eq!(running(&mesh, "B"), 1);
    assert_eq!(mesh.status("B")["draining"], true);

    mesh.node("B").log().wait_for_event(STOPPING);
    mesh.node("B").signal(Signal::TERM);
    ends_by_shutdown(unit);
    assert_eq!(mesh.node("B").wait(), 0);
}

#[test]
fn a_second_signal_does_not_wait_for_a_worker_that_ignores_it() {
    let mesh = pair("24h");
    let unit = begin(&mesh, "A", "B", "test:stuck", "");
    wait_until("it runs", || running(&mesh, "B") == 1);
    mesh.node("B").signal(Signal::TERM);
    mesh.node("B").log().wait_for_event(STOPPING);
    mesh.node("B").signal(Signal::TERM);
    ends_by_shutdown(unit);
    assert_eq!(mesh.node("B").wait(), 0);
}

#[test]
fn a_node_waits_for_the_units_that_it_has_submitted_elsewhere() {
    let mesh = pair("24h");
    let unit = begin(&mesh, "A", "B", "test:ticks", "");
    mesh.node("A").signal(Signal::TERM);
    mesh.node("A").log().wait_for_event(STOPPING);
    wait_until("A takes no more", || mesh.status("A")["draining"] == true);
    let refused = mesh.at("A", &["submit", "--to", "B", "--directive", "echo:bytes", "late"]);
    assert_eq!(refused.status, 5, "{}", refused.stderr);
    assert!(refused.stderr.contains("draining"), "{}", refused.stderr);
    all_ticks_come(unit);
    assert_eq!(mesh.node("A").wait(), 0);
}

#[test]
fn units_of_an_origin_that_stops_end_by_shutdown_after_the_grace() {
    let mut mesh = pair("0s");
    let b = mesh.node("B").address();
    mesh.start(Spec::new("C").peer(b));
    let unit = begin_endless(&mesh, "A", "B");
    mesh.node("A").signal(Signal::TERM);
    ends_by_shutdown(unit);
    assert_eq!(mesh.node("A").wait(), 0);
    wait_until("B runs nothing", || mesh.ping("C", "B")["pool"]["running"] == 0);
}

#[test]
fn a_drained_node_refuses_units_and_goes_on_as_a_relay_until_it_is_started_anew() {
    let mut mesh = pair("24h");
    let b = mesh.node("B").address();
    mesh.start(Spec::new("C").peer(b));
    mesh.wait_until_all_routes();
    let unit = begin(&mesh, "A", "B", "test:ticks", "");
    let drain = mesh.begin("B", &["drain"]);
    wait_until("A knows no worker of B", || !advertises(&mesh, "A", "B"));
    all_ticks_come(unit);
    let drained = drain.finish().ok();
    assert_eq!(drained.text(), "B is drained: 1 unit ended, 0 stopped\n");
    assert_eq!(drained.stderr, "");

    let again = mesh.at("B", &["drain", "--json"]).ok().json();
    assert_eq!(
        again,
        serde_json::json!({"node": "B", "ended": 1, "stopped": 0, "stuck": 0})
    );
    assert_eq!(mesh.status("B")["draining"], true);
    assert_eq!(mesh.ping("A", "B")["draining"], true);
    assert!(mesh.at("B", &["status"]).ok().text().contains("\ndraining "));
    let echo = |to| ["submit", "--to", to, "--directive", "echo:bytes", "x"];
    for at in ["A", "B"] {
        let refused = mesh.at(at, &echo("B"));
        assert_eq!(refused.status, 5, "{}", refused.stderr);
        assert!(refused.stderr.contains("draining"), "{}", refused.stderr);
    }
    assert_eq!(mesh.next_hop("A", "C").as_deref(), Some("B"));
    assert_eq!(mesh.at("A", &echo("C")).ok().text(), "x");

    mesh.node("B").signal(Signal::TERM);
    assert_eq!(mesh.node("B").wait(), 0);
    mesh.restart("B");
    wait_until("A knows B's workers", || advertises(&mesh, "A", "B"));
    assert_eq!(mesh.status("B")["draining"], false);
    assert_eq!(mesh.at("A", &echo("B")).ok().text(), "x");
}

#[test]
fn a_drain_stops_what_does_not_end_within_the_grace() {
    let mesh = pair("0s");
    let unit = begin(&mesh, "A", "B", "test:stuck", "");
    let waiting = begin_endless(&mesh, "A", "B");
    wait_until("it runs", || running(&mesh, "B") == 1);
    let drained = mesh.at("B", &["drain", "--json"]).ok().json();
    assert_eq!(
        drained,
        serde_json::json!({"node": "B", "ended": 0, "stopped": 2, "stuck": 1})
    );
    ends_by_shutdown(unit);
    ends_by_shutdown(waiting);
    // The function that ignores it is shown for what it is.
    assert_eq!(mesh.status("B")["pool"]["abandoned"], 1);
    let status = mesh.at("B", &["status"]).ok();
    assert!(status.text().contains(", 1 abandoned\n"), "{}", status.text());
}
