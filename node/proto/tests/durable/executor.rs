//! Executors: each carries out what its machines want, on a disk of its own.

mod hearing;

use std::collections::BTreeSet;

use bytes::Bytes;
use workmesh_proto::record::{self, ExecutorRecord};
use workmesh_proto::unit::durable::{
    DurableExecutor, EarlierStarts, ExecutorEffect, ExecutorPhase, ExecutorTable, ResponseCount,
    ResponseCursor, TableLimits,
};
use workmesh_proto::wire::durable::{Offer, Position};
use workmesh_proto::wire::unit::{Eof, Kind};
use workmesh_proto::{Incarnation, NodeId, UnitId};

use crate::log::{Crash, Level, Log, LogEntry};
use crate::net::{Answer, Talk};
use crate::plan;
use crate::worker::Worker;
use crate::world::{Event, World};

/// What an executor has of a unit.
pub(crate) struct Unit {
    pub(crate) machine: DurableExecutor,
    /// Response frames that may be sent: they are written, or shown.
    stream: Vec<u8>,
    /// Bytes of them that are written.
    written: usize,
    /// It runs, and the disk was not asked to keep anything of it yet.
    brief: bool,
    /// Whether the origin may hear that it is taken.
    accepted: bool,
    pub(crate) run: u64,
    pub(crate) worker: Option<Worker>,
}

/// How much of a unit was sent in a conversation.
pub(crate) struct Feed {
    cursor: ResponseCursor,
    offset: usize,
    accepted: bool,
    started: bool,
    over: bool,
}

/// A node that runs units.
pub(crate) struct Executor {
    pub(crate) name: NodeId,
    pub(crate) life: u64,
    pub(crate) up: bool,
    pub(crate) draining: bool,
    /// Out of reach until then.
    pub(crate) apart_until: u64,
    log: Log,
    pub(crate) table: ExecutorTable<Unit>,
    syncing: bool,
    /// Conversations that hear `Released` when the log is synced that far.
    releasing: Vec<(u64, usize)>,
    runs: u64,
    /// The units that have begun in a life, written before they did and never synced.
    starts: (u64, BTreeSet<UnitId>),
}

impl Executor {
    pub(crate) fn new(number: usize, limits: TableLimits) -> Self {
        Self {
            name: plan::executor(number),
            life: 1,
            up: true,
            draining: false,
            apart_until: 0,
            log: Log::default(),
            table: ExecutorTable::new(Incarnation(1), limits, EarlierStarts::unknown()),
            syncing: false,
            releasing: Vec::new(),
            runs: 0,
            starts: (1, BTreeSet::new()),
        }
    }

    /// A unit is about to begin.
    pub(crate) fn note_start(&mut self, unit: UnitId) {
        self.starts.1.insert(unit);
    }

    /// What is left of units; at rest, nothing is.
    pub(crate) fn left(&self, units: usize) -> Option<String> {
        if !self.table.is_empty() {
            return Some(format!("{} units", self.table.len()));
        }
        let kept = (0..units).find(|unit| self.log.records(*unit, Level::Written).next().is_some());
        kept.map(|unit| format!("records of unit {unit}"))
    }
}

impl World {
    /// What was put off is stored within a while, unless the executor dies before.
    fn store_later(&mut self, executor: usize, unit: usize) {
        let most_ms = [20, 1000, 10_000][self.rng.index(3)];
        let (life, wait) = (self.executors[executor].life, self.rng.range(0..most_ms));
        self.after(wait, Event::Store { executor, life, unit });
    }

    /// Stores what was put off.
    pub(crate) fn store(&mut self, e: usize, life: u64, unit: usize) {
        let id = self.plan.units[unit].id;
        if !self.executors[e].up || self.executors[e].life != life {
            return;
        }
        if let Some(held) = self.executors[e].table.get_mut(id) {
            held.brief = false;
            self.carry_out_executor(e, unit);
        }
    }

