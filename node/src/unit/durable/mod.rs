//! Durable units: on the disk of their origin before their submitter hears of it, kept by their executor until the origin has all of it.
//!
//! `proto::unit::durable` decides, the store keeps, and this module carries out: [`Work`] holds the units of which this node is the
//! origin, [`Host`] those that it runs for others and for itself.

mod active;
mod answer;
mod ask;
mod attach;
mod draft;
mod drive;
mod host;
mod hosted;
mod kept;
mod pipe;
mod place;
mod recover;
mod retention;
mod rows;
mod work;

use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) use answer::Opening;
pub(crate) use attach::{AttachEvent, Attachment};
pub(crate) use host::Host;
pub(crate) use recover::recover;
pub(crate) use work::Work;

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
