//! A process is killed while a unit streams: nothing is lost, nothing comes twice, no byte is wrong, and there is one end.

use rustix::process::Signal;
use serde_json::Value;
use workmesh_tests::{Running, Spec, TestMesh, wait_until};

use super::{FAST, MIB, Task, line, line_with, only_end, run, setting, wait_until_idle};

const RESPONSES: u64 = 4;
/// Small units that are submitted at once.
const BURST: u64 = 16;
const TO_E: [&str; 2] = ["--to", "E"];

fn rounds() -> u64 {
    setting("DURABLE_ROUNDS", 3)
}

/// A unit of four responses, which takes a few seconds.
fn stream(mesh: &TestMesh) -> Task {
    Task::new(mesh).responses(RESPONSES, MIB).slowly(MIB / 32, 15)
}

/// Waits until a unit is under way: each round finds it somewhere else.
fn wait_until_under_way(mesh: &TestMesh, task: &Task, round: u64) {
    let bytes = 1 + (round * 7 % 24) * MIB / 8;
    task.wait_until(mesh, "A", "is under way", |report| {
        report["bytes"].as_u64() >= Some(bytes) || report["state"] == "ended"
    });
}

/// A follower that has seen the unit from its first response to its end, with every serial once.
#[track_caller]
fn saw_all(follower: Running) {
    let done = follower.finish();
    assert_eq!(only_end(&done)["outcome"], "succeeded", "{}", done.stderr);
    assert_eq!(
        complete_serials(&done.json_lines()),
        Vec::from_iter(1..=RESPONSES)
    );
}

fn complete_serials(objects: &[Value]) -> Vec<u64> {
    let complete = |object: &&Value| object["type"] == "response" && object["partial"] != true;
    objects
        .iter()
        .filter(complete)
        .filter_map(|object| object["serial"].as_u64())
        .collect()
}

#[test]
fn the_origin_is_killed() {
    let mut mesh = line(&["A", "R", "E"]);
    for round in 0..rounds() {
        let task = stream(&mesh).detached(&mesh, "A", &TO_E);
        let follower = task.attach(&mesh, "A");
        wait_until_under_way(&mesh, &task, round);
        mesh.node("A").kill();
        mesh.restart("A");
        task.succeeded(&mesh, "A");
        saw_all(follower);
    }
    wait_until_idle(&mesh, "E");
}

#[test]
fn the_executor_is_killed() {
    let mut mesh = line(&["A", "R", "E"]);
    for round in 0..rounds() {
        let once = stream(&mesh).detached(&mesh, "A", &TO_E);
        let again = stream(&mesh).detached(&mesh, "A", &["--to", "E", "--idempotent"]);
        let follower = again.attach(&mesh, "A");
        wait_until_under_way(&mesh, &once, round);
        wait_until_under_way(&mesh, &again, round);
        mesh.node("E").kill();
        mesh.restart("E");
        let report = once.settled(&mesh, "A");
        match report["outcome"].as_str() {
            Some("lost") => assert_eq!(report["kind"], "node_lost", "{report}"),
            // It had ended when its executor was killed.
            other => assert_eq!(other, Some("succeeded"), "{report}"),
        }
        let complete = once.exact_responses(&mesh, "A");
        assert!(report["outcome"] == "lost" || complete == RESPONSES, "{report}");
        assert_eq!(once.runs().len(), 1, "{:?}", once.runs());
        again.succeeded(&mesh, "A");
        saw_all(follower);
        let attempts = again.show(&mesh, "A")["attempt"].as_u64();
        assert!(Some(again.runs().len() as u64) <= attempts, "{:?}", again.runs());
    }
    wait_until_idle(&mesh, "E");
}

#[test]
fn an_executor_that_is_killed_loses_nothing_that_only_waited_there() {
    let mut mesh = TestMesh::new();
    let a = mesh.start(Spec::new("A").own_workers().args(&FAST)).address();
    let one = ["--max-workers", "1"];
    mesh.start(Spec::new("E").own_workers().args(&FAST).args(&one).peer(a));
    mesh.wait_until_all_routes();
    let endless = Task::new(&mesh).responses(10_000, 100).slowly(100, 50);
    let running = endless.detached(&mesh, "A", &TO_E);
    running.wait_until(&mesh, "A", "runs", |report| report["state"] == "running");
    let flags: [&[&str]; 4] = [&TO_E, &TO_E, &TO_E, &["--to", "E", "--idempotent"]];
    let queued = flags.map(|flags| Task::new(&mesh).responses(1, 100).detached(&mesh, "A", flags));
    for task in &queued {
        task.wait_until(&mesh, "A", "is accepted", |report| report["state"] == "accepted");
    }
    mesh.node("E").kill();
    mesh.restart("E");
    assert_eq!(running.settled(&mesh, "A")["kind"], "node_lost");
    for task in &queued {
        task.succeeded(&mesh, "A");
        assert_eq!(task.show(&mesh, "A")["attempt"], 1);
        assert_eq!(task.runs().len(), 1);
    }
    wait_until_idle(&mesh, "E");
}

