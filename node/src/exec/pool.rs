//! The pool: its units, its threads and the hand-over between them. Everything about where a unit is stands under
//! one lock, held for short moments; functions run, and wakers wake, outside it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use worker_api::PayloadKind;
use workmesh_proto::unit::ExecutorUnit;
use workmesh_proto::wire::unit::{Kind, Refused, Submit, cut};
use workmesh_proto::{NodeId, UnitId};

use super::budget::Budget;
use super::ledger::Ledger;
use super::registry::Registry;
use super::report::{ActiveUnit, Counters, LoadFigures, Meters};
use super::run::{self, EXPIRED, Verdict};
use super::settings::ExecSettings;
use super::unit::{NewUnit, Phase, Request, Unit, Wakers};

/// How many ended units are remembered, so that one submitted twice is refused.
pub(super) const REMEMBERED: usize = 4096;

/// The pool, shared by the executor's handles, its threads and both sides of each unit.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) registry: Registry,
    pub(super) settings: ExecSettings,
    pub(super) meters: Meters,
    waiting_payload: Arc<Budget>,
    state: Mutex<State>,
    /// Idle threads wait here for a unit.
    work: Condvar,
    /// The overseer waits here for the next thread to give up.
    overdue: Condvar,
    /// Whoever wants to know of a change of the load waits here; set off only while `State::load_watched`.
    pub(super) load_changed: Notify,
    next_order: AtomicU64,
}

#[derive(Debug)]
struct State {
    // units
    ledger: Ledger,
    active: HashMap<UnitId, Arc<Unit>>,
    ended: Remembered,
    /// Wait for a thread, in order of admission.
    ready: BTreeMap<u64, Arc<Unit>>,
    /// Wait for their worker's own limit, by worker and order of admission.
    held: BTreeMap<(usize, u64), Arc<Unit>>,
    // threads
    threads: usize,
    threads_started: u64,
    idle: usize,
    running: usize,
    abandoned: usize,
    /// Units told to stop whose functions have not returned, by time; at most one for each slot.
    stopping: VecDeque<(Instant, Arc<Unit>)>,
    overseen: bool,
    // the whole
    draining: bool,
    closed: bool,
    load_watched: bool,
    counters: Counters,
}

/// The ids of the units that ended last.
#[derive(Debug, Default)]
struct Remembered {
    order: VecDeque<UnitId>,
    ids: HashSet<UnitId>,
}

impl Pool {
    /// A pool with its first thread, so that there is always one; the others start when they are needed.
    pub(super) fn start(registry: Registry, settings: ExecSettings) -> io::Result<Arc<Self>> {
        let pool = Arc::new(Self::new(registry, settings));
        pool.start_thread(&mut pool.state.lock())?;
        Ok(pool)
    }

    fn new(registry: Registry, settings: ExecSettings) -> Self {
        let limits = registry.iter().map(|w| w.limits.max_concurrent);
        let waiting_payload = Budget::new(settings.max_waiting_payload);
        let ledger = Ledger::new(settings.slots, settings.queue, limits);
        let state = State {
            ledger,
            active: HashMap::new(),
            ended: Remembered::default(),
            ready: BTreeMap::new(),
            held: BTreeMap::new(),
            threads: 0,
            threads_started: 0,
            idle: 0,
            running: 0,
            abandoned: 0,
            stopping: VecDeque::new(),
            overseen: false,
            draining: false,
            closed: false,
            load_watched: false,
            counters: Counters::default(),
        };
        Self {
            registry,
            settings,
            meters: Meters::default(),
            waiting_payload,
            state: Mutex::new(state),
            work: Condvar::new(),
            overdue: Condvar::new(),
            load_changed: Notify::new(),
            next_order: AtomicU64::new(0),
        }
    }

    /// Takes the unit in, or says why not, at once.
    pub(super) fn admit(self: &Arc<Self>, submit: &Submit, sender: NodeId) -> Result<Arc<Unit>, Refused> {
        let admitted = self.examine(submit, sender).and_then(|unit| {
            let mut state = self.state.lock();
            state.enter(&unit, &self.settings)?;
            state.counters.accepted += 1;
            if unit.entry.kind != PayloadKind::Bytes {
                self.make_ready(&mut state, &unit);
            }
            self.publish(&mut state);
            Ok(unit)
        });
        admitted.map_err(|mut refused| {
            cut(&mut refused.message);
            self.state.lock().counters.refused.add(refused.kind);
            refused
        })
    }

