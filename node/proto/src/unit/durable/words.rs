//! What an origin's machine is told, and what it wants.

use bytes::Bytes;

use crate::id::{Incarnation, NodeId};
use crate::record::OriginRecord;
use crate::wire::durable::{Offer, Position};
use crate::wire::items::Piece;
use crate::wire::unit::{Eof, Kind, Outcome};

/// How patient an origin is, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginTimings {
    /// The first wait after a failure; doubled by each further one.
    pub retry_least_ms: u64,
    /// The longest wait between attempts.
    pub retry_most_ms: u64,
    /// An idempotent unit whose executor is out of reach for longer is offered to another one, unless it is for that one alone.
    pub give_up_ms: u64,
    /// A unit whose executor is out of reach for longer is lost; one that may run again waits for it.
    pub lost_ms: u64,
    /// An executor that can't be told of an end for longer is never told.
    pub owe_ms: u64,
}

impl Default for OriginTimings {
    fn default() -> Self {
        Self {
            retry_least_ms: 100,
            retry_most_ms: 5000,
            give_up_ms: 15_000,
            lost_ms: 24 * 3600 * 1000,
            owe_ms: 7 * 24 * 3600 * 1000,
        }
    }
}

/// A node that may run the unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which node.
    pub executor: NodeId,
    /// Its present life.
    pub life: Incarnation,
    /// Its worker is declared idempotent.
    pub idempotent: bool,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginInput {
    /// The append of this number is on the disk.
    Stored(u64),
    /// It is not, and counts for nothing.
    NotStored(u64, String),
    /// It is not, and no further response can ever be stored.
    Closed(u64, String),
    /// An executor was found.
    Found(Candidate),
    /// None was found.
    NotFound(String),
    /// The conversation could not be opened: the executor has seen nothing of it.
    Unreachable(u64, String),
    /// The executor has the unit.
    Accepted(u64),
    /// It does not take the unit, or does not know it.
    Refused(u64, Kind, String),
    /// The function has begun.
    Started(u64),
    /// The next bytes of a response.
    Piece(u64, Piece),
    /// The executor's end.
    Eof(u64, Eof),
    /// The executor gives the unit back, unstarted.
    Returned(u64, String),
    /// The conversation broke.
    Broken(u64, String),
    /// The executor broke the protocol.
    Fault(u64, Kind, String),
    /// The executor knows that offers up to this one are over.
    Released(NodeId, u32),
    /// It could not be told.
    NotReleased(NodeId, u32),
    /// The submitter, or another one who may, wants it to end.
    Cancel,
    /// Nobody is to see the unit any more, which has ended.
    Forget,
    /// Time has passed, or the mesh has changed: what waits may be tried again.
    Wake,
    /// The mesh has changed: what waits is to be tried at once.
    MeshChanged,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginEffect {
    /// Append to the journal, and answer with `Stored` or `NotStored`. Records and data are one append.
    Append {
        /// To be named in the answer.
        number: u64,
        /// Records, in order.
        records: Vec<OriginRecord>,
        /// `Response` frames.
        data: Bytes,
        /// It has to be on the disk; otherwise soon is early enough.
        sync: bool,
    },
    /// Look for an executor, and answer with `Found` or `NotFound`.
    Place,
    /// Open a conversation, and submit.
    Offer {
        /// Its number.
        conversation: u64,
        /// With whom.
        executor: NodeId,
        /// Which offer.
        offer: Offer,
    },
    /// Open a conversation, and resume.
    Resume {
        /// Its number.
        conversation: u64,
        /// With whom.
        executor: NodeId,
        /// The offer that may have been taken.
        offer: Offer,
        /// What is here.
        position: Position,
    },
    /// Tell the executor what is on the disk.
    Ack {
        /// In which conversation.
        conversation: u64,
        /// Up to where.
        position: Position,
    },
    /// The conversation is over: break it off if it still goes on.
    Close(u64),
    /// Tell an executor that the unit has ended, and answer with `Released` or `NotReleased`.
    Release {
        /// Whom.
        executor: NodeId,
        /// Offers up to this one.
        number: u32,
        /// How it ended.
        outcome: Outcome,
    },
    /// The unit is on the disk: its submitter may be told.
    Stored,
    /// It could not be stored: its submitter is told, and nothing is left.
    NotStored(String),
    /// More of the responses can be read, or the state is another.
    Changed,
    /// The end is on the disk. The last effect but releases.
    Ended(Eof),
    /// All executors know of the end. The last effect of all.
    Done,
}

/// Where the unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OriginPhase {
    /// Not on the disk yet.
    Storing,
    /// No executor has it.
    Waiting,
    /// An executor has it, or may have it.
    Accepted,
    /// Its function has begun.
    Running,
    /// It has its end.
    Ended,
}
