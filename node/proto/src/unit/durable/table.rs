//! All durable units that an executor holds, and the offers that it must not take any more. The answers to `Submit`, `Resume` and
//! `Release` are decided here; whoever drives it carries them out.
//!
//! An origin that asks for a unit which is not here is told that it never will be: so the offer, which may still be on its way, is
//! remembered and refused. What is remembered is bounded: when it is full of recent entries, origins are put off.
//!
//! Of a unit that was here and is forgotten without its release it is never said that it was not taken.

mod denied;
mod forgotten;

use std::collections::BTreeMap;

use self::denied::Denied;
use self::forgotten::Forgotten;
use super::starts::EarlierStarts;
use crate::id::{Incarnation, NodeId, UnitId};
use crate::wire::durable::Offer;
use crate::wire::unit::Kind;

/// How much an executor holds and remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableLimits {
    /// Units at the same time, those included that wait for their release.
    pub units: usize,
    /// Offers that are remembered as refused.
    pub denied: usize,
    /// Units that are remembered as forgotten; beyond that each unknown one may be one of them.
    pub forgotten: usize,
    /// A frame can't be on its way for longer, in milliseconds: what was denied before that may be forgotten.
    pub late_ms: u64,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self {
            units: 65_536,
            denied: 65_536,
            forgotten: 65_536,
            late_ms: 15 * 60 * 1000,
        }
    }
}

/// A `Submit` or its payload is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// For the `Refused` frame.
    pub kind: Kind,
    /// Likewise.
    pub message: String,
}

/// The answer to a `Resume`.
#[derive(Debug, PartialEq, Eq)]
pub enum Resumed<T> {
    /// The unit is here: `Accepted`, and what follows the origin's position.
    Here,
    /// Refused with this kind and message.
    Refused {
        /// `no_such_unit`, `node_lost` or `busy`.
        kind: Kind,
        /// One line.
        message: String,
        /// Was arriving, and is dropped: what is kept of its payload is to be removed.
        dropped: Option<T>,
    },
}

/// The answer to a `Release`.
#[derive(Debug, PartialEq, Eq)]
pub enum ReleaseAnswer<T> {
    /// `Released`, once the unit that was held is stopped and removed from the journal.
    Forget(T),
    /// `Released`: nothing of it is held, or only a later offer.
    Nothing,
    /// No answer: the origin tries again later.
    Later,
}

/// A unit that is held; `T` is the driver's own.
#[derive(Debug)]
struct Held<T> {
    origin: NodeId,
    offer: Offer,
    taken: bool,
    value: T,
}

/// See the module.
#[derive(Debug)]
pub struct ExecutorTable<T> {
    life: Incarnation,
    limits: TableLimits,
    held: BTreeMap<UnitId, Held<T>>,
    denied: Denied,
    forgotten: Forgotten,
    earlier: EarlierStarts,
}

impl<T> ExecutorTable<T> {
    /// The empty table of an executor in this life, with what is known of the one before.
    pub fn new(life: Incarnation, limits: TableLimits, earlier: EarlierStarts) -> Self {
        Self {
            life,
            limits,
            held: BTreeMap::new(),
            denied: Denied::default(),
            forgotten: Forgotten::default(),
            earlier,
        }
    }

    /// Adds a unit that the journal has kept from an earlier life.
    pub fn restore(&mut self, unit: UnitId, origin: NodeId, offer: Offer, value: T) {
        let held = Held {
            origin,
            offer,
            taken: true,
            value,
        };
        self.held.insert(unit, held);
    }

    /// An offer has arrived, its payload follows: held as arriving, or refused. `value` is called only if it is not refused.
    pub fn submit(
        &mut self,
        unit: UnitId,
        origin: &NodeId,
        offer: Offer,
        value: impl FnOnce() -> T,
    ) -> Result<(), Denial> {
        if offer.life != self.life {
            return deny(
                Kind::NodeLost,
                "the executor has restarted since the unit was offered",
            );
        }
        match self.held.get(&unit) {
            Some(held) if held.origin != *origin || held.offer.number >= offer.number => {
                return deny(Kind::Duplicate, "a unit of this id is here");
            }
            Some(_) => {
                return deny(Kind::Busy, "an earlier offer of the unit has not been released");
            }
            None => {}
        }
        if self.denied.covers(unit, origin, offer.number) {
            return deny(Kind::Duplicate, "this offer of the unit is over");
        }
        if self.held.len() >= self.limits.units {
            return deny(Kind::Busy, "the executor holds as many durable units as it can");
        }
        let held = Held {
            origin: origin.clone(),
            offer,
            taken: false,
            value: value(),
        };
        self.held.insert(unit, held);
        self.forgotten.remove(unit, origin);
        Ok(())
    }

    /// Whether the offer takes the place of an earlier one, which is here: whoever offers again wants nothing of it any more. It is to
    /// be released before the offer is submitted.
    pub fn replaces(&self, unit: UnitId, origin: &NodeId, offer: Offer) -> bool {
        let earlier = |held: &Held<T>| held.origin == *origin && held.offer.number < offer.number;
        offer.life == self.life && self.held.get(&unit).is_some_and(earlier)
    }

    /// Whether the offer still arrives: otherwise its payload is of no use.
    pub fn is_arriving(&self, unit: UnitId, offer: Offer) -> bool {
        self.held
            .get(&unit)
            .is_some_and(|held| held.offer == offer && !held.taken)
    }

