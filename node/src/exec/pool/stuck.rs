//! Functions that were told to stop and do not return: after a grace their threads are given up, within a limit,
//! and others take the slots.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::{Pool, State};
use crate::exec::unit::{Phase, Unit};

impl Pool {
    /// A running unit has its end: its function has the settings' grace to return.
    pub(super) fn oversee(self: &Arc<Self>, state: &mut State, unit: &Arc<Unit>) {
        unit.phase.set(Phase::Stopping);
        let until = Instant::now() + self.settings.stop_grace;
        state.stopping.push_back((until, Arc::clone(unit)));
        if self.settings.stop_grace.is_zero() {
            self.abandon_overdue(state, Instant::now());
        } else if !state.overseen && !state.closed {
            let pool = Arc::clone(self);
            let started = thread::Builder::new()
                .name("overseer".to_owned())
                .spawn(move || pool.watch_stopping());
            match started {
                Ok(_) => state.overseen = true,
                Err(error) => tracing::error!(%error, "can't start the thread that gives up stuck workers"),
            }
        }
    }

    /// The overseer's life: as long as a function has time left to return.
    fn watch_stopping(self: Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            self.abandon_overdue(&mut state, now);
            self.publish(&mut state);
            let next = state.stopping.iter().map(|(at, _)| *at).find(|at| *at > now);
            match next {
                Some(at) if !state.closed => self.overdue.wait_until(&mut state, at),
                _ => break,
            };
        }
        state.overseen = false;
    }

    /// Gives up threads whose grace is over, as long as the limit allows; the others keep their slots.
    pub(super) fn abandon_overdue(self: &Arc<Self>, state: &mut State, now: Instant) {
        while state.abandoned < self.settings.abandoned_limit
            && let Some((at, unit)) = state.stopping.front()
            && *at <= now
        {
            let unit = Arc::clone(unit);
            if state.threads == 1
                && let Err(error) = self.start_thread(state)
            {
                tracing::error!(%error, "can't replace the thread of a worker that does not stop");
                return;
            }
            state.stopping.pop_front();
            unit.phase.set(Phase::Abandoned);
            state.running -= 1;
            state.threads -= 1;
            state.abandoned += 1;
            state.counters.abandoned += 1;
            state.ledger.leave(unit.worker);
            tracing::warn!(unit = %unit.id, directive = unit.entry.directive, "gave up a worker that does not stop");
            self.unreserve(state, unit.worker);
            self.call_threads(state);
        }
    }
}
