//! The threads that run units: started when they are needed, up to the number of slots; each takes one unit after
//! the other.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::{Pool, State};
use crate::exec::run::{self, Verdict};
use crate::exec::unit::{Phase, Unit};

impl Pool {
    /// Sees that a thread comes for what is ready.
    pub(super) fn call_thread(self: &Arc<Self>, state: &mut State) {
        if state.idle > 0 {
            self.work.notify_one();
        }
        if state.ready.len() <= state.idle || state.threads >= self.settings.slots {
            return;
        }
        if let Err(error) = self.start_thread(state) {
            tracing::error!(threads = state.threads, %error, "can't start another worker thread");
        }
    }

    pub(super) fn start_thread(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let pool = Arc::clone(self);
        let name = format!("worker-{}", state.threads_started + 1);
        thread::Builder::new().name(name).spawn(move || pool.work())?;
        state.threads_started += 1;
        state.threads += 1;
        Ok(())
    }

    fn work(self: Arc<Self>) {
        let mut next = self.take();
        while let Some(unit) = next {
            let verdict = run::run(&self, &unit);
            next = self.turn(&unit, verdict);
        }
    }

    /// Blocks until there is a unit to run; `None` once the pool is closed.
    fn take(&self) -> Option<Arc<Unit>> {
        let mut state = self.state.lock();
        loop {
            if let Some(unit) = self.take_ready(&mut state) {
                return Some(unit);
            }
            if state.closed {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            self.work.wait(&mut state);
            state.idle -= 1;
        }
    }

    fn take_ready(&self, state: &mut State) -> Option<Arc<Unit>> {
        let (_, unit) = state.ready.pop_first()?;
        state.running += 1;
        unit.phase.set(Phase::Running);
        self.publish(state);
        Some(unit)
    }

    /// A function has returned: its slot is free before its end is told. Answers with the thread's next unit;
    /// `None` if the thread has to go.
    fn turn(self: &Arc<Self>, unit: &Unit, verdict: Verdict) -> Option<Arc<Unit>> {
        let mut state = self.state.lock();
        let ended = unit.end(verdict.kind, verdict.message);
        if let Some((kind, _)) = &ended {
            state.counters.ended.add(*kind);
        }
        let replaced = unit.phase.get() == Phase::Abandoned;
        if replaced {
            state.abandoned -= 1;
            self.abandon_overdue(&mut state, Instant::now());
        } else {
            state.running -= 1;
            state.stopping.retain(|(_, stopping)| stopping.id != unit.id);
            state.ledger.leave(unit.worker);
            self.unreserve(&mut state, unit.worker);
        }
        state.forget(unit);
        let next = if replaced {
            None
        } else {
            self.take_ready(&mut state)
        };
        self.publish(&mut state);
        drop(state);
        if let Some((_, wakers)) = ended {
            wakers.wake();
        }
        if replaced {
            None
        } else {
            next.or_else(|| self.take())
        }
    }
}
