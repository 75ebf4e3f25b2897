//! A durable unit at its origin: waits for an executor, offers the unit, keeps what comes back, decides how it ended.
//!
//! Whoever drives it carries out the effects in their order, and tells what came of them. Answers name the conversation that they
//! came on: those of an earlier one are dropped.

mod journal;
mod speech;

use std::collections::VecDeque;

use bytes::Bytes;

use super::debts::Debts;
use super::frames::{ResponseFrames, position};
use super::history::OriginHistory;
use super::offers::Backoff;
use super::rerun::Rerun;
use super::words::{Candidate, OriginEffect, OriginInput, OriginPhase, OriginTimings};
use crate::record::{Order, OriginRecord};
use crate::unit::tally::ResponseTally;
use crate::wire::durable::{Offer, Position};
use crate::wire::unit::{Eof, Kind};

/// Frames that may wait for the journal, in bytes; beyond it no pieces are wanted.
const MAX_PENDING_BYTES: usize = 1024 * 1024;

/// What the unit is doing about an executor.
#[derive(Debug)]
enum Step {
    /// The submission is on its way to the disk.
    Storing,
    /// Nothing until `Wake` or `at`.
    Waiting { at: u64 },
    /// An executor is looked for.
    Placing,
    /// The offer is on its way to the disk.
    Offering { append: u64 },
    /// The offer or the resumption is on its way.
    Asking { conversation: u64, resumes: bool },
    /// The executor has the unit, and sends.
    Following { conversation: u64 },
    /// The conversation with the executor broke; it is resumed at `at`.
    Apart { at: u64 },
    /// The end is on its way to the disk.
    Ending { append: u64, eof: Eof },
    /// The end is to be stored again at `at`.
    EndLater { at: u64, eof: Eof },
    /// The end is on the disk.
    Ended,
    /// The unit could not be stored.
    Gone,
}

/// One durable unit at its origin.
#[derive(Debug)]
pub struct DurableOrigin {
    history: OriginHistory,
    timings: OriginTimings,
    step: Step,
    reason: String,
    backoff: Backoff,
    /// Since when the executor is out of reach.
    apart_since: Option<u64>,
    /// When the executor last accepted.
    accepted_ms: u64,
    /// The next break is followed by a resumption at once.
    hasty: bool,
    /// The append that says so, if it may not be on the disk.
    accepting: Option<u64>,
    /// Counts and digest of what has come, whether on the disk or not.
    tally: ResponseTally,
    rerun: Option<Rerun>,
    frames: ResponseFrames,
    /// The append of frames that is under way, what it held and where it led.
    append: Option<(u64, Bytes, ResponseTally)>,
    /// Not before this time: the journal has just failed.
    append_at: Option<u64>,
    /// Why it does not take what has come.
    hindered: Option<String>,
    stored: Position,
    /// Counts and digest of what is on the disk.
    kept: ResponseTally,
    /// What was acknowledged in this conversation.
    acked: Position,
    /// The executor's end, once all that came before it is here.
    eof: Option<Eof>,
    debts: Debts,
    /// Somebody wants it to end.
    cancelled: bool,
    /// The append that says that nobody is to see it any more.
    forgetting: Option<u64>,
    /// It is to be said again at this time: the journal has refused it.
    forget_at: Option<u64>,
    /// Why records of it may be missing: it may have been offered, run or ended without a trace here.
    doubted: Option<String>,
    next_append: u64,
    next_conversation: u64,
    effects: VecDeque<OriginEffect>,
    now: u64,
}

impl DurableOrigin {
    /// A unit that is submitted at `now`, with its payload in the journal. With a candidate it is offered at once when it is stored.
    pub fn submit(order: Order, candidate: Option<Candidate>, timings: OriginTimings, now: u64) -> Self {
        let mut unit = Self::at_rest(OriginHistory::new(order), ResponseTally::new(), timings, now);
        unit.step = Step::Storing;
        let mut records = vec![OriginRecord::Submitted(Box::new(Order::clone(
            unit.history.order(),
        )))];
        records.extend(candidate.map(|candidate| unit.offer_record(candidate)));
        for record in &records[1..] {
            unit.history.apply(record);
        }
        unit.append(records, Bytes::new(), true);
        unit
    }

