//! Units that are stored before they can run, that expire before they do, and that are submitted twice.

use workmesh_tests::{Spec, TestMesh, wait_until};

use super::{FAST, Task, line, only_end, wait_until_idle};

/// A node A, and E, which is known to A and down.
fn without_executor() -> TestMesh {
    let mesh = line(&["A", "E"]);
    mesh.node("E").kill();
    wait_until("A has no way to E", || mesh.next_hop("A", "E").is_none());
    mesh
}

#[test]
fn a_detached_unit_has_its_id_while_its_target_is_down_and_runs_once_when_it_appears() {
    let mut mesh = without_executor();
    let task = Task::new(&mesh)
        .responses(2, 1000)
        .detached(&mesh, "A", &["--to", "E", "--deadline", "1h"]);
    let report = task.show(&mesh, "A");
    assert_eq!(report["state"], "waiting", "{report}");
    assert_ne!(report["reason"], "", "{report}");
    mesh.restart("E");
    task.succeeded(&mesh, "A");
    assert_eq!(task.show(&mesh, "A")["executor"], "E");
}

#[test]
fn a_unit_waits_for_a_node_that_was_never_seen() {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A").own_workers()).address();
    let task = Task::new(&mesh)
        .responses(1, 10)
        .detached(&mesh, "A", &["--to", "E", "--deadline", "1h"]);
    mesh.start(Spec::new("E").own_workers().peer(a));
    task.succeeded(&mesh, "A");
}

#[test]
fn without_a_deadline_a_unit_that_cannot_be_placed_is_refused_and_not_kept() {
    let mut mesh = without_executor();
    let task = Task::new(&mesh);
    let done = task.detach(&mesh, "A", &["--to", "E"]);
    assert_eq!(done.status, 3, "{done:?}");
    assert_eq!(mesh.at("A", &["work", "show", &task.id]).status, 3);
    mesh.restart("E");
    mesh.wait_until_all_routes();
    Task::new(&mesh)
        .detached(&mesh, "A", &["--to", "E"])
        .succeeded(&mesh, "A");
    assert!(task.runs().is_empty());
}

#[test]
fn a_deadline_that_passes_while_the_target_is_down_ends_the_unit_and_it_never_runs_later() {
    let mut mesh = without_executor();
    let task = Task::new(&mesh).detached(&mesh, "A", &["--to", "E", "--deadline", "2s"]);
    let report = task.wait_until(&mesh, "A", "has ended", |report| report["state"] == "ended");
    assert_eq!(
        (&report["outcome"], &report["kind"]),
        (&"expired".into(), &"expired".into())
    );
    mesh.restart("E");
    mesh.wait_until_all_routes();
    // One that comes later has run: the one before had its chance.
    Task::new(&mesh)
        .detached(&mesh, "A", &["--to", "E"])
        .succeeded(&mesh, "A");
    wait_until_idle(&mesh, "E");
    assert_eq!(task.settled(&mesh, "A")["outcome"], "expired");
    assert!(task.runs().is_empty(), "{:?}", task.runs());
}

#[test]
fn a_deadline_survives_a_restart_of_the_origin() {
    let mut mesh = without_executor();
    let task = Task::new(&mesh).detached(&mesh, "A", &["--to", "E", "--deadline", "2s"]);
    mesh.node("A").kill();
    mesh.restart("A");
    let report = task.wait_until(&mesh, "A", "has ended", |report| report["state"] == "ended");
    assert_eq!(report["outcome"], "expired", "{report}");
}