    /// The payload is complete and kept: the unit may be taken. Refused if it was asked for or released in the meantime.
    pub fn take(&mut self, unit: UnitId, offer: Offer) -> Result<&mut T, Denial> {
        match self.held.get_mut(&unit) {
            Some(held) if held.offer == offer && !held.taken => {
                held.taken = true;
                Ok(&mut held.value)
            }
            _ => deny(Kind::Duplicate, "this offer of the unit is over"),
        }
    }

    /// The offer has not arrived as a whole, or could not be kept: it is as if it had never come.
    pub fn abandon(&mut self, unit: UnitId, offer: Offer) -> Option<T> {
        let same = self.held.get(&unit).is_some_and(|held| held.offer == offer);
        same.then(|| self.held.remove(&unit))
            .flatten()
            .map(|held| held.value)
    }

    /// Lets go of a unit that was taken, and of which nobody can be expected to ask any more: whoever does learns that it is lost.
    pub fn forget(&mut self, unit: UnitId, offer: Offer) -> Option<T> {
        let same = |held: &Held<T>| held.offer == offer && held.taken;
        self.held.get(&unit).filter(|held| same(held))?;
        let held = self.held.remove(&unit)?;
        self.forgotten.add(unit, held.origin, &self.limits);
        Some(held.value)
    }

    /// Whether the unit is here, or may be one that was forgotten.
    pub fn remembers(&self, unit: UnitId) -> bool {
        self.held.contains_key(&unit) || self.forgotten.may_have_any(unit)
    }

    /// An origin asks for what it has offered, at `now_ms` by a clock that does not jump.
    pub fn resume(&mut self, unit: UnitId, origin: &NodeId, offer: Offer, now_ms: u64) -> Resumed<T> {
        let refused = |kind, message: &str| Resumed::Refused {
            kind,
            message: message.to_owned(),
            dropped: None,
        };
        let mut arriving = false;
        if let Some(held) = self.held.get(&unit)
            && held.origin == *origin
            && held.offer.number == offer.number
        {
            if held.taken {
                return Resumed::Here;
            }
            arriving = true;
        }
        if offer.life != self.life && self.earlier.may_have_begun(unit, offer) {
            return refused(
                Kind::NodeLost,
                "the executor has restarted, and nothing is left of the unit there",
            );
        }
        if !arriving && self.forgotten.may_have(unit, origin) {
            return refused(
                Kind::NodeLost,
                "the executor has forgotten the unit: it was not asked for in a long time",
            );
        }
        if offer.life != self.life {
            // If it still arrives it is refused: it was meant for another life.
            return refused(
                Kind::NoSuchUnit,
                "the executor has restarted, and had not taken the unit before",
            );
        }
        if !self.deny(unit, origin, offer.number, now_ms) {
            return refused(Kind::Busy, "the executor has too many offers to remember");
        }
        Resumed::Refused {
            kind: Kind::NoSuchUnit,
            message: "the executor has not taken the unit".to_owned(),
            dropped: arriving
                .then(|| self.held.remove(&unit))
                .flatten()
                .map(|held| held.value),
        }
    }

    /// What a release of the offers up to `number` lets go of.
    pub fn to_release(&self, unit: UnitId, origin: &NodeId, number: u32) -> Option<&T> {
        let held = self.held.get(&unit)?;
        (held.origin == *origin && held.offer.number <= number).then_some(&held.value)
    }

    /// An origin no longer wants anything of the offers up to `number`, at `now_ms` by a clock that does not jump.
    pub fn release(&mut self, unit: UnitId, origin: &NodeId, number: u32, now_ms: u64) -> ReleaseAnswer<T> {
        let held = self.held.get(&unit).filter(|held| held.origin == *origin);
        // An offer that has been taken does not come again, and before the first one there is none.
        let over = held.is_some_and(|held| held.taken && held.offer.number == number && number <= 1);
        let goes = self.to_release(unit, origin, number).is_some();
        if !over && !self.deny(unit, origin, number, now_ms) {
            return ReleaseAnswer::Later;
        }
        self.forgotten.remove(unit, origin);
        match goes.then(|| self.held.remove(&unit)).flatten() {
            Some(held) => ReleaseAnswer::Forget(held.value),
            None => ReleaseAnswer::Nothing,
        }
    }

    fn deny(&mut self, unit: UnitId, origin: &NodeId, number: u32, now_ms: u64) -> bool {
        self.denied.add(unit, origin, number, now_ms, &self.limits)
    }

    /// A unit that is here.
    pub fn get(&self, unit: UnitId) -> Option<&T> {
        self.held.get(&unit).map(|held| &held.value)
    }

    /// A unit that is here.
    pub fn get_mut(&mut self, unit: UnitId) -> Option<&mut T> {
        self.held.get_mut(&unit).map(|held| &mut held.value)
    }

    /// All units that are here.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (UnitId, &mut T)> {
        self.held.iter_mut().map(|(unit, held)| (*unit, &mut held.value))
    }

    /// How many units are here.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether no unit is here.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

fn deny<A>(kind: Kind, message: &str) -> Result<A, Denial> {
    Err(Denial {
        kind,
        message: message.to_owned(),
    })
}

#[cfg(test)]
mod tests;