    /// A unit as a journal tells of it, with what was counted of the responses that are kept. Waking it lets it go on.
    pub fn recover(history: OriginHistory, kept: ResponseTally, timings: OriginTimings, now: u64) -> Self {
        let mut unit = Self::at_rest(history, kept, timings, now);
        for (executor, number) in unit.history.debts() {
            unit.debts.owe(executor, number, now, None);
        }
        unit.stored = position(&unit.tally);
        unit.step = if unit.history.end().is_some() {
            Step::Ended
        } else if unit.history.offered().is_some() {
            // What is kept may be of the run before: how far the latest one was compared is not known.
            if unit.history.attempts() > 1 {
                unit.rerun_if_kept();
            }
            unit.reason = "the node has restarted".to_owned();
            unit.apart_since = Some(now);
            Step::Apart { at: now }
        } else {
            unit.rerun_if_kept();
            Step::Waiting { at: now }
        };
        unit.done_if_told();
        unit
    }

    fn at_rest(history: OriginHistory, tally: ResponseTally, timings: OriginTimings, now: u64) -> Self {
        Self {
            history,
            timings,
            step: Step::Waiting { at: now },
            reason: String::new(),
            backoff: Backoff::new(timings.retry_least_ms, timings.retry_most_ms),
            apart_since: None,
            stored: position(&tally),
            kept: tally.clone(),
            accepted_ms: now,
            hasty: false,
            accepting: None,
            tally,
            rerun: None,
            frames: ResponseFrames::default(),
            append: None,
            append_at: None,
            hindered: None,
            acked: Position::default(),
            eof: None,
            debts: Debts::new(timings),
            cancelled: false,
            forgetting: None,
            forget_at: None,
            doubted: None,
            next_append: 1,
            next_conversation: 1,
            effects: VecDeque::new(),
            now,
        }
    }

    /// What the journal knows.
    pub fn history(&self) -> &OriginHistory {
        &self.history
    }

    /// Where the unit is.
    pub fn phase(&self) -> OriginPhase {
        match self.step {
            Step::Storing | Step::Gone => OriginPhase::Storing,
            Step::Waiting { .. } | Step::Placing => OriginPhase::Waiting,
            Step::Ending { .. } | Step::EndLater { .. } | Step::Ended => OriginPhase::Ended,
            Step::Offering { .. } | Step::Asking { .. } | Step::Following { .. } | Step::Apart { .. } => {
                match (self.history.offered(), self.has_begun()) {
                    (_, true) => OriginPhase::Running,
                    (Some(_), false) if self.history.is_accepted() => OriginPhase::Accepted,
                    _ => OriginPhase::Waiting,
                }
            }
        }
    }

    /// Whether this run's function has begun: a short unit's executor does not say so before it sends.
    fn has_begun(&self) -> bool {
        self.history.is_started() || (self.rerun.is_none() && self.tally.responses() > 0)
    }

    /// Why the unit waits, or why its executor is not heard; empty if all is well.
    pub fn reason(&self) -> &str {
        match self.step {
            Step::Following { .. } => self.hindered.as_deref().unwrap_or_default(),
            Step::Ended => "",
            _ => &self.reason,
        }
    }

    /// What is on the disk of the responses.
    pub fn stored(&self) -> Position {
        self.stored
    }

    /// Whether further pieces may be handed in; otherwise they are to be left with the executor.
    pub fn wants_pieces(&self) -> bool {
        self.frames.len() < MAX_PENDING_BYTES
    }

