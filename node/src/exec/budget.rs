//! The memory that payloads of the bytes kind may take while their units wait, over all units together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number of bytes that reservations share.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
}

/// One unit's part of the budget; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
        })
    }

    /// A part of nothing yet.
    pub(super) fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation {
            budget: Arc::clone(self),
            bytes: 0,
        }
    }
}

impl Reservation {
    /// Takes more, if that much is left.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let (bytes, limit) = (bytes as u64, self.budget.limit);
        let grown = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        let taken = self
            .budget
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        self.bytes += if taken.is_ok() { bytes } else { 0 };
        taken.is_ok()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_share_the_limit_and_give_back_what_they_took() {
        let budget = Budget::new(10);
        let (mut a, mut b) = (budget.reservation(), budget.reservation());
        assert!(a.grow(6) && b.grow(4));
        assert!(!b.grow(1));
        drop(a);
        assert!(b.grow(6));
        assert!(!b.grow(1));
        drop(b);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}
