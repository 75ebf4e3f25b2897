//! What somebody at a terminal sees of a durable unit that sends nothing.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use workmesh_tests::{Spec, TestMesh};

use super::{FAST, Task};

/// A terminal: the end of whoever looks at it, and that of the program.
fn terminal() -> (File, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    (File::from(ours), theirs)
}

#[test]
fn who_waits_at_a_terminal_is_told_where_the_unit_is() {
    let mut mesh = TestMesh::new();
    mesh.start(Spec::new("A").own_workers().args(&FAST));
    let task = Task::new(&mesh);
    // Nobody is called E: the unit waits, and the command ends with it.
    let words = task.submit(&["--durable", "--to", "E", "--deadline", "6s"]);
    let (mut ours, theirs) = terminal();
    let mut command = mesh.command_in(mesh.node("A").data_dir(), &words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(theirs);
    let mut client = command.spawn().unwrap();
    // With it goes this process's own end for the program.
    drop(command);
    let mut seen = Vec::new();
    // A terminal that nobody has open any more is an error to who looks at it, on Linux.
    let _closed = ours.read_to_end(&mut seen);
    let seen = String::from_utf8_lossy(&seen);
    let told = format!(
        "node: unit {id} is not accepted yet; `node work show {id}` says why",
        id = task.id
    );
    assert_eq!(seen.matches(&told).count(), 1, "{seen}");
    assert_eq!(client.wait().unwrap().code(), Some(4), "{seen}");
}
