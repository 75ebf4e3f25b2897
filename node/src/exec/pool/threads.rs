//! The threads that run units: started when they are needed, up to the number of slots; each takes one unit after
//! the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::MutexGuard;

use super::{Pool, State};
use crate::exec::run::{self, Verdict};
use crate::exec::unit::{Phase, Unit};

/// How long a thread without a unit looks around before it sleeps.
const SEEK: Duration = Duration::from_micros(20);
/// So many looks around that found nothing, one after the other, show that units come in crowds, or seldom: then it is not worth the
/// processor, which others may want.
const VAIN_LOOKS: u32 = 8;
/// Every so many-th time it is tried all the same.
const RETRY_LOOKS: u32 = 32;

impl Pool {
    /// Sees that threads come for all that is ready.
    pub(in crate::exec) fn call_all(self: &Arc<Self>) {
        self.call_threads(&mut self.state.lock());
    }

    /// Lets threads that look around without the lock know what is ready.
    pub(super) fn hint(&self, state: &State) {
        self.ready_hint.store(state.ready.len(), Ordering::Relaxed);
    }

    /// Sees that threads come for what is ready: calls those that sleep, and starts those that are missing.
    pub(super) fn call_threads(self: &Arc<Self>, state: &mut State) {
        self.hint(state);
        while state.idle > state.called && state.ready.len() > state.coming() {
            state.called += 1;
            self.work.notify_one();
        }
        for _ in 0..state.missing(self.settings.slots) {
            if let Err(error) = self.start_thread(state) {
                tracing::error!(threads = state.threads, %error, "can't start another worker thread");
                return;
            }
        }
    }

    #[cfg(test)]
    pub(in crate::exec) fn threads(&self) -> usize {
        self.state.lock().threads
    }

    pub(super) fn start_thread(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let pool = Arc::clone(self);
        let name = format!("worker-{}", state.threads_started + 1);
        thread::Builder::new().name(name).spawn(move || pool.work())?;
        state.threads_started += 1;
        state.threads += 1;
        state.starting += 1;
        Ok(())
    }

    fn work(self: Arc<Self>) {
        self.state.lock().starting -= 1;
        let mut next = self.take();
        while let Some(unit) = next {
            let started = Instant::now();
            let verdict = run::run(&self, &unit);
            self.note_pace(&unit, started.elapsed());
            next = self.turn(&unit, verdict);
        }
    }

    /// Blocks until there is a unit to run; `None` once the pool is closed.
    ///
    /// Looks around for a moment before it sleeps, unless that has found nothing of late: under a steady load the next unit comes
    /// sooner than a sleeping thread could be woken.
    fn take(&self) -> Option<Arc<Unit>> {
        let mut state = self.state.lock();
        let mut seek = true;
        loop {
            if let Some(unit) = self.take_ready(&mut state) {
                return Some(unit);
            }
            if state.closed {
                state.threads -= 1;
                return None;
            }
            if seek && state.looks.pay() {
                state.seeking += 1;
                // Another thread may be there first: it paid to look all the same.
                let found = MutexGuard::unlocked(&mut state, || self.seek());
                state.seeking -= 1;
                state.looks.note(found);
                seek = false;
                continue;
            }
            state.idle += 1;
            self.work.wait(&mut state);
            state.idle -= 1;
            state.called = state.called.saturating_sub(1);
            seek = true;
        }
    }

    /// Waits until there may be a unit to run, for [`SEEK`] at most, giving way to all other threads. `false`: none has come.
    fn seek(&self) -> bool {
        let until = Instant::now() + SEEK;
        loop {
            if self.ready_hint.load(Ordering::Relaxed) > 0 {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            thread::yield_now();
        }
    }

    fn take_ready(&self, state: &mut State) -> Option<Arc<Unit>> {
        let (_, unit) = state.ready.pop_first()?;
        self.hint(state);
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
        let wakers = ended.map(|(_, wakers)| wakers).unwrap_or_default();
        match &next {
            Some(next) if self.is_quick(next) => self.wakeups.hold(wakers),
            _ => self.wakeups.pass_on(wakers),
        }
        if replaced {
            None
        } else {
            next.or_else(|| self.take())
        }
    }
}

/// Whether it pays to look around before a thread sleeps.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// How many found nothing, one after the other.
    vain: u32,
    /// How often one was left out since.
    left_out: u32,
}

impl Looks {
    fn pay(&mut self) -> bool {
        if self.vain < VAIN_LOOKS {
            return true;
        }
        self.left_out = (self.left_out + 1) % RETRY_LOOKS;
        self.left_out == 0
    }

    fn note(&mut self, found: bool) {
        self.vain = if found { 0 } else { self.vain.saturating_add(1) };
    }
}

impl State {
    /// Threads that look for a unit soon without being called.
    fn coming(&self) -> usize {
        self.seeking + self.called + self.starting
    }

    /// How many threads are to be started, of `slots` in all, so that there is one for each unit that is ready.
    fn missing(&self, slots: usize) -> usize {
        let free = self.idle + self.seeking + self.starting;
        let room = slots.saturating_sub(self.threads);
        self.ready.len().saturating_sub(free).min(room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_around_that_find_nothing_become_rare_until_one_finds_something() {
        let mut looks = Looks::default();
        let many = |looks: &mut Looks, found| {
            let mut paid = 0;
            for _ in 0..10 * RETRY_LOOKS {
                if looks.pay() {
                    looks.note(found);
                    paid += 1;
                }
            }
            paid
        };
        assert_eq!(many(&mut looks, true), 10 * RETRY_LOOKS);
        let vain = many(&mut looks, false);
        assert!((VAIN_LOOKS..=VAIN_LOOKS + 10).contains(&vain), "{vain}");
        while !looks.pay() {}
        looks.note(true);
        assert_eq!(many(&mut looks, true), 10 * RETRY_LOOKS);
    }
}
