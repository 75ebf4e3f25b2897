//! What the records of a unit at its origin add up to.

use std::sync::Arc;

use crate::id::NodeId;
use crate::record::{Order, OriginRecord};
use crate::wire::durable::Offer;
use crate::wire::unit::Eof;

/// The records are not those of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// The submission is missing: the unit was never stored as a whole.
    #[error("its submission is not among its records")]
    NoSubmission,
}

/// A unit at its origin, as its records tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginHistory {
    /// Shared: histories are copied at every step of a unit.
    order: Arc<Order>,
    offered: Option<(NodeId, Offer)>,
    offers: u32,
    /// Offers that may have led to a run, the latest included.
    attempts: u32,
    idempotent: bool,
    accepted: bool,
    started: bool,
    end: Option<(Eof, u64)>,
    forgotten: bool,
    /// Executors that do not know yet that they are given up or that the unit has ended.
    owed: Vec<(NodeId, u32)>,
    /// Records that it has taken, but for those behind the end that say nothing new.
    steps: u32,
}

impl OriginHistory {
    /// A unit of which nothing is known but what is asked for.
    pub fn new(order: Order) -> Self {
        Self {
            idempotent: order.idempotent,
            order: Arc::new(order),
            offered: None,
            offers: 0,
            attempts: 0,
            accepted: false,
            started: false,
            end: None,
            forgotten: false,
            owed: Vec::new(),
            steps: 0,
        }
    }

    /// Adds up records in their order.
    pub fn fold(records: impl IntoIterator<Item = OriginRecord>) -> Result<Self, RecordFault> {
        let mut records = records.into_iter();
        let Some(OriginRecord::Submitted(order)) = records.next() else {
            return Err(RecordFault::NoSubmission);
        };
        let mut history = Self::new(*order);
        records.for_each(|record| history.apply(&record));
        Ok(history)
    }

    /// Adds the next record.
    pub fn apply(&mut self, record: &OriginRecord) {
        // The first end counts, and after it only who knows of it, and that nobody wants to.
        let counts = matches!(
            record,
            OriginRecord::Released { .. } | OriginRecord::Forgotten { .. }
        );
        if self.end.is_some() && !counts {
            return;
        }
        self.steps = self.steps.saturating_add(1);
        match record {
            OriginRecord::Submitted(_) => {}
            OriginRecord::Offered {
                executor,
                offer,
                idempotent,
                ..
            } => {
                // What came of the offer before is not known: it is as good as given up.
                self.owe_latest();
                self.offered = Some((executor.clone(), *offer));
                self.offers = self.offers.max(offer.number);
                self.attempts = self.attempts.saturating_add(1);
                self.idempotent = self.order.idempotent || *idempotent;
                (self.accepted, self.started) = (false, false);
            }
            OriginRecord::Accepted { .. } => self.accepted = true,
            OriginRecord::Started { .. } => self.started = true,
            OriginRecord::Withdrawn { .. } => {
                // Who had accepted has given the unit back, and keeps it until it is told.
                if self.accepted {
                    self.owe_latest();
                }
                if self.offered.take().is_some() {
                    self.attempts = self.attempts.saturating_sub(1);
                }
                (self.accepted, self.started) = (false, false);
            }
            OriginRecord::GivenUp { .. } => {
                self.owe_latest();
                self.offered = None;
                (self.accepted, self.started) = (false, false);
            }
            OriginRecord::Ended { eof, at_ms } => {
                self.end = Some((eof.clone(), *at_ms));
                self.owe_latest();
            }
            OriginRecord::Forgotten { .. } => self.forgotten = self.end.is_some(),
            OriginRecord::Released { executor } => self.owed.retain(|(owed, _)| owed != executor),
        }
    }

    fn owe_latest(&mut self) {
        let Some((executor, offer)) = &self.offered else {
            return;
        };
        self.owed.retain(|(owed, _)| owed != executor);
        self.owed.push((executor.clone(), offer.number));
    }

    /// Rises with each record that may change it.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// What is asked for.
    pub fn order(&self) -> &Arc<Order> {
        &self.order
    }

    /// The executor that has the unit, may have it or had it last, and its offer.
    pub fn offered(&self) -> Option<&(NodeId, Offer)> {
        self.offered.as_ref()
    }

    /// The number of the latest offer.
    pub fn offers(&self) -> u32 {
        self.offers
    }

    /// How often the unit may have run, at least 1 once it was offered.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether running it twice does no harm.
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Whether the executor has said that it has the unit.
    pub fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// Whether the function has begun.
    pub fn is_started(&self) -> bool {
        self.started
    }

    /// The end, if there is one.
    pub fn end(&self) -> Option<&Eof> {
        self.end.as_ref().map(|(eof, _)| eof)
    }

    /// When it ended, in milliseconds since 1970.
    pub fn ended_ms(&self) -> Option<u64> {
        self.end.as_ref().map(|(_, at)| *at)
    }

