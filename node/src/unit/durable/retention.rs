//! Which ended units are kept, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use workmesh_proto::UnitId;

use super::rows::EndedUnit;
use super::work::Work;
use crate::config::Retention;

/// How often units are looked for that are kept for too long.
const LOOK: Duration = Duration::from_secs(1);
/// After a removal that failed.
const FAILED: Duration = Duration::from_secs(30);

/// Ended units of one sort, the oldest end first.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    by_end: BTreeMap<(u64, UnitId), u64>,
    bytes: u64,
}

impl Shelf {
    pub(super) fn put(&mut self, ended: &EndedUnit) {
        self.put_at(ended.ended_ms, ended.unit, size(ended));
    }

    pub(super) fn take(&mut self, ended: &EndedUnit) {
        if let Some(bytes) = self.by_end.remove(&(ended.ended_ms, ended.unit)) {
            self.bytes -= bytes;
        }
    }

    fn put_at(&mut self, ended_ms: u64, unit: UnitId, bytes: u64) {
        let before = self.by_end.insert((ended_ms, unit), bytes);
        self.bytes = self.bytes + bytes - before.unwrap_or(0);
    }

    pub(super) fn len(&self) -> usize {
        self.by_end.len()
    }

    /// The unit that goes first, if one has to go at `now_ms`.
    pub(super) fn overdue(&self, keep: &Retention, now_ms: u64) -> Option<UnitId> {
        let (&(ended_ms, oldest), _) = self.by_end.first_key_value()?;
        let age = u64::try_from(keep.age.as_millis()).unwrap_or(u64::MAX);
        let too_old = now_ms.saturating_sub(ended_ms) > age;
        (too_old || self.by_end.len() > keep.count || self.bytes > keep.bytes).then_some(oldest)
    }
}

fn size(ended: &EndedUnit) -> u64 {
    ended.payload_bytes + ended.stream_bytes
}

impl Work {
    /// Forgets what is kept for too long, for ever.
    pub(crate) async fn retain(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            while let Some(unit) = self.overdue() {
                if !self.forget(unit).await {
                    tokio::time::sleep(FAILED).await;
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn unit(n: u128) -> UnitId {
        UnitId(Uuid::from_u128(n))
    }

    #[test]
    fn the_oldest_goes_when_a_bound_is_passed() {
        let keep = Retention {
            age: Duration::from_millis(100),
            count: 3,
            bytes: 30,
        };
        let mut shelf = Shelf::default();
        for n in 1..=3 {
            shelf.put_at(n, unit(n.into()), 10);
        }
        assert_eq!(shelf.overdue(&keep, 101), None);
        assert_eq!(shelf.overdue(&keep, 102), Some(unit(1)));
        shelf.put_at(4, unit(4), 0);
        assert_eq!(shelf.overdue(&keep, 4), Some(unit(1)), "too many");
        let roomy = Retention { count: 9, ..keep };
        assert_eq!(shelf.overdue(&roomy, 4), None);
        shelf.put_at(4, unit(4), 1);
        assert_eq!(shelf.overdue(&roomy, 4), Some(unit(1)), "too many bytes");
    }
}