    /// Shows a unit to its origin that was over before anything of it was stored.
    fn show(&mut self, e: usize, unit: usize) {
        let id = self.plan.units[unit].id;
        if let Some(held) = self.executors[e].table.get_mut(id)
            && held.machine.phase() == ExecutorPhase::Ended
            && !std::mem::replace(&mut held.accepted, true)
        {
            held.stream.extend(held.machine.unasked().flatten());
            self.ledger.see("told of before it was stored");
            self.store_later(e, unit);
            self.pump(e, unit);
        }
    }

    /// The payload will not become complete.
    pub(crate) fn abandon(&mut self, e: usize, unit: usize, offer: Offer) {
        let id = self.plan.units[unit].id;
        if self.executors[e].table.is_arriving(id, offer) {
            self.executors[e].table.abandon(id, offer);
        }
    }

    fn attach(&mut self, talk: u64, from: Position) {
        if let Some(talk) = self.talks.get_mut(&talk) {
            talk.feed = Some(Feed {
                cursor: ResponseCursor::new(from),
                offset: 0,
                accepted: false,
                started: false,
                over: false,
            });
        }
    }

    /// An executor no longer keeps ended units that nobody asks for.
    pub(crate) fn forget_unasked(&mut self, e: usize) {
        for unit in 0..self.plan.units.len() {
            let id = self.plan.units[unit].id;
            let asked = |talk: &Talk| (talk.executor, talk.unit) == (e, unit) && talk.feed.is_some();
            let held = self.executors[e].table.get(id);
            let ended = held.filter(|held| held.machine.phase() == ExecutorPhase::Ended);
            let Some(offer) = ended.map(|held| held.machine.offer()) else {
                continue;
            };
            if self.talks.values().any(asked) {
                continue;
            }
            self.ledger.see("forgotten unasked");
            self.note(|| format!("E{e} forgets unit {unit}"));
            self.log_executor(e, unit, Vec::new(), Bytes::new(), true);
            let forgotten = self.executors[e].table.forget(id, offer).is_some();
            self.expect(forgotten, || format!("unit {unit} is not forgotten"));
        }
    }

    fn forget(&mut self, e: usize, unit: usize, mut held: Unit, number: u32) {
        let released = held.machine.handle_release(number);
        self.expect(released, || format!("unit {unit} is not released by {number}"));
        let effects: Vec<_> = std::iter::from_fn(|| held.machine.poll_effect()).collect();
        self.expect(effects == [ExecutorEffect::Stop, ExecutorEffect::Forget], || {
            format!("releasing unit {unit} leads to {effects:?}")
        });
        // A worker that does not know yet goes on; nothing of it is kept.
        held.machine.handle_piece(b"late", true);
        held.machine.flush();
        held.machine.handle_end(Eof::without_responses(Kind::Ok, ""), 0);
        let late = held.machine.poll_effect();
        self.expect(late.is_none(), || format!("a forgotten unit wants {late:?}"));
        for talk in self
            .talks
            .values_mut()
            .filter(|talk| (talk.executor, talk.unit) == (e, unit))
        {
            talk.feed = None;
        }
        if self.crashes_here() {
            return self.crash_executor(e, None);
        }
        let log = &self.executors[e].log;
        if log.records(unit, Level::Written).next().is_some() {
            self.log_executor(e, unit, Vec::new(), Bytes::new(), true);
        } else {
            self.ledger.see("released before it was stored");
        }
        self.executors[e].starts.1.remove(&self.plan.units[unit].id);
        if self.crashes_here() {
            self.crash_executor(e, None);
        }
    }

    fn log_executor(
        &mut self,
        e: usize,
        unit: usize,
        records: Vec<ExecutorRecord>,
        data: Bytes,
        removes: bool,
    ) {
        let log = &mut self.executors[e].log;
        log.append(LogEntry {
            unit,
            records: records.iter().map(record::encode).collect(),
            data,
            removes,
            number: 0,
            sync: false,
        });
        log.write(|| false);
        self.sync_soon(e);
    }

    fn sync_soon(&mut self, executor: usize) {
        let node = &mut self.executors[executor];
        if !std::mem::replace(&mut node.syncing, true) {
            let life = node.life;
            let wait = self.rng.range(1..1000);
            self.after(wait, Event::ExecutorSync { executor, life });
        }
    }

