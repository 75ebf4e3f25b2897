//! Durable units: on the disk of their origin before their submitter hears of it, kept by their executor until the origin has all of it.
//!
//! `proto::unit::durable` decides, the store keeps, and this module carries out: [`Work`] holds the units of which this node is the
//! origin, [`Host`] those that it runs for others and for itself.

mod active;
mod answer;
mod arrive;
mod ask;
mod attach;
mod batch;
mod brief;
mod deferred;
mod draft;
mod drive;
mod happened;
mod host;
mod hosted;
mod kept;
mod pipe;
mod place;
mod recover;
mod releases;
mod retention;
mod rows;
mod talk;
mod work;

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub(crate) use answer::Opening;
pub(crate) use attach::{AttachEvent, Attachment};
pub(crate) use host::Host;
pub(crate) use recover::recover;
pub(crate) use work::{NotTaken, Work, unknown};

/// Milliseconds since 1970, as the clock stood when it was first asked for: within a life of the node time goes on evenly, even if
/// the clock is set.
fn now_ms() -> u64 {
    static START: OnceLock<(Instant, u64)> = OnceLock::new();
    let (start, start_ms) = START.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        (
            Instant::now(),
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        )
    });
    start_ms.saturating_add(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX))
}
