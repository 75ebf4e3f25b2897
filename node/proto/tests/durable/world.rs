//! Virtual time, and the order of events.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex};

use workmesh_proto::unit::durable::OriginInput;

use crate::executor::Executor;
use crate::ledger::Ledger;
use crate::net::Talk;
use crate::origin::Origin;
use crate::plan::Plan;
use crate::rng::Rng;

/// More events than this, or more time after the last fault, and the world is not coming to rest.
const MAX_EVENTS: u64 = 150_000;
const MAX_REST_MS: u64 = 15 * 60 * 1000;
/// A unit's machine that wants more in a second of virtual time is spinning.
pub(crate) const MAX_EFFECTS: u64 = 1500;

/// Lines of a run, if somebody wants them.
pub(crate) type Trace = Option<Arc<Mutex<Vec<String>>>>;

/// What happens at its time.
#[derive(Debug)]
pub(crate) enum Event {
    Submit {
        unit: usize,
    },
    Cancel {
        unit: usize,
    },
    Wake {
        unit: usize,
        life: u64,
        token: u64,
    },
    Tell {
        unit: usize,
        life: u64,
        input: OriginInput,
    },
    /// Carries out what the words of an executor have led to so far.
    CarryOut {
        unit: usize,
        life: u64,
    },
    Place {
        unit: usize,
        life: u64,
    },
    OriginWrite {
        life: u64,
    },
    OriginSync {
        life: u64,
        length: usize,
    },
    OriginUp,
    ToExecutor {
        talk: u64,
    },
    ToOrigin {
        talk: u64,
    },
    Cut {
        talk: u64,
    },
    Begin {
        executor: usize,
        life: u64,
        unit: usize,
        run: u64,
    },
    Step {
        executor: usize,
        life: u64,
        unit: usize,
        run: u64,
    },
    ExecutorSync {
        executor: usize,
        life: u64,
    },
    /// Stores what was put off.
    Store {
        executor: usize,
        life: u64,
        unit: usize,
    },
    ExecutorDown {
        executor: usize,
        life: u64,
    },
    ExecutorUp {
        executor: usize,
    },
    Fault,
}

/// See the module.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) now: u64,
    pub(crate) origin: Origin,
    pub(crate) executors: Vec<Executor>,
    pub(crate) talks: BTreeMap<u64, Talk>,
    pub(crate) next_talk: u64,
    pub(crate) ledger: Ledger,
    pub(crate) problem: Option<String>,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    trace: Trace,
}

impl World {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng);
        let mut world = Self {
            origin: Origin::new(),
            executors: (0..plan.executors)
                .map(|number| Executor::new(number, plan.limits))
                .collect(),
            talks: BTreeMap::new(),
            next_talk: 1,
            ledger: Ledger::new(&plan),
            problem: None,
            now: 0,
            queue: BTreeMap::new(),
            events: 0,
            trace,
            rng,
            plan,
        };
        for unit in 0..world.plan.units.len() {
            let planned = &world.plan.units[unit];
            let (submit, cancel) = (planned.submit_ms, planned.cancel_ms);
            world.at(submit, Event::Submit { unit });
            if let Some(cancel) = cancel {
                world.at(cancel, Event::Cancel { unit });
            }
        }
        if world.is_rough() {
            world.after(1, Event::Fault);
        }
        world
    }

    /// Runs until nothing is left to happen, and looks whether all is as it should be.
    pub(crate) fn run(mut self) -> Result<Ledger, String> {
        while self.problem.is_none()
            && let Some(((at, _), event)) = self.queue.pop_first()
        {
            self.now = at;
            self.events += 1;
            if self.events > MAX_EVENTS || self.now > self.plan.rough_ms + MAX_REST_MS {
                self.fail(format!(
                    "no rest at {} ms, after {} events",
                    self.now, self.events
                ));
                break;
            }
            self.happen(event);
        }
        if self.problem.is_none() {
            self.check_rest();
        }
        match self.problem {
            Some(problem) => Err(problem),
            None => Ok(self.ledger),
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Submit { unit } => self.submit(unit),
            Event::Cancel { unit } => self.tell(unit, OriginInput::Cancel),
            Event::Wake { unit, life, token } => self.wake(unit, life, token),
            Event::Tell { unit, life, input } if life == self.origin.life => self.tell(unit, input),
            Event::Place { unit, life } if life == self.origin.life => self.place(unit),
            Event::CarryOut { unit, life } if life == self.origin.life => self.carry_out(unit),
            Event::OriginWrite { life } if life == self.origin.life => self.origin_write(),
            Event::OriginSync { life, length } if life == self.origin.life => self.origin_sync(length),
            Event::Tell { .. }
            | Event::Place { .. }
            | Event::CarryOut { .. }
            | Event::OriginWrite { .. }
            | Event::OriginSync { .. } => {}
            Event::OriginUp => self.origin_up(),
            Event::ToExecutor { talk } => self.arrives_at_executor(talk),
            Event::ToOrigin { talk } => self.arrives_at_origin(talk),
            Event::Cut { talk } => self.cut(talk, true),
            Event::Begin {
                executor,
                life,
                unit,
                run,
            } => self.begin(executor, life, unit, run),
            Event::Step {
                executor,
                life,
                unit,
                run,
            } => self.step(executor, life, unit, run),
            Event::ExecutorSync { executor, life } => self.executor_sync(executor, life),
            Event::Store { executor, life, unit } => self.store(executor, life, unit),
            Event::ExecutorDown { executor, life } => self.executor_down(executor, life),
            Event::ExecutorUp { executor } => self.executor_up(executor),
            Event::Fault => self.fault(),
        }
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        let number = self.events << 32 | self.queue.len() as u64;
        let mut key = (at.max(self.now), number);
        while self.queue.contains_key(&key) {
            key.1 += 1;
        }
        self.queue.insert(key, event);
    }

    pub(crate) fn after(&mut self, wait: u64, event: Event) {
        self.at(self.now + wait, event);
    }

    /// Faults still happen.
    pub(crate) fn is_rough(&self) -> bool {
        self.now < self.plan.rough_ms
    }

    /// Whether a node is to crash at this effect.
    pub(crate) fn crashes_here(&mut self) -> bool {
        self.is_rough() && self.plan.crash_in > 0 && self.rng.range(0..self.plan.crash_in) == 0
    }

    pub(crate) fn fail(&mut self, problem: String) {
        self.note(|| format!("PROBLEM {problem}"));
        self.problem.get_or_insert(problem);
    }

    pub(crate) fn expect(&mut self, good: bool, problem: impl FnOnce() -> String) {
        if !good {
            self.fail(problem());
        }
    }

    pub(crate) fn note<T: Display>(&self, line: impl FnOnce() -> T) {
        if let Some(trace) = &self.trace {
            let line = format!("{:>7} {}", self.now, line());
            trace
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push(line);
        }
    }

    fn check_rest(&mut self) {
        for unit in 0..self.plan.units.len() {
            let account = &self.ledger.units[unit];
            let (stored, ended) = (account.stored, account.ended.is_some());
            self.expect(!stored || ended, || {
                format!("unit {unit} was stored and has no end")
            });
            let left = self.origin.left(unit);
            self.expect(left.is_none(), || {
                format!("unit {unit} is not done at its origin: {left:?}")
            });
        }
        for executor in 0..self.executors.len() {
            let left = self.executors[executor].left(self.plan.units.len());
            self.expect(left.is_none(), || {
                format!("executor {executor} still has {left:?}")
            });
        }
        let talks = self.talks.len();
        self.expect(talks == 0, || format!("{talks} conversations never ended"));
    }
}