    pub(crate) fn executor_sync(&mut self, e: usize, life: u64) {
        let node = &mut self.executors[e];
        if !node.up || node.life != life {
            return;
        }
        node.syncing = false;
        let length = node.log.length();
        node.log.sync(length);
        for (talk, length) in std::mem::take(&mut node.releasing) {
            let synced = self.executors[e].log.is_synced(length);
            self.expect(synced, || format!("executor {e} has not synced what it syncs"));
            self.answer(talk, Answer::Released);
        }
    }

    pub(crate) fn carry_out_executor(&mut self, e: usize, unit: usize) {
        let id = self.plan.units[unit].id;
        loop {
            let Some(held) = self.executors[e].table.get_mut(id) else {
                return;
            };
            if held.brief && held.run > 0 {
                return self.show(e, unit);
            }
            let Some(effect) = held.machine.poll_effect() else {
                break;
            };
            if self.crashes_here() {
                return self.crash_executor(e, None);
            }
            self.note(|| format!("E{e} unit {unit}: {effect:?}"));
            match effect {
                ExecutorEffect::Append { records, data } => {
                    if let Some(held) = self.executors[e].table.get_mut(id) {
                        held.written += data.len();
                        if held.written > held.stream.len() {
                            held.stream.extend_from_slice(&data);
                        }
                    }
                    self.log_executor(e, unit, records, data, false);
                }
                ExecutorEffect::Accept => {
                    if let Some(held) = self.executors[e].table.get_mut(id) {
                        held.accepted = true;
                    }
                }
                ExecutorEffect::Run => {
                    self.executors[e].runs += 1;
                    let (life, run) = (self.executors[e].life, self.executors[e].runs);
                    if let Some(held) = self.executors[e].table.get_mut(id) {
                        held.run = run;
                    }
                    let wait = self.rng.range(0..self.plan.queue_ms);
                    self.after(
                        wait,
                        Event::Begin {
                            executor: e,
                            life,
                            unit,
                            run,
                        },
                    );
                }
                ExecutorEffect::Stop => {
                    if let Some(held) = self.executors[e].table.get_mut(id) {
                        (held.run, held.worker) = (0, None);
                    }
                }
                ExecutorEffect::Forget => self.fail("forgotten without a release".to_owned()),
            }
            if self.crashes_here() {
                return self.crash_executor(e, None);
            }
        }
        self.pump(e, unit);
    }

    /// Sends what is written and was not sent yet.
    fn pump(&mut self, e: usize, unit: usize) {
        let id = self.plan.units[unit].id;
        let mut said = Vec::new();
        let Some(held) = self.executors[e].table.get(id).filter(|held| held.accepted) else {
            return;
        };
        for (talk_id, talk) in &mut self.talks {
            if (talk.executor, talk.unit, talk.at_executor) != (e, unit, true) {
                continue;
            }
            let Some(feed) = talk.feed.as_mut().filter(|feed| !feed.over) else {
                continue;
            };
            if !std::mem::replace(&mut feed.accepted, true) {
                said.push((*talk_id, Answer::Accepted));
            }
            if held.machine.phase() == ExecutorPhase::Started && !std::mem::replace(&mut feed.started, true) {
                said.push((*talk_id, Answer::Started));
            }
            let new = Bytes::copy_from_slice(&held.stream[feed.offset..]);
            feed.offset = held.stream.len();
            if let Err(error) = feed.cursor.feed(new) {
                self.problem
                    .get_or_insert(format!("unit {unit} at executor {e}: {error}"));
                return;
            }
            while let Some(piece) = feed.cursor.next_piece() {
                said.push((*talk_id, Answer::Piece(piece)));
            }
            let last = match held.machine.phase() {
                ExecutorPhase::Ended => held.machine.end_of().cloned().map(Answer::Eof),
                ExecutorPhase::Returned => held
                    .machine
                    .returned()
                    .map(|why| Answer::Returned(why.to_owned())),
                _ => None,
            };
            if let Some(last) = last {
                feed.over = true;
                said.push((*talk_id, last));
            }
        }
        for (talk, answer) in said {
            self.answer(talk, answer);
        }
    }

