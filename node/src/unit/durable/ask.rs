//! An origin's conversations with executors: an offer with its payload, or a resumption. What the executor says goes to the
//! unit's task as the machine's inputs.

use std::convert::Infallible;
use std::hash::Hasher as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, SemaphorePermit};
use twox_hash::xxhash3_64::Hasher;
use workmesh_proto::record::Order;
use workmesh_proto::unit::durable::OriginInput;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{Ack, Offer, Position, Resume, Returned};
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Eof, Kind, Refused};
use workmesh_proto::{NodeId, UnitId};

use super::now_ms;
use super::pipe::{Pipe, PipeReceiver, PipeSender};
use super::talk::Line;
use super::work::Work;
use crate::link::LinkError;
use crate::mesh::SessionError;
use crate::store::{Key, Role, Stream};

/// How long an executor may take to answer, once it has the whole question.
pub(super) const ANSWER: Duration = Duration::from_secs(15);
/// Payload bytes read from the store at once.
const PAYLOAD_BYTES: usize = 256 * 1024;

/// What an executor is asked.
pub(super) enum Question {
    Offer(Offer),
    Resume(Offer, Position),
}

/// One conversation, from its opening to its end.
pub(super) struct Ask {
    pub(super) work: Arc<Work>,
    pub(super) unit: UnitId,
    pub(super) order: Arc<Order>,
    pub(super) executor: NodeId,
    pub(super) conversation: u64,
    pub(super) question: Question,
    /// The payload, unless it has to be read from the store.
    pub(super) payload: Option<Bytes>,
    pub(super) line: Arc<Line>,
}

impl Ask {
    /// Converses until the executor's last word. Dropped, it breaks the conversation off.
    pub(super) async fn converse(mut self) -> OriginInput {
        let at = self.conversation;
        let work = self.work.clone();
        // Held until the executor has answered: what many units ask at once is asked in turn.
        let Ok(turn) = work.questions.acquire().await else {
            return OriginInput::Unreachable(at, "the node stops".to_owned());
        };
        let Pipe { sender, mut receiver } = match reach(&work, &self.executor).await {
            Ok(pipe) => pipe,
            Err(why) => return OriginInput::Unreachable(at, why),
        };
        let executor = self.executor.clone();
        let asked = Notify::new();
        let line = self.line.clone();
        let answered = Answered {
            turn: Mutex::new(Some(turn)),
        };
        let listening = listen(at, &mut receiver, &line, &answered);
        let late = answered.is_late(&asked);
        let speaking = self.speak(sender, &asked);
        tokio::pin!(listening, late, speaking);
        tokio::select! {
            last = &mut listening => last,
            () = &mut late => OriginInput::Broken(at, silent(&executor)),
            spoken = &mut speaking => match spoken {
                Err(Spoken::Payload(why)) => OriginInput::Fault(at, Kind::Internal, why),
                // It has its reason on the other half.
                Err(Spoken::Stream) => listening.await,
            },
        }
    }

    /// Asks, then acknowledges, until the stream takes no more.
    async fn speak(&mut self, mut sender: PipeSender, asked: &Notify) -> Result<Infallible, Spoken> {
        match self.question {
            Question::Offer(offer) => {
                let submission = self.order.submission(self.unit, offer, now_ms());
                sender.put(FrameType::Submit, &submission);
                self.send_payload(&mut sender).await?;
                sender.put_bare(FrameType::PayloadEnd);
            }
            Question::Resume(offer, position) => sender.put(
                FrameType::Resume,
                &Resume {
                    unit: self.unit,
                    offer,
                    position,
                },
            ),
        }
        sender.flush().await?;
        asked.notify_one();
        loop {
            let position = self.line.stored().await;
            sender.put(FrameType::Ack, &Ack { position });
            sender.flush().await?;
        }
    }

    async fn send_payload(&mut self, sender: &mut PipeSender) -> Result<(), Spoken> {
        match self.payload.take() {
            Some(payload) if payload.is_empty() => Ok(()),
            Some(payload) => {
                sender.put_payload(payload);
                Ok(())
            }
            // Boxed: units whose payload is at hand do not make room for it.
            None => Box::pin(self.send_kept_payload(sender)).await,
        }
    }

    async fn send_kept_payload(&self, sender: &mut PipeSender) -> Result<(), Spoken> {
        let key = Key {
            role: Role::Origin,
            unit: self.unit,
        };
        let mut offset = 0;
        let mut hasher = Hasher::new();
        while offset < self.order.payload_bytes {
            let read = self.work.store.read(key, Stream::Payload, offset, PAYLOAD_BYTES);
            let data = read.await.map_err(|error| match error.may_pass() {
                true => Spoken::Stream,
                false => Spoken::Payload(error.to_string()),
            })?;
            if data.is_empty() {
                return Err(Spoken::Payload("the kept payload is too short".to_owned()));
            }
            offset += data.len() as u64;
            hasher.write(&data);
            sender.put_payload(data);
            sender.flush().await?;
        }
        // Without the word that the payload is complete the executor does not begin.
        if hasher.finish() != self.order.payload_digest {
            return Err(Spoken::Payload("the kept payload is damaged".to_owned()));
        }
        Ok(())
    }
}

