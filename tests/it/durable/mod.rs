//! Durable units as processes see them: what is submitted ends exactly once, whatever is killed.
//!
//! `DURABLE_ROUNDS` says how often each kind of process is killed, `DURABLE_MIB` how long the long result is.

mod submit;
mod cancel;
mod crash;
mod long;
mod rolling;
mod reading;
mod terminal;
mod store;
mod full;

use std::io::Read as _;
use std::path::PathBuf;

use my_workers::{Noise, Recording, Run};
use serde_json::Value;
use workmesh_tests::{Finished, Running, Spec, TestMesh, wait_until};

const MIB: u64 = 1024 * 1024;
/// Neighbours that are given up soon.
const FAST: [&str; 2] = ["--detection", "1s"];

/// A number from the environment.
fn setting(variable: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(variable) else {
        return otherwise;
    };
    text.parse()
        .unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}"))
}

/// A - E, or A - R - E: origin, relay, executor. Nodes listen in this order, each dials the one before.
fn line(ids: &[&str]) -> TestMesh {
    line_with(ids, &[])
}

/// The same, with further flags for all.
fn line_with(ids: &[&str], flags: &[&str]) -> TestMesh {
    let mut mesh = TestMesh::new();
    let mut before = None;
    for id in ids {
        let mut spec = Spec::new(id).own_workers().args(&FAST).args(flags);
        if let Some(address) = before {
            spec = spec.peer(address);
        }
        before = Some(mesh.start(spec).address());
    }
    mesh.wait_until_all_routes();
    mesh
}

/// A task for the recording workers of a mesh.
struct Task {
    recording: Recording,
    id: String,
}

impl Task {
    /// One that sends nothing.
    fn new(mesh: &TestMesh) -> Self {
        Self {
            recording: Recording {
                runs: runs_file(mesh),
                sleep_ms: 0,
                bytes: 0,
                responses: 0,
                chunk: 0,
            },
            id: new_id(),
        }
    }

    /// With so many responses of so many bytes.
    fn responses(mut self, responses: u64, bytes: u64) -> Self {
        (self.recording.responses, self.recording.bytes) = (responses, bytes);
        self
    }

    /// In pieces of so many bytes, with so many milliseconds before each.
    fn slowly(mut self, chunk: u64, sleep_ms: u64) -> Self {
        (self.recording.chunk, self.recording.sleep_ms) = (chunk, sleep_ms);
        self
    }

