//! A unit that is due to go while somebody reads it.

use std::io::Read as _;

use workmesh_tests::{LIMIT, Running, Spec, Stdin, TestMesh, wait_until};

use super::{FAST, MIB, Task};

/// More than all buffers between a node and a reader that stands still can take.
const BYTES: u64 = 32 * MIB;

/// One node that keeps as few units after their end as `keep` says.
fn keeping(keep: &str) -> TestMesh {
    let mut mesh = TestMesh::new();
    let flags = [FAST[0], FAST[1], "--work-keep-succeeded-for", keep];
    mesh.start(Spec::new("A").own_workers().args(&flags));
    mesh
}

/// A client that reads a unit of [`BYTES`] as far as the buffers reach, and the rest when it is asked to.
fn stalled(mesh: &TestMesh, task: &Task) -> Running {
    let mut words = task.submit(&["--durable"]);
    let format = words.iter().position(|word| word == "json").unwrap();
    words[format] = "raw".to_owned();
    let command = mesh.command_in(mesh.node("A").data_dir(), &words);
    Running::start_within(LIMIT, command, &Stdin::Null)
}

fn is_listed(mesh: &TestMesh, task: &Task) -> bool {
    let rows = mesh.at("A", &["work", "list", "--json"]).ok();
    rows.json_lines().iter().any(|row| row["unit"] == task.id)
}

#[test]
fn a_unit_that_is_read_stays_until_its_reader_is_done() {
    let mesh = keeping("0s");
    let task = Task::new(&mesh).responses(1, BYTES);
    let mut client = stalled(&mesh, &task);
    let mut received = client.take_stdout();
    received.read_exact(&mut [0]).unwrap();
    task.settled(&mesh, "A");
    let later = Task::new(&mesh).detached(&mesh, "A", &[]);
    wait_until("a later unit is gone", || !is_listed(&mesh, &later));
    assert!(is_listed(&mesh, &task));
    let mut rest = Vec::new();
    received.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len() as u64 + 1, BYTES);
    drop(received);
    let done = client.finish();
    assert_eq!(done.status, 0, "{}", done.stderr);
    wait_until("the unit is gone", || !is_listed(&mesh, &task));
}

#[test]
fn what_is_read_of_a_unit_that_is_released_breaks_off_with_an_error() {
    let mesh = keeping("1h");
    let task = Task::new(&mesh).responses(1, BYTES);
    let mut client = stalled(&mesh, &task);
    let mut received = client.take_stdout();
    received.read_exact(&mut [0]).unwrap();
    task.settled(&mesh, "A");
    let released = mesh.at("A", &["work", "release", &task.id, "--json"]).ok().json();
    assert_eq!(released["released"], 1, "{released}");
    let mut rest = Vec::new();
    received.read_to_end(&mut rest).unwrap();
    assert!((rest.len() as u64) < BYTES - 1, "all of it has come");
    drop(received);
    let done = client.finish();
    assert_ne!(done.status, 0);
    assert!(done.stderr.contains(&task.id), "{}", done.stderr);
}
