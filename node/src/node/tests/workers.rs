//! Workers of the nodes' tests: they count their runs, and some wait at a gate.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{LazyLock, Mutex};

use worker_api::{
    Bytes, Context, Error, Limits, Location, Payload, PayloadKind, Responder, Result, Uuid, WorkerEntry,
};
use workmesh_proto::UnitId;

type Run = fn(Payload, &Context, &mut Responder) -> Result<()>;

/// Sends what [`expected`] says; none of these is idempotent.
pub(super) const BYTES: &str = "life:bytes";
/// The same.
pub(super) const BUFFER: &str = "life:buffer";
/// The same.
pub(super) const FILE: &str = "life:file";
/// The same, but between the first response and the others it waits at its [`Gate`].
pub(super) const GATED: &str = "life:gated";

/// Sends a response of 40 bytes for each byte of its payload.
pub(super) const MANY: &str = "life:many";

/// All of them.
pub(super) fn all() -> Vec<&'static WorkerEntry> {
    let entry = |directive, kind, run: Run| -> &'static WorkerEntry {
        Box::leak(Box::new(WorkerEntry {
            directive,
            kind,
            version: "1.0.0",
            idempotent: false,
            description: "A worker of a test.",
            limits: Limits::default(),
            location: Location {
                file: file!(),
                line: line!(),
            },
            run,
        }))
    };
    vec![
        entry(BYTES, PayloadKind::Bytes, live),
        entry(BUFFER, PayloadKind::Buffer, live),
        entry(FILE, PayloadKind::File, live),
        entry(GATED, PayloadKind::Bytes, live),
        entry(MANY, PayloadKind::Bytes, many),
    ]
}

/// The responses to this payload: its length, its bytes turned over, and nothing.
pub(super) fn expected(payload: &[u8]) -> Vec<Vec<u8>> {
    let turned = payload.iter().map(|byte| !byte).collect();
    vec![payload.len().to_string().into_bytes(), turned, Vec::new()]
}

fn many(payload: Payload, _cx: &Context, out: &mut Responder) -> Result<()> {
    let Payload::Bytes(payload) = payload else {
        return Err(Error::msg("its payload comes as bytes"));
    };
    payload.iter().try_for_each(|byte| out.send(vec![*byte; 40]))
}

fn live(payload: Payload, cx: &Context, out: &mut Responder) -> Result<()> {
    *lock(&RUNS).entry(cx.unit()).or_default() += 1;
    let payload = match payload {
        Payload::Bytes(bytes) => bytes.to_vec(),
        Payload::Buffer(mut buffer) => read(&mut buffer)?,
        Payload::File(file) => read(&mut file.open()?)?,
    };
    let mut responses = expected(&payload).into_iter().map(Bytes::from);
    out.send(responses.next().unwrap_or_default())?;
    let gate = lock(&GATES).remove(&cx.unit());
    match gate {
        // Until the test opens it, or is gone.
        Some(gate) => drop(gate.recv()),
        None if cx.directive().to_string() == GATED => return Err(Error::msg("no gate")),
        None => {}
    }
    responses.try_for_each(|response| out.send(response))
}

fn read(from: &mut impl io::Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)?;
    Ok(bytes)
}

static RUNS: LazyLock<Mutex<HashMap<Uuid, usize>>> = LazyLock::new(Mutex::default);
static GATES: LazyLock<Mutex<HashMap<Uuid, Receiver<()>>>> = LazyLock::new(Mutex::default);

/// A test that failed with the lock harms no other.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How often the function has begun for this unit.
pub(super) fn runs(unit: UnitId) -> usize {
    lock(&RUNS).get(&unit.0).copied().unwrap_or(0)
}

/// Holds a unit of [`GATED`] until it is dropped.
pub(super) struct Gate(#[expect(dead_code, reason = "its drop opens the gate")] Sender<()>);

impl Gate {
    /// A gate for this unit; made before the unit is submitted.
    pub(super) fn of(unit: UnitId) -> Self {
        let (open, gate) = mpsc::channel();
        lock(&GATES).insert(unit.0, gate);
        Self(open)
    }
}
