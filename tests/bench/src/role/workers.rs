//! The workers of the product's answering end: what the floor's server does, as units.
//!
//! They are linked into this program, so a node that it becomes offers them.

use std::time::Duration;

use worker_api::{Bytes, Context, Responder, Result, worker};

use crate::settings::BULK_CHUNK_BYTES;

/// One response of the payload's bytes.
pub(crate) const ECHO: &str = "bench:echo";
/// Nothing.
pub(crate) const NOOP: &str = "bench:noop";
/// As many bytes as the payload says, as one response.
pub(crate) const BULK: &str = "bench:bulk";
/// Waits until it is cancelled.
pub(crate) const HOLD: &str = "bench:hold";

/// Longer than any run.
const FOR_EVER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Sends the payload back.
#[worker("bench:echo", idempotent)]
fn echo(payload: Bytes) -> Result<Bytes> {
    Ok(payload)
}

/// Does nothing.
#[worker("bench:noop", idempotent)]
fn noop(_payload: ()) -> Result<()> {
    Ok(())
}

/// Streams as many bytes as the payload says, a number of eight bytes, as one response.
#[worker("bench:bulk", idempotent)]
fn bulk(payload: Bytes, _cx: &Context, out: &mut Responder) -> Result<()> {
    let count = payload.as_ref().try_into().map(u64::from_be_bytes)?;
    let chunk = Bytes::from(vec![0x5a; BULK_CHUNK_BYTES]);
    let mut left = count;
    while left > 0 {
        let length = usize::try_from(left).map_or(BULK_CHUNK_BYTES, |left| left.min(BULK_CHUNK_BYTES));
        out.write_piece(chunk.slice(..length))?;
        left -= length as u64;
    }
    Ok(())
}

/// Waits until it is cancelled.
#[worker("bench:hold")]
fn hold(_payload: (), cx: &Context) -> Result<()> {
    cx.sleep(FOR_EVER)
}

#[cfg(test)]
mod tests {
    use worker_api::StopReason;
    use worker_api::testing::Unit;

    use super::*;

    #[test]
    fn bulk_is_as_long_as_asked() {
        let count = BULK_CHUNK_BYTES as u64 + 1;
        let done = Unit::new(BULK).payload(count.to_be_bytes().to_vec()).run();
        assert_eq!(done.responses.len(), 1);
        assert_eq!(done.responses[0].len() as u64, count);
    }

    #[test]
    fn bulk_without_a_number_fails() {
        assert!(Unit::new(BULK).payload(vec![1; 7]).run().result.is_err());
    }

    #[test]
    fn a_held_unit_ends_when_it_is_cancelled() {
        let unit = Unit::new(HOLD);
        unit.cancel_flag().stop(StopReason::Cancelled);
        assert!(unit.run().result.is_err());
    }
}
