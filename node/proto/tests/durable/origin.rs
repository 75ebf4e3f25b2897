//! The origin: carries out what its machines want, on a disk of its own, and looks whether they may want it.

use std::collections::BTreeMap;

use workmesh_proto::record::{self, OriginRecord};
use workmesh_proto::unit::durable::{
    Candidate, DurableOrigin, OriginEffect, OriginHistory, OriginInput, ResponseCount,
};
use workmesh_proto::wire::durable::Offer;
use workmesh_proto::{Incarnation, NodeId};

use crate::executor::Executor;
use crate::ledger;
use crate::log::{Crash, Level, Log, LogEntry, Told};
use crate::net::Ask;
use crate::world::{Event, MAX_EFFECTS, World};

/// What the clock shows at the beginning, in milliseconds.
const EPOCH: u64 = 1_000_000;
/// The most that a machine may hand the journal at once: what waits, and what was put back.
const MAX_APPEND: usize = 3 * 1024 * 1024;

struct Unit {
    machine: DurableOrigin,
    token: u64,
    /// Effects in this second.
    effects: (u64, u64),
    done: bool,
}

/// The node that the units were submitted to.
pub(crate) struct Origin {
    pub(crate) name: NodeId,
    pub(crate) life: u64,
    pub(crate) up: bool,
    /// What somebody has set the clock to, against what it should be.
    pub(crate) clock: i64,
    /// The disk is full until then.
    pub(crate) full_until: u64,
    log: Log,
    units: BTreeMap<usize, Unit>,
    writing: bool,
    /// Appends that are written and wait for a sync: number, unit, length of the log.
    unsynced: Vec<(u64, usize, usize)>,
    tokens: u64,
}

impl Origin {
    pub(crate) fn new() -> Self {
        Self {
            name: NodeId::parse("O").expect("a good name"),
            life: 1,
            up: true,
            clock: 0,
            full_until: 0,
            log: Log::default(),
            units: BTreeMap::new(),
            writing: false,
            unsynced: Vec::new(),
            tokens: 0,
        }
    }

    pub(crate) fn wants_pieces(&self, unit: usize) -> bool {
        self.units
            .get(&unit)
            .is_none_or(|unit| unit.machine.wants_pieces())
    }

    /// Why a unit is not done.
    pub(crate) fn left(&self, unit: usize) -> Option<String> {
        let unit = self.units.get(&unit).filter(|unit| !unit.done)?;
        Some(format!("{:?}", unit.machine))
    }
}

impl World {
    fn wall(&self) -> u64 {
        (EPOCH + self.now).saturating_add_signed(self.origin.clock)
    }

    pub(crate) fn submit(&mut self, unit: usize) {
        if !self.origin.up {
            return self.after(100, Event::Submit { unit });
        }
        if self.origin.units.contains_key(&unit) {
            return self.ledger.see("submitted twice");
        }
        let planned = &self.plan.units[unit];
        let (mut order, hurried, timings) = (planned.order(), planned.hurried, self.plan.timings);
        order.deadline_ms = order.deadline_ms.map(|at| at + EPOCH);
        order.submitted_ms = self.wall();
        let candidate = hurried.then(|| self.candidate(unit)).flatten();
        let machine = DurableOrigin::submit(order, candidate, timings, self.wall());
        self.note(|| format!("O unit {unit}: submitted"));
        self.keep(unit, machine);
        self.carry_out(unit);
        if self.rng.chance(20) {
            let wait = self.rng.range(0..1000);
            self.after(wait, Event::Submit { unit });
        }
    }

    fn keep(&mut self, unit: usize, machine: DurableOrigin) {
        let kept = Unit {
            machine,
            token: 0,
            effects: (0, 0),
            done: false,
        };
        self.origin.units.insert(unit, kept);
    }

    /// Tells a unit's machine what has happened.
    pub(crate) fn tell(&mut self, unit: usize, input: OriginInput) {
        let now = self.wall();
        let Some(kept) = self.origin.units.get_mut(&unit).filter(|_| self.origin.up) else {
            return;
        };
        let wakes = input == OriginInput::Wake;
        let may_wait = is_word(&input) && kept.machine.wants_pieces();
        if self.problem.is_none() {
            let line = format!("O unit {unit} <- {input:?}");
            kept.machine.handle(input, now);
            let next = kept.machine.poll_timeout();
            if kept.machine.history().is_forgotten() && !kept.done {
                self.ledger.forget(unit);
            }
            self.note(|| line);
            self.expect(!wakes || next.is_none_or(|at| at > now), || {
                format!("unit {unit} was woken at {now} and wants to be woken at {next:?}")
            });
        }
        // What comes at about the same time may be taken together.
        if may_wait && self.rng.chance(40) {
            let (wait, life) = (self.rng.range(0..30), self.origin.life);
            return self.after(wait, Event::CarryOut { unit, life });
        }
        self.carry_out(unit);
    }

