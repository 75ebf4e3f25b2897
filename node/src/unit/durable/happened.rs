//! What has happened to a durable unit, as its origin remembers it for whoever asks.

use jiff::Timestamp;
use workmesh_proto::NodeId;
use workmesh_proto::record::OriginRecord;
use workmesh_proto::wire::unit::Kind;

use crate::unit::report::WorkEvent;

/// See the module. It becomes a text when somebody asks: nobody does about most units.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    at_ms: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Submitted,
    Offered(NodeId),
    Accepted,
    Started,
    NotTaken(Box<str>),
    ToRunAgain(Box<str>),
    Ended(Kind),
}

impl Happened {
    /// What a record tells; `None` for what people need not know.
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
        Some(Self { at_ms, what })
    }

    /// The same as people read it; `None`: its time is none that there is.
    pub(super) fn event(&self) -> Option<WorkEvent> {
        let at = Timestamp::from_millisecond(i64::try_from(self.at_ms).ok()?).ok()?;
        let what = match &self.what {
            What::Submitted => "submitted".to_owned(),
            What::Offered(executor) => format!("offered to {executor}"),
            What::Accepted => "accepted".to_owned(),
            What::Started => "started".to_owned(),
            What::NotTaken(reason) => format!("not taken: {reason}"),
            What::ToRunAgain(reason) => format!("to run again: {reason}"),
            What::Ended(kind) => format!("ended: {kind}"),
        };
        Some(WorkEvent { at, what })
    }
}
