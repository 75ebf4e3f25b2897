//! What has happened to a durable unit, as its origin remembers it for whoever asks.

use jiff::Timestamp;
use workmesh_proto::NodeId;
use workmesh_proto::record::OriginRecord;
use workmesh_proto::wire::unit::Kind;

use crate::unit::report::WorkEvent;

/// See the module. It becomes a text when somebody asks: nobody does about most units.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) at: Timestamp,
    pub(super) what: What,
}

/// Which step of a unit's life.
#[derive(Clone, Debug)]
pub(super) enum What {
    Submitted,
    Offered(NodeId),
    Accepted,
    Started,
    NotTaken(Box<str>),
    ToRunAgain(Box<str>),
    Ended(Kind),
}

/// The first and the latest of what has happened, `most` in all.
pub(super) fn first_and_latest(mut happened: Vec<Happened>, most: usize) -> Vec<Happened> {
    let left_out = happened.len().saturating_sub(most);
    if left_out > 0 {
        happened.drain(1..=left_out);
    }
    happened
}

impl Happened {
    /// What a record tells; `None` for what people need not know, and for a time that can't be.
    pub(super) fn of(record: &OriginRecord) -> Option<Self> {
        let (at_ms, what) = match record {
            OriginRecord::Submitted(order) => (order.submitted_ms, What::Submitted),
            OriginRecord::Offered { executor, at_ms, .. } => (*at_ms, What::Offered(executor.clone())),
            OriginRecord::Accepted { at_ms } => (*at_ms, What::Accepted),
            OriginRecord::Started { at_ms } => (*at_ms, What::Started),
            OriginRecord::Withdrawn { reason, at_ms } => (*at_ms, What::NotTaken(reason.as_str().into())),
            OriginRecord::GivenUp { reason, at_ms } => (*at_ms, What::ToRunAgain(reason.as_str().into())),
            OriginRecord::Ended { eof, at_ms } => (*at_ms, What::Ended(eof.kind)),
            OriginRecord::Released { .. } | OriginRecord::Forgotten { .. } => return None,
        };
        let at = Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()?;
        Some(Self { at, what })
    }

    /// The same as people read it.
    pub(super) fn event(&self) -> WorkEvent {
        let what = match &self.what {
            What::Submitted => "submitted".to_owned(),
            What::Offered(executor) => format!("offered to {executor}"),
            What::Accepted => "accepted".to_owned(),
            What::Started => "started".to_owned(),
            What::NotTaken(reason) => format!("not taken: {reason}"),
            What::ToRunAgain(reason) => format!("to run again: {reason}"),
            What::Ended(kind) => format!("ended: {kind}"),
        };
        WorkEvent { at: self.at, what }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use workmesh_proto::Incarnation;
    use workmesh_proto::record::Order;
    use workmesh_proto::wire::durable::Offer;
    use workmesh_proto::wire::unit::Eof;

    use super::*;

    fn submitted(submitted_ms: u64) -> OriginRecord {
        OriginRecord::Submitted(Box::new(Order {
            directive: "m:f".to_owned(),
            to: None,
            params: BTreeMap::new(),
            payload_bytes: 0,
            payload_digest: 0,
            submitted_ms,
            deadline_ms: None,
            trace: None,
            idempotent: false,
        }))
    }

    #[test]
    fn of_much_that_has_happened_the_beginning_and_the_latest_stay() {
        let all: Vec<_> = (1..=5).filter_map(|at| Happened::of(&submitted(at))).collect();
        let kept = |most| {
            let kept = first_and_latest(all.clone(), most);
            Vec::from_iter(kept.iter().map(|happened| happened.at.as_millisecond()))
        };
        assert_eq!(kept(6), [1, 2, 3, 4, 5]);
        assert_eq!(kept(5), [1, 2, 3, 4, 5]);
        assert_eq!(kept(3), [1, 4, 5]);
        assert!(first_and_latest(Vec::new(), 3).is_empty());
    }

    #[test]
    fn each_record_has_its_text_and_its_time() {
        let executor = NodeId::parse("nodeB").unwrap();
        let offer = Offer {
            number: 1,
            life: Incarnation(1),
        };
        let records = [
            (submitted(1), "submitted"),
            (
                OriginRecord::Offered {
                    executor: executor.clone(),
                    offer,
                    idempotent: false,
                    at_ms: 2,
                },
                "offered to nodeB",
            ),
            (OriginRecord::Accepted { at_ms: 3 }, "accepted"),
            (OriginRecord::Started { at_ms: 4 }, "started"),
            (
                OriginRecord::Withdrawn {
                    reason: "it is full".to_owned(),
                    at_ms: 5,
                },
                "not taken: it is full",
            ),
            (
                OriginRecord::GivenUp {
                    reason: "it is silent".to_owned(),
                    at_ms: 6,
                },
                "to run again: it is silent",
            ),
            (
                OriginRecord::Ended {
                    eof: Eof::without_responses(Kind::Cancelled, ""),
                    at_ms: 7,
                },
                "ended: cancelled",
            ),
        ];
        for (at_ms, (record, text)) in (1..).zip(records) {
            let event = Happened::of(&record).unwrap().event();
            assert_eq!((event.at.as_millisecond(), event.what.as_str()), (at_ms, text));
        }
        assert!(Happened::of(&OriginRecord::Released { executor }).is_none());
    }

    #[test]
    fn what_has_a_time_that_can_not_be_is_left_out() {
        assert!(Happened::of(&submitted(u64::MAX)).is_none());
        assert!(Happened::of(&submitted(i64::MAX as u64)).is_none());
    }
}