    pub(crate) fn wake(&mut self, unit: usize, life: u64, token: u64) {
        let due = self.origin.life == life
            && self
                .origin
                .units
                .get(&unit)
                .is_some_and(|kept| kept.token == token);
        if due {
            self.tell(unit, OriginInput::Wake);
        }
    }

    pub(crate) fn carry_out(&mut self, unit: usize) {
        while self.problem.is_none() {
            let Some(kept) = self.origin.units.get_mut(&unit) else {
                return;
            };
            let Some(effect) = kept.machine.poll_effect() else {
                break;
            };
            let second = self.now / 1000;
            kept.effects = match kept.effects {
                (at, count) if at == second => (at, count + 1),
                _ => (second, 1),
            };
            let many = kept.effects.1;
            self.expect(many < MAX_EFFECTS, || format!("unit {unit} spins: {effect:?}"));
            if self.crashes_here() {
                return self.crash_origin(None);
            }
            self.note(|| format!("O unit {unit} -> {effect:?}"));
            self.perform(unit, effect);
            if self.crashes_here() {
                return self.crash_origin(None);
            }
        }
        self.set_timer(unit);
    }

    pub(crate) fn set_timer(&mut self, unit: usize) {
        let now = self.wall();
        let life = self.origin.life;
        self.origin.tokens += 1;
        let token = self.origin.tokens;
        let Some(kept) = self.origin.units.get_mut(&unit) else {
            return;
        };
        kept.token = token;
        if let Some(at) = kept.machine.poll_timeout() {
            self.after(at.saturating_sub(now), Event::Wake { unit, life, token });
        }
    }

    fn perform(&mut self, unit: usize, effect: OriginEffect) {
        let life = self.origin.life;
        match effect {
            OriginEffect::Append {
                number,
                records,
                data,
                sync,
            } => {
                self.expect(data.len() <= MAX_APPEND, || {
                    format!("append of {} bytes", data.len())
                });
                self.origin.log.append(LogEntry {
                    unit,
                    records: records.iter().map(record::encode).collect(),
                    data,
                    removes: false,
                    number,
                    sync,
                });
                if !std::mem::replace(&mut self.origin.writing, true) {
                    let wait = self.rng.range(0..10);
                    self.after(wait, Event::OriginWrite { life });
                }
            }
            OriginEffect::Place => {
                let wait = self.rng.range(0..10);
                self.after(wait, Event::Place { unit, life });
            }
            OriginEffect::Offer {
                conversation,
                executor,
                offer,
            } => {
                let of_now = |node: &Executor| node.name == executor && Incarnation(node.life) == offer.life;
                let late = !self.executors.iter().any(of_now);
                self.ledger.units[unit].offered = true;
                self.ledger.units[unit].in_doubt |= late;
                let known = self.has_record(unit, |record| {
                    matches!(record, OriginRecord::Offered { offer: o, executor: e, .. } if *o == offer && *e == executor)
                });
                self.expect(known, || {
                    format!("unit {unit}: {offer:?} is made before it is on the disk")
                });
                let payload = self.plan.units[unit].payload;
                let mut asks = vec![Ask::Submit(offer)];
                asks.extend((0..payload).map(|_| Ask::Payload));
                asks.push(Ask::PayloadEnd);
                self.converse(unit, conversation, &executor, asks);
            }
            OriginEffect::Resume {
                conversation,
                executor,
                offer,
                position,
            } => {
                self.ledger.see("resumed");
                self.converse(unit, conversation, &executor, vec![Ask::Resume(offer, position)]);
            }
            OriginEffect::Ack {
                conversation,
                position,
            } => {
                let kept = ledger::place(&self.origin.log.data(unit, Level::Synced)).unwrap_or_default();
                let good = position.bytes <= kept.bytes && position.responses <= kept.responses;
                self.expect(good, || {
                    format!("unit {unit}: {position:?} is acknowledged, {kept:?} is on the disk")
                });
                if let Some(talk) = self.talk_of(unit, conversation) {
                    self.ask(talk, Ask::Ack(position));
                }
            }
            OriginEffect::Close(conversation) => {
                if let Some(talk) = self.talk_of(unit, conversation) {
                    self.close(talk);
                }
            }
            OriginEffect::Release { executor, number, .. } => self.release(unit, &executor, number),
            OriginEffect::Stored => {
                self.ledger.units[unit].stored = true;
                let known = self.has_record(unit, |record| matches!(record, OriginRecord::Submitted(_)));
                self.expect(known, || format!("unit {unit} is said to be stored before it is"));
            }
            OriginEffect::NotStored(_) => {
                self.ledger.see("not stored");
                self.origin.units.remove(&unit);
            }
            OriginEffect::Changed => {}
            OriginEffect::Ended(eof) => {
                self.ledger.see(eof.kind.as_str());
                let told = self.ledger.units[unit].ended.is_some();
                self.expect(!told, || format!("unit {unit} ends twice"));
                let known = self.has_record(
                    unit,
                    |record| matches!(record, OriginRecord::Ended { eof: e, .. } if *e == eof),
                );
                self.expect(known, || {
                    format!("unit {unit} is said to have ended before that is on the disk")
                });
                let stream = self.origin.log.data(unit, Level::Synced);
                if let Err(problem) = self.ledger.end(unit, &eof, &stream) {
                    self.fail(problem);
                }
                if self.rng.chance(40) {
                    let (wait, input) = (self.rng.range(0..2000), OriginInput::Forget);
                    self.after(wait, Event::Tell { unit, life, input });
                }
            }
            OriginEffect::Done => {
                let told = self.ledger.units[unit].ended.is_some();
                self.expect(told, || format!("unit {unit} is done and has no end"));
                if let Some(kept) = self.origin.units.get_mut(&unit) {
                    let twice = std::mem::replace(&mut kept.done, true);
                    self.expect(!twice, || format!("unit {unit} is done twice"));
                }
            }
        }
    }

