//! Every frame that leaves a process, as types, with their codec and their limits. `docs/PROTOCOL.md` describes
//! the same for a reader; golden vectors pin both.

pub mod batch;
pub mod codec;
pub mod durable;
pub mod forward;
pub mod frame;
pub mod items;
pub mod link;
pub mod query;
pub mod replay;
pub(crate) mod row;
pub mod unit;
