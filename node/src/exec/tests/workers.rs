//! Workers for the executor's tests, and the gates by which a test holds them where it wants them.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use worker_api::{
    Bytes, Context, Error, Limits, Location, Payload, PayloadKind, Responder, Result, Uuid, WorkerEntry,
};
use workmesh_proto::UnitId;

pub(in crate::exec) type Run = fn(Payload, &Context, &mut Responder) -> Result<()>;

/// A worker of the bytes kind.
pub(in crate::exec) fn entry(directive: &'static str, run: Run) -> &'static WorkerEntry {
    entry_of(directive, PayloadKind::Bytes, Limits::default(), run)
}

fn entry_of(directive: &'static str, kind: PayloadKind, limits: Limits, run: Run) -> &'static WorkerEntry {
    Box::leak(Box::new(WorkerEntry {
        directive,
        kind,
        version: "1.0.0",
        idempotent: false,
        description: "A worker of a test.",
        limits,
        location: Location {
            file: file!(),
            line: line!(),
        },
        run,
    }))
}

/// All workers of the tests.
pub(crate) fn all() -> Vec<&'static WorkerEntry> {
    let limits = |max_concurrent, max_payload_bytes| Limits {
        max_concurrent,
        max_payload_bytes,
    };
    let free = Limits::default();
    vec![
        entry("noop:run", |_, _, _| Ok(())),
        entry("noop:context", describe_context),
        entry_of("noop:small", PayloadKind::Buffer, limits(None, Some(4)), drink),
        entry_of("echo:bytes", PayloadKind::Bytes, free, echo),
        entry_of("echo:buffer", PayloadKind::Buffer, free, echo),
        entry_of("echo:file", PayloadKind::File, free, echo),
        entry("fail:error", |_, _, _| Err(Error::msg("no\nsuch row"))),
        entry("fail:panic", |_, _, _| panic!("index {}\nis out of range", 7)),
        entry("fail:half", |_, _, out| {
            out.write_all(b"half")?;
            out.flush()?;
            Err(Error::msg("gave up"))
        }),
        entry_of("gate:buffer", PayloadKind::Buffer, free, gated),
        entry_of("gate:bytes", PayloadKind::Bytes, free, gated),
        entry_of("gate:file", PayloadKind::File, free, gated),
        entry_of("gate:one", PayloadKind::Buffer, limits(Some(1), None), gated),
        entry("gate:sleep", |_, cx, _| {
            pass_gate(cx, String::new())?.told("entered");
            cx.sleep(Duration::from_secs(86_400))
        }),
        entry("gate:flood", |_, cx, out| {
            let gate = pass_gate(cx, String::new())?;
            let sent = (0..64).try_for_each(|_| out.send(vec![7; 64 * 1024]));
            gate.told(if sent.is_ok() { "all sent" } else { "send failed" });
            sent
        }),
        entry_of("gate:read", PayloadKind::Buffer, free, |payload, cx, _| {
            let Payload::Buffer(mut payload) = payload else {
                return Err(Error::msg("not a buffer"));
            };
            let gate = pass_gate(cx, String::new())?;
            let mut byte = [0];
            loop {
                match payload.read(&mut byte) {
                    Ok(0) => gate.told("end"),
                    Ok(_) => {
                        gate.told(&format!("byte {}", byte[0]));
                        continue;
                    }
                    Err(error) => gate.told(&error.to_string()),
                }
                return Ok(());
            }
        }),
    ]
}

fn drink(payload: Payload, _: &Context, _: &mut Responder) -> Result<()> {
    if let Payload::Buffer(mut payload) = payload {
        io::copy(&mut payload, &mut io::sink())?;
    }
    Ok(())
}

fn echo(payload: Payload, _: &Context, out: &mut Responder) -> Result<()> {
    match payload {
        Payload::Bytes(bytes) => out.send(bytes),
        Payload::Buffer(mut buffer) => Ok(io::copy(&mut buffer, out).map(|_| ())?),
        Payload::File(file) => Ok(io::copy(&mut file.open()?, out).map(|_| ())?),
    }
}

fn describe_context(_: Payload, cx: &Context, out: &mut Responder) -> Result<()> {
    let config: HashMap<String, String> = cx.config()?;
    out.send(Bytes::from(format!(
        "{} {} {} {:?} {:?}",
        cx.sender(),
        cx.node(),
        cx.directive(),
        cx.param("k"),
        config.get("colour"),
    )))
}

/// Reports that it was entered (with the file's path, if there is one), then waits to be told how to go on.
fn gated(payload: Payload, cx: &Context, _: &mut Responder) -> Result<()> {
    let entered = match &payload {
        Payload::File(file) => file.path().to_string_lossy().into_owned(),
        Payload::Bytes(_) | Payload::Buffer(_) => String::new(),
    };
    pass_gate(cx, entered).map(drop)
}

fn pass_gate(cx: &Context, entered: String) -> Result<WorkersSide> {
    let gate = GATES.lock().unwrap().remove(&cx.unit());
    let gate = gate.ok_or_else(|| Error::msg("no gate"))?;
    gate.told(&entered);
    match gate.go.recv().unwrap_or(Go::Return) {
        Go::Return => Ok(gate),
        Go::Fail => Err(Error::msg("told to fail")),
        Go::Panic => panic!("told to panic"),
    }
}

static GATES: LazyLock<Mutex<HashMap<Uuid, WorkersSide>>> = LazyLock::new(Mutex::default);

struct WorkersSide {
    tell: Sender<String>,
    go: Receiver<Go>,
}

impl WorkersSide {
    fn told(&self, text: &str) {
        // A test that has ended does not listen.
        let _ = self.tell.send(text.to_owned());
    }
}

/// How a gated worker goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Go {
    Return,
    Fail,
    Panic,
}

/// The test's side of a gate. Dropped, the worker returns.
pub(crate) struct Gate {
    told: Receiver<String>,
    go: Sender<Go>,
}

impl Gate {
    /// A gate for this unit; made before the unit is admitted.
    pub(crate) fn of(unit: UnitId) -> Self {
        let (tell, told) = mpsc::channel();
        let (go, going) = mpsc::channel();
        let workers_side = WorkersSide { tell, go: going };
        GATES.lock().unwrap().insert(unit.0, workers_side);
        Self { told, go }
    }

    /// Blocks until the worker tells something: first that it was entered.
    pub(crate) fn told(&self) -> String {
        self.told
            .recv_timeout(Duration::from_secs(60))
            .expect("the worker has something to tell")
    }

    /// Whether the worker has told anything that was not taken.
    pub(crate) fn is_silent(&self) -> bool {
        self.told.try_recv().is_err()
    }

    /// Lets the worker go on.
    pub(crate) fn go(&self, how: Go) {
        self.go.send(how).expect("the worker waits");
    }
}
