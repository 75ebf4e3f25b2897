//! The comparator without the product: a short run has every figure, and however it ends, none of its processes outlives it.
//!
//! Its processes hold its stderr, so the end of that stream is the end of the last of them.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test may fail as the test itself may"
)]

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

#[test]
fn a_short_run_reports_every_figure() {
    let output = finish(&["--rounds", "1", "--relays", "0,1", "--json"]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let readings = report["readings"].as_array().unwrap();
    for (relays, load, quantity) in [
        (0, "exchange, 1 at a time", "p50 µs"),
        (0, "exchange through a pool, 256 at a time", "per second"),
        (1, "exchange, 256 at a time", "of it relays"),
        (1, "bulk", "MiB/s"),
        (1, "bulk", "CPU s/GiB"),
        (1, "bulk", "growth of a relay, MiB"),
        (1, "exchange beside bulk", "p99 µs"),
        (0, "durable units at a neighbour, 64 at a time", "per second"),
        (0, "durable units at their origin, 1 at a time", "syncs each"),
        (0, "start to listening", "CPU ms"),
        (0, "idle", "resident MiB"),
        (0, "idle neighbours", "KiB each"),
        (0, "pending units", "KiB each"),
        (0, "command true", "wall ms"),
    ] {
        let reading = readings
            .iter()
            .find(|row| row["relays"] == relays && row["load"] == load && row["quantity"] == quantity)
            .unwrap_or_else(|| panic!("no {quantity} of {load} over {relays} relays"));
        assert_eq!(reading["subject"], "floor");
        assert_eq!(reading["rounds"].as_array().unwrap().len(), 1);
        assert!(reading["median"].is_number(), "{reading}");
    }
}

#[test]
fn a_check_fails_where_a_promise_was_not_measured() {
    let output = finish(&["--rounds", "1", "--relays", "0", "--check"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn an_interrupt_ends_every_process_and_leaves_no_file() {
    let temporary = TempDir::new().unwrap();
    let mut driver = start_endless(&temporary);
    end_with(&mut driver, Signal::SIGINT);
    assert_eq!(driver.wait().unwrap().code(), Some(130));
    assert_eq!(temporary.path().read_dir().unwrap().count(), 0);
}

#[test]
fn no_process_outlives_a_killed_driver() {
    let temporary = TempDir::new().unwrap();
    let mut driver = start_endless(&temporary);
    end_with(&mut driver, Signal::SIGKILL);
    driver.wait().unwrap();
}

fn comparator() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_workmesh-bench"));
    command.arg("--floor-only").stdin(Stdio::null());
    command
}

fn finish(arguments: &[&str]) -> Output {
    comparator()
        .args(["--window-ms", "20", "--bulk-mib", "1"])
        .args(arguments)
        .output()
        .unwrap()
}

fn start_endless(temporary: &TempDir) -> Child {
    comparator()
        .args(["--relays", "1", "--window-ms", "600000"])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Signals the driver once its processes are up, and waits for the last of them to be gone.
fn end_with(driver: &mut Child, signal: Signal) {
    let mut stderr = BufReader::new(driver.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("round 1"), "{line}");
    kill(Pid::from_raw(driver.id().try_into().unwrap()), signal).unwrap();
    stderr.read_to_string(&mut line).unwrap();
}
