//! Payloads of every kind and size over two relays: digests, memory, and the files they leave: none.

use std::io::{Read, Write};

use rustix::process::Signal;
use workmesh_tests::{Memory, Pattern, Spec, Stdin, TestMesh, wait_until};

const MIB: u64 = 1024 * 1024;
/// By how much any node may grow while payloads of any size pass.
const MAX_GROWTH_BYTES: u64 = 32 * MIB;
const LINE: [&str; 4] = ["A", "B", "C", "D"];

fn line() -> TestMesh {
    let mut mesh = TestMesh::new();
    let mut before = None;
    for id in LINE {
        let mut spec = Spec::new(id);
        if let Some(address) = before {
            spec = spec.peer(address);
        }
        if id == "D" {
            spec = spec.own_workers().args(&["--max-bytes-payload", "16MiB"]);
        }
        before = Some(mesh.start(spec).address());
    }
    mesh.wait_until_all_routes();
    mesh
}

/// Submits a pattern of `length` bytes from A to D and gives what came back.
fn submit_pattern(mesh: &TestMesh, directive: &str, length: u64) -> Vec<u8> {
    let submit = [
        "submit",
        "--to",
        "D",
        "--directive",
        directive,
        "--format",
        "raw",
        "-",
    ];
    let mut unit = mesh.begin_with("A", &submit, &Stdin::Piped);
    let mut stdin = unit.take_stdin();
    let feeder = std::thread::spawn(move || std::io::copy(&mut Pattern::new(length), &mut stdin));
    let done = unit.finish().ok();
    assert_eq!(feeder.join().unwrap().unwrap(), length);
    done.stdout
}

fn digest(mut source: impl Read) -> String {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut source, &mut hasher).unwrap();
    hasher.finalize().to_string()
}

/// The same for what `echo` sends back, without keeping it.
fn echoed_digest(mesh: &TestMesh, directive: &str, length: u64) -> String {
    let submit = [
        "submit",
        "--to",
        "D",
        "--directive",
        directive,
        "--format",
        "raw",
        "-",
    ];
    let mut unit = mesh.begin_with("A", &submit, &Stdin::Piped);
    let mut stdin = unit.take_stdin();
    let feeder = std::thread::spawn(move || std::io::copy(&mut Pattern::new(length), &mut stdin));
    let digest = digest(unit.take_stdout());
    unit.finish().ok();
    feeder.join().unwrap().unwrap();
    digest
}

#[test]
fn payloads_of_every_kind_and_size_arrive_whole_in_bounded_memory() {
    let mesh = line();
    let bytes_limit = 16 * MIB;
    for (kind, largest) in [("bytes", bytes_limit), ("buffer", 64 * MIB), ("file", 64 * MIB)] {
        for length in [0, 1, largest] {
            let directive = format!("echo:{kind}");
            let echoed = echoed_digest(&mesh, &directive, length);
            assert_eq!(echoed, digest(Pattern::new(length)), "{length} bytes as {kind}");
        }
    }
    let above = mesh.at_with_input(
        "A",
        &["submit", "--to", "D", "--directive", "echo:bytes", "-"],
        vec![0; usize::try_from(bytes_limit).unwrap() + 1],
    );
    assert_eq!(above.status, 5, "{}", above.stderr);

    let before = LINE.map(|id| Memory::of(mesh.node(id).pid()));
    let length = 2048 * MIB;
    let sent = std::thread::spawn(move || digest(Pattern::new(length)));
    assert_eq!(
        submit_pattern(&mesh, "digest:blake3", length),
        sent.join().unwrap().as_bytes()
    );
    for (id, memory) in LINE.iter().zip(before) {
        let growth = memory.growth_bytes();
        assert!(growth < MAX_GROWTH_BYTES, "{id} grew by {growth} bytes");
    }
    mesh.wait_until_spool_is_empty("D");
}

#[test]
fn a_buffer_is_read_before_its_payload_has_arrived() {
    let mesh = line();
    let submit = [
        "submit",
        "--to",
        "D",
        "--directive",
        "test:first_byte",
        "--format",
        "json",
        "-",
    ];
    let mut unit = mesh.begin_with("A", &submit, &Stdin::Piped);
    let mut stdin = unit.take_stdin();
    stdin.write_all(b"x").unwrap();
    assert_eq!(unit.next_object()["type"], "accepted");
    assert_eq!(unit.next_object()["data"], "x");
    unit.signal(Signal::INT);
    assert_eq!(unit.next_object()["kind"], "cancelled");
    assert_eq!(unit.finish().status, 130);
}

#[test]
fn payload_files_are_gone_however_the_unit_ends() {
    let mesh = line();
    for (end, status) in [("return", 0), ("error", 1), ("panic", 1)] {
        let param = format!("end={end}");
        let done = mesh.at(
            "A",
            &[
                "submit",
                "--to",
                "D",
                "--directive",
                "test:file",
                "--param",
                &param,
                "hello",
            ],
        );
        assert_eq!((done.status, done.text()), (status, "5"), "{}", done.stderr);
        mesh.wait_until_spool_is_empty("D");
    }

    let wait = [
        "submit",
        "--to",
        "D",
        "--directive",
        "test:file",
        "--param",
        "end=wait",
        "--format",
        "json",
        "hello",
    ];
    let mut unit = mesh.begin("A", &wait);
    assert_eq!(unit.next_object()["type"], "accepted");
    assert_eq!(unit.next_object()["data"], "5");
    let files = mesh.node("D").payload_files();
    assert_eq!(files.len(), 1, "{files:?}");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(
        std::fs::metadata(&files[0]).unwrap().permissions().mode() & 0o777,
        0o600
    );
    unit.signal(Signal::INT);
    assert_eq!(unit.next_object()["kind"], "cancelled");
    unit.finish();
    mesh.wait_until_spool_is_empty("D");
}

#[test]
fn payload_files_of_a_killed_node_are_gone_after_its_next_start() {
    let mut mesh = line();
    let wait = [
        "submit",
        "--to",
        "D",
        "--directive",
        "test:file",
        "--param",
        "end=wait",
        "--format",
        "json",
        "hello",
    ];
    let mut unit = mesh.begin("A", &wait);
    assert_eq!(unit.next_object()["type"], "accepted");
    assert_eq!(unit.next_object()["data"], "5");
    mesh.node("D").kill();
    assert_eq!(mesh.node("D").payload_files().len(), 1);
    mesh.restart("D");
    assert!(mesh.node("D").payload_files().is_empty());
    mesh.node("D")
        .log()
        .wait_for_event("removed payload files of an earlier run");
    assert_eq!(unit.next_object()["kind"], "node_lost");
    assert_eq!(unit.finish().status, 3);
}

#[test]
fn a_payload_that_breaks_off_is_no_end() {
    let mesh = line();
    let submit = [
        "submit",
        "--to",
        "D",
        "--directive",
        "digest:blake3",
        "--format",
        "json",
        "-",
    ];
    let mut unit = mesh.begin_with("A", &submit, &Stdin::Piped);
    let mut stdin = unit.take_stdin();
    stdin.write_all(b"only a part").unwrap();
    assert_eq!(unit.next_object()["type"], "accepted");
    unit.signal(Signal::KILL);
    wait_until("D has no work", || {
        mesh.ping("A", "D")["active_work"]
            .as_array()
            .is_some_and(Vec::is_empty)
    });
    assert_eq!(
        mesh.at(
            "A",
            &["submit", "--to", "D", "--directive", "text:upper", "alive"]
        )
        .ok()
        .text(),
        "ALIVE"
    );
}