    /// The words of `node submit` for it, `more` among them.
    fn submit(&self, more: &[&str]) -> Vec<String> {
        let payload = serde_json::to_string(&self.recording).unwrap();
        let first = ["submit", "--format", "json", "--id", &self.id];
        let directive = if more.contains(&"--idempotent") {
            "record:again"
        } else {
            "record:run"
        };
        let last = ["--directive", directive, &payload];
        let all = [&first, more, &last].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    /// Submits it at a node and leaves it there.
    #[track_caller]
    fn detach(&self, mesh: &TestMesh, at: &str, more: &[&str]) -> Finished {
        run(mesh, at, &self.submit(&[&["--detach"], more].concat()))
    }

    /// The same, and it has to be stored.
    #[track_caller]
    fn detached(self, mesh: &TestMesh, at: &str, more: &[&str]) -> Self {
        let answer = self.detach(mesh, at, more).ok().json();
        assert_eq!(answer["type"], "stored");
        assert_eq!(answer["unit"], self.id);
        self
    }

    /// What its origin reports of it.
    #[track_caller]
    fn show(&self, mesh: &TestMesh, at: &str) -> Value {
        mesh.at(at, &["work", "show", &self.id, "--json"]).ok().json()
    }

    /// Waits until its origin reports it so.
    #[track_caller]
    fn wait_until(&self, mesh: &TestMesh, at: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut report = Value::Null;
        wait_until(&format!("unit {} {what}", self.id), || {
            report = self.show(mesh, at);
            is_so(&report)
        });
        report
    }

    /// Waits for its end, and until its executor knows of it.
    #[track_caller]
    fn settled(&self, mesh: &TestMesh, at: &str) -> Value {
        self.wait_until(mesh, at, "has ended and is released", |report| {
            report["state"] == "ended" && report["executor_released"] == true
        })
    }

    /// Waits until it succeeded, and checks everything that is known of it: one end, every byte, one run.
    #[track_caller]
    fn succeeded(&self, mesh: &TestMesh, at: &str) {
        let report = self.settled(mesh, at);
        assert_eq!(report["outcome"], "succeeded", "{report}");
        let all = self.recording.responses;
        assert_eq!(self.exact_responses(mesh, at), all);
        assert_eq!(report["responses"], all);
        assert_eq!(report["bytes"], all * self.recording.bytes);
        assert_eq!(self.show(mesh, at)["outcome"], "succeeded");
        if report["idempotent"] == false {
            assert_eq!(self.runs().len(), 1, "{:?}", self.runs());
        }
    }

    /// How many complete responses its origin has. What is there has to be what its worker sends, in order.
    #[track_caller]
    fn exact_responses(&self, mesh: &TestMesh, at: &str) -> u64 {
        let raw = mesh.at(at, &["work", "results", &self.id, "--format", "raw"]);
        let (mut expected, mut given) = (Vec::new(), &raw.stdout[..]);
        for serial in 1..=self.recording.responses {
            expected.clear();
            Noise::new(self.id.parse().unwrap(), serial, self.recording.bytes)
                .read_to_end(&mut expected)
                .unwrap();
            let length = given.len().min(expected.len());
            assert!(
                given[..length] == expected[..length],
                "response {serial} has other bytes"
            );
            given = &given[length..];
        }
        assert!(given.is_empty(), "{} bytes too many", given.len());
        let json = mesh.at(at, &["work", "results", &self.id, "--json"]);
        let objects = json.json_lines();
        let complete = |object: &&Value| object["type"] == "response" && object["partial"] != true;
        let serials: Vec<_> = objects
            .iter()
            .filter(complete)
            .map(|object| object["serial"].as_u64().unwrap())
            .collect();
        let count = serials.len() as u64;
        assert_eq!(serials, Vec::from_iter(1..=count));
        count
    }

    /// Its runs so far, oldest first.
    fn runs(&self) -> Vec<Run> {
        let mut runs = Run::read(&self.recording.runs).unwrap();
        runs.retain(|run| run.unit.to_string() == self.id);
        runs
    }

    /// Begins to follow it at its origin.
    fn attach(&self, mesh: &TestMesh, at: &str) -> Running {
        mesh.begin(at, &["work", "attach", &self.id, "--json"])
    }
}

/// Runs a command at a node.
#[track_caller]
fn run(mesh: &TestMesh, at: &str, words: &[String]) -> Finished {
    mesh.at(at, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn runs_file(mesh: &TestMesh) -> PathBuf {
    mesh.dir().join("runs")
}

fn new_id() -> String {
    worker_api::Uuid::now_v7().to_string()
}

/// Waits until no unit runs or waits at a node.
fn wait_until_idle(mesh: &TestMesh, id: &str) {
    wait_until(&format!("{id} has no work"), || {
        let pool = &mesh.status(id)["pool"];
        pool["running"] == 0 && pool["queued"] == 0
    });
}

/// The last object that an attached command prints: the unit's end, and there is one.
#[track_caller]
fn only_end(done: &Finished) -> Value {
    let objects = done.json_lines();
    let ends: Vec<_> = objects.iter().filter(|object| object["type"] == "eof").collect();
    assert_eq!(ends.len(), 1, "{done:?}");
    assert_eq!(objects.last(), Some(ends[0]), "the end is the last word");
    ends[0].clone()
}

/// Ends a node in order, and waits for it.
fn stop(mesh: &TestMesh, id: &str) {
    mesh.node(id).signal(rustix::process::Signal::TERM);
    assert_eq!(mesh.node(id).wait(), 0);
}