    fn has_record(&self, unit: usize, is: impl Fn(&OriginRecord) -> bool) -> bool {
        let records = self.origin.log.records(unit, Level::Synced);
        records
            .filter_map(|bytes| record::decode(bytes).ok())
            .any(|record| is(&record))
    }

    /// The executor of this name, if it can be reached.
    fn reach(&mut self, name: &NodeId) -> Option<usize> {
        let e = self.executors.iter().position(|node| node.name == *name)?;
        let lucky = !self.is_rough() || !self.rng.chance(5);
        (self.executors[e].up && self.executors[e].apart_until <= self.now && lucky).then_some(e)
    }

    fn converse(&mut self, unit: usize, conversation: u64, executor: &NodeId, asks: Vec<Ask>) {
        if let Some(e) = self.reach(executor) {
            return self.open(unit, conversation, false, e, asks);
        }
        let (life, wait) = (self.origin.life, self.rng.range(0..100));
        let input = OriginInput::Unreachable(conversation, "no way".to_owned());
        self.after(wait, Event::Tell { unit, life, input });
    }

    fn release(&mut self, unit: usize, executor: &NodeId, number: u32) {
        let wanted = self.origin.units.get(&unit).is_some_and(|kept| {
            let history = kept.machine.history();
            let current = |(e, offer): &(NodeId, Offer)| e == executor && offer.number <= number;
            history.end().is_none() && history.offered().is_some_and(current)
        });
        self.expect(!wanted, || {
            format!("unit {unit}: offer {number} to {executor} is released while it counts")
        });
        if let Some(e) = self.reach(executor) {
            return self.open(unit, u64::from(number), true, e, vec![Ask::Release(number)]);
        }
        let (life, wait) = (self.origin.life, self.rng.range(0..100));
        let input = OriginInput::NotReleased(executor.clone(), number);
        self.after(wait, Event::Tell { unit, life, input });
    }

    pub(crate) fn place(&mut self, unit: usize) {
        let input = match self.candidate(unit) {
            Some(candidate) => OriginInput::Found(candidate),
            None => OriginInput::NotFound("no executor".to_owned()),
        };
        self.tell(unit, input);
    }

    /// An executor as the mesh knows it, which may be wrong.
    fn candidate(&mut self, unit: usize) -> Option<Candidate> {
        let stale = self.is_rough() && self.rng.chance(10);
        let named = self.plan.units[unit].to;
        let good: Vec<usize> = (0..self.executors.len())
            .filter(|e| named.is_none_or(|named| named == *e))
            .filter(|e| {
                let node = &self.executors[*e];
                stale || (node.up && !node.draining && node.apart_until <= self.now)
            })
            .collect();
        if good.is_empty() {
            return None;
        }
        let node = &self.executors[good[self.rng.index(good.len())]];
        let life = if stale && node.life > 1 {
            node.life - 1
        } else {
            node.life
        };
        Some(Candidate {
            executor: node.name.clone(),
            life: Incarnation(life),
            idempotent: self.plan.units[unit].worker_idempotent,
        })
    }

