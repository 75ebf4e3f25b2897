//! One unit on a worker's thread: gathers its payload, calls the function, turns what comes of it into an end.
//! Whatever the function does, the thread survives and the unit's temporary file goes.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use worker_api::{Buffer, Context, ContextParts, Error, Payload, PayloadFile, PayloadKind, Responder};
use workmesh_proto::wire::unit::Kind;

use super::output::Sink;
use super::payload::{self, PayloadReader};
use super::pool::{NoteStart, Pool};
use super::spool::{self, StoreError};
use super::unit::{Request, Unit};

/// How the thread wants the unit to end; without effect if the unit has its end already.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) kind: Kind,
    pub(super) message: String,
}

impl Verdict {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// Runs the unit to its end.
pub(super) fn run(pool: &Arc<Pool>, unit: &Arc<Unit>) -> Verdict {
    if unit.deadline.is_some_and(|at| at <= Instant::now()) {
        return Verdict::new(Kind::Expired, EXPIRED);
    }
    if let Some(NoteStart(note)) = pool.starts.get().filter(|_| unit.durable)
        && let Err(error) = note(unit.id)
    {
        return Verdict::new(
            Kind::Draining,
            format!("can't note that the unit begins: {error}"),
        );
    }
    let Some((request, reader)) = unit.start() else {
        return Verdict::new(Kind::Cancelled, "ended before it began");
    };
    pool.tell_of(unit, reader);
    match unit.entry.kind {
        PayloadKind::Bytes => call(pool, unit, request, Payload::Bytes(payload::whole(unit))),
        PayloadKind::Buffer => {
            let reader = PayloadReader::new(Arc::clone(unit));
            call(pool, unit, request, Payload::Buffer(Buffer::new(reader)))
        }
        PayloadKind::File => {
            let mut reader = PayloadReader::new(Arc::clone(unit));
            let dir = &pool.settings.spool_dir;
            match spool::store(dir, &mut reader, &pool.meters.spool_bytes) {
                Ok(file) => call(pool, unit, request, Payload::File(PayloadFile::new(file.path()))),
                Err(StoreError::Ended) => Verdict::new(Kind::Cancelled, "ended before it began"),
                Err(StoreError::Disk(message)) => {
                    tracing::error!(unit = %unit.id, "{message}");
                    Verdict::new(Kind::Internal, message)
                }
            }
        }
    }
}

/// The message of a unit whose deadline has passed.
pub(super) const EXPIRED: &str = "the unit's deadline passed";

fn call(pool: &Arc<Pool>, unit: &Arc<Unit>, request: Request, payload: Payload) -> Verdict {
    let config = pool.settings.worker_config.get(request.directive.module());
    let context = Context::new(ContextParts {
        unit: unit.id.0,
        sender: unit.sender.as_str().to_owned(),
        node: pool.settings.node.as_str().to_owned(),
        directive: request.directive,
        params: request.params,
        deadline: unit.deadline,
        cancel: unit.cancel.clone(),
        config: config.cloned().unwrap_or_default(),
    });
    let mut responder = Responder::new(Sink::new(Arc::clone(pool), Arc::clone(unit)));
    let returned = catch_unwind(AssertUnwindSafe(|| {
        (unit.entry.run)(payload, &context, &mut responder)?;
        responder.finish()
    }));
    match returned {
        Ok(Ok(())) => Verdict::new(Kind::Ok, ""),
        Ok(Err(error)) => Verdict::new(Kind::WorkerError, error.to_string()),
        Err(panic) => {
            let message = panic_text(&*panic);
            tracing::error!(unit = %unit.id, directive = unit.entry.directive, "worker panicked: {message}");
            // A panic's own value may panic when it is dropped.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(panic)));
            Verdict::new(Kind::Panic, message)
        }
    }
}

/// What the function panicked with, made one bounded line as an error's text is.
fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = match panic.downcast_ref::<String>() {
        Some(text) => Some(text.as_str()),
        None => panic.downcast_ref::<&str>().copied(),
    };
    Error::msg(text.unwrap_or("the worker panicked")).to_string()
}
