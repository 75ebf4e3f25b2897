//! A unit's payload on its way from the submitter's stream to the worker: the feed on the async side, the reader on
//! the worker's thread. Limits and announced length are checked by the unit's machine, at the feed.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use worker_api::PayloadKind;
use workmesh_proto::wire::unit::Kind;

use super::pool::Pool;
use super::unit::Unit;

/// Where the submitter's payload goes in. Dropped before [`finish`](Self::finish), the payload has broken off
/// and the unit ends so.
pub(crate) struct PayloadFeed {
    pool: Arc<Pool>,
    unit: Arc<Unit>,
    open: bool,
}

/// The unit has ended: no more payload is wanted. Its EOF says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the unit has ended")]
pub(crate) struct UnitEnded;

impl PayloadFeed {
    pub(super) fn new(pool: Arc<Pool>, unit: Arc<Unit>) -> Self {
        Self {
            pool,
            unit,
            open: true,
        }
    }

    /// Takes a piece; at once if there is room, else waits for it. A piece above the payload's limit, or past its
    /// announced length, ends the unit. Dropping the future gives the piece up.
    pub(crate) async fn push(&mut self, mut piece: Bytes) -> Result<(), UnitEnded> {
        std::future::poll_fn(|cx| self.poll_push(cx, &mut piece)).await
    }

    /// How the unit's worker takes it.
    pub(crate) fn kind(&self) -> PayloadKind {
        self.unit.entry.kind
    }

    /// The whole payload of a durable unit is at hand: the unit may begin, and reads it as it is pushed. Until here the payload could
    /// not move, so it has not stalled.
    pub(crate) fn begin(&self) {
        self.unit.pipes().payload.moved = Instant::now();
        if self.unit.entry.kind != PayloadKind::Bytes {
            self.pool.payload_complete(&self.unit);
        }
    }

    /// The payload is complete. One that is shorter than announced ends the unit.
    pub(crate) fn finish(mut self) {
        self.open = false;
        let mut machine = self.unit.machine();
        if let Err(fault) = machine.unit.handle_payload_end() {
            drop(machine);
            self.pool.end(&self.unit, fault.kind(), fault.to_string());
            return;
        }
        let mut pipes = self.unit.pipes();
        pipes.payload.complete = true;
        let ended = pipes.ended;
        self.unit.wake_thread(&mut pipes);
        drop((pipes, machine));
        if !ended && self.unit.entry.kind == PayloadKind::Bytes {
            self.pool.payload_complete(&self.unit);
        }
    }

    fn poll_push(&mut self, cx: &mut Context<'_>, piece: &mut Bytes) -> Poll<Result<(), UnitEnded>> {
        let length = piece.len();
        if length == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut machine = self.unit.machine();
        let mut pipes = self.unit.pipes();
        if pipes.ended {
            return Poll::Ready(Err(UnitEnded));
        }
        if !pipes.payload.has_room(length) {
            pipes.payload.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let fault = match machine.unit.handle_payload(length) {
            Err(fault) => Some((fault.kind(), fault.to_string())),
            Ok(()) if pipes.payload.reserve(length) => None,
            Ok(()) => Some((Kind::Busy, MEMORY_FULL.to_owned())),
        };
        if let Some((kind, message)) = fault {
            drop((pipes, machine));
            self.pool.end(&self.unit, kind, message);
            return Poll::Ready(Err(UnitEnded));
        }
        pipes.payload.put(std::mem::take(piece));
        self.unit.wake_thread(&mut pipes);
        drop((pipes, machine));
        self.pool.meters.payload_bytes.add(length);
        Poll::Ready(Ok(()))
    }
}

const MEMORY_FULL: &str =
    "the executor's memory for waiting payloads is full: try again later, or another node";

impl Drop for PayloadFeed {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        let broken_off = self.unit.machine().unit.handle_payload_stream_end();
        if let Err(fault) = broken_off {
            self.pool.end(&self.unit, fault.kind(), fault.to_string());
        }
    }
}

impl fmt::Debug for PayloadFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadFeed")
            .field("unit", &self.unit.id)
            .finish_non_exhaustive()
    }
}

/// The worker's end of a payload: blocks until bytes arrive, fails once the unit has ended.
#[derive(Debug)]
pub(super) struct PayloadReader {
    unit: Arc<Unit>,
    piece: Bytes,
}

impl PayloadReader {
    pub(super) fn new(unit: Arc<Unit>) -> Self {
        Self {
            unit,
            piece: Bytes::new(),
        }
    }

    /// The next piece; `None` at the payload's end.
    pub(super) fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        let mut pipes = self.unit.pipes();
        loop {
            if pipes.ended {
                return Err(self.unit.stopped());
            }
            if let Some((piece, writer)) = pipes.payload.take() {
                drop(pipes);
                if let Some(writer) = writer {
                    writer.wake();
                }
                return Ok(Some(piece));
            }
            if pipes.payload.complete {
                return Ok(None);
            }
            self.unit.thread_wait(&mut pipes, None);
        }
    }
}

impl Read for PayloadReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if self.piece.is_empty() {
            match self.next_piece()? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let length = out.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut out[..length]);
        Ok(length)
    }
}

/// The whole of a complete payload; one that came in a single piece is not copied.
pub(super) fn whole(unit: &Unit) -> Bytes {
    let (mut pieces, total) = unit.pipes().payload.take_all();
    if pieces.len() <= 1 {
        return pieces.pop_front().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(total);
    while let Some(piece) = pieces.pop_front() {
        whole.extend_from_slice(&piece);
    }
    whole.freeze()
}
