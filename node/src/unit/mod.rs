//! Units in motion: at their origin (placement, submission, events) and on their way into this node's executor.
//! Also the questions that nodes ask each other, and the answers. Knows sessions, never sockets.

mod drain;
pub(crate) mod durable;
mod events;
mod origin;
mod placement;
pub mod report;
mod query;
mod recent;
mod serve;
mod units;

pub use events::{PayloadClosed, UnitEvent, UnitEvents, UnitPayload};
pub(crate) use origin::HEAD_BYTES;
pub use origin::{SubmittedUnit, UnitRequest};
pub(crate) use query::pool_report;
pub(crate) use units::Units;
