//! The executor's side of a conversation about a durable unit.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use tracing::debug;
use workmesh_proto::unit::durable::{ExecutorPhase, ResponseCursor};
use workmesh_proto::wire::batch::Batch;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{
    Ack, MAX_RELEASES, Position, Release, Released, Resume, Returned, Started,
};
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Accepted, Eof, Refused, Submit};
use workmesh_proto::{NodeId, UnitId};

use super::host::Host;
use super::hosted::{Hosted, key};
use super::kept::KeptReader;
use super::pipe::{Pipe, PipeReceiver, PipeSender};
use crate::link::LinkError;
use crate::store::StoreError;

/// How long the releases of a conversation may take to come.
const RELEASES: Duration = Duration::from_secs(10);
/// Response bytes that are gathered before they are sent, with what holds them.
const SEND_BYTES: usize = 256 * 1024;

/// What a conversation can begin with.
pub(crate) enum Opening {
    Submit(Box<Submit>),
    Resume(Resume),
    Release(Release),
    Batch(Batch),
}

impl Opening {
    /// `None`: the frame is of another sort.
    pub(crate) fn read(frame: &Frame) -> Option<Result<Self, codec::CodecError>> {
        Some(match frame.frame_type()? {
            FrameType::Submit => codec::decode(&frame.body).map(|submit| Self::Submit(Box::new(submit))),
            FrameType::Resume => codec::decode(&frame.body).map(Self::Resume),
            FrameType::Release => codec::decode(&frame.body).map(Self::Release),
            FrameType::Batch => codec::decode(&frame.body).map(Self::Batch),
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
            Opening::Release(first) => self.release_all(&peer, first, pipe).await,
            Opening::Batch(batch) => self.answer_batch(&peer, batch, pipe).await,
        }
    }

    /// Forgets what the origin names, and says of which that has succeeded, as soon as it has.
    async fn release_all(&self, peer: &NodeId, first: Release, pipe: Pipe) -> Result<(), LinkError> {
        let Pipe {
            mut sender,
            mut receiver,
        } = pipe;
        let releases = tokio::time::timeout(RELEASES, releases(first, &mut receiver)).await;
        let releases = releases.map_err(|_| LinkError::Closed("the releases did not end".to_owned()))??;
        let mut done = self.releasing(peer, &releases).ready_chunks(releases.len());
        while let Some(some) = done.next().await {
            for unit in some.into_iter().flatten() {
                sender.put(FrameType::Released, &Released { unit });
            }
            sender.flush().await?;
        }
        sender.finish().await
    }

    /// Forgets what the origin names, together: what is to be removed of it is written together. Which of it that was, and `None`
    /// for the others.
    pub(super) fn releasing(
        &self,
        peer: &NodeId,
        releases: &[Release],
    ) -> impl Stream<Item = Option<UnitId>> {
        let released = |release: &Release| {
            let Release {
                unit,
                number,
                outcome,
            } = *release;
            async move {
                let released = self.release(peer, unit, number).await;
                if released {
                    debug!(%unit, %peer, %outcome, "durable unit released");
                }
                released.then_some(unit)
            }
        };
        releases.iter().map(released).collect::<FuturesUnordered<_>>()
    }

    async fn resume(self: &Arc<Self>, peer: &NodeId, resume: &Resume, pipe: Pipe) -> Result<(), LinkError> {
        match self.find(peer, resume.unit, resume.offer).await {
            Ok(hosted) => {
                debug!(unit = %resume.unit, %peer, bytes = resume.position.bytes, "durable unit resumed");
                self.converse(&hosted, pipe, resume.position).await
            }
            Err(refused) => refuse(pipe, refused).await,
        }
    }

    // a unit's responses go

    /// Sends what follows `position`, up to the unit's end, and takes acknowledgements.
    pub(super) async fn converse(
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
        hosted: &Arc<Hosted>,
        mut sender: PipeSender,
        position: Position,
    ) -> Result<(), LinkError> {
        let mut kept = hosted.watch();
        tokio::select! {
            biased;
            // First: a unit that was stopped may have its end.
            _ = kept.wait_for(|kept| kept.is_accepted()) => {}
            () = hosted.stop.cancelled() => return Err(released()),
            () = sender.gone() => return Err(LinkError::Closed("the origin is gone".to_owned())),
        }
        let mut reader = KeptReader::new(
            self.store.clone(),
            key(hosted.unit),
            ResponseCursor::new(position),
        );
        let (mut started, mut failed) = (false, false);
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
            if let Err(error) = send_kept(&mut reader, hosted, seen.stream_bytes, &mut sender).await? {
                let broken = LinkError::Closed(error.to_string());
                if std::mem::replace(&mut failed, true) || !self.end_unreadable(hosted, error).await {
                    return Err(broken);
                }
                continue;
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
                biased;
                // First: a unit that is stopped because it went back has its end.
                changed = kept.changed() => {
                    if changed.is_err() {
                        return Err(LinkError::Closed("the unit is gone".to_owned()));
                    }
                }
                () = hosted.stop.cancelled() => return Err(released()),
            }
        }
    }

