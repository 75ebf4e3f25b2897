//! A durable unit comes to its executor: its payload is received as a whole, the unit is taken, that is stored, and it begins. One whose
//! payload is in memory begins before that is stored ([`brief`](super::brief)).
//!
//! Whatever fails before it is taken leaves nothing behind: first the pool forgets the unit, then the store what came of its payload,
//! and only then may another offer of it come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use tracing::{debug, info};
use worker_api::PayloadKind;
use workmesh_proto::NodeId;
use workmesh_proto::unit::durable::DurableExecutor;
use workmesh_proto::wire::durable::{Offer, Position};
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Kind, Refused, Submit};

use super::answer::refuse;
use super::brief::{Moment, Unstored};
use super::host::{Host, refused};
use super::hosted::{Hosted, key};
use super::now_ms;
use super::pipe::{Pipe, PipeReceiver};
use crate::exec::{Admitted, OutputItem, PayloadFeed, UnitOutput};
use crate::link::LinkError;
use crate::store::{Entry, StoreError, Stream, Sync};

/// A payload up to this size waits in memory; a longer one in the store.
const INLINE_BYTES: usize = 64 * 1024;
/// Payload bytes read from the store at once.
const READ_BYTES: usize = 256 * 1024;

/// A unit that is taken.
pub(super) enum Taken {
    /// It is stored, and may [begin](Host::begin).
    Stored(Box<Stored>),
    /// It may run, and what it sends is kept.
    Kept,
    /// It is over, and has sent this.
    Over(VecDeque<OutputItem>),
}

/// A unit that is stored, and has not begun.
pub(super) struct Stored {
    feed: PayloadFeed,
    output: UnitOutput,
    waiting: Waiting,
}

/// Payload that waits for its unit to begin.
#[derive(Default)]
struct Waiting {
    /// Bytes in the store, which come first.
    stored: u64,
    memory: BytesMut,
}

/// Why an offer does not become a unit.
pub(super) enum NotTaken {
    Refused(Refused),
    Broken(LinkError),
    /// Its origin has turned away from it: whoever heard that has cleared up.
    Dropped,
}

impl From<Refused> for NotTaken {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<LinkError> for NotTaken {
    fn from(error: LinkError) -> Self {
        Self::Broken(error)
    }
}

/// A place in the table; given back unless the unit was taken.
struct Place<'a> {
    host: &'a Host,
    hosted: Arc<Hosted>,
    offer: Offer,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.hosted.is_arriving() {
            self.host.abandon(self.hosted.unit, self.offer);
        }
    }
}

impl Host {
    /// Answers a submission, up to the end of the conversation.
    pub(super) async fn take(
        self: &Arc<Self>,
        peer: NodeId,
        submit: Submit,
        mut pipe: Pipe,
    ) -> Result<(), LinkError> {
        let taken = self.take_offered(&peer, &submit, &mut pipe.receiver, &Moment::Own);
        match taken.await {
            Ok((hosted, Taken::Over(items))) => self.tell_over(&hosted, items, pipe.sender).await,
            Ok((hosted, Taken::Kept)) => self.converse(&hosted, pipe, Position::default()).await,
            Ok((hosted, Taken::Stored(stored))) => {
                self.begin(&hosted, *stored);
                hosted.has_news().await;
                self.converse(&hosted, pipe, Position::default()).await
            }
            Err(NotTaken::Dropped) => Ok(()),
            Err(NotTaken::Broken(error)) => Err(error),
            Err(NotTaken::Refused(refused)) => refuse(pipe, refused).await,
        }
    }

    /// Takes a unit whose payload comes on `receiver`; of one that is not taken nothing is left.
    pub(super) async fn take_offered(
        self: &Arc<Self>,
        peer: &NodeId,
        submit: &Submit,
        receiver: &mut PipeReceiver,
        moment: &Moment<'_>,
    ) -> Result<(Arc<Hosted>, Taken), NotTaken> {
        let (Some(offer), Some(_)) = (submit.offer, submit.payload_bytes) else {
            let message = "a durable submission without an offer, or without its payload's length";
            return Err(refused(Kind::Protocol, message).into());
        };
        let hosted = self.reserve_anew(peer, submit.unit, offer).await?;
        let place = Place {
            host: self,
            hosted: hosted.clone(),
            offer,
        };
        let arrived = self.arrive(&place, peer, submit, receiver, moment).await;
        match &arrived {
            Ok(_) => debug!(unit = %submit.unit, directive = submit.directive, %peer, "durable unit taken"),
            Err(NotTaken::Dropped) => {}
            Err(NotTaken::Broken(_)) => self.give_up(place).await,
            Err(NotTaken::Refused(refused)) => {
                self.give_up(place).await;
                info!(unit = %submit.unit, directive = submit.directive, %peer, kind = %refused.kind, "unit refused");
            }
        }
        arrived.map(|taken| (hosted, taken))
    }

