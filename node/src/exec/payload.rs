//! A unit's payload on its way from the submitter's stream to the worker: the feed on the async side, the reader on
//! the worker's thread. Limits and announced length are checked by the unit's machine, at the feed.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use worker_api::PayloadKind;
use workmesh_proto::wire::unit::Kind;

use super::pool::Pool;
use super::unit::Unit;

/// Where the submitter's payload goes in. Dropped before [`finish`](Self::finish), the payload has broken off
/// and the unit ends so.
pub struct PayloadFeed {
    pool: Arc<Pool>,
    unit: Arc<Unit>,
    open: bool,
}

/// Why a piece was not taken at once.
#[derive(Debug)]
pub enum PushError {
    /// The worker is slower than the submitter: hand the piece to [`PayloadFeed::push`], which waits.
    Full(Bytes),
    /// The unit has ended; no more payload is wanted.
    Ended,
}

/// The unit has ended: no more payload is wanted. Its EOF says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the unit has ended")]
pub struct UnitEnded;

impl PayloadFeed {
    pub(super) fn new(pool: Arc<Pool>, unit: Arc<Unit>) -> Self {
        Self {
            pool,
            unit,
            open: true,
        }
    }

    /// Takes a piece if there is room, without waiting. A piece above the payload's limit, or past its announced
    /// length, ends the unit.
    pub fn push_now(&mut self, piece: Bytes) -> Result<(), PushError> {
        self.put(piece, None)
    }

    /// Takes a piece, waiting for room. Dropping the future gives the piece up.
    pub async fn push(&mut self, piece: Bytes) -> Result<(), UnitEnded> {
        let mut waiting = Some(piece);
        std::future::poll_fn(|cx| {
            let Some(piece) = waiting.take() else {
                return Poll::Ready(Ok(()));
            };
            match self.put(piece, Some(cx)) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(PushError::Ended) => Poll::Ready(Err(UnitEnded)),
                Err(PushError::Full(piece)) => {
                    waiting = Some(piece);
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// The payload is complete. One that is shorter than announced ends the unit.
    pub fn finish(mut self) {
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

    fn put(&mut self, piece: Bytes, cx: Option<&mut Context<'_>>) -> Result<(), PushError> {
        if piece.is_empty() {
            return Ok(());
        }
        let mut machine = self.unit.machine();
        let mut pipes = self.unit.pipes();
        if pipes.ended {
            return Err(PushError::Ended);
        }
        if !pipes.payload.has_room(piece.len()) {
            pipes.payload.writer = cx.map(|cx| cx.waker().clone());
            return Err(PushError::Full(piece));
        }
        let length = piece.len();
        if let Err(fault) = machine.unit.handle_payload(length) {
            drop((pipes, machine));
            self.pool.end(&self.unit, fault.kind(), fault.to_string());
            return Err(PushError::Ended);
        }
        if !pipes.payload.reserve(length) {
            drop((pipes, machine));
            let message =
                "the executor's memory for waiting payloads is full: try again later, or another node";
            self.pool.end(&self.unit, Kind::Busy, message.to_owned());
            return Err(PushError::Ended);
        }
        pipes.payload.put(piece);
        self.unit.wake_thread(&mut pipes);
        drop((pipes, machine));
        self.pool.meters.payload_bytes.add(length);
        Ok(())
    }
}

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
