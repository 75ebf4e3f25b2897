//! One admitted unit, shared by its submitter's side (async) and its worker's thread (blocking): the machine that
//! knows its end, the payload on its way in, the responses on their way out.
//!
//! Locks are taken in the order pool, machine, pipes; none is held while anything is woken or run.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use worker_api::{CancelFlag, Directive, PayloadKind, StopReason, WorkerEntry};
use workmesh_proto::unit::ExecutorUnit;
use workmesh_proto::wire::unit::{Eof, Kind};
use workmesh_proto::{NodeId, UnitId};

use super::budget::{Budget, Reservation};
use super::output::OutputItem;
use super::report::ActiveState;

/// Payload or response bytes that may wait between the two sides. A full pipe blocks its writer.
pub(super) const PIPE_BYTES: usize = 1024 * 1024;
/// Payload bytes that may wait for a unit that does not run yet.
pub(super) const QUEUED_PIPE_BYTES: usize = 64 * 1024;
/// Pieces that may wait between the two sides, so that tiny ones can't cost much more than their bytes.
pub(super) const PIPE_PIECES: usize = 256;
/// Payload pieces below this size are joined.
const JOINED_BYTES: usize = 4096;

/// A unit from its admission until nobody holds it any more.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) id: UnitId,
    pub(super) sender: NodeId,
    /// Its worker's position in the registry.
    pub(super) worker: usize,
    pub(super) entry: &'static WorkerEntry,
    /// Rises with each admission: the order in which waiting units run.
    pub(super) order: u64,
    pub(super) admitted: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) cancel: CancelFlag,
    /// Begins only when its whole payload is at hand, and says so when it begins.
    pub(super) durable: bool,
    /// Where it is; belongs to the pool, under the pool's lock.
    pub(super) phase: PhaseCell,
    machine: Mutex<Machine>,
    pipes: Mutex<Pipes>,
    /// The worker's thread waits here, for payload or for room; set off by every change that may concern it.
    thread_wake: Condvar,
}

/// Where a unit is in its pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// The payload has to be complete first.
    #[default]
    Arriving,
    /// Its worker's own limit is reached.
    Held,
    /// Waits for a thread.
    Ready,
    Running,
    /// Has its end; the function was told to stop.
    Stopping,
    /// As before, and another thread has taken the slot.
    Abandoned,
    Gone,
}

/// A phase that is only looked at and changed under the pool's lock.
#[derive(Debug, Default)]
pub(super) struct PhaseCell(Mutex<Phase>);

impl PhaseCell {
    pub(super) fn get(&self) -> Phase {
        *self.0.lock()
    }

    pub(super) fn set(&self, phase: Phase) {
        *self.0.lock() = phase;
    }
}

impl From<Phase> for ActiveState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Arriving | Phase::Held | Phase::Ready => Self::Queued,
            Phase::Running => Self::Running,
            Phase::Stopping | Phase::Gone => Self::Stopping,
            Phase::Abandoned => Self::Abandoned,
        }
    }
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) unit: ExecutorUnit,
    /// Taken when the function is called.
    request: Option<Request>,
}

/// What only the worker's context needs.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) directive: Directive,
    pub(super) params: BTreeMap<String, String>,
}

/// What is on its way between the two sides.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) payload: PayloadPipe,
    pub(super) output: OutputPipe,
    /// The unit has its end: nothing may be read or written by the worker any more.
    pub(super) ended: bool,
    thread_waits: bool,
}

#[derive(Debug)]
pub(super) struct PayloadPipe {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    room: Room,
    pub(super) complete: bool,
    /// When a piece last went in or out.
    pub(super) moved: Instant,
    pub(super) writer: Option<Waker>,
}

/// How much payload may wait.
#[derive(Debug)]
enum Room {
    /// The worker reads along; this many bytes, or one larger piece.
    Bytes(usize),
    /// The worker wants the whole payload: all of it, as far as the memory for waiting payloads reaches.
    Whole(Option<Reservation>),
}