#[test]
fn the_only_relay_is_killed() {
    let mut mesh = line(&["A", "R", "E"]);
    for round in 0..rounds() {
        let task = stream(&mesh).detached(&mesh, "A", &TO_E);
        let follower = task.attach(&mesh, "A");
        wait_until_under_way(&mesh, &task, round);
        mesh.node("R").kill();
        if round % 2 == 0 {
            wait_until("A has no way to E", || mesh.next_hop("A", "E").is_none());
        }
        mesh.restart("R");
        task.succeeded(&mesh, "A");
        saw_all(follower);
    }
    wait_until_idle(&mesh, "E");
}

#[test]
fn the_attached_client_is_killed() {
    let mesh = line(&["A", "R", "E"]);
    for round in 0..rounds() {
        let task = stream(&mesh);
        let words = task.submit(&["--durable", "--to", "E"]);
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let mut client = mesh.begin("A", &words);
        assert_eq!(client.next_object()["type"], "stored");
        wait_until_under_way(&mesh, &task, round);
        client.signal(Signal::KILL);
        let follower = task.attach(&mesh, "A");
        task.succeeded(&mesh, "A");
        saw_all(follower);
    }
    wait_until_idle(&mesh, "E");
}

#[test]
fn an_attached_client_sees_the_end_across_a_kill_of_its_node() {
    let mut mesh = line(&["A", "R", "E"]);
    let task = stream(&mesh);
    let words = task.submit(&["--durable", "--to", "E"]);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let mut client = mesh.begin("A", &words);
    assert_eq!(client.next_object()["type"], "stored");
    wait_until_under_way(&mesh, &task, 1);
    mesh.node("A").kill();
    mesh.restart("A");
    saw_all(client);
    task.succeeded(&mesh, "A");
    let twice = run(&mesh, "A", &task.submit(&["--durable", "--to", "E"])).ok();
    assert_eq!(
        complete_serials(&twice.json_lines()),
        Vec::from_iter(1..=RESPONSES)
    );
    assert_eq!(task.runs().len(), 1);
}

/// Submits small units, kills a node as soon as some of them have begun, and waits until all have ended and are released.
fn burst_across_a_kill(mesh: &mut TestMesh, victim: &str, round: u64) -> Vec<Task> {
    mesh.wait_until_all_routes();
    let one = |_| Task::new(mesh).responses(1, 100).slowly(100, round % 3);
    let tasks = Vec::from_iter((0..BURST).map(one));
    let submit = |task: &Task| {
        let words = task.submit(&["--detach", "--to", "E"]);
        mesh.begin("A", &Vec::from_iter(words.iter().map(String::as_str)))
    };
    let clients = Vec::from_iter(tasks.iter().map(submit));
    let begun = |task: &&Task| !task.runs().is_empty();
    wait_until("units have begun", || {
        tasks.iter().filter(begun).count() as u64 > round * 5 % BURST
    });
    mesh.node(victim).kill();
    mesh.restart(victim);
    mesh.wait_until_all_routes();
    for (task, client) in tasks.iter().zip(clients) {
        let done = client.finish();
        if done.status != 0 {
            // Its node was killed before it answered, or had no route in this moment: the same unit once more.
            assert!(
                victim == "A" || done.stderr.contains("no_route"),
                "{}",
                done.stderr
            );
            task.detach(mesh, "A", &TO_E).ok();
        }
        task.settled(mesh, "A");
    }
    tasks
}

#[test]
fn a_process_is_killed_while_small_units_go_in_batches() {
    let mut mesh = line_with(&["A", "R", "E"], &["--work-batch-from", "0"]);
    for round in 0..rounds() {
        for victim in ["A", "R"] {
            for task in burst_across_a_kill(&mut mesh, victim, round) {
                task.succeeded(&mesh, "A");
            }
        }
        for task in burst_across_a_kill(&mut mesh, "E", round) {
            let report = task.show(&mesh, "A");
            if report["outcome"] == "lost" {
                assert_eq!(report["kind"], "node_lost", "{report}");
                task.exact_responses(&mesh, "A");
                assert!(task.runs().len() <= 1, "{:?}", task.runs());
            } else {
                task.succeeded(&mesh, "A");
            }
        }
    }
    let batched = mesh.status("A")["counters"]["work.batched"].as_u64();
    assert!(batched >= Some(BURST), "{batched:?}");
    wait_until_idle(&mesh, "E");
}
