//! A submitted unit as its submitter holds it: where the payload goes, and where responses and the end come from.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use workmesh_proto::unit::{OriginEvent, OriginUnit};
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::items::Piece;
use workmesh_proto::wire::unit::{Cancel, Eof, Kind};
use workmesh_proto::{NodeId, UnitId};

use super::placement::Placed;
use super::units::Units;
use crate::exec::{OutputItem, PayloadFeed, UnitCancel, UnitOutput};
use crate::link::{FrameReceiver, FrameSender};
use crate::mesh::InUse;

/// How long after the deadline the executor's own word is waited for.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);
/// How long after a cancellation the executor's own word is waited for.
const CANCEL_GRACE: Duration = Duration::from_secs(2);
/// The same for a unit whose origin stops.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(300);

/// What comes back from a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitEvent {
    /// The next bytes of a response.
    Piece(Piece),
    /// The one end. Nothing follows.
    Eof(Eof),
}

/// The unit takes no more payload: it has ended, or its executor is gone. Its events say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the unit takes no more payload")]
pub struct PayloadClosed;

/// Where a unit's payload goes. Dropped before [`finish`](Self::finish), the payload has broken off, and the unit
/// ends so.
pub struct UnitPayload {
    carrier: PayloadCarrier,
}

enum PayloadCarrier {
    Session(FrameSender),
    Local(PayloadFeed),
    Complete,
}

impl UnitPayload {
    pub(super) fn session(sender: FrameSender) -> Self {
        Self {
            carrier: PayloadCarrier::Session(sender),
        }
    }

    pub(super) fn local(feed: PayloadFeed) -> Self {
        Self {
            carrier: PayloadCarrier::Local(feed),
        }
    }

    pub(super) fn complete() -> Self {
        Self {
            carrier: PayloadCarrier::Complete,
        }
    }

    /// Sends the next bytes, waiting while the worker is slower. Not cancel-safe: after a future that was dropped
    /// early it is not known whether `data` is part of the payload.
    pub async fn send(&mut self, data: Bytes) -> Result<(), PayloadClosed> {
        match &mut self.carrier {
            PayloadCarrier::Session(sender) => {
                sender.put_payload(data);
                sender.flush().await.map_err(|_| PayloadClosed)
            }
            PayloadCarrier::Local(feed) => feed.push(data).await.map_err(|_| PayloadClosed),
            PayloadCarrier::Complete => Err(PayloadClosed),
        }
    }

    /// The payload is complete.
    pub async fn finish(self) -> Result<(), PayloadClosed> {
        match self.carrier {
            PayloadCarrier::Session(mut sender) => {
                sender.put_bare(FrameType::PayloadEnd);
                sender.finish().await.map_err(|_| PayloadClosed)
            }
            PayloadCarrier::Local(feed) => {
                feed.finish();
                Ok(())
            }
            PayloadCarrier::Complete => Ok(()),
        }
    }
}

/// Where a unit's responses and its end come from. Dropped before the end, it cancels the unit.
pub struct UnitEvents {
    pub(super) unit: UnitId,
    pub(super) executor: NodeId,
    pub(super) source: EventSource,
    /// When the submitter's own clock ends the unit, whatever the executor says.
    pub(super) give_up: Option<(Instant, Kind)>,
    /// This node stops: what is cancelled for that ends so.
    pub(super) shut_down: bool,
    pub(super) ended: bool,
    pub(super) _placed: Placed,
}

pub(super) enum EventSource {
    Session {
        units: Arc<Units>,
        machine: OriginUnit,
        receiver: FrameReceiver,
        _in_use: InUse,
    },
    Local {
        output: UnitOutput,
        cancel: UnitCancel,
        batch: VecDeque<OutputItem>,
    },
}

impl UnitEvents {
    /// The unit's id.
    pub fn unit(&self) -> UnitId {
        self.unit
    }

    /// The node that runs the unit.
    pub fn executor(&self) -> &NodeId {
        &self.executor
    }

    pub(super) fn expire_at(&mut self, deadline: Instant) {
        self.give_up = Some((deadline + DEADLINE_GRACE, Kind::Expired));
    }

