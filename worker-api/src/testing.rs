//! Runs a worker in a unit test, without a node: payload and parameters in, responses out.
//!
//! ```
//! use worker_api::{Bytes, Context, Responder, Result, worker};
//!
//! #[worker("text:reverse")]
//! fn reverse(payload: Bytes, _cx: &Context, out: &mut Responder) -> Result<()> {
//!     out.send(payload.iter().rev().copied().collect::<Vec<u8>>())
//! }
//!
//! # fn main() {
//! let done = worker_api::testing::Unit::new("text:reverse").payload("abc").run();
//! assert_eq!(done.text(), ["cba"]);
//! # }
//! ```

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::cancel::{CancelFlag, StopReason};
use crate::context::{Context, ContextParts};
use crate::entry::{WorkerEntry, linked_workers};
use crate::error::Result;
use crate::payload::{Buffer, Payload, PayloadFile};
use crate::responder::{Responder, ResponseSink};
use crate::vocabulary::{Directive, PayloadKind};

/// A unit under test; [`run`](Self::run) runs it on the calling thread.
#[derive(Debug)]
pub struct Unit {
    entry: &'static WorkerEntry,
    parts: ContextParts,
    payload: Buffer,
}

impl Unit {
    /// A unit for the worker that is registered as `directive`, with an empty payload.
    ///
    /// # Panics
    ///
    /// If the test's program holds no such worker, or more than one.
    pub fn new(directive: &str) -> Self {
        let mut found = linked_workers().filter(|entry| entry.directive == directive);
        let entry = found.next().unwrap_or_else(|| {
            let linked: Vec<_> = linked_workers().map(|entry| entry.directive).collect();
            panic!("no worker {directive:?} in this program; linked are {linked:?}")
        });
        if let Some(twin) = found.next() {
            panic!(
                "two workers {directive:?}: {} and {}",
                entry.location, twin.location
            );
        }
        Self::of(entry)
    }

    /// A unit for this worker, with an empty payload.
    ///
    /// # Panics
    ///
    /// If the entry was written by hand and its directive is malformed.
    pub fn of(entry: &'static WorkerEntry) -> Self {
        let directive = Directive::parse(entry.directive).unwrap_or_else(|e| panic!("{e}"));
        Self {
            entry,
            parts: ContextParts::for_test(directive),
            payload: Buffer::new(io::empty()),
        }
    }

    /// Sets the payload; the worker gets it in its own kind.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = Buffer::new(io::Cursor::new(payload.into()));
        self
    }

    /// Sets the payload to what `reader` yields; a buffer worker reads it as it goes.
    pub fn reader(mut self, reader: impl Read + Send + 'static) -> Self {
        self.payload = Buffer::new(reader);
        self
    }

    /// Adds a parameter, as `--param key=value` does.
    pub fn param(mut self, key: &str, value: &str) -> Self {
        self.parts.params.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets the worker's table of the node's configuration.
    pub fn config(mut self, config: serde_json::Value) -> Self {
        self.parts.config = config;
        self
    }

    /// Sets the deadline to this time from now. Nothing sets the cancel flag when it passes.
    pub fn deadline(mut self, from_now: Duration) -> Self {
        self.parts.deadline = Instant::now().checked_add(from_now);
        self
    }

    /// Changes any other part of the worker's context.
    pub fn context(mut self, change: impl FnOnce(&mut ContextParts)) -> Self {
        change(&mut self.parts);
        self
    }

    /// The flag that tells the worker to stop; set it before the run, or from a reader or another thread.
    pub fn cancel_flag(&self) -> CancelFlag {
        self.parts.cancel.clone()
    }

    /// Runs the worker to its end and gathers its responses. Sending fails once the cancel flag is set.
    ///
    /// # Panics
    ///
    /// If the payload can't be read or stored for a worker of kind bytes or file; as the worker itself does.
    pub fn run(self) -> Finished {
        let gathered = Arc::new(Mutex::new(Gathered::default()));
        let result = self.run_into(Gatherer {
            gathered: Arc::clone(&gathered),
        });
        let gathered = std::mem::take(&mut *gathered.lock().unwrap_or_else(PoisonError::into_inner));
        Finished {
            responses: gathered.whole,
            unfinished: gathered.current.freeze(),
            result,
        }
    }

    /// Runs the worker to its end and hands each piece of its responses to `sink`.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn run_into(mut self, sink: impl ResponseSink + 'static) -> Result<()> {
        let stop = self.parts.cancel.clone();
        let cx = Context::new(self.parts);
        let mut out = Responder::new(Stoppable { sink, stop });
        match self.entry.kind {
            PayloadKind::Buffer => (self.entry.run)(Payload::Buffer(self.payload), &cx, &mut out),
            PayloadKind::Bytes => {
                let mut whole = Vec::new();
                self.payload
                    .read_to_end(&mut whole)
                    .expect("the test's payload can be read");
                (self.entry.run)(Payload::Bytes(whole.into()), &cx, &mut out)
            }
            PayloadKind::File => {
                let file = TemporaryFile::of(&mut self.payload).expect("the payload can be stored");
                (self.entry.run)(Payload::File(PayloadFile::new(&file.path)), &cx, &mut out)
            }
        }
    }
}

