//! Cancelling a durable unit ends it at once for its client, wherever it is; the executor comes to know of it.

use serde_json::Value;
use workmesh_tests::{Spec, TestMesh, UdpProxy, wait_until};

use super::{FAST, Task, line, only_end, wait_until_idle};

/// Cancels a unit; what the node answers has to be its end.
#[track_caller]
fn cancel(mesh: &TestMesh, task: &Task) -> Value {
    let report = mesh.at("A", &["work", "cancel", &task.id, "--json"]).ok().json();
    assert_eq!(
        (&report["state"], &report["outcome"]),
        (&"ended".into(), &"cancelled".into()),
        "{report}"
    );
    report
}

/// A unit of E that would run for minutes.
fn endless(mesh: &TestMesh) -> Task {
    Task::new(mesh)
        .responses(10_000, 100)
        .slowly(100, 50)
        .detached(mesh, "A", &["--to", "E"])
}

fn wait_until_it_runs(mesh: &TestMesh, task: &Task) {
    task.wait_until(mesh, "A", "runs", |report| {
        report["state"] == "running" && report["responses"].as_u64() > Some(0)
    });
}

#[test]
fn a_running_unit_ends_for_everybody_who_follows_it() {
    let mesh = line(&["A", "E"]);
    let task = endless(&mesh);
    let follower = task.attach(&mesh, "A");
    wait_until_it_runs(&mesh, &task);
    cancel(&mesh, &task);
    let done = follower.finish();
    assert_eq!(
        (done.status, &only_end(&done)["outcome"]),
        (130, &"cancelled".into())
    );
    wait_until_idle(&mesh, "E");
    assert_eq!(task.settled(&mesh, "A")["outcome"], "cancelled");
    task.exact_responses(&mesh, "A");
    // Again is no error, and changes nothing.
    cancel(&mesh, &task);
}

#[test]
fn a_unit_that_ended_before_stays_as_it_ended() {
    let mesh = line(&["A", "E"]);
    let task = Task::new(&mesh).detached(&mesh, "A", &["--to", "E"]);
    task.succeeded(&mesh, "A");
    let report = mesh.at("A", &["work", "cancel", &task.id, "--json"]).ok().json();
    assert_eq!(report["outcome"], "succeeded");
    task.succeeded(&mesh, "A");
}

#[test]
fn a_queued_unit_never_runs() {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A").own_workers().args(&FAST)).address();
    mesh.start(
        Spec::new("E")
            .own_workers()
            .args(&FAST)
            .args(&["--max-workers", "1"])
            .peer(a),
    );
    mesh.wait_until_all_routes();
    let first = endless(&mesh);
    wait_until_it_runs(&mesh, &first);
    let queued = Task::new(&mesh).detached(&mesh, "A", &["--to", "E"]);
    queued.wait_until(&mesh, "A", "is accepted", |report| report["state"] == "accepted");
    cancel(&mesh, &queued);
    cancel(&mesh, &first);
    Task::new(&mesh)
        .detached(&mesh, "A", &["--to", "E"])
        .succeeded(&mesh, "A");
    wait_until_idle(&mesh, "E");
    assert_eq!(queued.settled(&mesh, "A")["outcome"], "cancelled");
    assert!(queued.runs().is_empty(), "{:?}", queued.runs());
}

#[test]
fn a_waiting_unit_never_runs() {
    let mut mesh = line(&["A", "E"]);
    mesh.node("E").kill();
    wait_until("A has no way to E", || mesh.next_hop("A", "E").is_none());
    let task = Task::new(&mesh).detached(&mesh, "A", &["--to", "E", "--deadline", "1h"]);
    cancel(&mesh, &task);
    mesh.restart("E");
    mesh.wait_until_all_routes();
    Task::new(&mesh)
        .detached(&mesh, "A", &["--to", "E"])
        .succeeded(&mesh, "A");
    assert_eq!(task.settled(&mesh, "A")["outcome"], "cancelled");
    assert!(task.runs().is_empty(), "{:?}", task.runs());
}

#[test]
fn a_unit_that_is_out_of_reach_ends_here_at_once_and_there_after_the_reconnection() {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A").own_workers().args(&FAST)).address();
    let proxy = UdpProxy::start(a);
    mesh.start(Spec::new("E").own_workers().args(&FAST).peer(proxy.address()));
    mesh.wait_until_all_routes();
    let task = endless(&mesh);
    let follower = task.attach(&mesh, "A");
    wait_until_it_runs(&mesh, &task);
    proxy.cut();
    wait_until("A has no way to E", || mesh.next_hop("A", "E").is_none());
    let report = cancel(&mesh, &task);
    assert_eq!(report["executor_released"], false, "{report}");
    let done = follower.finish();
    assert_eq!(
        (done.status, &only_end(&done)["outcome"]),
        (130, &"cancelled".into())
    );
    assert_eq!(mesh.status("E")["pool"]["running"], 1, "E can't know yet");
    proxy.mend();
    wait_until_idle(&mesh, "E");
    assert_eq!(task.settled(&mesh, "A")["outcome"], "cancelled");
    assert_eq!(task.runs().len(), 1);
}

#[test]
fn a_unit_that_was_released_while_its_executor_was_away_stays_out_of_sight() {
    let mut mesh = line(&["A", "E"]);
    let task = endless(&mesh);
    wait_until_it_runs(&mesh, &task);
    mesh.node("E").kill();
    wait_until("A has no way to E", || mesh.next_hop("A", "E").is_none());
    let released = mesh.at("A", &["work", "release", &task.id, "--json"]).ok().json();
    assert_eq!(released["released"], 1, "{released}");
    let listed = |mesh: &TestMesh| mesh.at("A", &["work", "list", "--json"]).ok().json_lines();
    assert_eq!(listed(&mesh), [] as [Value; 0]);
    mesh.node("A").kill();
    mesh.restart("A");
    assert_eq!(listed(&mesh), [] as [Value; 0]);
    let units = |mesh: &TestMesh| mesh.status("A")["counters"]["work.units"].clone();
    assert_eq!(units(&mesh), 1, "its executor is owed the word");
    mesh.restart("E");
    wait_until("nothing is left of it", || units(&mesh) == 0);
}
