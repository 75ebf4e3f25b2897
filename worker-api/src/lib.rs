//! What the author of a Workmesh worker imports.
//!
//! Knows nothing of networks and runtimes: a worker is a plain blocking function.

mod cancel;
mod context;
mod entry;
mod error;
mod payload;
mod responder;
mod vocabulary;

pub use bytes::Bytes;
pub use uuid::Uuid;

pub use cancel::{CancelFlag, StopReason};
pub use context::{Context, ContextParts};
pub use entry::{Limits, Location, WorkerEntry, linked_workers};
pub use error::{Error, Result};
pub use payload::{Buffer, Payload, PayloadFile};
pub use responder::{PIECE_BYTES, Responder, ResponseSink};
pub use vocabulary::{Directive, DirectiveError, MAX_DIRECTIVE_BYTES, PayloadKind};
