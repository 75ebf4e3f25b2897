//! The frames that durable units have beside those of [`super::unit`].

use serde::{Deserialize, Serialize};

use super::unit::Outcome;
use crate::id::{Incarnation, UnitId};

/// Most releases of one conversation, which may be a [batch](super::batch).
pub const MAX_RELEASES: usize = 1024;

/// One offer of a durable unit to one life of one node. An offer that may have been taken is never repeated under its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Offer {
    /// Rises with each offer of the unit.
    pub number: u32,
    /// The life of the executor that is meant: another one refuses, with kind `node_lost`.
    pub life: Incarnation,
}

/// A place in a unit's responses: what is before it is known to whoever names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Complete responses before it: the serial that is due is one more.
    pub responses: u64,
    /// Bytes before it, of all responses together.
    pub bytes: u64,
}

/// The origin has the unit on its disk: from here on it ends exactly once, whatever fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Which unit.
    pub unit: UnitId,
}

/// The unit's function begins to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {}

/// An accepted unit was never started and will not be: it may be offered to another executor. Nothing follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Returned {
    /// Why, in one line.
    pub message: String,
}

/// What the origin has on its disk: it no longer counts against what the executor holds back. The executor keeps it until the
/// release, because an origin that restarts while it compares a second run asks for that run from its beginning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Up to here.
    pub position: Position,
}

/// Opens a conversation about a unit whose stream broke. Answered as a submission is: by `Accepted`, what the origin lacks and
/// `Eof` or `Returned`; or by `Refused`: of kind `no_such_unit` by the life that the offer was made to, which has not taken it and never will;
/// of kind `node_lost` by a later one that knows nothing of the unit, which may have run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// Which unit.
    pub unit: UnitId,
    /// The offer that the executor may have taken.
    pub offer: Offer,
    /// What the origin has, on its disk or not: it is no acknowledgement.
    pub position: Position,
}

/// The origin has the unit's end on its disk. The executor stops the unit if it still runs, and forgets it. Opens a conversation, in
/// which up to [`MAX_RELEASES`] may follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which unit.
    pub unit: UnitId,
    /// Offers up to this number are released, and refused if they still arrive.
    pub number: u32,
    /// How it ended for its origin, which counts.
    pub outcome: Outcome,
}

/// The answer to each [`Release`] that succeeds: the executor has forgotten the unit, or never knew it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Which unit.
    pub unit: UnitId,
}

/// Opens a conversation on the control socket: the responses of a durable unit, and its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Which unit.
    pub unit: UnitId,
    /// Complete responses that the client has: the first one sent is the next.
    #[serde(default)]
    pub responses: u64,
    /// Bytes that the client has, within the response after those too; `None`: those of the complete ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Wait for what is still to come; otherwise [`Unfinished`] ends the answer where the unit has no end yet.
    #[serde(default)]
    pub follow: bool,
}

/// The answer to an [`Attach`] that does not follow, of a unit that has not ended: all there is so far was sent. In a batch: the unit is
/// accepted and not over, and what it sends is asked for with [`Resume`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// `waiting`, `accepted` or `running`.
    pub state: String,
    /// Why the unit waits; empty if it does not.
    #[serde(default)]
    pub reason: String,
}