    /// When to call with [`OriginInput::Wake`], in milliseconds since 1970.
    pub fn poll_timeout(&self) -> Option<u64> {
        let step = match self.step {
            Step::Waiting { at } | Step::Apart { at } | Step::EndLater { at, .. } => Some(at),
            _ => None,
        };
        let deadline = self.history.order().deadline_ms.filter(|_| self.may_end());
        let debts = self.debts.next_at().filter(|_| self.may_tell());
        [step, deadline, debts, self.append_at, self.forget_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether something waits for its time that [`OriginInput::MeshChanged`] would hurry.
    pub fn hurries(&self) -> bool {
        matches!(self.step, Step::Waiting { .. } | Step::Apart { .. }) || self.debts.next_at().is_some()
    }

    /// The next thing to do. What was handed in before the first call goes to the journal in one append, as far as it can.
    pub fn poll_effect(&mut self) -> Option<OriginEffect> {
        if self.effects.is_empty() {
            self.flush();
        }
        self.effects.pop_front()
    }

    /// Takes what has happened at `now`, in milliseconds since 1970.
    pub fn handle(&mut self, input: OriginInput, now: u64) {
        if now < self.now {
            self.on_clock_back(now);
        }
        self.now = now;
        self.append_at.take_if(|at| *at <= now);
        match input {
            OriginInput::Stored(number) => self.on_stored(number),
            OriginInput::NotStored(number, why) => self.on_not_stored(number, why),
            OriginInput::Closed(number, why) => self.on_closed(number, why),
            OriginInput::Found(candidate) => self.on_found(candidate),
            OriginInput::NotFound(why) => self.on_not_found(why),
            OriginInput::Released(executor, number) => self.on_released(&executor, number),
            OriginInput::NotReleased(executor, number) if self.debts.defer(&executor, number, now) => {}
            OriginInput::NotReleased(executor, number) => self.on_released(&executor, number),
            OriginInput::Cancel => self.cancel(),
            OriginInput::Forget => self.forget(),
            OriginInput::Wake => {}
            OriginInput::MeshChanged => self.hurry(),
            OriginInput::Unreachable(at, why) if self.is_talking(at) => self.on_unreachable(why),
            OriginInput::Accepted(at) if self.is_talking(at) => self.on_accepted(),
            OriginInput::Refused(at, kind, why) if self.is_talking(at) => self.on_refused(kind, why),
            OriginInput::Started(at) if self.is_following(at) => self.on_started(),
            OriginInput::Piece(at, piece) if self.is_following(at) => self.on_piece(&piece),
            OriginInput::Eof(at, eof) if self.is_following(at) => self.on_eof(eof),
            OriginInput::Returned(at, why) if self.is_following(at) => self.on_returned(why),
            OriginInput::Started(at)
            | OriginInput::Piece(at, _)
            | OriginInput::Eof(at, _)
            | OriginInput::Returned(at, _)
                if self.is_talking(at) =>
            {
                self.end(
                    Kind::Protocol,
                    "the executor speaks of a unit that it has not accepted",
                );
            }
            OriginInput::Broken(at, why) if self.is_talking(at) => self.part(why),
            OriginInput::Fault(at, kind, why) if self.is_talking(at) => self.end(kind, why),
            _ => {}
        }
        self.look_at_the_clock();
    }

    /// The journal that the unit was recovered from is damaged, as `why` says, and the unit's last records may be among what is
    /// missing. It goes on with an executor that has it, and is offered to nobody.
    pub fn doubt(&mut self, why: String) {
        self.doubted = Some(why);
    }

    /// Ends a unit of which not everything is left, at `now`.
    pub fn give_up(&mut self, why: String, now: u64) {
        self.now = now;
        if self.may_end() {
            self.end(Kind::Internal, why);
        }
    }

    // what waits

    fn look_at_the_clock(&mut self) {
        let now = self.now;
        if self.is_overdue() && self.may_end() {
            let why = match self.phase() {
                OriginPhase::Waiting if self.reason.is_empty() => {
                    "the deadline passed before an executor had the unit".to_owned()
                }
                OriginPhase::Waiting => format!("the deadline passed while the unit waited: {}", self.reason),
                _ => "the unit's deadline passed".to_owned(),
            };
            return self.end(Kind::Expired, why);
        }
        match &self.step {
            Step::Waiting { at } if *at <= now && self.doubted.is_some() => {
                self.lose("the unit waited for an executor".to_owned());
            }
            Step::Waiting { at } if *at <= now => {
                self.step = Step::Placing;
                self.effects.push_back(OriginEffect::Place);
            }
            Step::Apart { at } if *at <= now => self.resume(),
            Step::EndLater { at, .. } if *at <= now => {
                if let Step::EndLater { eof, .. } = std::mem::replace(&mut self.step, Step::Ended) {
                    self.store_end(eof);
                }
            }
            _ => {}
        }
        if self.forget_at.take_if(|at| *at <= now).is_some() {
            self.forget();
        }
        if self.may_tell() {
            self.tell_debts();
        }
    }

    fn is_overdue(&self) -> bool {
        let deadline = self.history.order().deadline_ms;
        deadline.is_some_and(|at| at <= self.now)
    }

    /// No wait becomes longer because somebody has set the clock.
    fn on_clock_back(&mut self, now: u64) {
        let latest = now.saturating_add(self.timings.retry_most_ms);
        if let Step::Waiting { at } | Step::Apart { at } | Step::EndLater { at, .. } = &mut self.step {
            *at = latest.min(*at);
        }
        self.debts.at_latest(latest);
        self.append_at = self.append_at.map(|at| latest.min(at));
        self.forget_at = self.forget_at.map(|at| latest.min(at));
        self.apart_since = self.apart_since.map(|since| now.min(since));
        self.accepted_ms = now.min(self.accepted_ms);
    }

    /// Tries at once what waits.
    fn hurry(&mut self) {
        let now = self.now;
        if let Step::Waiting { at } | Step::Apart { at } = &mut self.step {
            *at = now;
        }
        self.debts.at_latest(now);
    }

    fn wait(&mut self, why: String) {
        self.reason = why;
        let wait = self.backoff.fail();
        self.step = Step::Waiting { at: self.now + wait };
        self.effects.push_back(OriginEffect::Changed);
    }

    fn may_end(&self) -> bool {
        !matches!(
            self.step,
            Step::Storing | Step::Ending { .. } | Step::EndLater { .. } | Step::Ended | Step::Gone
        )
    }

    // placing and offering

    fn on_found(&mut self, candidate: Candidate) {
        if !matches!(self.step, Step::Placing) {
            return;
        }
        let record = self.offer_record(candidate);
        self.history.apply(&record);
        let append = self.append(vec![record], Bytes::new(), true);
        self.step = Step::Offering { append };
    }

    fn on_not_found(&mut self, why: String) {
        if matches!(self.step, Step::Placing) {
            self.wait(why);
        }
    }

    fn offer_record(&self, candidate: Candidate) -> OriginRecord {
        OriginRecord::Offered {
            executor: candidate.executor,
            offer: Offer {
                number: self.history.offers().saturating_add(1),
                life: candidate.life,
            },
            idempotent: candidate.idempotent,
            at_ms: self.now,
        }
    }

    fn offer(&mut self) {
        let Some((executor, offer)) = self.history.offered().cloned() else {
            return;
        };
        let conversation = self.converse();
        self.hasty = true;
        self.step = Step::Asking {
            conversation,
            resumes: false,
        };
        self.effects.push_back(OriginEffect::Offer {
            conversation,
            executor,
            offer,
        });
    }

    fn resume(&mut self) {
        let Some((executor, offer)) = self.history.offered().cloned() else {
            return;
        };
        let conversation = self.converse();
        self.step = Step::Asking {
            conversation,
            resumes: true,
        };
        let position = position(self.rerun.as_ref().map_or(&self.tally, Rerun::seen));
        self.effects.push_back(OriginEffect::Resume {
            conversation,
            executor,
            offer,
            position,
        });
    }

    fn converse(&mut self) -> u64 {
        let conversation = self.next_conversation;
        self.next_conversation += 1;
        self.acked = Position::default();
        conversation
    }
}

#[cfg(test)]
mod tests;
