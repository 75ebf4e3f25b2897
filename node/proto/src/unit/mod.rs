//! A unit's two ends as plain values: what the submitter's side believes of what arrives, and what the executor's side
//! may send. Tasks of the node drive them and do the input and output; neither knows a clock.
//!
//! Together they keep one promise: a unit ends exactly once, and only what arrived complete counts as a success.

pub mod durable;
mod executor;
mod fault;
mod origin;
mod tally;

pub use executor::{ExecutorState, ExecutorUnit, PayloadFault};
pub use fault::UnitFault;
pub use origin::{OriginEvent, OriginUnit};
pub use tally::ResponseTally;
