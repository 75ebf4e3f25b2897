//! A long result whose only way is gone for a while: it arrives whole, and what was stored is not sent again.

use std::io::Read;

use my_workers::Noise;
use workmesh_tests::{LIMIT, Running, Stdin, TestMesh, wait_until};

use super::{MIB, Task, line, setting};

/// What may be under way and be sent again: the windows of the streams on the way, and what waits for an fsync.
const WINDOW_BYTES: u64 = 32 * MIB;
/// What headers, acknowledgements and packets that were lost add to the bytes of a result: one byte in so many.
const OVERHEAD: u64 = 8;

/// Begins a command at A that may take as long as a long result takes.
fn begin(mesh: &TestMesh, words: &[String]) -> Running {
    let command = mesh.command_in(mesh.node("A").data_dir(), words);
    Running::start_within(LIMIT * 10, command, &Stdin::Null)
}

/// Bytes that a relay has passed on since its start.
fn forwarded(mesh: &TestMesh, relay: &str) -> u64 {
    mesh.status(relay)["forwarded"]["bytes"].as_u64().unwrap()
}

#[test]
fn a_long_result_goes_on_where_it_was_when_the_only_relay_is_back() {
    let mut mesh = line(&["A", "R", "E"]);
    let size = setting("DURABLE_MIB", 256) * MIB;
    let task = Task::new(&mesh).responses(1, size).slowly(MIB, 0);
    let mut words = task.submit(&["--durable", "--to", "E"]);
    let format = words.iter().position(|word| word == "json").unwrap();
    words[format] = "raw".to_owned();
    let noise = Noise::new(task.id.parse().unwrap(), 1, size);
    let mut client = begin(&mesh, &words);
    let (mut received, mut expected) = (client.take_stdout(), noise.clone());
    let half = compare(&mut received, &mut expected, size / 2);
    assert_eq!(half, size / 2);
    mesh.node("R").kill();
    wait_until("A has no way to E", || mesh.next_hop("A", "E").is_none());
    let report = task.show(&mesh, "A");
    assert_ne!(report["state"], "ended", "{report}");
    let stored = report["bytes"].as_u64().unwrap();
    assert!(stored >= half, "what a client has seen is stored: {report}");
    mesh.restart("R");
    let rest = compare(&mut received, &mut expected, u64::MAX);
    assert_eq!(half + rest, size);
    drop(received);
    let done = client.finish();
    assert_eq!(done.status, 0, "{}", done.stderr);
    let report = task.settled(&mesh, "A");
    assert_eq!(report["outcome"], "succeeded", "{report}");
    assert_eq!(
        (&report["responses"], &report["bytes"]),
        (&1.into(), &size.into())
    );
    assert_eq!(task.runs().len(), 1);
    let results = ["work", "results", &task.id, "--format", "raw"].map(str::to_owned);
    let mut results = begin(&mesh, &results);
    let again = compare(&mut results.take_stdout(), &mut noise.clone(), u64::MAX);
    assert_eq!(again, size);
    assert_eq!(results.finish().status, 0);

    let left = size - stored;
    let most = left + left / OVERHEAD + WINDOW_BYTES;
    let sent = forwarded(&mesh, "R");
    assert!(
        sent <= most,
        "{sent} bytes came over R for the {left} that were left"
    );
    assert!(sent >= left, "{sent} bytes came over R, which is the only way");
}

/// Compares up to `limit` bytes; gives how many there were.
fn compare(received: &mut impl Read, expected: &mut impl Read, limit: u64) -> u64 {
    let (mut got, mut due) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut count = 0;
    while count < limit {
        let room = got
            .len()
            .min(usize::try_from(limit - count).unwrap_or(usize::MAX));
        let length = received.read(&mut got[..room]).unwrap();
        if length == 0 {
            break;
        }
        expected
            .read_exact(&mut due[..length])
            .unwrap_or_else(|_| panic!("more bytes than were sent"));
        assert!(got[..length] == due[..length], "other bytes near {count}");
        count += length as u64;
    }
    count
}