    /// Whether nobody is to see the unit any more.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// Executors that have to be told, and the offers that they had.
    pub fn debts(&self) -> impl Iterator<Item = (NodeId, u32)> {
        self.owed.iter().cloned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::Incarnation;
    use crate::wire::unit::Kind;

    fn order() -> OriginRecord {
        OriginRecord::Submitted(Box::new(Order {
            directive: "echo:bytes".into(),
            to: None,
            params: Default::default(),
            payload_bytes: 0,
            payload_digest: 0,
            submitted_ms: 1000,
            deadline_ms: None,
            trace: None,
            idempotent: false,
        }))
    }

    fn node(number: u32) -> NodeId {
        NodeId::parse(&format!("E{number}")).unwrap()
    }

    fn offered(executor: u32, number: u32) -> OriginRecord {
        OriginRecord::Offered {
            executor: node(executor),
            offer: Offer {
                number,
                life: Incarnation(7),
            },
            idempotent: number % 2 == 1,
            at_ms: 0,
        }
    }

    fn ended(kind: Kind) -> OriginRecord {
        OriginRecord::Ended {
            eof: Eof::without_responses(kind, ""),
            at_ms: 5,
        }
    }

    fn withdrawn() -> OriginRecord {
        OriginRecord::Withdrawn {
            reason: String::new(),
            at_ms: 0,
        }
    }

    fn given_up() -> OriginRecord {
        OriginRecord::GivenUp {
            reason: String::new(),
            at_ms: 0,
        }
    }

    fn any_record() -> impl Strategy<Value = OriginRecord> {
        prop_oneof![
            Just(order()),
            (0..3u32, prop_oneof![0..5u32, Just(u32::MAX)]).prop_map(|(e, number)| offered(e, number)),
            Just(OriginRecord::Accepted { at_ms: 1 }),
            Just(OriginRecord::Started { at_ms: 1 }),
            Just(withdrawn()),
            Just(given_up()),
            prop_oneof![Just(Kind::Ok), Just(Kind::Cancelled)].prop_map(ended),
            (0..3u32).prop_map(|e| OriginRecord::Released { executor: node(e) }),
            Just(OriginRecord::Forgotten { at_ms: 1 }),
        ]
    }

    proptest! {
        #[test]
        fn adding_up_is_the_same_as_adding_one_by_one(records in prop::collection::vec(any_record(), 0..20), cut in 0..20usize) {
            let mut all = vec![order()];
            all.extend(records);
            let folded = OriginHistory::fold(all.clone()).unwrap();
            let cut = cut.clamp(1, all.len());
            let mut applied = OriginHistory::fold(all[..cut].to_vec()).unwrap();
            for record in &all[cut..] {
                let before = applied.clone();
                applied.apply(record);
                let unchanged = OriginHistory { steps: before.steps, ..applied.clone() } == before;
                prop_assert!(unchanged || applied.steps > before.steps, "followers miss {:?}", record);
            }
            prop_assert_eq!(&folded, &applied);
            let first_end = all.iter().find_map(|record| match record {
                OriginRecord::Ended { eof, .. } => Some(eof),
                _ => None,
            });
            prop_assert_eq!(folded.end(), first_end);
            let mut owed: Vec<_> = folded.debts().map(|(executor, _)| executor).collect();
            owed.sort();
            owed.dedup();
            prop_assert_eq!(owed.len(), folded.debts().count());
        }
    }

    fn debts(records: &[OriginRecord]) -> Vec<(NodeId, u32)> {
        let all = std::iter::once(order()).chain(records.iter().cloned());
        OriginHistory::fold(all).unwrap().debts().collect()
    }

    #[test]
    fn records_without_a_submission_are_no_unit() {
        assert_eq!(OriginHistory::fold([]), Err(RecordFault::NoSubmission));
        assert_eq!(
            OriginHistory::fold([offered(1, 1), order()]),
            Err(RecordFault::NoSubmission)
        );
    }

    #[test]
    fn whoever_may_hold_something_is_owed_a_word() {
        let accepted = OriginRecord::Accepted { at_ms: 1 };
        assert_eq!(debts(&[offered(1, 1), withdrawn()]), []);
        assert_eq!(debts(&[offered(1, 1), accepted, withdrawn()]), [(node(1), 1)]);
        assert_eq!(debts(&[offered(1, 1), given_up()]), [(node(1), 1)]);
        assert_eq!(debts(&[offered(1, 1), offered(2, 2)]), [(node(1), 1)]);
        let back = [offered(1, 1), given_up(), offered(1, 2), ended(Kind::Ok)];
        assert_eq!(debts(&back), [(node(1), 2)]);
        let released = OriginRecord::Released { executor: node(1) };
        assert_eq!(debts(&[&back[..], &[released]].concat()), []);
    }

    #[test]
    fn only_an_ended_unit_is_forgotten() {
        let forgotten = OriginRecord::Forgotten { at_ms: 6 };
        let is_forgotten = |records: &[OriginRecord]| {
            let all = std::iter::once(order()).chain(records.iter().cloned());
            OriginHistory::fold(all).unwrap().is_forgotten()
        };
        assert!(is_forgotten(&[offered(1, 1), ended(Kind::Ok), forgotten.clone()]));
        assert!(!is_forgotten(&[offered(1, 1), forgotten, ended(Kind::Ok)]));
    }

    #[test]
    fn after_the_end_nothing_changes() {
        let records = [ended(Kind::Ok), ended(Kind::Cancelled), offered(1, 1)];
        let history = OriginHistory::fold(std::iter::once(order()).chain(records)).unwrap();
        assert_eq!(history.end().map(|eof| eof.kind), Some(Kind::Ok));
        assert_eq!((history.offered(), history.attempts()), (None, 0));
    }
}