    /// Removes what has come of the unit, then gives its place back.
    async fn give_up(&self, place: Place<'_>) {
        let hosted = &place.hosted;
        // Once it is stopped, the place and the key may be those of a later offer.
        if !hosted.stop.is_cancelled() && hosted.in_store.load(Ordering::Relaxed) {
            // What stays is removed before the payload of another offer is kept.
            let _stays = self.remove(hosted).await;
        }
        // Whoever waits for it to be taken waits no longer.
        hosted.stop.cancel();
    }

    /// Sees the unit through to where it is taken.
    async fn arrive(
        self: &Arc<Self>,
        place: &Place<'_>,
        peer: &NodeId,
        submit: &Submit,
        receiver: &mut PipeReceiver,
        moment: &Moment<'_>,
    ) -> Result<Taken, NotTaken> {
        let hosted = &place.hosted;
        let mut admitted = self.admit(peer, submit)?;
        let waiting = tokio::select! {
            biased;
            // Nothing is kept behind its removal.
            () = hosted.stop.cancelled() => return Err(NotTaken::Dropped),
            () = self.draining.cancelled() => return Err(self.drains().into()),
            received = self.receive(hosted, submit, &mut admitted.payload, receiver) => received?,
        };
        if self.executor.is_draining() {
            return Err(self.drains().into());
        }
        self.may_take(submit.unit, place.offer)?;
        hosted.with(|machine| machine.take(&submit.directive, now_ms()));
        let Admitted { payload, output, .. } = admitted;
        // A disk that refuses is asked first.
        if payload.kind() == PayloadKind::Bytes && !self.refuses.load(Ordering::Relaxed) {
            return self.begin_unstored(hosted, payload, output, moment).await;
        }
        let stored = self.store_taken(hosted).await;
        if matches!(stored, Err(NotTaken::Refused(_))) {
            hosted.with(DurableExecutor::untake);
        }
        stored?;
        if self.executor.is_draining() {
            // Who gives back may have come by before it was taken.
            self.give_back_one(hosted).await;
        }
        Ok(Taken::Stored(Box::new(Stored {
            feed: payload,
            output,
            waiting,
        })))
    }

    /// Lets a unit begin whose payload is there, and stores it if it is not over in a moment.
    async fn begin_unstored(
        self: &Arc<Self>,
        hosted: &Arc<Hosted>,
        feed: PayloadFeed,
        output: UnitOutput,
        moment: &Moment<'_>,
    ) -> Result<Taken, NotTaken> {
        feed.finish();
        let mut unstored = Unstored::new(self, hosted, output);
        if let Some(items) = unstored.see_end(moment).await {
            return Ok(Taken::Over(items));
        }
        match self.store_taken(hosted).await {
            // If it has begun, whoever keeps it tries again.
            Err(NotTaken::Refused(refused)) if unstored.take_back() => Err(refused.into()),
            Err(NotTaken::Dropped) if hosted.with(|machine| machine.returned().is_none()) => {
                Err(NotTaken::Dropped)
            }
            _ => Ok(Taken::Kept),
        }
    }

    /// Stores that the unit is taken, and what has come of it since.
    async fn store_taken(&self, hosted: &Hosted) -> Result<(), NotTaken> {
        let stored = tokio::select! {
            biased;
            () = hosted.stop.cancelled() => return Err(NotTaken::Dropped),
            stored = hosted.store_once(&self.store) => stored,
        };
        self.refuses.store(stored.is_err(), Ordering::Relaxed);
        stored.map_err(|error| self.no_space(&error).into())
    }

    fn admit(&self, peer: &NodeId, submit: &Submit) -> Result<Admitted, Refused> {
        let bytes = submit.payload_bytes.unwrap_or(0);
        self.store.admit(bytes).map_err(|error| self.no_space(&error))?;
        self.executor.admit(submit, peer.clone())
    }

    /// The origin shows these to whoever waits for the unit: they name the node that they are about.
    fn drains(&self) -> Refused {
        let message = format!("{} takes no new units, it drains or shuts down", self.node);
        refused(Kind::Draining, message)
    }

    fn no_space(&self, error: &StoreError) -> Refused {
        refused(Kind::NoSpace, format!("{} has no room: {error}", self.node))
    }

    // the payload

