//! Which ended units are kept, and for how long.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use workmesh_proto::UnitId;

use super::rows::EndedUnit;
use super::work::Work;
use crate::config::Retention;

/// How often units are looked for that are kept for too long.
const LOOK: Duration = Duration::from_secs(1);
/// After a removal that failed.
const FAILED: Duration = Duration::from_secs(30);

/// How long a unit that would go stays for those who read it, from when the first of them began.
const READING: Duration = Duration::from_secs(15 * 60);

/// Units that are being read, or were attached to before they ended.
#[derive(Debug, Default)]
pub(super) struct Readers(HashMap<UnitId, (usize, Instant)>);

impl Readers {
    pub(super) fn enter(&mut self, unit: UnitId, now: Instant) {
        self.0.entry(unit).or_insert((0, now)).0 += 1;
    }

    pub(super) fn leave(&mut self, unit: UnitId) {
        if let Some((count, _)) = self.0.get_mut(&unit) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&unit);
            }
        }
    }

    /// Whether the unit is to stay for whoever reads it.
    pub(super) fn keep(&self, unit: UnitId, now: Instant) -> bool {
        let since = self.0.get(&unit).map(|(_, since)| *since);
        since.is_some_and(|since| now.duration_since(since) < READING)
    }
}

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

    /// The unit that goes first, if one has to go at `now_ms`; not one that is `needed`.
    pub(super) fn overdue(
        &self,
        keep: &Retention,
        now_ms: u64,
        needed: impl Fn(UnitId) -> bool,
    ) -> Option<UnitId> {
        let age = u64::try_from(keep.age.as_millis()).unwrap_or(u64::MAX);
        let too_many = self.by_end.len() > keep.count || self.bytes > keep.bytes;
        let goes = |ended_ms: u64| too_many || now_ms.saturating_sub(ended_ms) > age;
        let mut oldest = self.by_end.keys().take_while(|(ended_ms, _)| goes(*ended_ms));
        oldest.find(|(_, unit)| !needed(*unit)).map(|(_, unit)| *unit)
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
                if !self.remove_going(unit).await {
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
        let free = |_| false;
        assert_eq!(shelf.overdue(&keep, 101, free), None);
        assert_eq!(shelf.overdue(&keep, 102, free), Some(unit(1)));
        shelf.put_at(4, unit(4), 0);
        assert_eq!(shelf.overdue(&keep, 4, free), Some(unit(1)), "too many");
        let roomy = Retention { count: 9, ..keep };
        assert_eq!(shelf.overdue(&roomy, 4, free), None);
        shelf.put_at(4, unit(4), 1);
        assert_eq!(shelf.overdue(&roomy, 4, free), Some(unit(1)), "too many bytes");
        assert_eq!(shelf.overdue(&roomy, 4, |read| read == unit(1)), Some(unit(2)));
        assert_eq!(shelf.overdue(&roomy, 4, |_| true), None);
        let aged = Retention { bytes: 99, ..roomy };
        assert_eq!(
            shelf.overdue(&aged, 102, |read| read == unit(1)),
            None,
            "the next one is not too old"
        );
    }

    #[test]
    fn a_unit_stays_for_its_readers_for_a_while() {
        let (mut readers, start) = (Readers::default(), Instant::now());
        assert!(!readers.keep(unit(1), start));
        readers.enter(unit(1), start);
        readers.enter(unit(1), start + READING);
        assert!(readers.keep(unit(1), start) && !readers.keep(unit(2), start));
        assert!(
            !readers.keep(unit(1), start + READING),
            "nobody holds it for ever"
        );
        readers.leave(unit(1));
        assert!(readers.keep(unit(1), start));
        readers.leave(unit(1));
        readers.leave(unit(1));
        assert!(!readers.keep(unit(1), start) && readers.0.is_empty());
    }
}
