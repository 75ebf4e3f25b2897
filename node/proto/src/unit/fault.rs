//! How an executor can break a unit's conversation; found by [`super::OriginUnit`].

use crate::wire::codec::CodecError;
use crate::wire::frame::{FrameError, FrameType};
use crate::wire::unit::{Kind, Outcome};

/// How an executor broke the conversation. Its fault; the unit must be ended, and its stream is of no further use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitFault {
    /// The stream holds no frames.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// A body that can't be read.
    #[error("{kind:?} frame: {error}")]
    Body {
        /// The frame's type.
        kind: FrameType,
        /// What is wrong with it.
        error: CodecError,
    },
    /// A frame that an executor does not send, or not at this point.
    #[error("{0:?} frame out of order")]
    Unexpected(FrameType),
    /// A frame after the end, or after an earlier fault.
    #[error("frame after the end of the unit")]
    AfterEnd,
    /// A response is missing, doubled or mixed with another one.
    #[error("response {found} where response {expected} was due")]
    Serial {
        /// The serial that was due.
        expected: u64,
        /// The serial that came.
        found: u64,
    },
    /// Outcome and kind of the EOF exclude each other.
    #[error("end of outcome {outcome} with kind {kind}")]
    Contradiction {
        /// From the EOF.
        outcome: Outcome,
        /// From the EOF.
        kind: Kind,
    },
    /// A success whose latest response was not completed.
    #[error("success although response {0} is incomplete")]
    OpenResponse(u64),
    /// A response that was seen in part is over before that part is.
    #[error("response {0} is shorter than what arrived of it before")]
    Shorter(u64),
    /// What arrived is not what was sent.
    #[error(
        "{responses} responses of {bytes} bytes arrived where {sent_responses} of {sent_bytes} bytes were sent, \
         or their digest is wrong"
    )]
    Mismatch {
        /// From the EOF.
        sent_responses: u64,
        /// From the EOF.
        sent_bytes: u64,
        /// Counted here.
        responses: u64,
        /// Counted here.
        bytes: u64,
    },
}

impl UnitFault {
    /// The kind that a unit with this fault ends with.
    pub fn kind(&self) -> Kind {
        Kind::Protocol
    }
}