    /// Receives the whole payload: into the unit if it wants it whole, else into memory or the store.
    async fn receive(
        &self,
        hosted: &Hosted,
        submit: &Submit,
        feed: &mut PayloadFeed,
        receiver: &mut PipeReceiver,
    ) -> Result<Waiting, NotTaken> {
        let announced = submit.payload_bytes.unwrap_or(0);
        let time_left = submit.deadline_ms.map(Duration::from_millis);
        let deadline = time_left.and_then(|left| Instant::now().checked_add(left));
        let mut arrived = 0u64;
        let mut waiting = Waiting::default();
        loop {
            match self.next_item(receiver, deadline).await? {
                Some(Item::Payload { data, .. }) => {
                    arrived = arrived.saturating_add(data.len() as u64);
                    if arrived > announced {
                        let message = format!("more payload than the {announced} bytes that were announced");
                        return Err(refused(Kind::PayloadBroken, message).into());
                    }
                    if feed.kind() == PayloadKind::Bytes {
                        self.push(feed, data).await?;
                    } else {
                        self.spill(hosted, &mut waiting, &data).await?;
                    }
                }
                Some(Item::Frame(frame)) => match frame.frame_type() {
                    Some(FrameType::PayloadEnd) if arrived < announced => {
                        let message = format!("{arrived} bytes of payload, announced were {announced}");
                        return Err(refused(Kind::PayloadBroken, message).into());
                    }
                    Some(FrameType::PayloadEnd) => return Ok(waiting),
                    None => {}
                    Some(_) => {
                        let message = format!("frame {:#04x} within a payload", frame.kind);
                        return Err(LinkError::Protocol(message).into());
                    }
                },
                Some(Item::Response { .. }) => {
                    return Err(LinkError::Protocol("a response within a payload".to_owned()).into());
                }
                None => return Err(LinkError::Closed("the payload broke off".to_owned()).into()),
            }
        }
    }

    /// The next item, if it comes in time.
    async fn next_item(
        &self,
        receiver: &mut PipeReceiver,
        deadline: Option<Instant>,
    ) -> Result<Option<Item>, NotTaken> {
        if let Some(item) = receiver.at_hand()? {
            return Ok(Some(item));
        }
        let idle = self.executor.payload_idle();
        let stalled = Instant::now() + idle;
        let deadline = deadline.filter(|at| *at <= stalled);
        match tokio::time::timeout_at(deadline.unwrap_or(stalled), receiver.next()).await {
            Ok(item) => Ok(item?),
            Err(_) if deadline.is_some() => {
                let message = "the unit's deadline passed before its payload had arrived";
                Err(refused(Kind::Expired, message).into())
            }
            Err(_) => {
                let message = format!("no payload arrived for {idle:?}");
                Err(refused(Kind::PayloadBroken, message).into())
            }
        }
    }

    async fn push(&self, feed: &mut PayloadFeed, data: Bytes) -> Result<(), Refused> {
        if feed.push(data).await.is_ok() {
            return Ok(());
        }
        Err(if self.executor.is_draining() {
            self.drains()
        } else {
            refused(
                Kind::Busy,
                "memory for payloads is short: try again later, or another node",
            )
        })
    }

    /// Keeps a piece in memory, and what is too much there in the store.
    async fn spill(&self, hosted: &Hosted, waiting: &mut Waiting, data: &Bytes) -> Result<(), Refused> {
        waiting.memory.extend_from_slice(data);
        if waiting.memory.len() <= INLINE_BYTES {
            return Ok(());
        }
        let piece = waiting.memory.split().freeze();
        let length = piece.len() as u64;
        self.store.admit(length).map_err(|error| self.no_space(&error))?;
        if !hosted.in_store.swap(true, Ordering::Relaxed) {
            // An earlier offer may have left something: nothing is kept behind that.
            let removed = self.remove(hosted).await;
            removed.map_err(|error| self.no_space(&error))?;
        }
        let entries = vec![Entry::Data(Stream::Payload, piece)];
        let stored = self.store.append(key(hosted.unit), entries, Sync::Written).await;
        stored.map_err(|error| self.no_space(&error))?;
        waiting.stored += length;
        Ok(())
    }

    // the unit begins

    /// Lets the unit begin, hands it the payload that has waited, and keeps what it sends.
    pub(super) fn begin(self: &Arc<Self>, hosted: &Arc<Hosted>, stored: Stored) {
        let Stored {
            feed,
            output,
            waiting,
        } = stored;
        // In this order: whoever keeps the output looks for a payload that has stalled.
        self.feed(hosted, feed, waiting);
        self.keep(hosted, output);
    }

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
}