pub(super) fn silent(executor: &NodeId) -> String {
    format!("{executor} did not answer within {} s", ANSWER.as_secs())
}

/// Why an origin can't go on speaking.
enum Spoken {
    /// The stream takes no more.
    Stream,
    /// The payload can't be read: no executor will ever get it.
    Payload(String),
}

impl From<LinkError> for Spoken {
    fn from(_: LinkError) -> Self {
        Self::Stream
    }
}

/// Whether the executor has answered; until then the conversation has its turn among all questions.
struct Answered<'a> {
    turn: Mutex<Option<SemaphorePermit<'a>>>,
}

impl Answered<'_> {
    fn set(&self) {
        drop(self.turn.lock().take());
    }

    fn is_set(&self) -> bool {
        self.turn.lock().is_none()
    }

    /// Waits until the answer is late, for ever if it comes in time.
    async fn is_late(&self, asked: &Notify) {
        asked.notified().await;
        tokio::time::sleep(ANSWER).await;
        if self.is_set() {
            std::future::pending::<()>().await;
        }
    }
}

/// Opens a conversation in time for a question, or says why the executor has not heard of it.
pub(super) async fn reach(work: &Work, executor: &NodeId) -> Result<Pipe, String> {
    match tokio::time::timeout(ANSWER, open(work, executor)).await {
        Ok(opened) => opened.map_err(|error| error.to_string()),
        Err(_) => Err(silent(executor)),
    }
}

/// Opens a conversation with an executor, which may be this node.
pub(super) async fn open(work: &Work, executor: &NodeId) -> Result<Pipe, SessionError> {
    if *executor == work.units.node {
        let (ours, theirs) = Pipe::local();
        work.host.answer_here(theirs);
        return Ok(ours);
    }
    Ok(work.units.sessions().open(executor).await?.into())
}

/// Passes on what the executor says; answers with its last word.
async fn listen(at: u64, receiver: &mut PipeReceiver, line: &Line, answered: &Answered<'_>) -> OriginInput {
    loop {
        let item = receiver.next().await;
        answered.set();
        let input = match item {
            Ok(Some(Item::Response { piece, .. })) => OriginInput::Piece(at, piece),
            Ok(Some(Item::Frame(frame))) => match read(at, &frame) {
                Ok(Some(input)) => input,
                Ok(None) => continue,
                Err(fault) => return OriginInput::Fault(at, Kind::Protocol, fault),
            },
            Ok(Some(Item::Payload { .. })) => {
                return OriginInput::Fault(at, Kind::Protocol, "the executor sent payload".to_owned());
            }
            Ok(None) => return OriginInput::Broken(at, "the executor closed the stream".to_owned()),
            // The session was idle and has just been closed: the executor has not seen the question.
            Err(error @ LinkError::Idle) => return OriginInput::Unreachable(at, error.to_string()),
            Err(error) => return OriginInput::Broken(at, format!("the stream broke: {error}")),
        };
        let last = matches!(
            input,
            OriginInput::Eof(..) | OriginInput::Refused(..) | OriginInput::Returned(..)
        );
        if last {
            return input;
        }
        line.say(input).await;
    }
}

/// What a frame of the executor says; `None` for a type of a later version.
pub(super) fn read(at: u64, frame: &Frame) -> Result<Option<OriginInput>, String> {
    let Some(kind) = frame.frame_type() else {
        return Ok(None);
    };
    let malformed = |error: codec::CodecError| format!("{kind:?} frame: {error}");
    Ok(Some(match kind {
        FrameType::Accepted => OriginInput::Accepted(at),
        FrameType::Started => OriginInput::Started(at),
        FrameType::Refused => {
            let refused: Refused = codec::decode(&frame.body).map_err(malformed)?;
            OriginInput::Refused(at, refused.kind, refused.message)
        }
        FrameType::Returned => {
            let returned: Returned = codec::decode(&frame.body).map_err(malformed)?;
            OriginInput::Returned(at, returned.message)
        }
        FrameType::Eof => {
            let mut eof: Eof = codec::decode(&frame.body).map_err(malformed)?;
            workmesh_proto::wire::unit::cut(&mut eof.message);
            OriginInput::Eof(at, eof)
        }
        _ => return Err(format!("{kind:?} frame out of order")),
    }))
}
