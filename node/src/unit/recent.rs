//! The units that were submitted here lately: the same id twice is one unit, wherever it would be placed.

use std::collections::{HashSet, VecDeque};

use workmesh_proto::UnitId;

/// How many are remembered.
const MAX_RECENT: usize = 8192;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RecentUnits {
    known: HashSet<UnitId>,
    order: VecDeque<UnitId>,
}

impl RecentUnits {
    /// Remembers a unit; false if it is remembered already.
    pub(super) fn insert(&mut self, unit: UnitId) -> bool {
        if !self.known.insert(unit) {
            return false;
        }
        self.order.push_back(unit);
        if self.order.len() > MAX_RECENT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// Whether the unit is remembered.
    pub(super) fn contains(&self, unit: UnitId) -> bool {
        self.known.contains(&unit)
    }

    /// Forgets a unit that no executor has taken: it may be submitted again.
    pub(super) fn remove(&mut self, unit: UnitId) {
        if self.known.remove(&unit)
            && let Some(at) = self.order.iter().rposition(|known| *known == unit)
        {
            self.order.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> UnitId {
        UnitId(uuid::Uuid::from_u128(number as u128))
    }

    #[test]
    fn a_unit_is_new_once() {
        let mut recent = RecentUnits::default();
        assert!(recent.insert(id(1)));
        assert!(!recent.insert(id(1)));
        recent.remove(id(1));
        assert!(recent.insert(id(1)));
    }

    #[test]
    fn a_unit_that_was_forgotten_and_submitted_again_is_remembered_as_long_as_others() {
        let mut recent = RecentUnits::default();
        assert!(recent.insert(id(0)));
        recent.remove(id(0));
        (1..MAX_RECENT).for_each(|n| assert!(recent.insert(id(n))));
        assert!(recent.insert(id(0)));
        assert!(recent.insert(id(MAX_RECENT)));
        assert!(!recent.insert(id(0)));
    }

    #[test]
    fn only_the_latest_are_remembered() {
        let mut recent = RecentUnits::default();
        (0..=MAX_RECENT).for_each(|n| assert!(recent.insert(id(n))));
        assert!(recent.insert(id(0)));
        assert_eq!(recent.known.len(), MAX_RECENT);
    }
}
