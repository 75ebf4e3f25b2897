//! How long a worker's functions take: whether the next unit's end is likely to follow in a moment.

use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Waker;
use std::time::Duration;

use super::Pool;
use crate::exec::unit::Unit;

/// What takes no longer is quick.
const QUICK: Duration = Duration::from_micros(50);
/// How many quick units in a row make a quick worker.
const STREAK: u8 = 8;

/// How many units of one worker in a row were quick, up to [`STREAK`]. A guess: threads may lose a count to each other.
#[derive(Debug, Default)]
pub(super) struct Pace(AtomicU8);

impl Pace {
    fn is_quick(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= STREAK
    }

    fn note(&self, took: Duration) {
        let streak = match took <= QUICK {
            true => self.0.load(Ordering::Relaxed).saturating_add(1).min(STREAK),
            false => 0,
        };
        self.0.store(streak, Ordering::Relaxed);
    }
}

impl Pool {
    /// Whether the unit's worker has been quick of late.
    pub(in crate::exec) fn is_quick(&self, unit: &Unit) -> bool {
        self.paces.get(unit.worker).is_some_and(Pace::is_quick)
    }

    /// Wakes whoever reads what the unit puts out: in a moment, if its end is likely to follow by then.
    pub(in crate::exec) fn tell_of(&self, unit: &Unit, reader: Option<Waker>) {
        match reader {
            Some(reader) if self.is_quick(unit) => self.wakeups.hold([reader]),
            Some(reader) => self.wakeups.pass_on([reader]),
            None => {}
        }
    }

    pub(super) fn note_pace(&self, unit: &Unit, took: Duration) {
        if let Some(pace) = self.paces.get(unit.worker) {
            pace.note(took);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_after_a_streak_and_slow_after_one_unit() {
        let pace = Pace::default();
        for _ in 0..STREAK {
            assert!(!pace.is_quick());
            pace.note(QUICK);
        }
        assert!(pace.is_quick());
        pace.note(QUICK + Duration::from_nanos(1));
        assert!(!pace.is_quick());
    }
}