    /// The next event; `None` after the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<UnitEvent> {
        if self.ended {
            return None;
        }
        let mut event = match self.give_up {
            None => self.source.next().await,
            Some((at, kind)) => match tokio::time::timeout_at(at.into(), self.source.next()).await {
                Ok(event) => event,
                Err(_) => UnitEvent::Eof(self.source.give_up(kind, &self.executor)),
            },
        };
        if let UnitEvent::Eof(eof) = &mut event {
            self.ended = true;
            if self.shut_down && eof.kind == Kind::Cancelled {
                eof.kind = Kind::Shutdown;
                eof.message = "the node that it was submitted at shut down before it ended".to_owned();
            }
        }
        Some(event)
    }

    /// Cancels the unit. Its end comes as an event, in any case within a moment.
    pub fn cancel(&mut self) {
        self.cancel_within(CANCEL_GRACE);
    }

    /// Cancels the unit because this node stops.
    pub(crate) fn shut_down(&mut self) {
        self.shut_down = true;
        self.cancel_within(SHUTDOWN_GRACE);
    }

    fn cancel_within(&mut self, grace: Duration) {
        let at = Instant::now() + grace;
        if self.give_up.is_none_or(|(deadline, _)| at < deadline) {
            self.give_up = Some((at, Kind::Cancelled));
        }
        match &self.source {
            EventSource::Local { cancel, .. } => {
                cancel.cancel();
            }
            EventSource::Session { units, .. } => {
                tokio::spawn(send_cancel(units.clone(), self.executor.clone(), self.unit));
            }
        }
    }
}

/// Tells the executor on a stream of its own: the unit's stream is closed towards it once the payload is complete.
async fn send_cancel(units: Arc<Units>, executor: NodeId, unit: UnitId) {
    let telling = async {
        if let Ok(mut conversation) = units.sessions().open(&executor).await {
            conversation.sender.put(FrameType::Cancel, &Cancel { unit });
            let _gone = conversation.sender.finish().await;
            let _answer = conversation.receiver.next().await;
        }
    };
    let _late = tokio::time::timeout(CANCEL_GRACE, telling).await;
}

impl EventSource {
    async fn next(&mut self) -> UnitEvent {
        match self {
            Self::Session {
                machine, receiver, ..
            } => next_of_session(machine, receiver).await,
            Self::Local { output, batch, .. } => loop {
                match batch.pop_front() {
                    Some(OutputItem::Piece { serial, data, last }) => {
                        return UnitEvent::Piece(Piece { serial, data, last });
                    }
                    Some(OutputItem::Eof(eof)) => return UnitEvent::Eof(eof),
                    Some(OutputItem::Started) => {}
                    None => output.next_batch(batch).await,
                }
            },
        }
    }

    fn give_up(&mut self, kind: Kind, executor: &NodeId) -> Eof {
        let message = match kind {
            Kind::Expired => format!("deadline passed, and {executor} has not said how the unit ended"),
            _ => format!("cancelled, and {executor} has not said how the unit ended"),
        };
        match self {
            Self::Session { machine, .. } => machine
                .end(kind, message.clone())
                .unwrap_or_else(|| Eof::without_responses(kind, message)),
            Self::Local { .. } => Eof::without_responses(kind, message),
        }
    }
}

async fn next_of_session(machine: &mut OriginUnit, receiver: &mut FrameReceiver) -> UnitEvent {
    let lost = || Eof::without_responses(Kind::NodeLost, "the executor was lost");
    loop {
        let item = match receiver.next().await {
            Ok(Some(item)) => item,
            Ok(None) => return UnitEvent::Eof(machine.handle_stream_end().unwrap_or_else(lost)),
            Err(error) => {
                let eof = machine.end(Kind::NodeLost, format!("the executor was lost: {error}"));
                return UnitEvent::Eof(eof.unwrap_or_else(lost));
            }
        };
        match machine.handle_item(item) {
            Ok(Some(OriginEvent::Piece(piece))) => return UnitEvent::Piece(piece),
            Ok(Some(OriginEvent::Eof(eof))) => return UnitEvent::Eof(eof),
            Ok(
                Some(
                    OriginEvent::Accepted(_)
                    | OriginEvent::Refused(_)
                    | OriginEvent::Stored(_)
                    | OriginEvent::Started(_)
                    | OriginEvent::Unfinished(_),
                )
                | None,
            ) => {}
            Err(fault) => {
                receiver.stop();
                let eof = machine.end(fault.kind(), fault.to_string());
                return UnitEvent::Eof(eof.unwrap_or_else(lost));
            }
        }
    }
}
