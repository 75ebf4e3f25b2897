//! The executor's side of a conversation about a durable unit.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tracing::{debug, info};
use worker_api::PayloadKind;
use workmesh_proto::NodeId;
use workmesh_proto::unit::durable::{ExecutorPhase, ResponseCursor};
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{Ack, Offer, Position, Release, Released, Resume, Returned, Started};
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Accepted, Eof, Kind, Refused, Submit};

use super::host::{Host, refused};
use super::hosted::{Hosted, key};
use super::kept::KeptReader;
use super::now_ms;
use super::pipe::{Pipe, PipeReceiver, PipeSender};
use crate::exec::{Admitted, PayloadFeed};
use crate::link::LinkError;
use crate::store::{Entry, StoreError, Stream, Sync};

/// A payload up to this size waits in memory; a longer one in the store.
const INLINE_BYTES: usize = 64 * 1024;
/// Payload bytes read from the store at once.
const READ_BYTES: usize = 256 * 1024;

/// What a conversation can begin with.
pub(crate) enum Opening {
    Submit(Box<Submit>),
    Resume(Resume),
    Release(Release),
}

impl Opening {
    /// `None`: the frame is of another sort.
    pub(crate) fn read(frame: &Frame) -> Option<Result<Self, codec::CodecError>> {
        Some(match frame.frame_type()? {
            FrameType::Submit => codec::decode(&frame.body).map(|submit| Self::Submit(Box::new(submit))),
            FrameType::Resume => codec::decode(&frame.body).map(Self::Resume),
            FrameType::Release => codec::decode(&frame.body).map(Self::Release),
            _ => return None,
        })
    }
}

impl Host {
    pub(super) async fn answer_pipe(self: Arc<Self>, peer: NodeId, mut pipe: Pipe) {
        let Ok(Some(Item::Frame(frame))) = pipe.receiver.next().await else {
            return;
        };
        if let Some(Ok(opening)) = Opening::read(&frame) {
            let _broken = self.answer(peer, opening, pipe).await;
        }
    }

    /// Answers a peer's conversation, from its first frame to its end.
    pub(crate) async fn answer(
        self: Arc<Self>,
        peer: NodeId,
        opening: Opening,
        pipe: Pipe,
    ) -> Result<(), LinkError> {
        match opening {
            Opening::Submit(submit) => self.take(peer, *submit, pipe).await,
            Opening::Resume(resume) => self.resume(&peer, &resume, pipe).await,
            Opening::Release(release) => {
                if !self.release(&peer, release.unit, release.number).await {
                    return Err(LinkError::Closed("too many offers to remember".to_owned()));
                }
                debug!(unit = %release.unit, %peer, outcome = %release.outcome, "durable unit released");
                let mut sender = pipe.sender;
                sender.put(FrameType::Released, &Released {});
                sender.finish().await
            }
        }
    }

    async fn resume(self: &Arc<Self>, peer: &NodeId, resume: &Resume, pipe: Pipe) -> Result<(), LinkError> {
        match self.find(peer, resume.unit, resume.offer) {
            Ok(hosted) => {
                debug!(unit = %resume.unit, %peer, bytes = resume.position.bytes, "durable unit resumed");
                self.converse(&hosted, pipe, resume.position).await
            }
            Err(refused) => refuse(pipe, refused).await,
        }
    }

    // a unit comes

