//! A unit's responses on their way from the worker's thread to the submitter's stream, and the one end after them.
//! The async side also keeps the unit's deadline and the limit on a stalled payload.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use tokio::time::Sleep;
use worker_api::{PIECE_BYTES, ResponseSink, StopReason};
use workmesh_proto::wire::unit::{Eof, Kind};

use super::pool::Pool;
use super::unit::{Pipes, Unit};

/// What a unit sends to its submitter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OutputItem {
    /// The function begins; told of durable units only.
    Started,
    /// The next bytes of a response, at most [`PIECE_BYTES`].
    Piece {
        /// The response's number, from 1.
        serial: u64,
        /// The bytes.
        data: Bytes,
        /// Whether the response ends with this piece.
        last: bool,
    },
    /// The one end. Nothing follows.
    Eof(Eof),
}

/// Where a unit's responses and its end come out. Dropping it before the EOF cancels the unit.
pub(crate) struct UnitOutput {
    pool: Arc<Pool>,
    unit: Arc<Unit>,
    timer: Option<Pin<Box<Sleep>>>,
    done: bool,
}

impl UnitOutput {
    pub(super) fn new(pool: Arc<Pool>, unit: Arc<Unit>) -> Self {
        Self {
            pool,
            unit,
            timer: None,
            done: false,
        }
    }

    /// Waits for output and appends all that is there to `out`. The last item of all is the EOF; nothing is
    /// appended after it. Dropping the future loses nothing. Needs a runtime with time.
    ///
    /// The deadline and the limit on a stalled payload hold while this is waited for.
    pub(crate) async fn next_batch(&mut self, out: &mut VecDeque<OutputItem>) {
        std::future::poll_fn(|cx| self.poll_batch(cx, out)).await;
    }

    /// As [`next_batch`](Self::next_batch).
    pub(crate) fn poll_batch(&mut self, cx: &mut Context<'_>, out: &mut VecDeque<OutputItem>) -> Poll<()> {
        if self.done {
            return Poll::Ready(());
        }
        loop {
            let mut pipes = self.unit.pipes();
            if !pipes.output.items.is_empty() {
                take_batch(&mut pipes, out);
                self.unit.wake_thread(&mut pipes);
                self.done = pipes.ended;
                return Poll::Ready(());
            }
            if !pipes
                .output
                .reader
                .as_ref()
                .is_some_and(|r| r.will_wake(cx.waker()))
            {
                pipes.output.reader = Some(cx.waker().clone());
            }
            let wake_at = self.wake_at(&pipes);
            drop(pipes);
            match wake_at {
                None => {
                    self.timer = None;
                    return Poll::Pending;
                }
                Some(at) => {
                    std::task::ready!(self.poll_timer(cx, at));
                    self.handle_timeout(Instant::now());
                }
            }
        }
    }

    /// Waits until the unit has its end, however much of its output was not taken yet. Dropping the future loses nothing. Needs a
    /// runtime with time, and keeps the limits as [`next_batch`](Self::next_batch) does.
    pub(crate) async fn ended(&mut self) {
        std::future::poll_fn(|cx| self.poll_ended(cx)).await;
    }

    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut pipes = self.unit.pipes();
            if pipes.ended {
                return Poll::Ready(());
            }
            pipes.output.reader = Some(cx.waker().clone());
            let wake_at = self.wake_at(&pipes);
            drop(pipes);
            let Some(at) = wake_at else {
                return Poll::Pending;
            };
            std::task::ready!(self.poll_timer(cx, at));
            self.handle_timeout(Instant::now());
        }
    }

    /// When to look at the clock next.
    fn wake_at(&self, pipes: &Pipes) -> Option<Instant> {
        let stalled = || pipes.payload.moved.checked_add(self.pool.settings.payload_idle);
        let stalled = if pipes.payload.complete { None } else { stalled() };
        [self.unit.deadline, stalled].into_iter().flatten().min()
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let at = tokio::time::Instant::from_std(at);
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() > at || timer.is_elapsed() {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx)
    }

    /// Ends the unit if its deadline has passed at `now`, or its payload has stalled.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.unit.deadline.is_some_and(|at| at <= now) {
            self.pool.expire(&self.unit);
            return;
        }
        let idle = self.pool.settings.payload_idle;
        let mut pipes = self.unit.pipes();
        let payload = &mut pipes.payload;
        if payload.complete || now.saturating_duration_since(payload.moved) < idle {
            return;
        }
        if payload.writer.is_some() {
            // The submitter waits for the worker.
            payload.moved = now;
            return;
        }
        drop(pipes);
        let message = format!("no payload arrived for {idle:?}");
        self.pool.end(&self.unit, Kind::PayloadBroken, message);
    }
}

fn take_batch(pipes: &mut Pipes, out: &mut VecDeque<OutputItem>) {
    let output = &mut pipes.output;
    output.bytes = 0;
    if out.is_empty() {
        std::mem::swap(out, &mut output.items);
    } else {
        out.append(&mut output.items);
    }
}

impl Drop for UnitOutput {
    fn drop(&mut self) {
        if !self.done {
            let message = "the submitter went away".to_owned();
            self.pool.end(&self.unit, Kind::Cancelled, message);
        }
    }
}

impl fmt::Debug for UnitOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnitOutput")
            .field("unit", &self.unit.id)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

/// The worker's end: what its responder writes into.
#[derive(Debug)]
pub(super) struct Sink {
    pool: Arc<Pool>,
    unit: Arc<Unit>,
}

impl Sink {
    pub(super) fn new(pool: Arc<Pool>, unit: Arc<Unit>) -> Self {
        Self { pool, unit }
    }

    fn send_piece(&self, data: Bytes, last: bool) -> Result<(), StopReason> {
        let length = data.len();
        self.wait_for_room(length);
        let mut machine = self.unit.machine();
        let Some(serial) = machine.unit.response_piece(&data, last) else {
            return Err(self.unit.stop_reason());
        };
        let mut pipes = self.unit.pipes();
        pipes
            .output
            .items
            .push_back(OutputItem::Piece { serial, data, last });
        pipes.output.bytes += length;
        let reader = pipes.output.reader.take();
        drop((pipes, machine));
        self.pool.tell_of(&self.unit, reader);
        self.pool.meters.response_bytes.add(length);
        Ok(())
    }

    /// Blocks until the pipe has room, the unit has ended, or its deadline has passed, which ends it.
    fn wait_for_room(&self, length: usize) {
        let mut pipes = self.unit.pipes();
        while !pipes.ended && !pipes.output.has_room(length) {
            if !self.unit.thread_wait(&mut pipes, self.unit.deadline) {
                drop(pipes);
                self.pool.expire(&self.unit);
                return;
            }
        }
    }
}

impl ResponseSink for Sink {
    fn send(&mut self, mut piece: Bytes, last: bool) -> Result<(), StopReason> {
        while piece.len() > PIECE_BYTES {
            self.send_piece(piece.split_to(PIECE_BYTES), false)?;
        }
        self.send_piece(piece, last)
    }
}