    /// Makes the unit, unless the submission alone says that it can't be run.
    fn examine(&self, submit: &Submit, sender: NodeId) -> Result<Arc<Unit>, Refused> {
        if self.state.lock().draining {
            return Err(draining());
        }
        submit.check().map_err(|broken| refused(Kind::Protocol, broken))?;
        let directive = submit
            .parse_directive()
            .map_err(|e| refused(Kind::MalformedDirective, e.to_string()))?;
        let worker = self
            .registry
            .position(&directive)
            .map_err(|unknown| refused(unknown.kind, unknown.message))?;
        let entry = self.registry.entry(worker);
        let now = Instant::now();
        let mut machine = ExecutorUnit::new(now);
        machine
            .expect_payload(submit.payload_bytes, self.settings.payload_limit(entry))
            .map_err(|fault| refused(fault.kind(), fault.to_string()))?;
        let params = submit.params.clone();
        Ok(Arc::new(Unit::new(NewUnit {
            id: submit.unit,
            sender,
            worker,
            entry,
            order: self.next_order.fetch_add(1, Ordering::Relaxed),
            deadline: submit
                .deadline_ms
                .and_then(|ms| now.checked_add(Duration::from_millis(ms))),
            machine,
            request: Request { directive, params },
            budget: &self.waiting_payload,
        })))
    }

    /// A payload of the bytes kind has arrived: the unit may run.
    pub(super) fn payload_complete(self: &Arc<Self>, unit: &Arc<Unit>) {
        let mut state = self.state.lock();
        if unit.phase.get() == Phase::Arriving {
            self.make_ready(&mut state, unit);
        }
    }

    fn make_ready(self: &Arc<Self>, state: &mut State, unit: &Arc<Unit>) {
        if !state.ledger.reserve(unit.worker) {
            state.held.insert((unit.worker, unit.order), Arc::clone(unit));
            unit.phase.set(Phase::Held);
            return;
        }
        state.ready.insert(unit.order, Arc::clone(unit));
        unit.phase.set(Phase::Ready);
        self.call_thread(state);
    }

    /// Gives back a reservation: the worker's next held unit gets it.
    fn unreserve(self: &Arc<Self>, state: &mut State, worker: usize) {
        state.ledger.unreserve(worker);
        let next = state.held.range((worker, 0)..=(worker, u64::MAX)).next();
        if let Some((&key, _)) = next
            && let Some(unit) = state.held.remove(&key)
        {
            self.make_ready(state, &unit);
        }
    }

