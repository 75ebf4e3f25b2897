//! The store on the disk: one of a later version is left alone, and damage costs no unit but its own.

use std::path::{Path, PathBuf};

use workmesh_tests::{Spec, TestMesh};

use super::{Task, new_id, stop};

fn alone() -> TestMesh {
    let mut mesh = TestMesh::new();
    mesh.start(Spec::new("A").own_workers());
    mesh
}

fn store(mesh: &TestMesh) -> PathBuf {
    mesh.node("A").data_dir().join("store")
}

/// The files below a folder with what is in them, sorted by path.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.clone(), std::fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_store_of_a_later_version_is_refused_and_left_as_it_is() {
    let mut mesh = alone();
    let task = Task::new(&mesh).responses(2, 100).detached(&mesh, "A", &[]);
    task.succeeded(&mesh, "A");
    stop(&mesh, "A");
    let format = store(&mesh).join("FORMAT");
    let text = std::fs::read_to_string(&format).unwrap();
    let version: u32 = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("workmesh-store "))
        .and_then(|version| version.parse().ok())
        .unwrap_or_else(|| panic!("{text:?}"));
    let later = format!("workmesh-store {}", version + 1);
    let changed = text.replacen(&format!("workmesh-store {version}"), &later, 1);
    std::fs::write(&format, changed).unwrap();
    let before = contents(&store(&mesh));

    let refused = mesh
        .spawn(mesh.node("A").spec(), mesh.node("A").data_dir())
        .finish();
    assert_ne!(refused.status, 0);
    let last = refused.stderr.lines().last().unwrap_or_default();
    for part in ["store", &(version + 1).to_string()] {
        assert!(last.contains(part), "{part} is missing: {}", refused.stderr);
    }
    assert!(contents(&store(&mesh)) == before, "the store was changed");

    std::fs::write(&format, text).unwrap();
    mesh.restart("A");
    task.succeeded(&mesh, "A");
}

#[test]
fn a_damaged_record_costs_its_own_unit() {
    let mut mesh = alone();
    let before = Task::new(&mesh).responses(2, 100).detached(&mesh, "A", &[]);
    before.succeeded(&mesh, "A");
    let mark = format!("mark of {}", new_id());
    let echo = [
        "submit",
        "--detach",
        "--format",
        "json",
        "--directive",
        "echo:bytes",
        &mark,
    ];
    let hit = mesh.at("A", &echo).ok().json()["unit"]
        .as_str()
        .unwrap()
        .to_owned();
    let hit = Task {
        id: hit,
        ..Task::new(&mesh)
    };
    hit.settled(&mesh, "A");
    let after = Task::new(&mesh).responses(2, 100).detached(&mesh, "A", &[]);
    after.succeeded(&mesh, "A");
    stop(&mesh, "A");

    let mut damaged = 0;
    for (path, mut bytes) in contents(&store(&mesh).join("log")) {
        let places: Vec<_> = bytes
            .windows(mark.len())
            .enumerate()
            .filter(|(_, window)| *window == mark.as_bytes())
            .map(|(at, _)| at)
            .collect();
        for &at in &places {
            bytes[at] ^= 0xff;
        }
        if !places.is_empty() {
            std::fs::write(path, bytes).unwrap();
            damaged += places.len();
        }
    }
    assert!(damaged > 0, "the payload stands in the log");

    mesh.restart("A");
    before.succeeded(&mesh, "A");
    after.succeeded(&mesh, "A");
    assert!(
        !contents(&store(&mesh).join("damaged")).is_empty(),
        "what is damaged is set aside"
    );
    let results = mesh.at("A", &["work", "results", &hit.id, "--format", "raw"]);
    let part = mark.as_bytes().starts_with(&results.stdout);
    assert!(part, "bytes that are damaged are given to nobody: {results:?}");
    Task::new(&mesh)
        .responses(2, 100)
        .detached(&mesh, "A", &[])
        .succeeded(&mesh, "A");
    // Once found, it is no news at the next start.
    stop(&mesh, "A");
    mesh.restart("A");
    before.succeeded(&mesh, "A");
    after.succeeded(&mesh, "A");
}
