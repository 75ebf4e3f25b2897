//! One conversation about a durable unit: a stream of a session, or, with this node's own executor, a pair of channels. Both carry the
//! same items.

use std::collections::VecDeque;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::{Item, Piece};

use crate::link::{FrameReceiver, FrameSender, LinkError};
use crate::mesh::{Conversation, InUse};

/// What is flushed at once is one parcel between the two halves of a conversation within the node; so many may be under way.
const LOCAL_FLUSHES: usize = 8;

/// The half that sends.
pub(crate) enum PipeSender {
    Session(Box<FrameSender>),
    Local {
        items: VecDeque<Item>,
        /// The conversation within the stream that items are gathered for.
        unit: u32,
        out: mpsc::Sender<VecDeque<Item>>,
    },
}

/// The half that receives.
pub(crate) enum PipeReceiver {
    Session {
        receiver: Box<FrameReceiver>,
        /// Held: the session is not idle.
        _in_use: InUse,
    },
    Local {
        items: VecDeque<Item>,
        /// What comes after them, if anything can.
        more: Option<mpsc::Receiver<VecDeque<Item>>>,
    },
}

/// Both halves of one end.
pub(crate) struct Pipe {
    pub(super) sender: PipeSender,
    pub(super) receiver: PipeReceiver,
}

impl Pipe {
    /// The two ends of a conversation within this node.
    pub(super) fn local() -> (Self, Self) {
        let (there, here_in) = mpsc::channel(LOCAL_FLUSHES);
        let (here, there_in) = mpsc::channel(LOCAL_FLUSHES);
        let end = |out, more| Self {
            sender: PipeSender::Local {
                items: VecDeque::new(),
                unit: 0,
                out,
            },
            receiver: PipeReceiver::Local {
                items: VecDeque::new(),
                more: Some(more),
            },
        };
        (end(here, here_in), end(there, there_in))
    }
}

impl From<Conversation> for Pipe {
    fn from(conversation: Conversation) -> Self {
        Self {
            sender: PipeSender::Session(Box::new(conversation.sender)),
            receiver: PipeReceiver::Session {
                receiver: Box::new(conversation.receiver),
                _in_use: conversation.in_use,
            },
        }
    }
}

impl PipeSender {
    /// What is gathered from here on is of this conversation within the stream.
    pub(super) fn turn_to(&mut self, number: u32) {
        match self {
            Self::Session(sender) => sender.turn_to(number),
            Self::Local { unit, .. } => *unit = number,
        }
    }

    /// Gathers a frame whose body is the CBOR form of `value`.
    pub(super) fn put<T: Serialize>(&mut self, kind: FrameType, value: &T) {
        match self {
            Self::Session(sender) => sender.put(kind, value),
            Self::Local { items, unit, .. } => items.push_back(Item::Frame(Frame::cbor(kind, *unit, value))),
        }
    }

    /// Gathers a frame without a body.
    pub(super) fn put_bare(&mut self, kind: FrameType) {
        match self {
            Self::Session(sender) => sender.put_bare(kind),
            Self::Local { items, unit, .. } => {
                items.push_back(Item::Frame(Frame::new(kind, *unit, Bytes::new())));
            }
        }
    }

    /// Gathers payload bytes.
    pub(super) fn put_payload(&mut self, data: Bytes) {
        match self {
            Self::Session(sender) => sender.put_payload(data),
            Self::Local { items, unit, .. } => items.push_back(Item::Payload { unit: *unit, data }),
        }
    }

    /// Gathers a part of a response.
    pub(super) fn put_piece(&mut self, piece: Piece) {
        match self {
            Self::Session(sender) => sender.put_response(piece.serial, piece.data, piece.last),
            Self::Local { items, unit, .. } => items.push_back(Item::Response { unit: *unit, piece }),
        }
    }

    /// Sends what was gathered; waits while the other end takes no more.
    pub(super) async fn flush(&mut self) -> Result<(), LinkError> {
        match self {
            Self::Session(sender) => sender.flush().await,
            Self::Local { items, out, .. } => {
                if items.is_empty() {
                    return Ok(());
                }
                let place = out.reserve().await.map_err(|_| gone())?;
                place.send(std::mem::take(items));
                Ok(())
            }
        }
    }

    /// Waits until the other end hears no more.
    pub(super) async fn gone(&mut self) {
        match self {
            Self::Session(sender) => sender.stopped().await,
            Self::Local { out, .. } => out.closed().await,
        }
    }

    /// Sends what was gathered, and ends this half cleanly.
    pub(super) async fn finish(mut self) -> Result<(), LinkError> {
        self.flush().await?;
        match self {
            Self::Session(sender) => sender.finish().await,
            Self::Local { .. } => Ok(()),
        }
    }
}

fn gone() -> LinkError {
    LinkError::Closed("the other end is gone".to_owned())
}

impl PipeReceiver {
    /// A receiver of these items.
    pub(super) fn of(items: VecDeque<Item>) -> Self {
        Self::Local { items, more: None }
    }

    /// The next item, if it is here already.
    pub(super) fn at_hand(&mut self) -> Result<Option<Item>, LinkError> {
        match self {
            Self::Session { receiver, .. } => receiver.at_hand(),
            Self::Local { items, .. } => Ok(items.pop_front()),
        }
    }

    /// The next item; `None` at the clean end. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Item>, LinkError> {
        match self {
            Self::Session { receiver, .. } => receiver.next().await,
            Self::Local { items, more } => {
                if items.is_empty()
                    && let Some(more) = more
                {
                    *items = more.recv().await.unwrap_or_default();
                }
                Ok(items.pop_front())
            }
        }
    }
}
