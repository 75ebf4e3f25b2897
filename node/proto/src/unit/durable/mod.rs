//! A durable unit's two ends as plain values. What has to survive leaves as records before what it makes safe; a machine
//! made of its records goes on where the one before it was stopped, whatever stopped it.
//!
//! The origin decides how the unit ended; the executor keeps what the worker sent until the origin has it.

mod debts;
mod executor;
mod frames;
mod history;
mod offers;
mod origin;
mod rerun;
mod starts;
mod table;
mod words;

pub use executor::{DurableExecutor, ExecutorEffect, ExecutorPhase};
pub use frames::{ResponseCount, ResponseCursor, ResponseFrames, position};
pub use history::{OriginHistory, RecordFault};
pub use offers::Backoff;
pub use origin::DurableOrigin;
pub use starts::EarlierStarts;
pub use table::{Denial, ExecutorTable, ReleaseAnswer, Resumed, TableLimits};
pub use words::{Candidate, OriginEffect, OriginInput, OriginPhase, OriginTimings};
