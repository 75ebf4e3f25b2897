//! The submitter's end of a unit: checks that what the executor sends is one well-formed conversation.
//! Driven by the unit's task at its origin, and by the client of a control socket.

use bytes::Buf;

use super::fault::UnitFault;
use super::tally::ResponseTally;
use crate::id::UnitId;
use crate::wire::codec;
use crate::wire::durable::{Attach, Position, Started, Stored, Unfinished};
use crate::wire::frame::{Frame, FrameError, FrameType, LAST_PIECE, SERIAL_BYTES};
use crate::wire::items::{Item, Piece};
use crate::wire::unit::{Accepted, Eof, Kind, Outcome, Refused, cut};

/// What a frame of the executor means for the submitter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginEvent {
    /// The executor has taken the unit. A durable one may be taken several times, by several executors.
    Accepted(Accepted),
    /// The executor has not taken the unit: it may be offered to another one. Nothing follows.
    Refused(Refused),
    /// The next bytes of a response.
    Piece(Piece),
    /// The end, complete and consistent with all that came before. Nothing follows.
    Eof(Eof),
    /// A durable unit is on its origin's disk.
    Stored(Stored),
    /// A durable unit's function begins to run.
    Started(Started),
    /// All there is of a durable unit was seen, and it has not ended. Nothing follows.
    Unfinished(Unfinished),
}

/// The checks on one unit's conversation, from the submitter's side.
///
/// After a fault every further frame is refused; the caller turns the fault into the unit's end with
/// `unit.end(fault.kind(), fault.to_string())`.
///
/// A durable unit outlives its conversations: [`resume`](Self::resume) goes on with it over another one, from where this one broke.
#[derive(Debug)]
pub struct OriginUnit {
    state: State,
    talk: Talk,
    tally: ResponseTally,
    before: Before,
    /// Bytes of the incomplete response that were seen.
    in_response: u64,
    /// Of these, bytes that come again and are passed over.
    again: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Open,
    Broken,
    Ended,
}

/// What the conversation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Talk {
    /// A unit that ends with its conversation.
    Plain,
    /// The submission of a durable unit.
    Durable,
    /// The rest of a durable unit.
    Attached { follow: bool },
}

/// What is known of the responses before the first one that is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Before {
    /// There are none.
    Nothing,
    /// How many bytes they have.
    Length,
    /// How many there are, unless the unit has fewer: then none is seen.
    Count(u64),
}

impl OriginUnit {
    /// A unit that was submitted and not yet answered.
    pub fn new() -> Self {
        Self::talk(Talk::Plain)
    }

    /// A durable unit that was submitted over a control socket and not yet answered: stored or refused first, then given to
    /// executors as often as it takes.
    pub fn durable() -> Self {
        Self::talk(Talk::Durable)
    }

    /// A durable unit that its client attaches to. What came before the position that `attach` names is not compared with
    /// the end, as far as it is not known.
    pub fn attached(attach: &Attach) -> Self {
        let position = Position {
            responses: attach.responses,
            bytes: attach.bytes.unwrap_or(0),
        };
        let before = match attach.bytes {
            _ if position == Position::default() => Before::Nothing,
            Some(_) => Before::Length,
            None => Before::Count(attach.responses),
        };
        Self {
            tally: ResponseTally::after(position),
            before,
            ..Self::talk(Talk::Attached {
                follow: attach.follow,
            })
        }
    }

    fn talk(talk: Talk) -> Self {
        Self {
            state: State::Opening,
            talk,
            tally: ResponseTally::new(),
            before: Before::Nothing,
            in_response: 0,
            again: 0,
        }
    }

    /// Whether [`resume`](Self::resume) can go on after the connection broke: the unit is durable, stored and not known to have ended.
    pub fn is_resumable(&self) -> bool {
        match self.state {
            State::Broken | State::Ended => false,
            State::Opening => matches!(self.talk, Talk::Attached { .. }),
            State::Open => self.talk != Talk::Plain,
        }
    }

    /// Goes on with a [resumable](Self::is_resumable) unit over another connection, whose first frame is the one returned: nothing is
    /// missed, and nothing comes out twice.
    pub fn resume(&mut self, unit: UnitId) -> Attach {
        let follow = self.talk != Talk::Attached { follow: false };
        if self.is_resumable() {
            self.state = State::Opening;
            self.talk = Talk::Attached { follow };
        }
        let position = self.position();
        let exact = !matches!(self.before, Before::Count(_));
        self.again = if exact { 0 } else { self.in_response };
        Attach {
            unit,
            responses: position.responses,
            bytes: exact.then_some(position.bytes),
            follow,
        }
    }