    /// What is kept of the unit can't be read: it ends with what can be, unless that may pass. `false`: it has no such end.
    async fn end_unreadable(&self, hosted: &Arc<Hosted>, error: StoreError) -> bool {
        if error.may_pass() {
            return false;
        }
        let (hosted, store, closing) = (hosted.clone(), self.store.clone(), self.closing.clone());
        // On its own: it is not to be left half done if the conversation breaks.
        let ending = self.tasks.spawn(async move {
            let ending = async {
                let failed = hosted.fail(&store, &error).await;
                hosted.store_all(&store).await;
                failed
            };
            tokio::select! {
                () = closing.cancelled() => false,
                failed = ending => failed,
            }
        });
        ending.await.unwrap_or(false)
    }

    async fn listen(&self, hosted: &Hosted, receiver: &mut PipeReceiver) -> Result<(), LinkError> {
        let _heard = hosted.hear();
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

/// Sends what is kept up to `end`. The inner failure is the store's.
async fn send_kept(
    reader: &mut KeptReader,
    hosted: &Hosted,
    end: u64,
    sender: &mut PipeSender,
) -> Result<Result<(), StoreError>, LinkError> {
    let mut gathered = 0;
    loop {
        match reader.next(end, Some(&hosted.tail)).await {
            Ok(Some(piece)) => {
                gathered += piece.data.len() + size_of::<Item>();
                sender.put_piece(piece);
                if gathered >= SEND_BYTES {
                    gathered = 0;
                    sender.flush().await?;
                }
            }
            Ok(None) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn released() -> LinkError {
    LinkError::Closed("the unit was released".to_owned())
}

/// All releases of a conversation.
async fn releases(first: Release, receiver: &mut PipeReceiver) -> Result<Vec<Release>, LinkError> {
    let mut releases = vec![first];
    while let Some(item) = receiver.next().await? {
        let release = match item {
            Item::Frame(frame) if frame.frame_type().is_none() => continue,
            Item::Frame(frame) if frame.frame_type() == Some(FrameType::Release) => {
                codec::decode(&frame.body).map_err(|e| LinkError::Protocol(e.to_string()))?
            }
            _ => return Err(LinkError::Protocol("something else among releases".to_owned())),
        };
        if releases.len() == MAX_RELEASES {
            let message = format!("more than {MAX_RELEASES} releases in one conversation");
            return Err(LinkError::Protocol(message));
        }
        releases.push(release);
    }
    Ok(releases)
}

/// Refuses what was asked.
pub(super) async fn refuse(pipe: Pipe, refused: Refused) -> Result<(), LinkError> {
    let mut sender = pipe.sender;
    sender.put(FrameType::Refused, &refused);
    sender.finish().await
}
