//! The ids of the units that ended last, so that one submitted twice is refused.

use std::collections::{HashSet, VecDeque};

use workmesh_proto::UnitId;

/// How many ended units are remembered.
pub(super) const REMEMBERED: usize = 4096;

/// The ids of the units that ended last; the oldest makes room for the next.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    order: VecDeque<UnitId>,
    ids: HashSet<UnitId>,
}

impl Remembered {
    pub(super) fn contains(&self, id: UnitId) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn remember(&mut self, id: UnitId) {
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.order.push_back(id);
        self.ids.insert(id);
    }
}
