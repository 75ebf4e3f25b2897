//! Offers that an executor refuses if they still arrive: of a unit of an origin all up to a number.

use std::collections::{BTreeMap, VecDeque};

use super::TableLimits;
use crate::id::{NodeId, UnitId};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Denied {
    numbers: BTreeMap<(UnitId, NodeId), (u32, u64)>,
    /// The oldest first; one that has been denied again since is further back, too.
    order: VecDeque<(u64, UnitId, NodeId)>,
}

impl Denied {
    pub(super) fn covers(&self, unit: UnitId, origin: &NodeId, number: u32) -> bool {
        let denied = self.numbers.get(&(unit, origin.clone()));
        denied.is_some_and(|(up_to, _)| number <= *up_to)
    }

    /// `false`: it is full of what may still be needed.
    pub(super) fn add(
        &mut self,
        unit: UnitId,
        origin: &NodeId,
        number: u32,
        now_ms: u64,
        limits: &TableLimits,
    ) -> bool {
        let late = |at: u64| now_ms.saturating_sub(at) > limits.late_ms;
        if let Some((up_to, _)) = self.numbers.get_mut(&(unit, origin.clone()))
            && *up_to >= number
        {
            return true;
        }
        while self.order.len() >= limits.denied
            && let Some((at, ..)) = self.order.front()
            && late(*at)
        {
            self.forget_oldest();
        }
        if self.order.len() >= limits.denied {
            return false;
        }
        self.numbers.insert((unit, origin.clone()), (number, now_ms));
        self.order.push_back((now_ms, unit, origin.clone()));
        true
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    fn forget_oldest(&mut self) {
        let Some((at, unit, origin)) = self.order.pop_front() else {
            return;
        };
        let key = (unit, origin);
        if self.numbers.get(&key).is_some_and(|(_, latest)| *latest == at) {
            self.numbers.remove(&key);
        }
    }
}
