//! The submitter's end of a unit: checks that what the executor sends is one well-formed conversation.
//! Driven by the unit's task at its origin, and by the client of a control socket.

use bytes::Buf;

use super::tally::ResponseTally;
use crate::wire::codec::{self, CodecError};
use crate::wire::frame::{Frame, FrameError, FrameType, LAST_PIECE, SERIAL_BYTES};
use crate::wire::items::{Item, Piece};
use crate::wire::unit::{Accepted, Eof, Kind, Outcome, Refused, cut};

/// What a frame of the executor means for the submitter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginEvent {
    /// The executor has taken the unit.
    Accepted(Accepted),
    /// The executor has not taken the unit: it may be offered to another one. Nothing follows.
    Refused(Refused),
    /// The next bytes of a response.
    Piece(Piece),
    /// The end, complete and consistent with all that came before. Nothing follows.
    Eof(Eof),
}

/// The checks on one unit's conversation, from the submitter's side.
///
/// After a fault every further frame is refused; the caller turns the fault into the unit's end with
/// `unit.end(fault.kind(), fault.to_string())`.
#[derive(Debug)]
pub struct OriginUnit {
    state: State,
    tally: ResponseTally,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Accepted,
    Broken,
    Ended,
}

impl OriginUnit {
    /// A unit that was submitted and not yet answered.
    pub fn new() -> Self {
        Self {
            state: State::Opening,
            tally: ResponseTally::new(),
        }
    }

    /// Takes what an [`ItemReader`](crate::wire::items::ItemReader) gave. `None`: nothing to report.
    pub fn handle_item(&mut self, item: Item) -> Result<Option<OriginEvent>, UnitFault> {
        let event = match item {
            Item::Frame(frame) => return self.handle_frame(frame),
            Item::Response { piece, .. } => self.on_piece(piece),
            Item::Payload { .. } => self.on_unexpected(FrameType::Payload),
        };
        event.map(Some).map_err(|fault| self.broken(fault))
    }

    /// Takes a whole frame. `None`: nothing to report, such as for a type that this version does not know.
    pub fn handle_frame(&mut self, frame: Frame) -> Result<Option<OriginEvent>, UnitFault> {
        let Some(kind) = frame.frame_type() else {
            return Ok(None);
        };
        let event = match kind {
            FrameType::Response => self.on_response(frame),
            FrameType::Accepted => self.on_accepted(&frame.body),
            FrameType::Refused => self.on_refused(&frame.body),
            FrameType::Eof => self.on_eof(&frame.body),
            _ => self.on_unexpected(kind),
        };
        event.map(Some).map_err(|fault| self.broken(fault))
    }

    /// The executor's side of the stream is finished, reset or out of reach. Gives the unit's end, if it had none.
    pub fn handle_stream_end(&mut self) -> Option<Eof> {
        match self.state {
            State::Broken => self.end(Kind::Protocol, "the executor broke the protocol"),
            State::Opening => self.end(Kind::NodeLost, "the executor was lost before it answered"),
            State::Accepted => self.end(Kind::NodeLost, "the executor was lost while the unit ran"),
            State::Ended => None,
        }
    }

    /// Ends the unit from the submitter's side, with what has arrived so far. `None` if it has ended already.
    pub fn end(&mut self, kind: Kind, message: impl Into<String>) -> Option<Eof> {
        if self.state == State::Ended {
            return None;
        }
        self.state = State::Ended;
        Some(Eof {
            responses: self.tally.responses(),
            bytes: self.tally.bytes(),
            digest: self.tally.digest(),
            ..Eof::without_responses(kind, message)
        })
    }

    /// Whether the unit has its end: an EOF, a refusal, or what [`end`](Self::end) gave.
    pub fn ended(&self) -> bool {
        self.state == State::Ended
    }

    /// What has arrived so far.
    pub fn tally(&self) -> &ResponseTally {
        &self.tally
    }

    fn broken(&mut self, fault: UnitFault) -> UnitFault {
        if self.state != State::Ended {
            self.state = State::Broken;
        }
        fault
    }

    fn expect(&self, state: State, kind: FrameType) -> Result<(), UnitFault> {
        if self.state == state {
            Ok(())
        } else {
            self.on_unexpected(kind).map(drop)
        }
    }

    fn on_unexpected(&self, kind: FrameType) -> Result<OriginEvent, UnitFault> {
        match self.state {
            State::Opening | State::Accepted => Err(UnitFault::Unexpected(kind)),
            State::Broken | State::Ended => Err(UnitFault::AfterEnd),
        }
    }

    fn on_accepted(&mut self, body: &[u8]) -> Result<OriginEvent, UnitFault> {
        self.expect(State::Opening, FrameType::Accepted)?;
        let accepted = decode(FrameType::Accepted, body)?;
        self.state = State::Accepted;
        Ok(OriginEvent::Accepted(accepted))
    }

    fn on_refused(&mut self, body: &[u8]) -> Result<OriginEvent, UnitFault> {
        self.expect(State::Opening, FrameType::Refused)?;
        let mut refused: Refused = decode(FrameType::Refused, body)?;
        cut(&mut refused.message);
        self.state = State::Ended;
        Ok(OriginEvent::Refused(refused))
    }

    fn on_response(&mut self, frame: Frame) -> Result<OriginEvent, UnitFault> {
        let mut data = frame.body;
        if data.len() < SERIAL_BYTES {
            return Err(FrameError::NoSerial { length: data.len() }.into());
        }
        let serial = data.get_u64();
        let last = frame.flags & LAST_PIECE != 0;
        self.on_piece(Piece { serial, data, last })
    }

    fn on_piece(&mut self, piece: Piece) -> Result<OriginEvent, UnitFault> {
        self.expect(State::Accepted, FrameType::Response)?;
        let (expected, found) = (self.tally.next_serial(), piece.serial);
        if found != expected {
            return Err(UnitFault::Serial { expected, found });
        }
        self.tally.add(&piece.data, piece.last);
        Ok(OriginEvent::Piece(piece))
    }

    fn on_eof(&mut self, body: &[u8]) -> Result<OriginEvent, UnitFault> {
        self.expect(State::Accepted, FrameType::Eof)?;
        let mut eof: Eof = decode(FrameType::Eof, body)?;
        cut(&mut eof.message);
        let succeeded = eof.outcome == Outcome::Succeeded;
        if eof.kind != Kind::Unknown && eof.kind.outcome() != eof.outcome {
            return Err(UnitFault::Contradiction {
                outcome: eof.outcome,
                kind: eof.kind,
            });
        }
        if succeeded && self.tally.is_open() {
            return Err(UnitFault::OpenResponse(self.tally.responses()));
        }
        let arrived = (self.tally.responses(), self.tally.bytes(), self.tally.digest());
        if (eof.responses, eof.bytes, eof.digest) != arrived {
            return Err(UnitFault::Mismatch {
                sent_responses: eof.responses,
                sent_bytes: eof.bytes,
                responses: arrived.0,
                bytes: arrived.1,
            });
        }
        self.state = State::Ended;
        Ok(OriginEvent::Eof(eof))
    }
}

impl Default for OriginUnit {
    fn default() -> Self {
        Self::new()
    }
}

fn decode<T: serde::de::DeserializeOwned>(kind: FrameType, body: &[u8]) -> Result<T, UnitFault> {
    codec::decode(body).map_err(|error| UnitFault::Body { kind, error })
}

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
