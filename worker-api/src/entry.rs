//! A worker as it is registered at compile time.

use std::fmt;

use crate::context::Context;
use crate::error::Result;
use crate::payload::Payload;
use crate::responder::Responder;
use crate::vocabulary::PayloadKind;

/// One registered worker function; `#[worker]` makes these.
#[derive(Debug)]
pub struct WorkerEntry {
    /// `module:function`; the attribute has checked it.
    pub directive: &'static str,
    /// How the function takes its payload.
    pub kind: PayloadKind,
    /// The worker's own version.
    pub version: &'static str,
    /// Whether running a unit twice does no harm.
    pub idempotent: bool,
    /// The function's doc comment, first paragraph.
    pub description: &'static str,
    /// What the function asks the node to enforce.
    pub limits: Limits,
    /// Where the function stands.
    pub location: Location,
    /// Calls the function. A payload of another kind than `kind` is an error.
    pub run: fn(Payload, &Context, &mut Responder) -> Result<()>,
}

/// What a worker asks the node to enforce for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// How many units of this worker may run at once; the pool's size if `None`.
    pub max_concurrent: Option<u32>,
    /// The largest payload in bytes; the node's limit for the kind if `None`.
    pub max_payload_bytes: Option<u64>,
}

/// A place in a source file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file, as the compiler names it.
    pub file: &'static str,
    /// The line, from 1.
    pub line: u32,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

inventory::collect!(WorkerEntry);

/// All workers linked into this program, in no particular order, duplicates included.
pub fn linked_workers() -> impl Iterator<Item = &'static WorkerEntry> {
    inventory::iter::<WorkerEntry>()
}