    pub(crate) fn origin_write(&mut self) {
        self.origin.writing = false;
        let (full, rough) = (self.now < self.origin.full_until, self.is_rough());
        let rng = &mut self.rng;
        let told = self
            .origin
            .log
            .write(|| rough && rng.chance(if full { 90 } else { 1 }));
        let (length, life) = (self.origin.log.length(), self.origin.life);
        let mut wait = 1000;
        for Told {
            number,
            unit,
            good,
            sync,
            data,
        } in told
        {
            let input = if good {
                OriginInput::Stored(number)
            } else if data && self.rng.chance(10) {
                self.ledger.see("stream closed");
                OriginInput::Closed(number, "the stream takes no more".to_owned())
            } else {
                OriginInput::NotStored(number, "full".to_owned())
            };
            if good && sync {
                self.origin.unsynced.push((number, unit, length));
                wait = self.rng.range(0..15);
            } else {
                if !good {
                    self.ledger.see("disk full");
                }
                let soon = self.rng.range(0..5);
                self.after(soon, Event::Tell { unit, life, input });
            }
        }
        self.after(wait, Event::OriginSync { life, length });
    }

    pub(crate) fn origin_sync(&mut self, length: usize) {
        self.origin.log.sync(length);
        let life = self.origin.life;
        for (number, unit, at) in std::mem::take(&mut self.origin.unsynced) {
            if self.origin.log.is_synced(at) {
                let (soon, input) = (self.rng.range(0..3), OriginInput::Stored(number));
                self.after(soon, Event::Tell { unit, life, input });
            } else {
                self.origin.unsynced.push((number, unit, at));
            }
        }
    }

    pub(crate) fn crash_origin(&mut self, crash: Option<Crash>) {
        let crash = crash.unwrap_or_else(|| self.any_crash());
        self.ledger.see("origin crashed");
        self.note(|| format!("O stops: {crash:?}"));
        let rng = &mut self.rng;
        self.origin.log.crash(crash, |most| rng.index(most));
        self.close_all(|_| true, false);
        let origin = &mut self.origin;
        origin.units.clear();
        origin.unsynced.clear();
        (origin.up, origin.writing) = (false, false);
        origin.life += 1;
        let wait = self.rng.range(1..3000);
        self.after(wait, Event::OriginUp);
    }

    pub(crate) fn origin_up(&mut self) {
        self.origin.up = true;
        self.note(|| "O starts");
        for unit in 0..self.plan.units.len() {
            if let Err(problem) = self.recover(unit) {
                return self.fail(problem);
            }
            if !self.origin.up {
                return;
            }
        }
    }

    fn recover(&mut self, unit: usize) -> Result<(), String> {
        let records: Vec<OriginRecord> = self
            .origin
            .log
            .records(unit, Level::Written)
            .map(|bytes| record::decode(bytes).map_err(|error| error.to_string()))
            .collect::<Result<_, _>>()?;
        let account = &self.ledger.units[unit];
        if records.is_empty() {
            if account.stored {
                return Err(format!("unit {unit} was stored and is gone"));
            }
            if self.now >= self.plan.units[unit].submit_ms && self.rng.chance(50) {
                self.after(10, Event::Submit { unit });
            }
            return Ok(());
        }
        let told = account.ended.is_some();
        let history = OriginHistory::fold(records).map_err(|error| error.to_string())?;
        if account.forgotten && !history.is_forgotten() {
            return Err(format!("unit {unit} was forgotten and is here again"));
        }
        let stream = self.origin.log.data(unit, Level::Written);
        match history.end() {
            Some(eof) => self.ledger.end(unit, eof, &stream)?,
            None if told => return Err(format!("unit {unit} had an end, which is gone")),
            None => self.ledger.check(unit, &stream)?,
        }
        let mut count = ResponseCount::default();
        count.feed(stream.into()).map_err(|error| error.to_string())?;
        let kept = count.finish().ok_or("kept frames are cut")?;
        let machine = DurableOrigin::recover(history, kept, self.plan.timings, self.wall());
        self.keep(unit, machine);
        self.tell(unit, OriginInput::Wake);
        Ok(())
    }
}

/// Whether an executor has said it.
fn is_word(input: &OriginInput) -> bool {
    matches!(
        input,
        OriginInput::Accepted(_)
            | OriginInput::Started(_)
            | OriginInput::Piece(..)
            | OriginInput::Eof(..)
            | OriginInput::Returned(..)
            | OriginInput::Refused(..)
    )
}
