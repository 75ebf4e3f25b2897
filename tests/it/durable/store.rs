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

/// The files of the log, oldest first.
fn segments(mesh: &TestMesh) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(store(mesh).join("log")).unwrap();
    let mut segments: Vec<_> = listed.map(|entry| entry.unwrap().path()).collect();
    // One that is being made has its name in a moment.
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    segments
}

/// The line about damage of which `part` is a part.
#[track_caller]
fn damage(mesh: &TestMesh, part: &str) -> String {
    let lines = mesh.node("A").log().lines();
    let told = |line: &&String| line.contains("the store is damaged") && line.contains(part);
    lines
        .iter()
        .find(told)
        .unwrap_or_else(|| panic!("no line about {part}: {}", lines.join("\n")))
        .clone()
}

#[test]
fn a_missing_log_file_is_named_and_who_may_have_lost_records_is_not_run_again() {
    let mut mesh = TestMesh::new();
    let small = ["--work-quota", "16MiB", "--work-reserve", "0B"];
    mesh.start(Spec::new("A").own_workers().args(&small));
    let waits = ["--to", "B", "--deadline", "1h"];
    let waiting = Task::new(&mesh).detached(&mesh, "A", &waits);
    // Until what has become of it since might be in another file.
    while segments(&mesh).len() < 3 {
        Task::new(&mesh).responses(1, 30_000).detached(&mesh, "A", &[]);
    }
    stop(&mesh, "A");
    let gone = segments(&mesh).remove(1);
    std::fs::remove_file(&gone).unwrap();

    mesh.restart("A");
    damage(&mesh, gone.file_name().unwrap().to_str().unwrap());
    let report = waiting.wait_until(&mesh, "A", "has ended", |report| report["state"] == "ended");
    assert_eq!(report["kind"], "node_lost", "{report}");
    let message = report["message"].as_str().unwrap();
    assert!(message.contains("its last records may be lost"), "{message}");
    assert!(message.contains("is missing"), "{message}");
    let task = Task::new(&mesh).responses(2, 100).detached(&mesh, "A", &[]);
    task.succeeded(&mesh, "A");
    // Known now, and no news at the next start.
    stop(&mesh, "A");
    mesh.restart("A");
    assert_eq!(mesh.node("A").log().count("the store is damaged"), 0);
    assert_eq!(waiting.show(&mesh, "A")["kind"], "node_lost");
    task.succeeded(&mesh, "A");
}

#[test]
fn another_mark_in_the_format_does_not_empty_the_store() {
    let mut mesh = alone();
    let task = Task::new(&mesh).responses(2, 100).detached(&mesh, "A", &[]);
    task.succeeded(&mesh, "A");
    stop(&mesh, "A");
    let format = store(&mesh).join("FORMAT");
    let text = std::fs::read_to_string(&format).unwrap();
    let (before, after) = text.split_at(text.find("mark ").unwrap() + 5);
    std::fs::write(&format, format!("{before}0123456789abcdef{}", &after[16..])).unwrap();

    mesh.restart("A");
    damage(&mesh, "FORMAT");
    task.succeeded(&mesh, "A");
    assert_eq!(std::fs::read_to_string(&format).unwrap(), text);
}

#[test]
fn a_missing_file_of_an_ended_unit_is_noticed() {
    let mut mesh = alone();
    let task = Task::new(&mesh).responses(2, 100_000).detached(&mesh, "A", &[]);
    task.succeeded(&mesh, "A");
    let other = Task::new(&mesh).responses(2, 100_000).detached(&mesh, "A", &[]);
    other.succeeded(&mesh, "A");
    stop(&mesh, "A");
    let name = format!("origin-{}-", task.id);
    let is_its = |path: &&PathBuf| path.to_string_lossy().contains(&name);
    let files: Vec<_> = contents(&store(&mesh).join("data"))
        .into_iter()
        .map(|(path, _)| path)
        .collect();
    let responses = files.iter().find(is_its).unwrap();
    std::fs::remove_file(responses).unwrap();

    for _ in 0..2 {
        mesh.restart("A");
        damage(&mesh, &task.id);
        let log = mesh.node("A").log().lines();
        let named = |line: &&String| line.contains("an ended unit is damaged") && line.contains(&task.id);
        assert_eq!(log.iter().filter(named).count(), 1, "{}", log.join("\n"));
        assert_eq!(task.show(&mesh, "A")["outcome"], "succeeded");
        other.succeeded(&mesh, "A");
        stop(&mesh, "A");
    }
}
