//! The pool: its units, its threads and the hand-over between them. Everything about where a unit is stands under
//! one lock, held for short moments; functions run, and units' wakers wake, outside it. Behind it is taken the lock of `wakeups`.

mod admission;
mod pace;
mod threads;
mod stuck;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use workmesh_proto::UnitId;
use workmesh_proto::wire::unit::Kind;

use self::pace::Pace;
use self::threads::Looks;
use super::Drained;
use super::budget::Budget;
use super::ledger::Ledger;
use super::registry::Registry;
use super::remembered::Remembered;
use super::report::{ActiveUnit, Counters, LoadFigures, Meters};
use super::run::EXPIRED;
use super::settings::ExecSettings;
use super::unit::{Phase, Unit, Wakers};
use super::wakeups::Wakeups;

/// The pool, shared by the executor's handles, its threads and both sides of each unit.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) registry: Registry,
    pub(super) settings: ExecSettings,
    pub(super) meters: Meters,
    /// From the workers' threads to the runtime, and back.
    pub(super) wakeups: Wakeups,
    /// Is told of each durable unit before it begins.
    pub(super) starts: OnceLock<NoteStart>,
    /// By the worker's position in the registry.
    paces: Vec<Pace>,
    waiting_payload: Arc<Budget>,
    state: Mutex<State>,
    /// Idle threads wait here for a unit.
    work: Condvar,
    /// How many units are ready, for threads that look around without the lock.
    ready_hint: AtomicUsize,
    /// The overseer waits here for the next thread to give up.
    overdue: Condvar,
    /// Whoever wants to know of a change of the load waits here; set off only while `State::load_watched`.
    pub(super) load_changed: Notify,
    next_order: AtomicU64,
    /// `State::draining` is there, for those who ask without the lock.
    drains: AtomicBool,
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
    /// Sleep until they are called.
    idle: usize,
    /// Were called and are not awake yet.
    called: usize,
    /// Look around for a unit.
    seeking: usize,
    looks: Looks,
    /// Were started and have not looked yet.
    starting: usize,
    running: usize,
    abandoned: usize,
    /// Units told to stop whose functions have not returned, by time; at most one for each slot.
    stopping: VecDeque<(Instant, Arc<Unit>)>,
    overseen: bool,
    // the whole
    draining: Option<Drain>,
    closed: bool,
    load_watched: bool,
    counters: Counters,
}

/// A drain, from the moment when new units are refused.
#[derive(Debug)]
struct Drain {
    /// Units without an end at its beginning.
    unended: u64,
    /// Of these, how many it has stopped.
    stopped: usize,
}

/// Notes that a unit begins.
pub(super) struct NoteStart(pub(super) Box<dyn Fn(UnitId) -> io::Result<()> + Send + Sync>);

impl fmt::Debug for NoteStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoteStart")
    }
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
        let paces = registry.iter().map(|_| Pace::default()).collect();
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
            called: 0,
            seeking: 0,
            looks: Looks::default(),
            starting: 0,
            running: 0,
            abandoned: 0,
            stopping: VecDeque::new(),
            overseen: false,
            draining: None,
            closed: false,
            load_watched: false,
            counters: Counters::default(),
        };
        Self {
            registry,
            settings,
            meters: Meters::default(),
            wakeups: Wakeups::default(),
            starts: OnceLock::new(),
            paces,
            waiting_payload,
            state: Mutex::new(state),
            work: Condvar::new(),
            ready_hint: AtomicUsize::new(0),
            overdue: Condvar::new(),
            load_changed: Notify::new(),
            next_order: AtomicU64::new(0),
            drains: AtomicBool::new(false),
        }
    }

    /// A payload of the bytes kind has arrived: the unit may run.
    pub(super) fn payload_complete(self: &Arc<Self>, unit: &Arc<Unit>) {
        let mut state = self.state.lock();
        if unit.phase.get() != Phase::Arriving || !self.enqueue(&mut state, unit) {
            return;
        }
        // Others are to be expected, unless it is alone: then each moment is in its latency.
        let among_others = unit.durable || state.running > 0 || state.ready.len() > 1;
        if among_others && self.is_quick(unit) && self.wakeups.call_later() {
            self.hint(&state);
        } else {
            self.call_threads(&mut state);
        }
    }

    fn make_ready(self: &Arc<Self>, state: &mut State, unit: &Arc<Unit>) {
        if self.enqueue(state, unit) {
            self.call_threads(state);
        }
    }

    /// Puts the unit where threads look for it. `false`: it waits for its worker's own limit.
    fn enqueue(&self, state: &mut State, unit: &Arc<Unit>) -> bool {
        if !state.ledger.reserve(unit.worker) {
            state.held.insert((unit.worker, unit.order), Arc::clone(unit));
            unit.phase.set(Phase::Held);
            return false;
        }
        state.ready.insert(unit.order, Arc::clone(unit));
        unit.phase.set(Phase::Ready);
        if self.is_quick(unit) {
            self.wakeups.arm();
        }
        true
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

    /// Ends a unit that no thread has taken. `false`: it is past that.
    pub(super) fn withdraw(self: &Arc<Self>, unit: &Arc<Unit>) -> bool {
        let mut state = self.state.lock();
        if !matches!(unit.phase.get(), Phase::Arriving | Phase::Held | Phase::Ready) {
            return false;
        }
        let message = "the unit had not started when its executor shut down".to_owned();
        let Some(wakers) = self.end_locked(&mut state, unit, Kind::Draining, message) else {
            return false;
        };
        if let Some(drain) = &mut state.draining {
            // It has not ended: another node has it next.
            drain.unended = drain.unended.saturating_sub(1);
        }
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
        let mut state = self.state.lock();
        if state.draining.is_none() {
            let unended = state.counters.unended();
            state.draining = Some(Drain { unended, stopped: 0 });
            self.drains.store(true, Ordering::Release);
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drains.load(Ordering::Acquire)
    }

    /// Ends every unit that a drain has left.
    pub(super) fn stop_all(self: &Arc<Self>) {
        let stopped = self.end_all(
            Kind::Shutdown,
            "its executor was drained or shut down before it ended",
        );
        if let Some(drain) = &mut self.state.lock().draining {
            drain.stopped += stopped;
        }
    }

    /// What a drain has come to so far.
    pub(super) fn drained(&self) -> Drained {
        let state = self.state.lock();
        let unended = state.counters.unended();
        let (before, stopped) = match &state.draining {
            Some(drain) => (drain.unended, drain.stopped),
            None => (unended, 0),
        };
        Drained {
            ended: before.saturating_sub(unended).saturating_sub(stopped as u64),
            stopped,
            stuck: state.running + state.abandoned,
        }
    }

    /// Ends every unit and every thread that is not within a function.
    pub(super) fn close(self: &Arc<Self>) {
        self.state.lock().closed = true;
        self.end_all(Kind::Shutdown, "the node shut down");
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
}

impl State {
    /// A unit ended that no thread had taken.
    fn leave_waiting(&mut self, unit: &Unit) {
        self.ledger.leave(unit.worker);
        self.forget(unit);
    }

    fn forget(&mut self, unit: &Unit) {
        unit.phase.set(Phase::Gone);
        self.active.remove(&unit.id);
        if !unit.durable {
            self.ended.remember(unit.id);
        }
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
