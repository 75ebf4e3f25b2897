//! All durable units that an executor holds, and the offers that it must not take any more. The answers to `Submit`, `Resume` and
//! `Release` are decided here; whoever drives it carries them out.
//!
//! An origin that asks for a unit which is not here is told that it never will be: so the offer, which may still be on its way, is
//! remembered and refused. What is remembered is bounded: when it is full of recent entries, origins are put off.

use std::collections::{BTreeMap, VecDeque};

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
    /// A frame can't be on its way for longer, in milliseconds: what was denied before that may be forgotten.
    pub late_ms: u64,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self {
            units: 65_536,
            denied: 65_536,
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
        Ok(())
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

    /// An origin no longer wants anything of the offers up to `number`, at `now_ms` by a clock that does not jump.
    pub fn release(&mut self, unit: UnitId, origin: &NodeId, number: u32, now_ms: u64) -> ReleaseAnswer<T> {
        let held = self.held.get(&unit).filter(|held| held.origin == *origin);
        // An offer that has been taken does not come again, and before the first one there is none.
        let over = held.is_some_and(|held| held.taken && held.offer.number == number && number <= 1);
        let goes = held.is_some_and(|held| held.offer.number <= number);
        if !over && !self.deny(unit, origin, number, now_ms) {
            return ReleaseAnswer::Later;
        }
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

/// Offers that are refused if they still arrive: of a unit of an origin all up to a number.
#[derive(Debug, Default)]
struct Denied {
    numbers: BTreeMap<(UnitId, NodeId), (u32, u64)>,
    /// The oldest first; one that has been denied again since is further back, too.
    order: VecDeque<(u64, UnitId, NodeId)>,
}

impl Denied {
    fn covers(&self, unit: UnitId, origin: &NodeId, number: u32) -> bool {
        let denied = self.numbers.get(&(unit, origin.clone()));
        denied.is_some_and(|(up_to, _)| number <= *up_to)
    }

    /// `false`: it is full of what may still be needed.
    fn add(&mut self, unit: UnitId, origin: &NodeId, number: u32, now_ms: u64, limits: &TableLimits) -> bool {
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const LIFE: Incarnation = Incarnation(7);
    const LIMITS: TableLimits = TableLimits {
        units: 2,
        denied: 2,
        late_ms: 1000,
    };

    fn table() -> ExecutorTable<&'static str> {
        ExecutorTable::new(LIFE, LIMITS, EarlierStarts::unknown())
    }

    fn unit(number: u128) -> UnitId {
        UnitId(Uuid::from_u128(number))
    }

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    fn offer(number: u32) -> Offer {
        Offer { number, life: LIFE }
    }

    fn kind(answer: Result<(), Denial>) -> Kind {
        answer.map_or_else(|denial| denial.kind, |()| Kind::Ok)
    }

    fn resumed<T>(answer: Resumed<T>) -> Kind {
        match answer {
            Resumed::Here => Kind::Ok,
            Resumed::Refused { kind, .. } => kind,
        }
    }

    #[test]
    fn an_offer_that_was_asked_for_in_vain_is_not_taken_later() {
        let (mut table, origin) = (table(), node("O"));
        assert_eq!(
            resumed(table.resume(unit(1), &origin, offer(2), 0)),
            Kind::NoSuchUnit
        );
        for late in [1, 2] {
            assert_eq!(
                kind(table.submit(unit(1), &origin, offer(late), || "late")),
                Kind::Duplicate
            );
        }
        assert_eq!(kind(table.submit(unit(1), &origin, offer(3), || "new")), Kind::Ok);
        assert_eq!(
            kind(table.submit(unit(2), &origin, offer(1), || "another")),
            Kind::Ok
        );
    }

    #[test]
    fn a_payload_that_arrives_while_its_unit_is_asked_for_is_dropped() {
        let (mut table, origin) = (table(), node("O"));
        table.submit(unit(1), &origin, offer(1), || "arriving").unwrap();
        let answer = table.resume(unit(1), &origin, offer(1), 0);
        assert!(
            matches!(
                answer,
                Resumed::Refused {
                    kind: Kind::NoSuchUnit,
                    dropped: Some("arriving"),
                    ..
                }
            ),
            "{answer:?}"
        );
        assert!(!table.is_arriving(unit(1), offer(1)));
        assert!(table.take(unit(1), offer(1)).is_err());
        assert!(table.is_empty());
    }

    #[test]
    fn a_unit_is_taken_once_and_resumed_until_it_is_released() {
        let (mut table, origin) = (table(), node("O"));
        table.submit(unit(1), &origin, offer(1), || "unit").unwrap();
        assert_eq!(table.take(unit(1), offer(1)), Ok(&mut "unit"));
        assert!(table.take(unit(1), offer(1)).is_err());
        assert_eq!(table.resume(unit(1), &origin, offer(1), 0), Resumed::Here);
        assert_eq!(
            table.release(unit(1), &origin, 1, 0),
            ReleaseAnswer::Forget("unit")
        );
        assert_eq!(table.release(unit(1), &origin, 1, 0), ReleaseAnswer::Nothing);
        assert_eq!(
            kind(table.submit(unit(1), &origin, offer(1), || "late")),
            Kind::Duplicate
        );
    }

    #[test]
    fn an_old_question_does_not_harm_a_later_offer() {
        let (mut table, origin) = (table(), node("O"));
        table.submit(unit(1), &origin, offer(2), || "two").unwrap();
        assert_eq!(
            resumed(table.resume(unit(1), &origin, offer(1), 0)),
            Kind::NoSuchUnit
        );
        assert_eq!(table.release(unit(1), &origin, 1, 0), ReleaseAnswer::Nothing);
        for late in [1, 2] {
            assert_eq!(
                kind(table.submit(unit(1), &origin, offer(late), || "late")),
                Kind::Duplicate
            );
        }
        assert!(table.take(unit(1), offer(2)).is_ok());
        assert_eq!(
            kind(table.submit(unit(1), &origin, offer(3), || "three")),
            Kind::Busy
        );
        assert_eq!(
            table.release(unit(1), &origin, 3, 0),
            ReleaseAnswer::Forget("two")
        );
    }

    #[test]
    fn another_life_knows_what_the_journal_kept_and_nothing_else() {
        let (mut table, origin) = (table(), node("O"));
        let earlier = Offer {
            number: 1,
            life: Incarnation(6),
        };
        table.restore(unit(1), origin.clone(), earlier, "kept");
        assert_eq!(table.resume(unit(1), &origin, earlier, 0), Resumed::Here);
        assert_eq!(
            resumed(table.resume(unit(2), &origin, earlier, 0)),
            Kind::NodeLost
        );
        assert_eq!(
            kind(table.submit(unit(2), &origin, earlier, || "late")),
            Kind::NodeLost
        );
    }

    #[test]
    fn what_was_not_taken_is_denied_if_it_is_known_what_has_begun() {
        let begun = [unit(1)].into();
        let mut table = ExecutorTable::<()>::new(LIFE, LIMITS, EarlierStarts::of(Incarnation(6), begun));
        let origin = node("O");
        let of_life = |life| Offer {
            number: 1,
            life: Incarnation(life),
        };
        for (number, life, kind) in [
            (1, 6, Kind::NodeLost),
            (2, 6, Kind::NoSuchUnit),
            (2, 5, Kind::NodeLost),
        ] {
            assert_eq!(
                resumed(table.resume(unit(number), &origin, of_life(life), 0)),
                kind
            );
        }
        assert_eq!(table.denied.order.len(), 0);
        assert_eq!(
            kind(table.submit(unit(2), &origin, of_life(6), || ())),
            Kind::NodeLost,
            "also if it still arrives"
        );
    }

    #[test]
    fn a_unit_is_its_origins_alone() {
        let (mut table, origin, other) = (table(), node("O"), node("P"));
        table.submit(unit(1), &origin, offer(1), || "unit").unwrap();
        table.take(unit(1), offer(1)).unwrap();
        assert_eq!(
            kind(table.submit(unit(1), &other, offer(9), || "theirs")),
            Kind::Duplicate
        );
        assert_eq!(
            resumed(table.resume(unit(1), &other, offer(1), 0)),
            Kind::NoSuchUnit
        );
        assert_eq!(table.release(unit(1), &other, 9, 0), ReleaseAnswer::Nothing);
        assert_eq!(table.resume(unit(1), &origin, offer(1), 0), Resumed::Here);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let (mut table, origin) = (table(), node("O"));
        for number in 1..=2 {
            table.submit(unit(number), &origin, offer(1), || "unit").unwrap();
        }
        assert_eq!(
            kind(table.submit(unit(3), &origin, offer(1), || "unit")),
            Kind::Busy
        );
        assert_eq!(table.abandon(unit(1), offer(1)), Some("unit"));
        assert_eq!(
            kind(table.submit(unit(3), &origin, offer(1), || "unit")),
            Kind::Ok
        );
    }

    #[test]
    fn origins_are_put_off_when_too_much_was_denied_lately() {
        let (mut table, origin) = (table(), node("O"));
        for number in 1..=2 {
            assert_eq!(
                resumed(table.resume(unit(number), &origin, offer(1), 0)),
                Kind::NoSuchUnit
            );
        }
        assert_eq!(
            resumed(table.resume(unit(3), &origin, offer(1), 1000)),
            Kind::Busy
        );
        assert_eq!(table.release(unit(3), &origin, 1, 1000), ReleaseAnswer::Later);
        assert_eq!(
            resumed(table.resume(unit(2), &origin, offer(1), 1000)),
            Kind::NoSuchUnit
        );
        assert_eq!(
            resumed(table.resume(unit(3), &origin, offer(1), 1001)),
            Kind::NoSuchUnit
        );
        assert_eq!(
            kind(table.submit(unit(2), &origin, offer(1), || "late")),
            Kind::Duplicate
        );
    }

    #[test]
    fn a_unit_that_ended_well_at_its_first_offer_leaves_nothing() {
        let (mut table, origin) = (table(), node("O"));
        for number in 1..=10 {
            table.submit(unit(number), &origin, offer(1), || "unit").unwrap();
            table.take(unit(number), offer(1)).unwrap();
            assert_eq!(
                table.release(unit(number), &origin, 1, 0),
                ReleaseAnswer::Forget("unit")
            );
        }
        assert_eq!(table.denied.order.len(), 0);
    }
}
