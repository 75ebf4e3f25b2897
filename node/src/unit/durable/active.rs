//! A durable unit that has not ended for all concerned: what its task tells, and what it can be told.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::task::AtomicWaker;
use tokio::sync::watch;
use workmesh_proto::unit::durable::{DurableOrigin, OriginHistory, OriginPhase};
use workmesh_proto::wire::unit::Eof;
use workmesh_proto::{NodeId, UnitId};

use super::happened::Happened;
use super::kept::Tail;

/// Events that a unit remembers for whoever asks; the first and the latest.
pub(super) const MAX_EVENTS: usize = 64;

/// See the module.
pub(super) struct Active {
    pub(super) unit: UnitId,
    pub(super) tail: Tail,
    state: watch::Sender<ActiveState>,
    cancelled: AtomicBool,
    forgotten: AtomicBool,
    /// The unit's task, which is to look what is wanted.
    pub(super) told: AtomicWaker,
}

/// Where a unit is, as its task last said.
#[derive(Clone, Debug)]
pub(super) struct ActiveState {
    pub(super) history: OriginHistory,
    pub(super) phase: OriginPhase,
    pub(super) reason: String,
    /// Bytes of kept response frames that are on the disk.
    pub(super) stream_bytes: u64,
    /// What these hold.
    pub(super) responses: u64,
    pub(super) bytes: u64,
    /// The end is on the disk.
    pub(super) end: Option<Eof>,
    pub(super) events: Vec<Happened>,
    /// Its task is over.
    pub(super) settled: bool,
    /// It was removed when its task was over: nobody was to see it any more.
    pub(super) removed: bool,
}

/// Why a unit whose task has failed goes no further.
const STRANDED: &str = "a fault of its origin stopped it: it goes on when that node is started again";

impl Active {
    pub(super) fn new(
        unit: UnitId,
        machine: &DurableOrigin,
        stream_bytes: u64,
        events: Vec<Happened>,
    ) -> Self {
        let state = ActiveState {
            history: machine.history().clone(),
            phase: machine.phase(),
            reason: machine.reason().to_owned(),
            stream_bytes,
            responses: machine.stored().responses,
            bytes: machine.stored().bytes,
            end: machine.history().end().cloned(),
            events,
            settled: false,
            removed: false,
        };
        Self {
            unit,
            tail: Tail::after(stream_bytes),
            state: watch::Sender::new(state),
            cancelled: AtomicBool::new(false),
            forgotten: AtomicBool::new(machine.history().is_forgotten()),
            told: AtomicWaker::new(),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<ActiveState> {
        self.state.subscribe()
    }

    /// Looks at the state without a copy.
    pub(super) fn with_state<T>(&self, look: impl FnOnce(&ActiveState) -> T) -> T {
        look(&self.state.borrow())
    }

    /// Says what the machine says now, and what has just been stored. Wakes whoever follows only if that is something new.
    pub(super) fn publish(&self, machine: &DurableOrigin, stored: u64, ended: Option<&Eof>) {
        self.state.send_if_modified(|state| {
            let counted = (machine.stored().responses, machine.stored().bytes);
            let now = (machine.phase(), stored, counted);
            let mut changed = now != (state.phase, state.stream_bytes, (state.responses, state.bytes));
            (state.phase, state.stream_bytes, (state.responses, state.bytes)) = now;
            if state.history.steps() != machine.history().steps() {
                state.history = machine.history().clone();
                changed = true;
            }
            if differs(&state.reason, machine.reason()) {
                machine.reason().clone_into(&mut state.reason);
                changed = true;
            }
            if ended.is_some() && state.end.is_none() {
                state.end = ended.cloned();
                changed = true;
            }
            changed && self.state.receiver_count() > 0
        });
    }

    pub(super) fn note(&self, happened: Happened) {
        self.state.send_if_modified(|state| {
            if state.events.len() >= MAX_EVENTS {
                state.events.remove(MAX_EVENTS / 2);
            }
            state.events.push(happened);
            false
        });
    }

    /// Wants the unit to end. Once is enough.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        self.told.wake();
    }

    /// Nobody is to see the unit any more; it goes once its executor has heard of its end.
    pub(super) fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
        self.told.wake();
    }

    /// Its task is over, and its row is in the table, if it has one.
    pub(super) fn settle(&self) {
        self.state.send_modify(|state| state.settled = true);
    }

    /// The same, and nothing is left of it.
    pub(super) fn settle_removed(&self) {
        self.state
            .send_modify(|state| (state.settled, state.removed) = (true, true));
    }

    /// Its task has failed: whoever asks is told. Whoever follows the unit goes on with it after the node's next start.
    pub(super) fn strand(&self) {
        self.state
            .send_modify(|state| STRANDED.clone_into(&mut state.reason));
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.forgotten.load(Ordering::Relaxed)
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Whether two texts differ that mostly are empty: those are not compared, because some processors take longer for a comparison of
/// nothing than for one of a line.
fn differs(before: &str, now: &str) -> bool {
    !(before.is_empty() && now.is_empty()) && before != now
}

impl ActiveState {
    /// The name of where it is, for people and programs.
    pub(super) fn name(&self) -> &'static str {
        match (&self.end, self.phase) {
            (Some(_), _) => "ended",
            (None, OriginPhase::Running) => "running",
            (None, OriginPhase::Accepted) => "accepted",
            (None, _) => "waiting",
        }
    }

    /// Why it waits or does not get on; empty if all is well.
    pub(super) fn reason(&self) -> String {
        match self.history.offered() {
            Some((executor, _)) if self.reason.is_empty() && self.name() == "waiting" => {
                format!("{executor} has not answered yet")
            }
            _ => self.reason.clone(),
        }
    }

    /// Who has the unit, or had it last.
    pub(super) fn executor(&self) -> Option<&NodeId> {
        self.history.offered().map(|(executor, _)| executor)
    }
}