    /// What has arrived so far; without the bytes before the first response seen, if their number is not known.
    pub fn position(&self) -> Position {
        Position {
            responses: self.tally.responses() - u64::from(self.tally.is_open()),
            bytes: self.tally.bytes(),
        }
    }

    /// Takes what an [`ItemReader`](crate::wire::items::ItemReader) gave. `None`: nothing to report.
    pub fn handle_item(&mut self, item: Item) -> Result<Option<OriginEvent>, UnitFault> {
        let event = match item {
            Item::Frame(frame) => return self.handle_frame(frame),
            Item::Response { piece, .. } => self.on_piece(piece),
            Item::Payload { .. } => self.on_unexpected(FrameType::Payload).map(Some),
        };
        event.map_err(|fault| self.broken(fault))
    }

    /// Takes a whole frame. `None`: nothing to report, such as for a type that this version does not know.
    pub fn handle_frame(&mut self, frame: Frame) -> Result<Option<OriginEvent>, UnitFault> {
        let Some(kind) = frame.frame_type() else {
            return Ok(None);
        };
        let event = match kind {
            FrameType::Response => self.on_response(frame),
            FrameType::Accepted => self.on_accepted(&frame.body).map(Some),
            FrameType::Refused => self.on_refused(&frame.body).map(Some),
            FrameType::Eof => self.on_eof(&frame.body).map(Some),
            FrameType::Stored => self.on_stored(&frame.body).map(Some),
            FrameType::Started => self.on_started(&frame.body).map(Some),
            FrameType::Unfinished => self.on_unfinished(&frame.body).map(Some),
            _ => self.on_unexpected(kind).map(Some),
        };
        event.map_err(|fault| self.broken(fault))
    }

