//! Units that were over, and told of, before anything of them was stored. Most are released before they would have to be; whichever is
//! not goes to the store after all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use workmesh_proto::UnitId;

/// How long a unit's origin may take to release it before it is stored.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often it is looked whose time is up.
const LOOK: Duration = Duration::from_millis(25);
/// Units, and bytes of their responses, that may wait in memory, those included that were released meanwhile. Beyond that a unit is stored
/// at once.
const MAX_UNITS: usize = 16 * 1024;
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Deferred {
    waiting: Mutex<Waiting>,
    /// Told when one waits where none has.
    came: Notify,
    refused: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    /// In the order of their times.
    units: VecDeque<(Instant, UnitId, usize)>,
    bytes: usize,
}

impl Waiting {
    fn take(&mut self, until: Option<Instant>) -> Vec<UnitId> {
        let is_due = |at: Instant| until.is_none_or(|until| at <= until);
        let mut due = Vec::new();
        while let Some((_, unit, bytes)) = self.units.pop_front_if(|(at, ..)| is_due(*at)) {
            self.bytes -= bytes;
            due.push(unit);
        }
        due
    }
}

impl Deferred {
    /// The unit need not be stored yet. `false`: as many wait as may.
    pub(super) fn put(&self, unit: UnitId, bytes: usize) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.units.len() >= MAX_UNITS || waiting.bytes + bytes > MAX_BYTES {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        waiting.bytes += bytes;
        waiting.units.push_back((Instant::now() + PATIENCE, unit, bytes));
        if waiting.units.len() == 1 {
            self.came.notify_one();
        }
        true
    }

    /// Waits for units whose time is up. Cancel-safe.
    pub(super) async fn due(&self) -> Vec<UnitId> {
        loop {
            if self.waiting.lock().units.is_empty() {
                self.came.notified().await;
            }
            tokio::time::sleep(LOOK).await;
            let due = self.waiting.lock().take(Some(Instant::now()));
            if !due.is_empty() {
                return due;
            }
        }
    }

    /// All that wait.
    pub(super) fn take_all(&self) -> Vec<UnitId> {
        self.waiting.lock().take(None)
    }

    /// How often a unit found that as many wait as may.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn unit(number: usize) -> UnitId {
        UnitId(Uuid::from_u128(number as u128))
    }

    #[test]
    fn units_that_wait_are_bounded() {
        let deferred = Deferred::default();
        for number in 0..MAX_UNITS {
            assert!(deferred.put(unit(number), 1));
        }
        assert!(!deferred.put(unit(MAX_UNITS), 1));
        assert_eq!(deferred.refused(), 1);
        assert_eq!(deferred.take_all().len(), MAX_UNITS);
        assert!(deferred.put(unit(MAX_UNITS), 1));
    }

    #[test]
    fn bytes_that_wait_are_bounded() {
        let deferred = Deferred::default();
        assert!(deferred.put(unit(1), MAX_BYTES - 1));
        assert!(!deferred.put(unit(2), 2));
        assert!(deferred.put(unit(3), 1));
        assert_eq!(deferred.take_all(), [unit(1), unit(3)]);
        assert!(deferred.put(unit(2), MAX_BYTES));
    }

    #[tokio::test]
    async fn a_unit_is_due_when_its_time_is_up() {
        let deferred = Deferred::default();
        let before = Instant::now();
        assert!(deferred.put(unit(1), 1));
        assert_eq!(deferred.due().await, [unit(1)]);
        assert!(before.elapsed() >= PATIENCE);
        assert_eq!(deferred.take_all(), []);
    }
}
