//! What an executor knows of the units of its earlier life.

use std::collections::BTreeSet;

use crate::id::{Incarnation, UnitId};
use crate::wire::durable::Offer;

/// The units that have begun in one life of an executor, if that is known of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EarlierStarts(Option<(Incarnation, BTreeSet<UnitId>)>);

impl EarlierStarts {
    /// Nothing is known.
    pub fn unknown() -> Self {
        Self::default()
    }

    /// In this life these units have begun, and no others but those that were released.
    pub fn of(life: Incarnation, begun: BTreeSet<UnitId>) -> Self {
        Self(Some((life, begun)))
    }

    /// Whether the unit may have begun under this offer, which its origin has not released.
    pub fn may_have_begun(&self, unit: UnitId, offer: Offer) -> bool {
        let noted = self.0.as_ref().filter(|(life, _)| *life == offer.life);
        noted.is_none_or(|(_, begun)| begun.contains(&unit))
    }
}