    /// Sees that a thread comes for what is ready.
    fn call_thread(self: &Arc<Self>, state: &mut State) {
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

    fn start_thread(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let pool = Arc::clone(self);
        let name = format!("worker-{}", state.threads_started + 1);
        thread::Builder::new().name(name).spawn(move || pool.work())?;
        state.threads_started += 1;
        state.threads += 1;
        Ok(())
    }

    /// Ends a unit from the submitter's side. `false`: it had its end already.
    ///
    /// A function that runs is told, and its thread is given up if it does not return.
    pub(super) fn end(self: &Arc<Self>, unit: &Arc<Unit>, kind: Kind, message: String) -> bool {
        let mut state = self.state.lock();
        let Some(wakers) = self.end_locked(&mut state, unit, kind, message) else {
            return false;
        };
        self.publish(&mut state);
        drop(state);
        wakers.wake();
        true
    }

    /// Ends a unit whose deadline has passed.
    pub(super) fn expire(self: &Arc<Self>, unit: &Arc<Unit>) {
        self.end(unit, Kind::Expired, EXPIRED.to_owned());
    }

    fn end_locked(
        self: &Arc<Self>,
        state: &mut State,
        unit: &Arc<Unit>,
        kind: Kind,
        message: String,
    ) -> Option<Wakers> {
        let (kind, wakers) = unit.end(kind, message)?;
        state.counters.ended.add(kind);
        match unit.phase.get() {
            Phase::Running => self.oversee(state, unit),
            Phase::Arriving => state.leave_waiting(unit),
            Phase::Held => {
                state.held.remove(&(unit.worker, unit.order));
                state.leave_waiting(unit);
            }
            Phase::Ready => {
                state.ready.remove(&unit.order);
                state.leave_waiting(unit);
                self.unreserve(state, unit.worker);
            }
            Phase::Stopping | Phase::Abandoned | Phase::Gone => {}
        }
        Some(wakers)
    }

    /// Ends every unit. Answers with their number.
    pub(super) fn end_all(self: &Arc<Self>, kind: Kind, message: &str) -> usize {
        let mut state = self.state.lock();
        let units: Vec<Arc<Unit>> = state.active.values().cloned().collect();
        let ended: Vec<_> = units
            .iter()
            .filter_map(|unit| self.end_locked(&mut state, unit, kind, message.to_owned()))
            .collect();
        self.publish(&mut state);
        drop(state);
        let count = ended.len();
        ended.into_iter().for_each(Wakers::wake);
        count
    }

    /// Refuses new units from here on.
    pub(super) fn refuse_new(&self) {
        self.state.lock().draining = true;
    }

    /// Ends every unit and every thread that is not within a function.
    pub(super) fn close(self: &Arc<Self>) {
        self.state.lock().closed = true;
        self.end_all(Kind::Draining, "the node shut down");
        self.work.notify_all();
        self.overdue.notify_all();
    }

    pub(super) fn find(&self, id: UnitId) -> Option<Arc<Unit>> {
        self.state.lock().active.get(&id).cloned()
    }

    pub(super) fn load(&self) -> LoadFigures {
        self.state.lock().load(&self.settings)
    }

    /// The load, and from here on a call of `load_changed` at the next moment when it may be another.
    pub(super) fn watch_load(&self) -> LoadFigures {
        let mut state = self.state.lock();
        state.load_watched = true;
        state.load(&self.settings)
    }

    pub(super) fn active(&self) -> Vec<ActiveUnit> {
        let now = Instant::now();
        let mut active: Vec<_> = {
            let state = self.state.lock();
            let units = state.active.values();
            units.map(|unit| (Arc::clone(unit), unit.phase.get())).collect()
        };
        active.sort_by_key(|(unit, _)| unit.order);
        active
            .into_iter()
            .map(|(unit, phase)| ActiveUnit {
                id: unit.id,
                directive: unit.entry.directive,
                sender: unit.sender.clone(),
                state: phase.into(),
                age: now.saturating_duration_since(unit.admitted),
            })
            .collect()
    }

    pub(super) fn counters(&self) -> Counters {
        let counters = self.state.lock().counters.clone();
        Counters {
            payload_bytes: self.meters.payload_bytes.total(),
            response_bytes: self.meters.response_bytes.total(),
            spool_bytes: self.meters.spool_bytes.total(),
            ..counters
        }
    }

    /// The load may have changed. Costs nothing while nobody wants to know.
    fn publish(&self, state: &mut State) {
        if std::mem::take(&mut state.load_watched) {
            self.load_changed.notify_waiters();
        }
    }

    // The threads.

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

    // Functions that do not return.

    /// A running unit has its end: its function has the settings' grace to return.
    fn oversee(self: &Arc<Self>, state: &mut State, unit: &Arc<Unit>) {
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
    fn abandon_overdue(self: &Arc<Self>, state: &mut State, now: Instant) {
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
            self.call_thread(state);
        }
    }
}

fn refused(kind: Kind, message: impl Into<String>) -> Refused {
    Refused {
        kind,
        message: message.into(),
    }
}

fn draining() -> Refused {
    refused(
        Kind::Draining,
        "this node is shutting down: submit to another one",
    )
}

impl State {
    /// Takes the unit among the active ones, if it may be there.
    fn enter(&mut self, unit: &Arc<Unit>, settings: &ExecSettings) -> Result<(), Refused> {
        if self.draining || self.closed {
            return Err(draining());
        }
        if self.active.contains_key(&unit.id) || self.ended.contains(unit.id) {
            let message = format!("unit {} runs or has run here: use a new id", unit.id);
            return Err(refused(Kind::Duplicate, message));
        }
        if !self.ledger.enter(unit.worker) {
            let (slots, queue) = (settings.slots, settings.queue);
            let message = format!(
                "all {slots} slots are taken and the queue of {queue} is full: try again later, or another node"
            );
            return Err(refused(Kind::Busy, message));
        }
        self.active.insert(unit.id, Arc::clone(unit));
        Ok(())
    }

    /// A unit ended that no thread had taken.
    fn leave_waiting(&mut self, unit: &Unit) {
        self.ledger.leave(unit.worker);
        self.forget(unit);
    }

    fn forget(&mut self, unit: &Unit) {
        unit.phase.set(Phase::Gone);
        self.active.remove(&unit.id);
        self.ended.remember(unit.id);
    }

    fn load(&self, settings: &ExecSettings) -> LoadFigures {
        LoadFigures {
            slots: settings.slots,
            running: self.running,
            queued: self.ledger.units() - self.running,
            queue_limit: settings.queue,
            abandoned: self.abandoned,
        }
    }
}

impl Remembered {
    fn contains(&self, id: UnitId) -> bool {
        self.ids.contains(&id)
    }

    fn remember(&mut self, id: UnitId) {
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.order.push_back(id);
        self.ids.insert(id);
    }
}