#[test]
fn the_same_id_twice_is_one_unit() {
    let mesh = line(&["A", "E"]);
    let task = Task::new(&mesh).responses(3, 1000).slowly(500, 20);
    let to = ["--to", "E"];
    for _ in 0..3 {
        assert_eq!(task.detach(&mesh, "A", &to).ok().json()["unit"], task.id);
    }
    let attached = super::run(&mesh, "A", &task.submit(&["--durable", "--to", "E"])).ok();
    assert_eq!(only_end(&attached)["outcome"], "succeeded");
    task.succeeded(&mesh, "A");
    assert_eq!(task.detach(&mesh, "A", &to).ok().json()["unit"], task.id);
    assert_eq!(task.runs().len(), 1);

    let other = Task {
        id: task.id.clone(),
        ..Task::new(&mesh).responses(4, 1000)
    };
    let refused = other.detach(&mesh, "A", &to);
    assert_eq!(refused.status, 5, "{refused:?}");
    assert!(refused.stderr.contains("duplicate"), "{}", refused.stderr);
    let plain = super::run(&mesh, "A", &task.submit(&to));
    assert_eq!(plain.status, 5, "{plain:?}");
    assert!(plain.stderr.contains("is a durable one"), "{}", plain.stderr);
    assert_eq!(task.runs().len(), 1);
    task.succeeded(&mesh, "A");
}

#[test]
fn a_client_that_begins_behind_the_last_response_sees_none_and_the_end() {
    let mesh = line(&["A", "E"]);
    let task = Task::new(&mesh).responses(3, 1000).slowly(500, 20);
    task.detach(&mesh, "A", &["--to", "E"]).ok();
    for when in ["while it runs", "when it has ended"] {
        let seen = mesh
            .at("A", &["work", "attach", &task.id, "--from", "5", "--json"])
            .ok();
        let end = only_end(&seen);
        assert_eq!(
            (&end["outcome"], &end["responses"]),
            (&"succeeded".into(), &3.into()),
            "{when}"
        );
        let remark = "3 responses in all: none was left to begin with at 5";
        assert!(seen.stderr.contains(remark), "{when}: {}", seen.stderr);
        let mut told = seen.json_lines();
        told.retain(|object| object["type"] == "response");
        assert!(told.is_empty(), "{when}: {told:?}");
    }
    task.succeeded(&mesh, "A");
}

#[test]
fn the_id_of_a_unit_that_is_not_durable_is_no_durable_ones() {
    let mesh = line(&["A", "E"]);
    let task = Task::new(&mesh).responses(3, 1000);
    let to = ["--to", "E"];
    super::run(&mesh, "A", &task.submit(&to)).ok();
    let refused = task.detach(&mesh, "A", &to);
    assert_eq!(refused.status, 5, "{refused:?}");
    assert!(
        refused.stderr.contains("not as a durable one"),
        "{}",
        refused.stderr
    );
    assert_eq!(task.runs().len(), 1);
}

#[test]
fn a_session_that_was_young_when_its_node_was_killed_does_not_time_out() {
    let mut mesh = line(&["A", "E"]);
    let to = ["--to", "E"];
    Task::new(&mesh).detached(&mesh, "A", &to).succeeded(&mesh, "A");
    mesh.node("E").kill();
    mesh.restart("E");
    mesh.wait_until_all_routes();
    Task::new(&mesh).detached(&mesh, "A", &to).succeeded(&mesh, "A");
    let log = mesh.node("A").log();
    wait_until("the session is given up", || log.count("session closed") > 0);
    assert_eq!(log.count("timed out"), 0, "{:?}", log.lines());
}

#[test]
fn results_of_a_unit_that_has_not_ended_say_so() {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A").own_workers().args(&FAST)).address();
    mesh.start(Spec::new("E").own_workers().args(&FAST).peer(a));
    mesh.wait_until_all_routes();
    let task = Task::new(&mesh)
        .responses(1000, 100)
        .slowly(100, 50)
        .detached(&mesh, "A", &["--to", "E"]);
    task.wait_until(&mesh, "A", "has responses", |report| {
        report["responses"].as_u64() > Some(1)
    });
    let done = mesh.at("A", &["work", "results", &task.id, "--json"]);
    let objects = done.json_lines();
    let last = objects.last().unwrap();
    assert_eq!(done.status, 5, "{done:?}");
    assert_eq!(
        (&last["type"], &last["state"]),
        (&"unfinished".into(), &"running".into())
    );
    assert!(
        objects.iter().any(|object| object["type"] == "response"),
        "{done:?}"
    );
    assert!(task.exact_responses(&mesh, "A") < 1000);
    mesh.at("A", &["work", "cancel", &task.id]).ok();
    assert_eq!(task.settled(&mesh, "A")["outcome"], "cancelled");
}
