//! A relay dies while it passes a response on: the unit goes on over another way.

use std::io::Read as _;

use workmesh_tests::{Pattern, Spec, TestMesh, wait_until};

const MIB: u64 = 1024 * 1024;

#[test]
fn a_response_survives_the_death_of_the_relay_that_carries_it() {
    let mut mesh = TestMesh::new();
    let fast = ["--detection", "2s"];
    let slow = ["--detection", "2s", "--cost", "100"];
    let d = mesh.start(Spec::new("D").own_workers().args(&fast)).address();
    let b = mesh.start(Spec::new("B").peer(d).args(&fast)).address();
    let c = mesh.start(Spec::new("C").peer(d).args(&slow)).address();
    mesh.start(Spec::new("A").peer(b).peer(c).args(&fast));
    mesh.wait_until_all_routes();
    wait_until("A's way to D is over B", || {
        mesh.next_hop("A", "D").as_deref() == Some("B")
    });
    wait_until("D's way to A is over B", || {
        mesh.next_hop("D", "A").as_deref() == Some("B")
    });

    let size = 1024 * MIB;
    let param = format!("size={size}");
    let submit = [
        "submit",
        "--to",
        "D",
        "--directive",
        "test:bytes",
        "--param",
        &param,
        "--format",
        "raw",
    ];
    let mut unit = mesh.begin("A", &submit);
    let (mut received, mut expected) = (unit.take_stdout(), Pattern::new(size));
    let mut at = 0;
    at += compare(&mut received, &mut expected, at, 64 * MIB);
    assert!(
        mesh.status("B")["forwarded"]["bytes"].as_u64() > Some(32 * MIB),
        "B carries it"
    );
    mesh.node("B").kill();
    at += compare(&mut received, &mut expected, at, u64::MAX);
    assert_eq!(at, size);
    drop(received);
    let done = unit.finish();
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    assert_eq!(mesh.next_hop("A", "D").as_deref(), Some("C"));
}

/// Compares up to `limit` bytes; gives how many there were.
fn compare(received: &mut impl std::io::Read, expected: &mut Pattern, at: u64, limit: u64) -> u64 {
    let (mut got, mut due) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut count = 0;
    while count < limit {
        let length = received.read(&mut got).unwrap();
        if length == 0 {
            break;
        }
        expected
            .read_exact(&mut due[..length])
            .unwrap_or_else(|_| panic!("more bytes than were sent"));
        assert!(got[..length] == due[..length], "other bytes near {}", at + count);
        count += length as u64;
    }
    count
}