#[derive(Debug, Default)]
pub(super) struct OutputPipe {
    pub(super) items: VecDeque<OutputItem>,
    pub(super) bytes: usize,
    pub(super) reader: Option<Waker>,
}

/// Whom to wake once no lock is held.
#[derive(Debug, Default)]
#[must_use]
pub(super) struct Wakers([Option<Waker>; 2]);

impl Wakers {
    pub(super) fn wake(self) {
        self.into_iter().for_each(Waker::wake);
    }
}

impl IntoIterator for Wakers {
    type Item = Waker;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Waker>, 2>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().flatten()
    }
}

/// What a new unit is made of.
pub(super) struct NewUnit<'a> {
    pub(super) id: UnitId,
    pub(super) sender: NodeId,
    pub(super) worker: usize,
    pub(super) entry: &'static WorkerEntry,
    pub(super) order: u64,
    pub(super) deadline: Option<Instant>,
    pub(super) machine: ExecutorUnit,
    pub(super) request: Request,
    pub(super) durable: bool,
    /// For payloads that wait whole.
    pub(super) budget: &'a Arc<Budget>,
}

impl Unit {
    pub(super) fn new(new: NewUnit<'_>) -> Self {
        let admitted = new.machine.admitted();
        Self {
            id: new.id,
            sender: new.sender,
            worker: new.worker,
            entry: new.entry,
            order: new.order,
            admitted,
            deadline: new.deadline,
            cancel: CancelFlag::new(),
            durable: new.durable,
            phase: PhaseCell::default(),
            machine: Mutex::new(Machine {
                unit: new.machine,
                request: Some(new.request),
            }),
            pipes: Mutex::new(Pipes {
                payload: PayloadPipe {
                    pieces: VecDeque::new(),
                    bytes: 0,
                    room: match new.entry.kind {
                        PayloadKind::Bytes => Room::Whole(Some(new.budget.reservation())),
                        PayloadKind::Buffer | PayloadKind::File => Room::Bytes(QUEUED_PIPE_BYTES),
                    },
                    complete: false,
                    moved: admitted,
                    writer: None,
                },
                output: OutputPipe::default(),
                ended: false,
                thread_waits: false,
            }),
            thread_wake: Condvar::new(),
        }
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock()
    }

    pub(super) fn pipes(&self) -> MutexGuard<'_, Pipes> {
        self.pipes.lock()
    }

    /// Takes what the function is called with, and who is to be told that it begins; `None` if the unit has ended and must not run.
    pub(super) fn start(&self) -> Option<(Request, Option<Waker>)> {
        let mut machine = self.machine();
        if !machine.unit.start() {
            return None;
        }
        let request = machine.request.take();
        let mut pipes = self.pipes();
        let writer = pipes.payload.widen();
        let mut reader = None;
        if self.durable {
            pipes.output.items.push_back(OutputItem::Started);
            reader = pipes.output.reader.take();
        }
        drop((pipes, machine));
        writer.into_iter().for_each(Waker::wake);
        request.map(|request| (request, reader))
    }

    /// Ends the unit. `None` if it has its end already; else the end's kind and whom to wake.
    ///
    /// Pieces that wait are delivered before the EOF, which counts them; payload that waits is dropped.
    pub(super) fn end(&self, kind: Kind, message: String) -> Option<(Kind, Wakers)> {
        let mut machine = self.machine();
        let eof = machine.unit.end(kind, message, Instant::now())?;
        let kind = eof.kind;
        machine.request = None;
        if kind != Kind::Ok {
            self.cancel.stop(stop_reason(kind));
        }
        let mut pipes = self.pipes();
        let unread = pipes.payload.take_all();
        let wakers = pipes.close(eof);
        if std::mem::take(&mut pipes.thread_waits) {
            self.thread_wake.notify_all();
        }
        drop((pipes, machine));
        drop(unread);
        Some((kind, wakers))
    }

    /// Why the worker's reads and writes fail.
    pub(super) fn stop_reason(&self) -> StopReason {
        self.cancel.reason().unwrap_or(StopReason::Cancelled)
    }

    /// The error of a worker's read once the unit has ended.
    pub(super) fn stopped(&self) -> io::Error {
        io::Error::other(self.stop_reason())
    }

    /// Blocks the worker's thread until something has changed. `false`: `until` has passed.
    pub(super) fn thread_wait(&self, pipes: &mut MutexGuard<'_, Pipes>, until: Option<Instant>) -> bool {
        pipes.thread_waits = true;
        match until {
            Some(until) => !self.thread_wake.wait_until(pipes, until).timed_out(),
            None => {
                self.thread_wake.wait(pipes);
                true
            }
        }
    }

    /// Wakes the worker's thread if it waits; called with the pipes locked and changed.
    pub(super) fn wake_thread(&self, pipes: &mut Pipes) {
        if std::mem::take(&mut pipes.thread_waits) {
            self.thread_wake.notify_all();
        }
    }
}

