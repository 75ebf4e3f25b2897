//! Every way in which a unit can fail: its kind, its exit status, and no hang.

use rustix::process::Signal;
use serde_json::Value;
use workmesh_tests::{Spec, TestMesh};

/// What `submit` says at the end, and its exit status.
fn end_of(mesh: &TestMesh, args: &[&str]) -> (String, i32) {
    let done = mesh.at("A", &[&["submit", "--format", "json"], args].concat());
    let eof = done
        .text()
        .lines()
        .last()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let eof = eof.unwrap_or_else(|| panic!("no eof for {args:?}: {done:?}"));
    assert_eq!(eof["type"], "eof", "{args:?}");
    assert_eq!(
        done.stderr.lines().count(),
        1,
        "one line on stderr for {args:?}: {}",
        done.stderr
    );
    (eof["kind"].as_str().unwrap_or_default().to_owned(), done.status)
}

fn mesh() -> TestMesh {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A")).address();
    let b = mesh.start(Spec::new("B").peer(a)).address();
    mesh.start(
        Spec::new("C")
            .peer(b)
            .own_workers()
            .args(&["--max-bytes-payload", "1MiB"]),
    );
    mesh.wait_until_all_routes();
    mesh
}

#[test]
fn each_failure_has_its_own_kind_and_exit_status() {
    let mesh = mesh();
    let table: [(&[&str], &str, i32); 16] = [
        (&["--to", "C", "--directive", "sleep:nope"], "unknown_function", 3),
        (
            &["--to", "C", "--directive", "nosuch:execute"],
            "unknown_module",
            3,
        ),
        (&["--to", "C", "--directive", "nocolon"], "malformed_directive", 2),
        (&["--to", "C", "--directive", ":x"], "malformed_directive", 2),
        (&["--to", "C", "--directive", "a:"], "malformed_directive", 2),
        (&["--directive", "nocolon"], "malformed_directive", 2),
        (&["--directive", ":x"], "malformed_directive", 2),
        (&["--directive", "a:"], "malformed_directive", 2),
        (
            &["--to", "nobody", "--directive", "echo:bytes"],
            "no_such_node",
            3,
        ),
        (&["--directive", "nosuch:execute"], "no_capable_node", 3),
        (&["--directive", "sleep:nope"], "no_capable_node", 3),
        (&["--to", "C", "--directive", "test:panic"], "panic", 1),
        (&["--to", "C", "--directive", "test:fail"], "worker_error", 1),
        (&["--directive", "sleep:execute", "not JSON"], "worker_error", 1),
        (
            &["--to", "C", "--directive", "sleep:execute", "--deadline", "300ms"],
            "expired",
            4,
        ),
        (
            &["--to", "C", "--directive", "test:stuck", "--deadline", "300ms"],
            "expired",
            4,
        ),
    ];
    for (args, kind, status) in table {
        assert_eq!(end_of(&mesh, args), (kind.to_owned(), status), "{args:?}");
    }
    assert_eq!(
        mesh.at(
            "A",
            &["submit", "--to", "C", "--directive", "text:upper", "alive"]
        )
        .ok()
        .text(),
        "ALIVE"
    );
}

#[test]
fn a_payload_above_the_limit_is_refused_and_one_at_the_limit_is_not() {
    let mesh = mesh();
    let submit = ["submit", "--to", "C", "--directive", "echo:bytes", "-"];
    let at_limit = vec![b'x'; 1024 * 1024];
    assert_eq!(
        mesh.at_with_input("A", &submit, at_limit.clone()).ok().stdout,
        at_limit
    );
    let above = mesh.at_with_input("A", &submit, vec![b'x'; 1024 * 1024 + 1]);
    assert_eq!(above.status, 5, "{}", above.stderr);
    assert!(above.stderr.contains("1048576"), "{}", above.stderr);
}

#[test]
fn ctrl_c_cancels_the_unit_and_waits_for_its_end() {
    let mesh = mesh();
    for (directive, payload) in [("sleep:execute", ""), ("test:stuck", "")] {
        let submit = [
            "submit",
            "--to",
            "C",
            "--directive",
            directive,
            "--format",
            "json",
            payload,
        ];
        let mut unit = mesh.begin("A", &submit);
        assert_eq!(unit.next_object()["type"], "accepted");
        unit.signal(Signal::INT);
        let eof = unit.next_object();
        assert_eq!(
            (eof["outcome"].as_str(), eof["kind"].as_str()),
            (Some("cancelled"), Some("cancelled"))
        );
        assert_eq!(unit.finish().status, 130);
    }
}

#[test]
fn a_submitter_that_is_killed_cancels_its_unit() {
    let mesh = mesh();
    let submit = [
        "submit",
        "--to",
        "C",
        "--directive",
        "sleep:execute",
        "--format",
        "json",
    ];
    let mut unit = mesh.begin("A", &submit);
    assert_eq!(unit.next_object()["type"], "accepted");
    unit.signal(Signal::KILL);
    workmesh_tests::wait_until("C has no work", || {
        mesh.ping("A", "C")["active_work"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
}

#[test]
fn an_executor_that_is_killed_is_lost() {
    let mesh = mesh();
    let submit = [
        "submit",
        "--to",
        "C",
        "--directive",
        "test:first_byte",
        "--format",
        "json",
        "x",
    ];
    let mut unit = mesh.begin("A", &submit);
    assert_eq!(unit.next_object()["type"], "accepted");
    assert_eq!(unit.next_object()["data"], "x");
    mesh.node("C").kill();
    let eof = unit.next_object();
    assert_eq!(
        (eof["outcome"].as_str(), eof["kind"].as_str()),
        (Some("lost"), Some("node_lost"))
    );
    assert_eq!(unit.finish().status, 3);
}

#[test]
fn a_node_that_stops_lets_its_units_end_and_takes_no_more() {
    let mesh = mesh();
    let unit = [
        "submit",
        "--to",
        "C",
        "--directive",
        "test:ticks",
        "--param",
        "count=20",
        "--format",
        "json",
    ];
    let mut running = mesh.begin("A", &unit);
    assert_eq!(running.next_object()["type"], "accepted");
    mesh.node("C").signal(Signal::TERM);
    mesh.node("C")
        .log()
        .wait_for_event("stopping; send the signal again to stop at once");
    let late = mesh.at("A", &["submit", "--to", "C", "--directive", "echo:bytes", "late"]);
    assert!([3, 5].contains(&late.status), "{}: {}", late.status, late.stderr);
    for tick in 1..=20 {
        assert_eq!(running.next_object()["data"], tick.to_string());
    }
    assert_eq!(running.next_object()["outcome"], "succeeded");
    assert_eq!(running.finish().status, 0);
    assert_eq!(mesh.node("C").wait(), 0);
}

#[test]
fn a_local_program_hears_the_end_of_its_unit_from_a_node_that_stops() {
    let mut mesh = TestMesh::new();
    mesh.start(Spec::new("A").own_workers());
    for _ in 0..5 {
        let submit = [
            "submit",
            "--directive",
            "test:ticks",
            "--param",
            "count=5",
            "--format",
            "json",
        ];
        let mut unit = mesh.begin("A", &submit);
        assert_eq!(unit.next_object()["type"], "accepted");
        mesh.node("A").signal(Signal::TERM);
        for tick in 1..=5 {
            assert_eq!(unit.next_object()["data"], tick.to_string());
        }
        assert_eq!(unit.next_object()["outcome"], "succeeded");
        assert_eq!(unit.finish().status, 0);
        assert_eq!(mesh.node("A").wait(), 0);
        mesh.restart("A");
    }
}
