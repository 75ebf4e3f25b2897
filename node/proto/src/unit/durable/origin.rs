//! A durable unit at its origin: waits for an executor, offers the unit, keeps what comes back, decides how it ended.
//!
//! Whoever drives it carries out the effects in their order, and tells what came of them. Answers name the conversation that they
//! came on: those of an earlier one are dropped.

use std::collections::VecDeque;

use bytes::Bytes;

use super::debts::Debts;
use super::frames::{ResponseFrames, position};
use super::history::OriginHistory;
use super::offers::Backoff;
use super::rerun::{Compared, Rerun};
use super::words::{Candidate, OriginEffect, OriginInput, OriginPhase, OriginTimings};
use crate::id::NodeId;
use crate::record::{Order, OriginRecord};
use crate::unit::tally::ResponseTally;
use crate::wire::durable::{Offer, Position};
use crate::wire::items::Piece;
use crate::wire::unit::{Eof, Kind, Outcome};

/// The most runs of an idempotent unit.
const MAX_ATTEMPTS: u32 = 5;
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
        let mut records = vec![OriginRecord::Submitted(Box::new(unit.history.order().clone()))];
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
            acked: Position::default(),
            eof: None,
            debts: Debts::new(timings),
            cancelled: false,
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
                match (self.history.offered(), self.history.is_started()) {
                    (_, true) => OriginPhase::Running,
                    (Some(_), false) if self.history.is_accepted() => OriginPhase::Accepted,
                    _ => OriginPhase::Waiting,
                }
            }
        }
    }

    /// Why the unit waits, or why its executor is not heard; empty if all is well.
    pub fn reason(&self) -> &str {
        match self.step {
            Step::Following { .. } | Step::Ended => "",
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
        [step, deadline, debts, self.append_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<OriginEffect> {
        self.effects.pop_front()
    }

    /// Takes what has happened at `now`, in milliseconds since 1970.
    pub fn handle(&mut self, input: OriginInput, now: u64) {
        if now < self.now {
            self.on_clock_back(now);
        }
        self.now = now;
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
        self.flush();
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

    // what the executor says

    fn is_talking(&self, at: u64) -> bool {
        match self.step {
            Step::Asking { conversation, .. } | Step::Following { conversation } => conversation == at,
            _ => false,
        }
    }

    fn is_following(&self, at: u64) -> bool {
        matches!(self.step, Step::Following { conversation } if conversation == at)
    }

    fn on_unreachable(&mut self, why: String) {
        match self.step {
            Step::Asking { resumes: false, .. } => self.withdraw(why),
            _ => self.part(why),
        }
    }

    fn on_accepted(&mut self) {
        let Step::Asking { conversation, .. } = self.step else {
            return self.end(Kind::Protocol, "the executor accepted twice");
        };
        self.step = Step::Following { conversation };
        self.apart_since = None;
        self.accepted_ms = self.now;
        self.reason.clear();
        if !self.history.is_accepted() {
            self.accepting = Some(self.note(OriginRecord::Accepted { at_ms: self.now }));
        }
        self.effects.push_back(OriginEffect::Changed);
        // An acknowledgement may have been lost with the conversation before.
        self.acknowledge();
    }

    /// Says what is on the disk of what this run has sent.
    fn acknowledge(&mut self) {
        let Step::Following { conversation } = self.step else {
            return;
        };
        let position = match &self.rerun {
            None => self.stored,
            Some(rerun) => position(rerun.seen()),
        };
        let kept = position.responses <= self.stored.responses && position.bytes <= self.stored.bytes;
        if kept && position > self.acked {
            self.acked = position;
            self.effects.push_back(OriginEffect::Ack {
                conversation,
                position,
            });
        }
    }

    /// The executor does its work: what was hard before is so no longer.
    fn progress(&mut self) {
        self.backoff.reset();
        self.hasty = true;
    }

    fn on_refused(&mut self, kind: Kind, why: String) {
        let Step::Asking { resumes, .. } = self.step else {
            return self.end(Kind::Protocol, "the executor refused what it had accepted");
        };
        match (resumes, kind) {
            // What was accepted may have run, whatever became of it.
            (true, Kind::NoSuchUnit) if self.history.is_accepted() => self.lose(why),
            (true, Kind::NoSuchUnit) => self.withdraw(why),
            (true, Kind::NodeLost) => self.lose(why),
            (
                true,
                Kind::Busy
                | Kind::Draining
                | Kind::NoSpace
                | Kind::NoRoute
                | Kind::NoSuchNode
                | Kind::NoCapableNode
                | Kind::Internal
                | Kind::Unknown,
            ) => self.part(why),
            (
                false,
                Kind::Busy
                | Kind::Draining
                | Kind::NodeLost
                | Kind::NoSpace
                | Kind::NoRoute
                | Kind::NoSuchNode
                | Kind::NoCapableNode
                | Kind::PayloadBroken,
            ) => self.withdraw(why),
            _ => self.end(kind, why),
        }
    }

    fn on_started(&mut self) {
        if !self.history.is_started() {
            self.progress();
            self.note(OriginRecord::Started { at_ms: self.now });
            self.effects.push_back(OriginEffect::Changed);
        }
    }

    fn on_piece(&mut self, piece: &Piece) {
        let due = match &self.rerun {
            Some(rerun) => rerun.next_serial(),
            None => self.tally.next_serial(),
        };
        if piece.serial != due {
            return self.end(
                Kind::Protocol,
                format!("response {} came where {due} was due", piece.serial),
            );
        }
        if piece.last || !piece.data.is_empty() {
            self.progress();
        }
        let compared = self.rerun.as_mut().map(|rerun| rerun.compare(piece, &self.tally));
        match compared {
            None => self.keep(piece),
            Some(Compared::Known) => self.acknowledge(),
            Some(Compared::CaughtUp(new)) => {
                self.rerun = None;
                self.acknowledge();
                if let Some(new) = new {
                    self.keep(&new);
                }
            }
            Some(Compared::Differs) => self.end(Kind::NodeLost, DIFFERS),
        }
    }

    fn keep(&mut self, piece: &Piece) {
        self.frames.push(piece.serial, &piece.data, piece.last);
        self.tally.add(&piece.data, piece.last);
    }

    fn on_eof(&mut self, eof: Eof) {
        if eof.kind != Kind::Unknown && eof.kind.outcome() != eof.outcome {
            let why = format!("end of outcome {} with kind {}", eof.outcome, eof.kind);
            return self.end(Kind::Protocol, why);
        }
        if eof.outcome == Outcome::Lost {
            return self.lose(eof.message);
        }
        if self.rerun.is_some() {
            return self.end(Kind::NodeLost, DIFFERS);
        }
        let here = (self.tally.responses(), self.tally.bytes(), self.tally.digest());
        if here != (eof.responses, eof.bytes, eof.digest) {
            return self.end(Kind::Protocol, "what came of the responses is not what was sent");
        }
        if eof.outcome == Outcome::Succeeded && self.tally.is_open() {
            return self.end(
                Kind::Protocol,
                "the executor reports success in the middle of a response",
            );
        }
        self.finish(eof);
    }

    fn on_returned(&mut self, why: String) {
        let ran = self.history.is_started() || (self.tally.responses() > 0 && !self.history.is_idempotent());
        if ran {
            return self.end(Kind::Protocol, "the executor gives back what it has started");
        }
        let given_back = self.history.offered().cloned();
        let accepted = self
            .accepting
            .take()
            .map(|_| OriginRecord::Accepted { at_ms: self.now });
        let append = self.come_to_nothing(accepted, why, true);
        // The executor keeps the unit until it is told.
        if let Some((executor, offer)) = given_back {
            self.debts.owe(executor, offer.number, self.now, Some(append));
        }
    }

    /// The conversation is gone; the executor may have the unit.
    fn part(&mut self, why: String) {
        self.close_conversation();
        let followed = matches!(self.step, Step::Following { .. });
        if followed && self.now.saturating_sub(self.accepted_ms) >= self.timings.retry_most_ms {
            self.progress();
        }
        let patience = match self.may_run_again() {
            true => self.timings.give_up_ms,
            false => self.timings.lost_ms,
        };
        let since = *self.apart_since.get_or_insert(self.now);
        if self.now.saturating_sub(since) >= patience {
            self.step = Step::Apart { at: self.now };
            let executor = self
                .history
                .offered()
                .map_or("the executor", |(executor, _)| executor.as_str());
            return self.lose(format!("{executor} was out of reach for too long: {why}"));
        }
        self.reason = why;
        // The first attempt to meet again is made at once.
        let wait = match std::mem::take(&mut self.hasty) {
            true => 0,
            false => self.backoff.fail(),
        };
        self.step = Step::Apart { at: self.now + wait };
        self.effects.push_back(OriginEffect::Changed);
    }

    /// The offer has come to nothing: nothing was run.
    fn withdraw(&mut self, why: String) {
        self.come_to_nothing(None, why, false);
    }

    fn come_to_nothing(&mut self, before: Option<OriginRecord>, why: String, sync: bool) -> u64 {
        self.close_conversation();
        self.apart_since = None;
        let withdrawn = OriginRecord::Withdrawn {
            reason: why.clone(),
            at_ms: self.now,
        };
        self.history.apply(&withdrawn);
        let records = before.into_iter().chain([withdrawn]).collect();
        let append = self.append(records, Bytes::new(), sync);
        self.rerun_if_kept();
        self.wait(why);
        append
    }

    /// The executor has lost the unit, which may have run: it ends, or runs again if that does no harm.
    fn lose(&mut self, why: String) {
        if !self.may_run_again() {
            return self.end(Kind::NodeLost, why);
        }
        self.close_conversation();
        self.apart_since = None;
        let given_up = self.history.offered().cloned();
        let record = OriginRecord::GivenUp {
            reason: why.clone(),
            at_ms: self.now,
        };
        self.history.apply(&record);
        let append = self.append(vec![record], Bytes::new(), true);
        if let Some((executor, offer)) = given_up {
            self.debts.owe(executor, offer.number, self.now, Some(append));
        }
        self.rerun_if_kept();
        self.wait(why);
    }

    fn rerun_if_kept(&mut self) {
        self.rerun = (self.tally.responses() > 0).then(Rerun::new);
    }

    fn may_run_again(&self) -> bool {
        self.history.is_idempotent() && self.history.attempts() < MAX_ATTEMPTS
    }

    fn close_conversation(&mut self) {
        if let Step::Asking { conversation, .. } | Step::Following { conversation } = self.step {
            self.effects.push_back(OriginEffect::Close(conversation));
        }
    }

    // the end

    fn cancel(&mut self) {
        self.cancelled = true;
        if self.may_end() {
            self.end(Kind::Cancelled, "cancelled by the submitter");
        }
    }

    /// Ends the unit from here, with what has come so far.
    fn end(&mut self, kind: Kind, why: impl Into<String>) {
        let eof = Eof {
            responses: self.tally.responses(),
            bytes: self.tally.bytes(),
            digest: self.tally.digest(),
            duration_ms: self.now.saturating_sub(self.history.order().submitted_ms),
            ..Eof::without_responses(kind, why)
        };
        self.finish(eof);
    }

    fn finish(&mut self, eof: Eof) {
        self.close_conversation();
        if matches!(self.step, Step::Offering { .. }) {
            self.withdraw("the unit ended before it was offered".to_owned());
        }
        if let Some((executor, offer)) = self.history.offered().cloned() {
            self.debts.owe(executor, offer.number, self.now, None);
        }
        self.store_end(eof);
    }

    /// The end goes to the disk with all that is not there yet, after what is under way.
    fn store_end(&mut self, eof: Eof) {
        if self.append.is_some() {
            self.eof = Some(eof.clone());
            self.step = Step::Ending { append: 0, eof };
            return;
        }
        let data = self.frames.take();
        let record = OriginRecord::Ended {
            eof: eof.clone(),
            at_ms: self.now,
        };
        let append = self.append(vec![record], data.clone(), true);
        self.append = Some((append, data, self.tally.clone()));
        self.step = Step::Ending { append, eof };
    }

    /// An end that is not on the disk yet is told to nobody.
    fn may_tell(&self) -> bool {
        !matches!(
            self.step,
            Step::Ending { .. } | Step::EndLater { .. } | Step::Gone
        )
    }

    fn tell_debts(&mut self) {
        let outcome = self.history.end().map_or(Outcome::Lost, |eof| eof.outcome);
        for (executor, number) in self.debts.due(self.now) {
            self.effects.push_back(OriginEffect::Release {
                executor,
                number,
                outcome,
            });
        }
    }

    fn on_released(&mut self, executor: &NodeId, number: u32) {
        if self.debts.settle(executor, number) {
            self.note(OriginRecord::Released {
                executor: executor.clone(),
            });
            self.done_if_told();
        }
    }

    fn done_if_told(&mut self) {
        if matches!(self.step, Step::Ended) && self.debts.is_empty() {
            self.effects.push_back(OriginEffect::Done);
        }
    }

    // the journal

    fn append(&mut self, records: Vec<OriginRecord>, data: Bytes, sync: bool) -> u64 {
        let number = self.next_append;
        self.next_append += 1;
        self.effects.push_back(OriginEffect::Append {
            number,
            records,
            data,
            sync,
        });
        number
    }

    /// Notes what may be lost in a crash: it would be found out again.
    fn note(&mut self, record: OriginRecord) -> u64 {
        self.history.apply(&record);
        self.append(vec![record], Bytes::new(), false)
    }

    /// Hands the journal what has come, one append at a time.
    fn flush(&mut self) {
        if self.append_at.is_some_and(|at| at <= self.now) {
            self.append_at = None;
        }
        let may = self.append.is_none() && self.append_at.is_none() && !self.frames.is_empty();
        if !may || !self.may_end() {
            return;
        }
        let data = self.frames.take();
        let number = self.append(Vec::new(), data.clone(), true);
        self.append = Some((number, data, self.tally.clone()));
    }

    fn on_stored(&mut self, number: u64) {
        if let Some((_, _, tally)) = self.append.take_if(|(append, ..)| *append == number) {
            self.stored = position(&tally);
            self.kept = tally;
            self.effects.push_back(OriginEffect::Changed);
            self.acknowledge();
        }
        self.accepting.take_if(|append| *append == number);
        self.debts.on_append(number, None);
        match &self.step {
            Step::Storing => {
                self.effects.push_back(OriginEffect::Stored);
                self.step = match self.history.offered() {
                    Some(_) => Step::Offering { append: number },
                    None => Step::Waiting { at: self.now },
                };
                if self.cancelled {
                    self.cancel();
                } else if self.history.offered().is_some() && !self.is_overdue() {
                    self.offer();
                }
            }
            Step::Offering { append } if *append == number && !self.is_overdue() => self.offer(),
            Step::Ending { append, eof } if *append == number => {
                let eof = eof.clone();
                self.history.apply(&OriginRecord::Ended {
                    eof: eof.clone(),
                    at_ms: self.now,
                });
                self.step = Step::Ended;
                self.effects.push_back(OriginEffect::Ended(eof));
                self.done_if_told();
            }
            Step::Ending { append: 0, .. } if self.append.is_none() => self.store_end_now(),
            _ => {}
        }
    }

    fn store_end_now(&mut self) {
        if let Some(eof) = self.eof.take() {
            self.store_end(eof);
        }
    }

    /// What came and is not on the disk is lost: the unit ends with what is.
    fn on_closed(&mut self, number: u64, why: String) {
        if self.append.take_if(|(append, ..)| *append == number).is_none() {
            return self.on_not_stored(number, why);
        }
        self.frames = ResponseFrames::default();
        self.tally = self.kept.clone();
        self.eof = None;
        if matches!(self.step, Step::Ending { .. }) {
            self.step = Step::Waiting { at: self.now };
        }
        if self.may_end() {
            self.end(Kind::Internal, why);
        }
    }

    fn on_not_stored(&mut self, number: u64, why: String) {
        let retry = self.now + self.timings.retry_most_ms.min(1000);
        let data = self.append.take_if(|(append, ..)| *append == number);
        if let Some((_, data, _)) = &data {
            self.frames.put_back(data);
            self.append_at = Some(retry);
        }
        self.debts.on_append(number, Some(retry));
        match &self.step {
            Step::Storing => {
                self.step = Step::Gone;
                self.effects.push_back(OriginEffect::NotStored(why));
            }
            Step::Offering { append } if *append == number => {
                self.history.apply(&OriginRecord::Withdrawn {
                    reason: why.clone(),
                    at_ms: self.now,
                });
                self.wait(why);
            }
            Step::Ending { append, eof } if *append == number || (*append == 0 && data.is_some()) => {
                let eof = eof.clone();
                self.reason = why;
                self.eof = None;
                self.step = Step::EndLater { at: retry, eof };
            }
            _ => {}
        }
    }
}

const DIFFERS: &str = "the executor was lost, and a second run sent other responses than the first";

#[cfg(test)]
#[path = "origin_tests.rs"]
mod tests;