fn stop_reason(kind: Kind) -> StopReason {
    match kind {
        Kind::Expired => StopReason::Expired,
        Kind::Shutdown => StopReason::Shutdown,
        _ => StopReason::Cancelled,
    }
}

impl Pipes {
    fn close(&mut self, eof: Eof) -> Wakers {
        self.ended = true;
        self.output.items.push_back(OutputItem::Eof(eof));
        Wakers([self.output.reader.take(), self.payload.writer.take()])
    }
}

impl PayloadPipe {
    /// Whether a piece of `length` bytes may go in.
    pub(super) fn has_room(&self, length: usize) -> bool {
        match self.room {
            Room::Whole(_) => true,
            Room::Bytes(_) if self.pieces.is_empty() => true,
            Room::Bytes(room) => self.bytes + length <= room && self.pieces.len() < PIPE_PIECES,
        }
    }

    /// Takes `length` bytes from the memory for payloads that wait whole. `false`: there is not that much left.
    pub(super) fn reserve(&mut self, length: usize) -> bool {
        match &mut self.room {
            Room::Whole(Some(reservation)) => reservation.grow(length),
            Room::Whole(None) | Room::Bytes(_) => true,
        }
    }

    /// The worker begins to read: more may wait. Answers with the writer that waits for that.
    fn widen(&mut self) -> Option<Waker> {
        match &mut self.room {
            Room::Whole(_) => None,
            Room::Bytes(room) => {
                *room = PIPE_BYTES;
                self.writer.take()
            }
        }
    }

    /// Puts a piece in. Small pieces are joined, so that many tiny ones cost little more than their bytes.
    pub(super) fn put(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.moved = Instant::now();
        self.writer = None;
        match self.pieces.back_mut() {
            Some(last) if last.len() + piece.len() <= JOINED_BYTES => {
                let mut joined = match std::mem::take(last).try_into_mut() {
                    Ok(joined) => joined,
                    Err(shared) => shared.as_ref().into(),
                };
                joined.extend_from_slice(&piece);
                *last = joined.freeze();
            }
            _ => self.pieces.push_back(piece),
        }
    }

    /// Takes a piece out, and the writer that waits for the room.
    pub(super) fn take(&mut self) -> Option<(Bytes, Option<Waker>)> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        self.moved = Instant::now();
        Some((piece, self.writer.take()))
    }

    /// Takes all pieces out, and gives their memory back to the budget.
    pub(super) fn take_all(&mut self) -> (VecDeque<Bytes>, usize) {
        if let Room::Whole(reservation) = &mut self.room {
            *reservation = None;
        }
        (std::mem::take(&mut self.pieces), std::mem::take(&mut self.bytes))
    }
}

impl OutputPipe {
    /// Whether a piece of `length` bytes may go in.
    pub(super) fn has_room(&self, length: usize) -> bool {
        self.items.is_empty() || (self.bytes + length <= PIPE_BYTES && self.items.len() < PIPE_PIECES)
    }
}
