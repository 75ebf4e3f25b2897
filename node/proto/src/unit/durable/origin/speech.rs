//! What an executor says to a unit's origin, and what comes of it.

use bytes::Bytes;

use super::{DurableOrigin, Step};
use crate::record::OriginRecord;
use crate::unit::durable::frames::position;
use crate::unit::durable::rerun::{Compared, Rerun};
use crate::unit::durable::words::OriginEffect;
use crate::wire::items::Piece;
use crate::wire::unit::{Eof, Kind, Outcome};

/// The most runs of an idempotent unit.
const MAX_ATTEMPTS: u32 = 5;
const DIFFERS: &str = "the executor was lost, and a second run sent other responses than the first";

impl DurableOrigin {
    pub(super) fn is_talking(&self, at: u64) -> bool {
        match self.step {
            Step::Asking { conversation, .. } | Step::Following { conversation } => conversation == at,
            _ => false,
        }
    }

    pub(super) fn is_following(&self, at: u64) -> bool {
        matches!(self.step, Step::Following { conversation } if conversation == at)
    }

    pub(super) fn on_unreachable(&mut self, why: String) {
        match self.step {
            Step::Asking { resumes: false, .. } => self.withdraw(why),
            _ => self.part(why),
        }
    }

    pub(super) fn on_accepted(&mut self) {
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
    pub(super) fn acknowledge(&mut self) {
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
    pub(super) fn progress(&mut self) {
        self.backoff.reset();
        self.hasty = true;
    }

    pub(super) fn on_refused(&mut self, kind: Kind, why: String) {
        let Step::Asking { resumes, .. } = self.step else {
            return self.end(Kind::Protocol, "the executor refused what it had accepted");
        };
        match (resumes, kind) {
            // What was accepted may have run, whatever became of it.
            (true, Kind::NoSuchUnit) if self.history.is_accepted() || self.doubted.is_some() => {
                self.lose(why);
            }
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

    pub(super) fn on_started(&mut self) {
        if !self.history.is_started() {
            self.progress();
            self.note(OriginRecord::Started { at_ms: self.now });
            self.effects.push_back(OriginEffect::Changed);
        }
    }

    pub(super) fn on_piece(&mut self, piece: &Piece) {
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

    pub(super) fn keep(&mut self, piece: &Piece) {
        self.frames.push(piece.serial, &piece.data, piece.last);
        self.tally.add(&piece.data, piece.last);
    }

    pub(super) fn on_eof(&mut self, eof: Eof) {
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

    pub(super) fn on_returned(&mut self, why: String) {
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
    pub(super) fn part(&mut self, why: String) {
        self.close_conversation();
        let followed = matches!(self.step, Step::Following { .. });
        if followed && self.now.saturating_sub(self.accepted_ms) >= self.timings.retry_most_ms {
            self.progress();
        }
        // Nobody else can have what is for one node, and once that can be reached it may still be running there.
        let elsewhere = self.history.order().to.is_none();
        let patience = match elsewhere && self.may_run_again() {
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
    pub(super) fn withdraw(&mut self, why: String) {
        self.come_to_nothing(None, why, false);
    }

    pub(super) fn come_to_nothing(&mut self, before: Option<OriginRecord>, why: String, sync: bool) -> u64 {
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
    pub(super) fn lose(&mut self, why: String) {
        if let Some(doubt) = &self.doubted {
            let why =
                format!("{why}; its last records may be lost, it may have run or ended before: {doubt}");
            return self.end(Kind::NodeLost, why);
        }
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
        // How often its executor was sought in vain says nothing about the next one.
        self.backoff.reset();
        self.wait(why);
    }

    pub(super) fn rerun_if_kept(&mut self) {
        self.rerun = (self.tally.responses() > 0).then(Rerun::new);
    }

    pub(super) fn may_run_again(&self) -> bool {
        self.history.is_idempotent() && self.history.attempts() < MAX_ATTEMPTS
    }

    pub(super) fn close_conversation(&mut self) {
        if let Step::Asking { conversation, .. } | Step::Following { conversation } = self.step {
            self.effects.push_back(OriginEffect::Close(conversation));
        }
    }
}
