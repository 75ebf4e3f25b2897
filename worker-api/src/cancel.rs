//! Cancellation of one unit: set by the node, seen by the worker's thread.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Why a unit was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The submitter cancelled it, or went away.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// The node shuts down.
    Draining,
}

impl StopReason {
    /// The reason as a fragment of a sentence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "the unit was cancelled",
            Self::Expired => "the unit's deadline passed",
            Self::Draining => "the node is shutting down",
        }
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
