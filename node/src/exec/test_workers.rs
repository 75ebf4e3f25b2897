//! Workers for the executor's tests.

use worker_api::{Context, Limits, Location, Payload, PayloadKind, Responder, Result, WorkerEntry};

pub(super) type Run = fn(Payload, &Context, &mut Responder) -> Result<()>;

/// A worker of the bytes kind.
pub(super) fn entry(directive: &'static str, run: Run) -> &'static WorkerEntry {
    entry_of(directive, PayloadKind::Bytes, Limits::default(), run)
}

/// A worker of any kind.
pub(super) fn entry_of(
    directive: &'static str,
    kind: PayloadKind,
    limits: Limits,
    run: Run,
) -> &'static WorkerEntry {
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
