//! What the author of a Workmesh worker imports.
//!
//! Knows nothing of networks and runtimes: a worker is a plain blocking function.
//!
//! ```
//! use worker_api::{Json, Result, worker};
//!
//! #[derive(serde::Deserialize)]
//! struct Add {
//!     a: i64,
//!     b: i64,
//! }
//!
//! /// Adds two numbers.
//! #[worker("math:add", idempotent)]
//! fn add(Json(add): Json<Add>) -> Result<Json<i64>> {
//!     let sum = add.a.checked_add(add.b).ok_or_else(|| worker_api::Error::msg("the sum is too large"))?;
//!     Ok(Json(sum))
//! }
//!
//! # fn main() {
//! let done = worker_api::testing::Unit::new("math:add").payload(r#"{"a":1,"b":2}"#).run();
//! assert_eq!(done.text(), ["3"]);
//! # }
//! ```
//!
//! `docs/WORKERS.md` is the guide.

extern crate self as worker_api;

mod cancel;
mod context;
mod entry;
mod error;
mod payload;
mod responder;
pub mod testing;
mod typed;
mod vocabulary;

pub use bytes::Bytes;
pub use uuid::Uuid;
/// ```
/// use worker_api::{Bytes, Context, Responder, Result, worker};
///
/// /// Sends each word of a text.
/// #[worker("text:words", version = "1.0.0", idempotent, max_concurrent = 4, max_payload = "64MiB")]
/// fn words(payload: Bytes, cx: &Context, out: &mut Responder) -> Result<()> {
///     for word in std::str::from_utf8(&payload)?.split_whitespace() {
///         cx.check()?;
///         out.send(word.to_owned())?;
///     }
///     Ok(())
/// }
/// # fn main() {}
/// ```
pub use worker_macros::worker;

pub use cancel::{CancelFlag, StopReason};
pub use context::{Context, ContextParts};
pub use entry::{Limits, Location, WorkerEntry, linked_workers};
pub use error::{Error, MAX_ERROR_BYTES, Result};
pub use payload::{Buffer, Payload, PayloadFile, PayloadSource};
pub use responder::{PIECE_BYTES, Responder, ResponseSink};
pub use typed::{Cbor, FromPayload, IntoResponse, Json, WorkerResult};
pub use vocabulary::{Directive, DirectiveError, MAX_DIRECTIVE_BYTES, PayloadKind};

/// Compiles the examples of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../docs/WORKERS.md")]
struct Guide;

/// What the code that `#[worker]` writes needs; no part of the interface.
#[doc(hidden)]
pub mod __private {
    pub use inventory;

    pub use crate::vocabulary::assert_directive;
}
