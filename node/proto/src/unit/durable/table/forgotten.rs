//! Units that an executor has taken and holds no more, though their origins have not released them: it never says of them that they have
//! not come.

use std::collections::BTreeMap;

use super::TableLimits;
use crate::id::{NodeId, UnitId};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Forgotten {
    origins: BTreeMap<UnitId, Vec<NodeId>>,
    count: usize,
    /// There were more.
    full: bool,
}

impl Forgotten {
    pub(super) fn add(&mut self, unit: UnitId, origin: NodeId, limits: &TableLimits) {
        if self.count == limits.forgotten {
            self.full = true;
            return;
        }
        self.origins.entry(unit).or_default().push(origin);
        self.count += 1;
    }

    pub(super) fn remove(&mut self, unit: UnitId, origin: &NodeId) {
        let Some(origins) = self.origins.get_mut(&unit) else {
            return;
        };
        let before = origins.len();
        origins.retain(|known| known != origin);
        self.count -= before - origins.len();
        if origins.is_empty() {
            self.origins.remove(&unit);
        }
    }

    pub(super) fn may_have(&self, unit: UnitId, origin: &NodeId) -> bool {
        let origins = self.origins.get(&unit);
        self.full || origins.is_some_and(|origins| origins.contains(origin))
    }

    pub(super) fn may_have_any(&self, unit: UnitId) -> bool {
        self.full || self.origins.contains_key(&unit)
    }
}
