//! Functions that run at an executor, step by step.

use std::collections::VecDeque;

use workmesh_proto::wire::unit::{Eof, Kind};

use crate::executor::Unit;
use crate::plan::Sent;
use crate::world::{Event, World};

/// A function that runs.
pub(crate) struct Worker {
    /// The run's number for the ledger.
    pub(crate) number: usize,
    pub(crate) left: VecDeque<Sent>,
    pub(crate) waits: bool,
}

impl World {
    /// The unit's run that is meant, if it still counts.
    fn running(&mut self, e: usize, life: u64, unit: usize, run: u64) -> Option<&mut Unit> {
        let id = self.plan.units[unit].id;
        let node = &mut self.executors[e];
        let counts = node.up && node.life == life;
        node.table.get_mut(id).filter(|held| counts && held.run == run)
    }

    pub(crate) fn begin(&mut self, e: usize, life: u64, unit: usize, run: u64) {
        let Some(held) = self.running(e, life, unit, run) else {
            return;
        };
        if !held.machine.handle_started() {
            return;
        }
        let id = self.plan.units[unit].id;
        self.executors[e].note_start(id);
        if self.crashes_here() {
            self.ledger.units[unit].in_doubt = true;
            return self.crash_executor(e, None);
        }
        let idempotent = self.plan.units[unit].is_idempotent();
        let number = match self.ledger.begin(unit, idempotent) {
            Ok(number) => number,
            Err(problem) => return self.fail(problem),
        };
        self.note(|| format!("E{e} unit {unit}: begins run {number}"));
        if number > 1 {
            self.ledger.see("run again");
        }
        let left = self.plan.units[unit].output(number).into();
        if let Some(held) = self.running(e, life, unit, run) {
            held.worker = Some(Worker {
                number,
                left,
                waits: false,
            });
        }
        self.carry_out_executor(e, unit);
        let wait = self.rng.range(0..1 + self.plan.units[unit].step_ms);
        self.after(
            wait,
            Event::Step {
                executor: e,
                life,
                unit,
                run,
            },
        );
    }

    pub(crate) fn step(&mut self, e: usize, life: u64, unit: usize, run: u64) {
        let (window, end) = (self.plan.window, self.plan.units[unit].end);
        let deadline = self.plan.units[unit].deadline_ms;
        let several = 1 + self.rng.index(3);
        let now = self.now;
        let mut sent = Vec::new();
        let Some(held) = self.running(e, life, unit, run) else {
            return;
        };
        let full = held.machine.unacknowledged() > window;
        let Some(worker) = &mut held.worker else { return };
        if deadline.is_some_and(|at| at <= now) {
            held.machine
                .handle_end(Eof::without_responses(Kind::Expired, "too late"), now);
            held.worker = None;
            return self.carry_out_executor(e, unit);
        }
        if full {
            worker.waits = true;
            return;
        }
        let number = worker.number;
        for _ in 0..several {
            let Some((data, last)) = worker.left.pop_front() else {
                break;
            };
            held.machine.handle_piece(&data, last);
            sent.push((data, last));
        }
        let over = worker.left.is_empty();
        if over {
            held.machine.handle_end(Eof::without_responses(end, ""), now);
            held.worker = None;
        } else {
            held.machine.flush();
        }
        for piece in sent {
            self.ledger.sent(unit, number, piece);
        }
        if over {
            self.ledger.completed(unit, number);
        } else {
            let wait = self.rng.range(0..1 + self.plan.units[unit].step_ms);
            self.after(
                wait,
                Event::Step {
                    executor: e,
                    life,
                    unit,
                    run,
                },
            );
        }
        self.carry_out_executor(e, unit);
    }
}