/// How a unit under test ended.
#[derive(Debug)]
pub struct Finished {
    /// The whole responses, in order.
    pub responses: Vec<Bytes>,
    /// What was passed on of a streamed response that never ended; only a failed worker leaves any.
    pub unfinished: Bytes,
    /// What the worker returned.
    pub result: Result<()>,
}

impl Finished {
    /// The responses as text.
    ///
    /// # Panics
    ///
    /// If the worker failed, or a response is not UTF-8.
    pub fn text(&self) -> Vec<&str> {
        if let Err(e) = &self.result {
            panic!("the worker failed: {e}");
        }
        self.responses
            .iter()
            .map(|bytes| str::from_utf8(bytes).expect("the response is UTF-8"))
            .collect()
    }

    /// The text of the worker's error.
    ///
    /// # Panics
    ///
    /// If the worker succeeded.
    pub fn error(&self) -> String {
        match &self.result {
            Ok(()) => panic!("the worker succeeded with {} responses", self.responses.len()),
            Err(e) => e.to_string(),
        }
    }
}

#[derive(Default)]
struct Gathered {
    whole: Vec<Bytes>,
    current: BytesMut,
}

struct Gatherer {
    gathered: Arc<Mutex<Gathered>>,
}

impl ResponseSink for Gatherer {
    fn send(&mut self, piece: Bytes, last: bool) -> std::result::Result<(), StopReason> {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.current.extend_from_slice(&piece);
        if last {
            let whole = gathered.current.split().freeze();
            gathered.whole.push(whole);
        }
        Ok(())
    }
}

/// Fails sends once the unit has to stop, as the node does.
struct Stoppable<S> {
    sink: S,
    stop: CancelFlag,
}

impl<S: ResponseSink> ResponseSink for Stoppable<S> {
    fn send(&mut self, piece: Bytes, last: bool) -> std::result::Result<(), StopReason> {
        self.stop.reason().map_or(Ok(()), Err)?;
        self.sink.send(piece, last)
    }
}

/// A payload in a file that is removed when this value goes, panics included.
struct TemporaryFile {
    path: PathBuf,
}

impl TemporaryFile {
    fn of(payload: &mut Buffer) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("worker-test-{}", Uuid::now_v7()));
        let mut file = create_private(&path)?;
        let kept = Self { path };
        io::copy(payload, &mut file)?;
        Ok(kept)
    }
}

fn create_private(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        // A worker may have removed the file itself; then there is nothing left to remove.
        drop(fs::remove_file(&self.path));
    }
}
