//! A disk without room: durable units are refused, those that are stored keep what they have, and nothing else suffers.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use workmesh_tests::{Spec, TestMesh, Tmpfs, may_mount, wait_until};

use super::{FAST, MIB, Task, wait_until_idle};

/// Length of the disk: more than what a node leaves free by default, and not much more.
const DISK_MIB: u64 = 768;

/// A file that leaves no room.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(dir: &Path) -> Self {
        let path = dir.join("ballast");
        let mut file = File::create(&path).unwrap();
        let mut length = usize::try_from(MIB).unwrap();
        while length > 0 {
            if file.write_all(&vec![0; length]).is_err() {
                length /= 2;
            }
        }
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // The disk may be gone before.
        let _gone = fs::remove_file(&self.0);
    }
}

#[test]
fn a_full_disk_refuses_durable_units_and_harms_no_other() {
    if !may_mount() {
        return;
    }
    let mut mesh = TestMesh::new();
    let store = mesh.identity("A").join("store");
    fs::create_dir(&store).unwrap();
    let _disk = Tmpfs::mount(&store, DISK_MIB);
    let a = mesh.start(Spec::new("A").own_workers().args(&FAST)).address();
    mesh.start(Spec::new("E").own_workers().args(&FAST).peer(a));
    mesh.wait_until_all_routes();
    let to = ["--to", "E"];

    let before = Task::new(&mesh).responses(2, MIB).detached(&mesh, "A", &to);
    before.succeeded(&mesh, "A");
    let running = Task::new(&mesh)
        .responses(8, MIB)
        .slowly(MIB / 16, 20)
        .detached(&mesh, "A", &to);
    running.wait_until(&mesh, "A", "has a response", |report| {
        report["bytes"].as_u64() > Some(MIB)
    });

    let ballast = Ballast::fill(&store);
    let refused = Task::new(&mesh);
    let done = refused.detach(&mesh, "A", &to);
    assert_eq!(done.status, 5, "{done:?}");
    assert!(done.stderr.contains("no_space"), "{}", done.stderr);
    let attached = mesh
        .at(
            "A",
            &["submit", "--to", "E", "--directive", "text:upper", "heard"],
        )
        .ok();
    assert_eq!(
        attached.text(),
        "HEARD",
        "units that are not durable need no disk"
    );
    assert_eq!(before.exact_responses(&mesh, "A"), 2);
    running.exact_responses(&mesh, "A");
    assert!(!mesh.node("A").has_ended());

    drop(ballast);
    let report = running.settled(&mesh, "A");
    if report["outcome"] == "succeeded" {
        running.succeeded(&mesh, "A");
    } else {
        assert_eq!(report["kind"], "no_space", "{report}");
        running.exact_responses(&mesh, "A");
    }
    assert_eq!(running.runs().len(), 1);
    assert!(refused.runs().is_empty());
    wait_until("A takes durable units again", || {
        Task::new(&mesh).detach(&mesh, "A", &to).status == 0
    });
    mesh.node("A").kill();
    mesh.restart("A");
    before.succeeded(&mesh, "A");
    assert_eq!(running.settled(&mesh, "A")["outcome"], report["outcome"]);
    wait_until_idle(&mesh, "E");
}
