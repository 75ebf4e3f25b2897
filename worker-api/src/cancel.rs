//! Cancellation of one unit: set by the node, seen by the worker's thread.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why a unit was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The submitter cancelled it, or went away.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// The node shuts down, or is drained.
    Shutdown,
}

impl StopReason {
    /// The reason as a fragment of a sentence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "the unit was cancelled",
            Self::Expired => "the unit's deadline passed",
            Self::Shutdown => "the node shuts down",
        }
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Travels inside an [`std::io::Error`] through readers and writers, so that a worker's
/// [`crate::Error`] still knows that the unit was told to stop.
impl std::error::Error for StopReason {}

impl From<StopReason> for std::io::Error {
    fn from(reason: StopReason) -> Self {
        Self::other(reason)
    }
}

/// A flag that is set once, with a reason, and wakes whoever sleeps on it. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    reason: Mutex<Option<StopReason>>,
    changed: Condvar,
}

impl CancelFlag {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag. Only the first reason counts.
    pub fn stop(&self, reason: StopReason) {
        let mut slot = self.shared.reason.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(reason);
        self.shared.changed.notify_all();
    }

    /// The reason, once the flag is set.
    pub fn reason(&self) -> Option<StopReason> {
        *self.shared.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks for `duration` or until the flag is set; says why if it was set.
    pub fn wait(&self, duration: Duration) -> Option<StopReason> {
        let until = Instant::now().checked_add(duration);
        let mut slot = self.shared.reason.lock().unwrap_or_else(PoisonError::into_inner);
        while slot.is_none() {
            let left = match until {
                Some(until) => until.saturating_duration_since(Instant::now()),
                None => duration,
            };
            if left.is_zero() {
                return None;
            }
            slot = self
                .shared
                .changed
                .wait_timeout(slot, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_reason_counts() {
        let flag = CancelFlag::new();
        assert_eq!(flag.reason(), None);
        flag.clone().stop(StopReason::Expired);
        flag.stop(StopReason::Cancelled);
        assert_eq!(flag.reason(), Some(StopReason::Expired));
    }

    #[test]
    fn waiting_ends_at_once_when_the_flag_is_set() {
        let flag = CancelFlag::new();
        flag.stop(StopReason::Shutdown);
        assert_eq!(flag.wait(Duration::MAX), Some(StopReason::Shutdown));
    }

    #[test]
    fn a_sleeper_is_woken_by_the_flag() {
        let flag = CancelFlag::new();
        let sleeper = std::thread::spawn({
            let flag = flag.clone();
            move || flag.wait(Duration::MAX)
        });
        flag.stop(StopReason::Cancelled);
        assert_eq!(sleeper.join().unwrap(), Some(StopReason::Cancelled));
    }

    #[test]
    fn waiting_for_no_time_returns_at_once() {
        assert_eq!(CancelFlag::new().wait(Duration::ZERO), None);
    }
}