    /// The executor's side of the stream is finished, reset or out of reach. Gives the unit's end, if it had none; for a
    /// [resumable](Self::is_resumable) unit that is no end.
    pub fn handle_stream_end(&mut self) -> Option<Eof> {
        if self.is_resumable() {
            return None;
        }
        match self.state {
            State::Broken => self.end(Kind::Protocol, "the executor broke the protocol"),
            State::Opening => self.end(Kind::NodeLost, "the executor was lost before it answered"),
            State::Open => self.end(Kind::NodeLost, "the executor was lost while the unit ran"),
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

    /// Whether nothing follows: an EOF came, a refusal, word that the unit has not ended yet, or [`end`](Self::end) gave an end.
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

    /// Fails unless the conversation has come as far as `state`.
    fn expect(&self, state: State, kind: FrameType) -> Result<(), UnitFault> {
        if self.state == state {
            Ok(())
        } else {
            self.on_unexpected(kind).map(drop)
        }
    }

    /// Fails unless the unit was taken, or stored if it is durable. A client that attaches need not be told that again.
    fn expect_open(&mut self, kind: FrameType) -> Result<(), UnitFault> {
        if self.state == State::Opening && matches!(self.talk, Talk::Attached { .. }) {
            self.state = State::Open;
        }
        self.expect(State::Open, kind)
    }

    fn on_unexpected(&self, kind: FrameType) -> Result<OriginEvent, UnitFault> {
        match self.state {
            State::Opening | State::Open => Err(UnitFault::Unexpected(kind)),
            State::Broken | State::Ended => Err(UnitFault::AfterEnd),
        }
    }

    fn on_stored(&mut self, body: &[u8]) -> Result<OriginEvent, UnitFault> {
        if self.talk == Talk::Plain {
            return self.on_unexpected(FrameType::Stored);
        }
        self.expect(State::Opening, FrameType::Stored)?;
        let stored = decode(FrameType::Stored, body)?;
        self.state = State::Open;
        Ok(OriginEvent::Stored(stored))
    }

    fn on_accepted(&mut self, body: &[u8]) -> Result<OriginEvent, UnitFault> {
        if self.talk == Talk::Plain {
            self.expect(State::Opening, FrameType::Accepted)?;
        } else {
            self.expect_open(FrameType::Accepted)?;
        }
        let accepted = decode(FrameType::Accepted, body)?;
        self.state = State::Open;
        Ok(OriginEvent::Accepted(accepted))
    }

    fn on_started(&mut self, body: &[u8]) -> Result<OriginEvent, UnitFault> {
        if self.talk == Talk::Plain {
            return self.on_unexpected(FrameType::Started);
        }
        self.expect_open(FrameType::Started)?;
        decode(FrameType::Started, body).map(OriginEvent::Started)
    }

    fn on_unfinished(&mut self, body: &[u8]) -> Result<OriginEvent, UnitFault> {
        if self.talk != (Talk::Attached { follow: false }) {
            return self.on_unexpected(FrameType::Unfinished);
        }
        self.expect_open(FrameType::Unfinished)?;
        let mut unfinished: Unfinished = decode(FrameType::Unfinished, body)?;
        cut(&mut unfinished.reason);
        self.state = State::Ended;
        Ok(OriginEvent::Unfinished(unfinished))
    }

    fn on_refused(&mut self, body: &[u8]) -> Result<OriginEvent, UnitFault> {
        self.expect(State::Opening, FrameType::Refused)?;
        let mut refused: Refused = decode(FrameType::Refused, body)?;
        cut(&mut refused.message);
        self.state = State::Ended;
        Ok(OriginEvent::Refused(refused))
    }

    fn on_response(&mut self, frame: Frame) -> Result<Option<OriginEvent>, UnitFault> {
        let mut data = frame.body;
        if data.len() < SERIAL_BYTES {
            return Err(FrameError::NoSerial { length: data.len() }.into());
        }
        let serial = data.get_u64();
        let last = frame.flags & LAST_PIECE != 0;
        self.on_piece(Piece { serial, data, last })
    }

    fn on_piece(&mut self, mut piece: Piece) -> Result<Option<OriginEvent>, UnitFault> {
        self.expect_open(FrameType::Response)?;
        let (expected, found) = (self.tally.next_serial(), piece.serial);
        if found != expected {
            return Err(UnitFault::Serial { expected, found });
        }
        if self.again > 0 {
            let known = self.again.min(piece.data.len() as u64);
            piece.data.advance(known as usize);
            self.again -= known;
            if piece.last && self.again > 0 {
                return Err(UnitFault::Shorter(found));
            }
            if piece.data.is_empty() && !piece.last {
                return Ok(None);
            }
        }
        self.tally.add(&piece.data, piece.last);
        self.in_response = match piece.last {
            true => 0,
            false => self.in_response + piece.data.len() as u64,
        };
        Ok(Some(OriginEvent::Piece(piece)))
    }

    fn on_eof(&mut self, body: &[u8]) -> Result<OriginEvent, UnitFault> {
        self.expect_open(FrameType::Eof)?;
        let mut eof: Eof = decode(FrameType::Eof, body)?;
        cut(&mut eof.message);
        if eof.kind != Kind::Unknown && eof.kind.outcome() != eof.outcome {
            return Err(UnitFault::Contradiction {
                outcome: eof.outcome,
                kind: eof.kind,
            });
        }
        self.compare(&eof)?;
        self.state = State::Ended;
        Ok(OriginEvent::Eof(eof))
    }

    /// Whether the end fits what arrived. A durable unit that did not succeed may have left less than a client saw of it before its
    /// connection broke.
    fn compare(&self, eof: &Eof) -> Result<(), UnitFault> {
        let succeeded = eof.outcome == Outcome::Succeeded;
        if succeeded && self.tally.is_open() {
            return Err(UnitFault::OpenResponse(self.tally.responses()));
        }
        if !succeeded && matches!(self.talk, Talk::Attached { .. }) {
            return Ok(());
        }
        let (responses, bytes) = (self.tally.responses(), self.tally.bytes());
        let fits = match self.before {
            Before::Nothing => eof.bytes == bytes && eof.digest == self.tally.digest(),
            Before::Length => eof.bytes == bytes,
            Before::Count(first) if (responses, bytes) == (first, 0) && eof.responses < first => {
                return Ok(());
            }
            Before::Count(_) => eof.bytes >= bytes,
        };
        if fits && eof.responses == responses {
            Ok(())
        } else {
            Err(UnitFault::Mismatch {
                sent_responses: eof.responses,
                sent_bytes: eof.bytes,
                responses,
                bytes,
            })
        }
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

#[cfg(test)]
mod tests;