    async fn take(self: &Arc<Self>, peer: NodeId, submit: Submit, mut pipe: Pipe) -> Result<(), LinkError> {
        let Some(offer) = submit.offer else {
            return refuse(
                pipe,
                refused(Kind::Protocol, "a durable submission without an offer"),
            )
            .await;
        };
        let hosted = match self.reserve(&peer, submit.unit, offer) {
            Ok(hosted) => hosted,
            Err(refused) => return refuse(pipe, refused).await,
        };
        let place = Place {
            host: self,
            hosted: hosted.clone(),
            offer,
        };
        let admitted = match self.admit(&peer, &submit) {
            Ok(admitted) => admitted,
            Err(refused) => {
                info!(unit = %submit.unit, directive = submit.directive, %peer, kind = %refused.kind, "unit refused");
                return refuse(pipe, refused).await;
            }
        };
        let Admitted {
            mut payload, output, ..
        } = admitted;
        let stop = hosted.stop.clone();
        let waiting = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            received = self.receive(&hosted, &mut payload, &mut pipe.receiver) => match received? {
                Ok(waiting) => waiting,
                Err(refused) => return refuse(pipe, refused).await,
            },
        };
        if let Err(refused) = self.may_take(submit.unit, offer) {
            return refuse(pipe, refused).await;
        }
        hosted.with(|machine| machine.take(&submit.directive, now_ms()));
        if let Err(error) = hosted.store_once(&self.store).await {
            hosted.with(|machine| machine.untake());
            return refuse(pipe, self.no_space(&error)).await;
        }
        drop(place);
        debug!(unit = %submit.unit, directive = submit.directive, %peer, "durable unit taken");
        // In this order: whoever keeps the output looks for a payload that has stalled.
        self.feed(&hosted, payload, waiting);
        self.keep(&hosted, output);
        self.converse(&hosted, pipe, Position::default()).await
    }

    fn admit(&self, peer: &NodeId, submit: &Submit) -> Result<Admitted, Refused> {
        let bytes = submit.payload_bytes.unwrap_or(0);
        self.store.admit(bytes).map_err(|error| self.no_space(&error))?;
        self.executor.admit(submit, peer.clone())
    }

    /// The origin shows it to whoever waits for the unit: it names the node whose store it is.
    fn no_space(&self, error: &StoreError) -> Refused {
        refused(Kind::NoSpace, format!("{} has no room: {error}", self.node))
    }

    /// Receives the whole payload: into the unit if it wants it whole, else into memory or the store.
    async fn receive(
        &self,
        hosted: &Hosted,
        feed: &mut PayloadFeed,
        receiver: &mut PipeReceiver,
    ) -> Result<Result<Waiting, Refused>, LinkError> {
        let mut waiting = Waiting::default();
        loop {
            match receiver.next().await? {
                Some(Item::Payload { data, .. }) if feed.kind() == PayloadKind::Bytes => {
                    if feed.push(data).await.is_err() {
                        return Ok(Err(refused(
                            Kind::Busy,
                            "the payload is not taken: it is too long, or memory is short",
                        )));
                    }
                }
                Some(Item::Payload { data, .. }) => {
                    waiting.memory.extend_from_slice(&data);
                    if waiting.memory.len() > INLINE_BYTES {
                        let piece = waiting.memory.split().freeze();
                        waiting.stored += piece.len() as u64;
                        let entries = vec![Entry::Data(Stream::Payload, piece)];
                        if let Err(error) = self.store.append(key(hosted.unit), entries, Sync::Written).await
                        {
                            return Ok(Err(self.no_space(&error)));
                        }
                    }
                }
                Some(Item::Frame(frame)) => match frame.frame_type() {
                    Some(FrameType::PayloadEnd) => return Ok(Ok(waiting)),
                    None => {}
                    Some(_) => {
                        return Err(LinkError::Protocol(format!(
                            "frame {:#04x} within a payload",
                            frame.kind
                        )));
                    }
                },
                Some(Item::Response { .. }) => {
                    return Err(LinkError::Protocol("a response within a payload".to_owned()));
                }
                None => return Err(LinkError::Closed("the payload broke off".to_owned())),
            }
        }
    }

    /// Lets the unit begin, and hands it the payload that has waited.
    fn feed(self: &Arc<Self>, hosted: &Arc<Hosted>, mut feed: PayloadFeed, waiting: Waiting) {
        if feed.kind() == PayloadKind::Bytes {
            return feed.finish();
        }
        feed.begin();
        let (host, hosted, closing) = (self.clone(), hosted.clone(), self.closing.clone());
        self.tasks.spawn(async move {
            let feeding = host.feed_waiting(&hosted, &mut feed, waiting);
            let fed = tokio::select! {
                () = closing.cancelled() => false,
                fed = feeding => fed,
            };
            // A unit that has ended needs no more; otherwise a feed that is dropped ends it as broken.
            if fed {
                feed.finish();
            }
        });
    }

    async fn feed_waiting(&self, hosted: &Hosted, feed: &mut PayloadFeed, waiting: Waiting) -> bool {
        let mut offset = 0;
        while offset < waiting.stored {
            let read = self
                .store
                .read(key(hosted.unit), Stream::Payload, offset, READ_BYTES);
            match read.await {
                Ok(data) if !data.is_empty() => {
                    offset += data.len() as u64;
                    if feed.push(data).await.is_err() {
                        return false;
                    }
                }
                Ok(_) | Err(_) => return false,
            }
        }
        let rest: Bytes = waiting.memory.freeze();
        rest.is_empty() || feed.push(rest).await.is_ok()
    }

    // a unit's responses go

    /// Sends what follows `position`, up to the unit's end, and takes acknowledgements.
    async fn converse(
        self: &Arc<Self>,
        hosted: &Arc<Hosted>,
        pipe: Pipe,
        position: Position,
    ) -> Result<(), LinkError> {
        let Pipe { sender, mut receiver } = pipe;
        hosted.acknowledge(position);
        let listening = self.listen(hosted, &mut receiver);
        let speaking = self.speak(hosted, sender, position);
        tokio::pin!(listening, speaking);
        tokio::select! {
            spoken = &mut speaking => {
                spoken?;
                listening.await
            }
            heard = &mut listening => {
                heard?;
                speaking.await
            }
        }
    }

    async fn speak(
        &self,
        hosted: &Hosted,
        mut sender: PipeSender,
        position: Position,
    ) -> Result<(), LinkError> {
        let mut kept = hosted.watch();
        let mut reader = KeptReader::new(
            self.store.clone(),
            key(hosted.unit),
            ResponseCursor::new(position),
        );
        let mut started = false;
        sender.put(
            FrameType::Accepted,
            &Accepted {
                executor: self.node.clone(),
            },
        );
        loop {
            let seen = *kept.borrow_and_update();
            if seen.phase == ExecutorPhase::Started && !std::mem::replace(&mut started, true) {
                sender.put(FrameType::Started, &Started {});
            }
            let mut gathered = 0;
            while let Some(piece) = reader
                .next(seen.stream_bytes, Some(&hosted.tail))
                .await
                .map_err(|error| LinkError::Closed(error.to_string()))?
            {
                gathered += piece.data.len();
                sender.put_piece(piece);
                if gathered >= READ_BYTES {
                    gathered = 0;
                    sender.flush().await?;
                }
            }
            match seen.phase {
                ExecutorPhase::Ended => {
                    if let Some(eof) = hosted.with(|machine| machine.end_of().cloned()) {
                        sender.put::<Eof>(FrameType::Eof, &eof);
                    }
                    return sender.finish().await;
                }
                ExecutorPhase::Returned => {
                    let message = hosted.with(|machine| machine.returned().unwrap_or_default().to_owned());
                    sender.put(FrameType::Returned, &Returned { message });
                    return sender.finish().await;
                }
                _ => {}
            }
            sender.flush().await?;
            tokio::select! {
                changed = kept.changed() => {
                    if changed.is_err() {
                        return Err(LinkError::Closed("the unit is gone".to_owned()));
                    }
                }
                () = hosted.stop.cancelled() => return Err(LinkError::Closed("the unit was released".to_owned())),
            }
        }
    }

    async fn listen(&self, hosted: &Hosted, receiver: &mut PipeReceiver) -> Result<(), LinkError> {
        loop {
            match receiver.next().await? {
                Some(Item::Frame(frame)) => match frame.frame_type() {
                    Some(FrameType::Ack) => {
                        let ack: Ack =
                            codec::decode(&frame.body).map_err(|e| LinkError::Protocol(e.to_string()))?;
                        hosted.acknowledge(ack.position);
                    }
                    None => {}
                    Some(_) => {
                        return Err(LinkError::Protocol(format!(
                            "frame {:#04x} out of order",
                            frame.kind
                        )));
                    }
                },
                Some(_) => return Err(LinkError::Protocol("payload after its end".to_owned())),
                None => return Ok(()),
            }
        }
    }
}

/// Payload that waits for its unit to begin.
#[derive(Default)]
struct Waiting {
    /// Bytes in the store, which come first.
    stored: u64,
    memory: BytesMut,
}

/// A place in the table; given back unless the unit was taken.
struct Place<'a> {
    host: &'a Arc<Host>,
    hosted: Arc<Hosted>,
    offer: Offer,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self
            .hosted
            .with(|machine| machine.phase() != ExecutorPhase::Arriving)
        {
            return;
        }
        self.host.abandon(self.hosted.unit, self.offer);
        let (host, unit) = (self.host.clone(), self.hosted.unit);
        self.host.tasks.spawn(async move {
            // A payload that was not wanted in the end; most had none in the store.
            let _none = host.store.remove(key(unit)).await;
        });
    }
}

async fn refuse(pipe: Pipe, refused: Refused) -> Result<(), LinkError> {
    let mut sender = pipe.sender;
    sender.put(FrameType::Refused, &refused);
    sender.finish().await
}