    /// An orderly shutdown: what has not started goes back, what runs ends.
    pub(crate) fn shut_down(&mut self, e: usize) {
        self.ledger.see("shutdown");
        self.note(|| format!("E{e} shuts down"));
        self.executors[e].draining = true;
        let now = self.now;
        for unit in 0..self.plan.units.len() {
            let id = self.plan.units[unit].id;
            let Some(held) = self.executors[e].table.get_mut(id) else {
                continue;
            };
            held.brief = false;
            if held.machine.give_back("the executor shuts down", now) {
                self.ledger.see("given back");
            } else if held.worker.take().is_some() {
                held.run = 0;
                held.machine.handle_end(
                    Eof::without_responses(Kind::Shutdown, "the executor shuts down"),
                    now,
                );
            }
            self.carry_out_executor(e, unit);
            if !self.executors[e].up {
                return;
            }
        }
        let life = self.executors[e].life;
        let wait = self.rng.range(1..500);
        self.after(wait, Event::ExecutorDown { executor: e, life });
    }

    pub(crate) fn executor_down(&mut self, e: usize, life: u64) {
        if self.executors[e].up && self.executors[e].life == life {
            self.executor_sync(e, life);
            self.crash_executor(e, Some(Crash::Kill));
        }
    }

    pub(crate) fn crash_executor(&mut self, e: usize, crash: Option<Crash>) {
        let crash = crash.unwrap_or_else(|| self.any_crash());
        self.ledger.see("executor crashed");
        self.ledger.killed(e);
        self.note(|| format!("E{e} stops: {crash:?}"));
        let (rng, limits) = (&mut self.rng, self.plan.limits);
        let node = &mut self.executors[e];
        node.log.crash(crash, |most| rng.index(most));
        if crash != Crash::Kill {
            node.starts = (0, BTreeSet::new());
        }
        (node.up, node.draining, node.syncing) = (false, false, false);
        node.releasing.clear();
        node.table = ExecutorTable::new(Incarnation(node.life), limits, EarlierStarts::unknown());
        let life = node.life;
        self.close_all(|talk| (talk.executor, talk.life) == (e, life), true);
        let wait = self.rng.range(1..3000);
        self.after(wait, Event::ExecutorUp { executor: e });
    }

    pub(crate) fn executor_up(&mut self, e: usize) {
        let (now, limits) = (self.now, self.plan.limits);
        let node = &mut self.executors[e];
        node.life += 1;
        node.up = true;
        let (noted_in, begun) = std::mem::replace(&mut node.starts, (node.life, BTreeSet::new()));
        let earlier = EarlierStarts::of(Incarnation(noted_in), begun);
        node.table = ExecutorTable::new(Incarnation(node.life), limits, earlier.clone());
        self.note(|| format!("E{e} starts"));
        for unit in 0..self.plan.units.len() {
            let log = &self.executors[e].log;
            let records: Result<Vec<ExecutorRecord>, _> = log
                .records(unit, Level::Written)
                .map(|bytes| record::decode(bytes))
                .collect();
            let stream = log.data(unit, Level::Written);
            let mut count = ResponseCount::default();
            let counted = count.feed(stream.clone().into());
            let (Ok(records), Ok(()), Some(kept)) = (records, counted, count.finish()) else {
                return self.fail(format!(
                    "executor {e} can't read what it has written of unit {unit}"
                ));
            };
            let may_have_begun = |offer| earlier.may_have_begun(self.plan.units[unit].id, offer);
            if let Some(machine) = DurableExecutor::recover(records, kept, may_have_begun, now) {
                self.ledger.see(match machine.phase() {
                    ExecutorPhase::Returned => "unit found by its executor, unbegun",
                    _ => "unit found by its executor",
                });
                let (origin, offer) = (machine.origin().clone(), machine.offer());
                let held = Unit {
                    machine,
                    written: stream.len(),
                    stream,
                    brief: false,
                    accepted: true,
                    run: 0,
                    worker: None,
                };
                self.executors[e]
                    .table
                    .restore(self.plan.units[unit].id, origin, offer, held);
                self.carry_out_executor(e, unit);
                if !self.executors[e].up {
                    return;
                }
            }
        }
        self.mesh_changes();
    }
}
