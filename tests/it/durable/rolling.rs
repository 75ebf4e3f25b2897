//! Five nodes are restarted one after the other while units run: an upgrade loses nothing.

use workmesh_tests::{Spec, TestMesh};

use super::{FAST, MIB, Task, stop, wait_until_idle};

const NODES: [&str; 5] = ["A", "B", "C", "D", "E"];

/// A ring of five.
fn ring() -> TestMesh {
    let mut mesh = TestMesh::new();
    let first = mesh.start(Spec::new("A").own_workers().args(&FAST)).address();
    let mut before = first;
    for id in &NODES[1..] {
        let mut spec = Spec::new(id).own_workers().args(&FAST).peer(before);
        if *id == "E" {
            spec = spec.peer(first);
        }
        before = mesh.start(spec).address();
    }
    mesh.wait_until_all_routes();
    mesh
}

#[test]
fn units_survive_a_rolling_restart_of_all_nodes() {
    let mut mesh = ring();
    let mut tasks = Vec::new();
    for restarted in NODES {
        for origin in NODES {
            for to in [restarted, "", origin] {
                let task = Task::new(&mesh).responses(4, MIB / 4).slowly(MIB / 16, 20);
                let to = ["--to", to];
                let placed = if to[1].is_empty() { &[][..] } else { &to[..] };
                tasks.push((origin, task.detached(&mesh, origin, placed)));
            }
        }
        stop(&mesh, restarted);
        mesh.restart(restarted);
        mesh.wait_until_all_routes();
    }
    for (origin, task) in &tasks {
        task.succeeded(&mesh, origin);
    }
    for id in NODES {
        wait_until_idle(&mesh, id);
    }
}
