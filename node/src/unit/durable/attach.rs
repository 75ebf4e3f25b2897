//! Following a durable unit: its responses as they are on the disk, from any place on, and its end.

use std::sync::Arc;

use tokio::sync::watch;
use workmesh_proto::unit::durable::ResponseCursor;
use workmesh_proto::wire::durable::{Attach, Position, Unfinished};
use workmesh_proto::wire::items::Piece;
use workmesh_proto::wire::unit::Eof;
use workmesh_proto::{NodeId, UnitId};

use super::active::{Active, ActiveState};
use super::drive::key;
use super::kept::KeptReader;
use super::rows::EndedUnit;
use super::work::{Entry, Reading, Work};

/// What is told to whoever is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttachEvent {
    /// An executor has the unit.
    Accepted(NodeId),
    /// Its function has begun.
    Started,
    /// The next bytes of a response.
    Piece(Piece),
    /// The one end. Nothing follows.
    Eof(Eof),
    /// No more can be told now; the unit is not touched by it. Nothing follows, and the conversation ends without an end of the unit.
    Broken(String),
    /// All there is so far was told, and nobody wants to wait. Nothing follows.
    Unfinished(Unfinished),
}

/// One reader of a unit. Dropped, it leaves the unit as it is.
pub(crate) struct Attachment {
    unit: UnitId,
    source: Source,
    reader: KeptReader,
    follow: bool,
    executor: Option<NodeId>,
    started: bool,
    done: bool,
    /// Keeps the unit from going.
    _reading: Reading,
}

enum Source {
    Live(Arc<Active>, watch::Receiver<ActiveState>),
    Ended(Arc<EndedUnit>),
}

impl Work {
    /// Attaches to a unit; `None`: it is not here.
    pub(crate) fn attach(self: &Arc<Self>, attach: &Attach) -> Option<Attachment> {
        let (entry, reading) = self.find_to_read(attach.unit)?;
        let mut attached = match entry {
            Entry::Active(active) => {
                let state = active.watch();
                Attachment::new(reading, attach.unit, Source::Live(active, state))
            }
            Entry::Ended(ended) => Attachment::new(reading, attach.unit, Source::Ended(ended)),
            Entry::Storing => return None,
        };
        attached.follow = attach.follow;
        attached.reader = KeptReader::new(
            self.store.clone(),
            key(attach.unit),
            match attach.bytes {
                Some(bytes) => ResponseCursor::new(Position {
                    responses: attach.responses,
                    bytes,
                }),
                None => ResponseCursor::after_responses(attach.responses),
            },
        );
        Some(attached)
    }
}

impl Attachment {
    /// Follows a unit from its first response on.
    pub(super) fn live(work: &Arc<Work>, active: Arc<Active>) -> Self {
        let state = active.watch();
        Self::new(work.read(active.unit), active.unit, Source::Live(active, state))
    }

    /// Reads an ended unit from its first response on.
    pub(super) fn ended(work: &Arc<Work>, ended: Arc<EndedUnit>) -> Self {
        Self::new(work.read(ended.unit), ended.unit, Source::Ended(ended))
    }

    fn new(reading: Reading, unit: UnitId, source: Source) -> Self {
        Self {
            unit,
            source,
            reader: KeptReader::new(
                reading.store(),
                key(unit),
                ResponseCursor::new(Position::default()),
            ),
            follow: true,
            executor: None,
            started: false,
            done: false,
            _reading: reading,
        }
    }

    /// The unit's id.
    pub(crate) fn unit(&self) -> UnitId {
        self.unit
    }

    /// The next event; `None` after the last. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<AttachEvent> {
        if self.done {
            return None;
        }
        let event = self.next_event().await;
        self.done = matches!(
            event,
            AttachEvent::Eof(_) | AttachEvent::Unfinished(_) | AttachEvent::Broken(_)
        );
        Some(event)
    }

    async fn next_event(&mut self) -> AttachEvent {
        loop {
            let seen = self.look();
            if let Some(executor) = seen
                .executor
                .filter(|executor| self.executor.as_ref() != Some(executor))
            {
                self.executor = Some(executor.clone());
                return AttachEvent::Accepted(executor);
            }
            if seen.started && !self.started {
                self.started = true;
                return AttachEvent::Started;
            }
            let tail = match &self.source {
                Source::Live(active, _) => Some(&active.tail),
                Source::Ended(_) => None,
            };
            match self.reader.next(seen.stream_bytes, tail).await {
                Ok(Some(piece)) => return AttachEvent::Piece(piece),
                Ok(None) => {}
                Err(error) => {
                    return AttachEvent::Broken(error.to_string());
                }
            }
            if let Some(eof) = seen.end {
                return AttachEvent::Eof(eof);
            }
            let Source::Live(_, state) = &mut self.source else {
                return AttachEvent::Broken("the unit has no end".to_owned());
            };
            if !self.follow {
                let state = state.borrow();
                return AttachEvent::Unfinished(Unfinished {
                    state: state.name().to_owned(),
                    reason: state.reason(),
                });
            }
            if state.changed().await.is_err() {
                return AttachEvent::Broken("the unit's task is gone".to_owned());
            }
        }
    }

    fn look(&mut self) -> Seen {
        match &mut self.source {
            Source::Live(_, state) => {
                let state = state.borrow_and_update();
                let accepted = state.history.is_accepted() || state.history.is_started();
                Seen {
                    executor: state.executor().filter(|_| accepted).cloned(),
                    started: state.history.is_started(),
                    stream_bytes: state.stream_bytes,
                    end: state.end.clone(),
                }
            }
            Source::Ended(ended) => Seen {
                executor: ended.executor(),
                started: false,
                stream_bytes: ended.stream_bytes,
                end: Some(ended.eof()),
            },
        }
    }
}

/// A unit at one moment.
struct Seen {
    executor: Option<NodeId>,
    started: bool,
    stream_bytes: u64,
    end: Option<Eof>,
}
