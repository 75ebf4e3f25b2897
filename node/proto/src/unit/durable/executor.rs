//! A durable unit at its executor: taken once, run at most once, kept until its origin has all of it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::frames::{ResponseFrames, position};
use crate::id::NodeId;
use crate::record::ExecutorRecord;
use crate::unit::tally::ResponseTally;
use crate::wire::durable::{Offer, Position};
use crate::wire::unit::{Eof, Kind};

/// Where the unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExecutorPhase {
    /// Its payload is on the way: nothing is kept yet.
    Arriving,
    /// Taken, and not started.
    Taken,
    /// Its function has begun.
    Started,
    /// It has its end.
    Ended,
    /// It was given back, unstarted.
    Returned,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecutorEffect {
    /// Append to the journal, records and data in one.
    Append {
        /// Records, in order.
        records: Vec<ExecutorRecord>,
        /// `Response` frames.
        data: Bytes,
    },
    /// Tell the origin that the unit is taken. One that is over may be told of before that is in the journal: nothing depends on what
    /// is kept of it but the origin itself, which asks until it has the end.
    Accept,
    /// Let it run.
    Run,
    /// Stop it if it runs: nobody wants it any more.
    Stop,
    /// Remove all that is kept.
    Forget,
}

/// One durable unit at its executor.
#[derive(Debug)]
pub struct DurableExecutor {
    origin: NodeId,
    offer: Offer,
    phase: ExecutorPhase,
    tally: ResponseTally,
    frames: ResponseFrames,
    acked: Position,
    end: Option<Eof>,
    returned: Option<String>,
    ended_ms: Option<u64>,
    /// Nobody wants it any more: nothing further is kept.
    forgotten: bool,
    effects: VecDeque<ExecutorEffect>,
}

impl DurableExecutor {
    /// A unit that `origin` offers; its payload is on the way.
    pub fn offered(origin: NodeId, offer: Offer) -> Self {
        Self {
            origin,
            offer,
            phase: ExecutorPhase::Arriving,
            tally: ResponseTally::new(),
            frames: ResponseFrames::default(),
            acked: Position::default(),
            end: None,
            returned: None,
            ended_ms: None,
            forgotten: false,
            effects: VecDeque::new(),
        }
    }

    /// A unit as the journal of an earlier life tells of it, at `now_ms`, with what was counted of the responses that are kept.
    /// `may_have_begun` is asked of a unit that was taken under this offer, and of which no record says that it has begun. One that may
    /// have run and has no end gets one; one that has certainly not begun goes back. `None`: the records are not those of a unit.
    pub fn recover(
        records: impl IntoIterator<Item = ExecutorRecord>,
        kept: ResponseTally,
        may_have_begun: impl FnOnce(Offer) -> bool,
        now_ms: u64,
    ) -> Option<Self> {
        let mut records = records.into_iter();
        let Some(ExecutorRecord::Taken { origin, offer, .. }) = records.next() else {
            return None;
        };
        let mut unit = Self::offered(origin, offer);
        unit.phase = ExecutorPhase::Taken;
        unit.tally = kept;
        for record in records {
            if matches!(unit.phase, ExecutorPhase::Ended | ExecutorPhase::Returned) {
                break;
            }
            match record {
                // The offer before was not taken in the end: nothing of it was run.
                ExecutorRecord::Taken { origin, offer, .. } => {
                    (unit.origin, unit.offer) = (origin, offer);
                    unit.phase = ExecutorPhase::Taken;
                }
                ExecutorRecord::Started {} => unit.phase = ExecutorPhase::Started,
                ExecutorRecord::Ended { eof, at_ms } => {
                    unit.phase = ExecutorPhase::Ended;
                    unit.ended_ms = Some(at_ms);
                    unit.end = Some(eof);
                }
                ExecutorRecord::Returned { message, at_ms } => {
                    unit.phase = ExecutorPhase::Returned;
                    unit.ended_ms = Some(at_ms);
                    unit.returned = Some(message);
                }
            }
        }
        // An end that tells of other responses than those that are kept is none.
        if unit.end.as_ref().is_some_and(|eof| !unit.has_sent(eof)) {
            unit.end = None;
            unit.phase = ExecutorPhase::Started;
        }
        match unit.phase {
            ExecutorPhase::Taken if unit.tally.responses() == 0 && !may_have_begun(unit.offer) => {
                unit.go_back("the executor stopped before the unit had begun", now_ms);
            }
            ExecutorPhase::Taken | ExecutorPhase::Started => {
                let why = "the executor stopped while it had the unit";
                unit.end(Eof::without_responses(Kind::NodeLost, why), now_ms);
            }
            ExecutorPhase::Arriving | ExecutorPhase::Ended | ExecutorPhase::Returned => {}
        }
        Some(unit)
    }

    fn has_sent(&self, eof: &Eof) -> bool {
        let counted = (self.tally.responses(), self.tally.bytes(), self.tally.digest());
        counted == (eof.responses, eof.bytes, eof.digest)
    }

    /// Whose it is.
    pub fn origin(&self) -> &NodeId {
        &self.origin
    }

    /// The offer that it came with.
    pub fn offer(&self) -> Offer {
        self.offer
    }

    /// Whether nothing that its worker sends is kept any more.
    pub fn is_over(&self) -> bool {
        self.forgotten || matches!(self.phase, ExecutorPhase::Ended | ExecutorPhase::Returned)
    }

    /// Whether its origin has released it.
    pub fn is_forgotten(&self) -> bool {
        self.forgotten
    }

    /// Where it is.
    pub fn phase(&self) -> ExecutorPhase {
        self.phase
    }

    /// The end, if there is one.
    pub fn end_of(&self) -> Option<&Eof> {
        self.end.as_ref()
    }

    /// When it ended or was given back, in milliseconds since 1970.
    pub fn ended_ms(&self) -> Option<u64> {
        self.ended_ms
    }

    /// Why it was given back, if it was.
    pub fn returned(&self) -> Option<&str> {
        self.returned.as_deref()
    }

    /// Response bytes that the origin has not acknowledged.
    pub fn unacknowledged(&self) -> u64 {
        self.tally.bytes().saturating_sub(self.acked.bytes)
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<ExecutorEffect> {
        self.effects.pop_front()
    }

    /// Whether something waits for the journal.
    pub fn wants_append(&self) -> bool {
        let append = |effect: &ExecutorEffect| matches!(effect, ExecutorEffect::Append { .. });
        self.effects.iter().any(append)
    }

    /// `Response` frames that the journal has not been asked to keep yet. Once the unit [is over](Self::is_over) the origin may have them,
    /// and its end, before the journal does.
    pub fn unasked(&self) -> impl Iterator<Item = &Bytes> {
        self.effects.iter().filter_map(|effect| match effect {
            ExecutorEffect::Append { data, .. } => Some(data).filter(|data| !data.is_empty()),
            _ => None,
        })
    }

    /// The payload is complete and kept: the unit is taken. It may run before that is in the journal, and even end: a life that finds
    /// nothing of a unit says itself whether the unit may have begun.
    pub fn take(&mut self, directive: &str, now_ms: u64) {
        if self.forgotten || self.phase != ExecutorPhase::Arriving {
            return;
        }
        self.phase = ExecutorPhase::Taken;
        self.effects.push_back(ExecutorEffect::Run);
        self.append(vec![ExecutorRecord::Taken {
            origin: self.origin.clone(),
            offer: self.offer,
            directive: directive.to_owned(),
            at_ms: now_ms,
        }]);
        self.effects.push_back(ExecutorEffect::Accept);
    }

    /// What [`take`](Self::take) has said could not be stored: the unit is not taken, also if it has been given back since.
    pub fn untake(&mut self) {
        if matches!(self.phase, ExecutorPhase::Taken | ExecutorPhase::Returned) {
            self.phase = ExecutorPhase::Arriving;
            (self.returned, self.ended_ms) = (None, None);
            self.effects.clear();
        }
    }

    /// The function is about to begin. `false`: it must not, because the unit has its end, was given back or is not wanted any more.
    pub fn handle_started(&mut self) -> bool {
        if self.is_over() || self.phase == ExecutorPhase::Arriving {
            return false;
        }
        if self.phase == ExecutorPhase::Taken {
            self.phase = ExecutorPhase::Started;
            self.append(vec![ExecutorRecord::Started {}]);
        }
        true
    }

    /// The worker's next piece; several may be handed in before the effects are looked at.
    pub fn handle_piece(&mut self, data: &[u8], last: bool) {
        if !self.is_over() && self.phase != ExecutorPhase::Arriving {
            let serial = self.tally.add(data, last);
            self.frames.push(serial, data, last);
        }
    }

    /// All pieces that are there have been handed in.
    pub fn flush(&mut self) {
        if !self.forgotten && !self.frames.is_empty() {
            self.append(Vec::new());
        }
    }

    /// The unit's end at `now_ms`, as the executor gives it.
    pub fn handle_end(&mut self, eof: Eof, now_ms: u64) {
        if !self.is_over() && self.phase != ExecutorPhase::Arriving {
            self.end(eof, now_ms);
        }
    }

    fn end(&mut self, eof: Eof, now_ms: u64) {
        self.phase = ExecutorPhase::Ended;
        self.ended_ms = Some(now_ms);
        let eof = Eof {
            responses: self.tally.responses(),
            bytes: self.tally.bytes(),
            digest: self.tally.digest(),
            ..eof
        };
        self.end = Some(eof.clone());
        self.append(vec![ExecutorRecord::Ended { eof, at_ms: now_ms }]);
    }

    /// Nobody has asked for the unit for too long: it ends with what it has sent, and is stopped. `false`: it is over, or not taken.
    pub fn lose(&mut self, why: &str, now_ms: u64) -> bool {
        if self.is_over() || self.phase == ExecutorPhase::Arriving {
            return false;
        }
        self.end(Eof::without_responses(Kind::NodeLost, why), now_ms);
        self.effects.push_back(ExecutorEffect::Stop);
        true
    }

    /// The journal takes no more of the unit's responses, or can't read them: the unit ends with those that are `kept`, and is stopped.
    /// What waits for the journal is dropped; an end that counts more gives way. `false`: there is nothing to end.
    pub fn fail(&mut self, why: &str, kept: ResponseTally, now_ms: u64) -> bool {
        if self.forgotten || matches!(self.phase, ExecutorPhase::Arriving | ExecutorPhase::Returned) {
            return false;
        }
        self.frames = ResponseFrames::default();
        let begun = self.unasked_beginning();
        self.tally = kept;
        self.acked = self.acked.min(self.position());
        if !begun.is_empty() {
            self.append(begun);
        }
        self.end(Eof::without_responses(Kind::NodeLost, why), now_ms);
        self.effects.push_back(ExecutorEffect::Stop);
        true
    }

    /// Records of how the unit began that the journal has not been asked to keep yet.
    fn unasked_beginning(&mut self) -> Vec<ExecutorRecord> {
        let appends = self.effects.drain(..).filter_map(|effect| match effect {
            ExecutorEffect::Append { records, .. } => Some(records),
            _ => None,
        });
        let begins = |record: &ExecutorRecord| {
            matches!(record, ExecutorRecord::Taken { .. } | ExecutorRecord::Started {})
        };
        appends.flatten().filter(begins).collect()
    }

    /// The executor goes: a unit that has not started goes back. `false`: it has started.
    pub fn give_back(&mut self, message: &str, now_ms: u64) -> bool {
        if self.forgotten || self.phase != ExecutorPhase::Taken {
            return false;
        }
        self.go_back(message, now_ms);
        self.effects.push_back(ExecutorEffect::Stop);
        true
    }

    fn go_back(&mut self, message: &str, now_ms: u64) {
        self.phase = ExecutorPhase::Returned;
        self.ended_ms = Some(now_ms);
        self.returned = Some(message.to_owned());
        self.append(vec![ExecutorRecord::Returned {
            message: message.to_owned(),
            at_ms: now_ms,
        }]);
    }

    /// The origin has all up to `position` on its disk. It is kept nevertheless: an origin that restarts while it compares a second run
    /// asks for all of that run again.
    pub fn handle_ack(&mut self, position: Position) {
        let here = self.position();
        self.acked = self.acked.max(position).min(here);
    }

    /// What the worker has sent.
    pub fn position(&self) -> Position {
        position(&self.tally)
    }

    /// The origin knows the end, or no longer wants one, for all offers up to `number`. `false`: a later offer is here.
    pub fn handle_release(&mut self, number: u32) -> bool {
        if self.offer.number > number {
            return false;
        }
        if !std::mem::replace(&mut self.forgotten, true) {
            // What is appended after the removal would be a unit again.
            self.effects.clear();
            self.effects.push_back(ExecutorEffect::Stop);
            self.effects.push_back(ExecutorEffect::Forget);
        }
        true
    }

    /// An append that the journal did not take comes first again, unless nobody wants the unit any more.
    pub fn append_again(&mut self, records: Vec<ExecutorRecord>, data: Bytes) {
        if !self.forgotten {
            self.effects.push_front(ExecutorEffect::Append { records, data });
        }
    }

    /// Goes with the append before it if nobody has asked for that yet.
    fn append(&mut self, records: Vec<ExecutorRecord>) {
        let data = self.frames.take();
        let waiting = self.effects.iter_mut().rev().find_map(|effect| match effect {
            ExecutorEffect::Append { records, data } => Some((records, data)),
            _ => None,
        });
        if let Some((last, before)) = waiting
            && (before.is_empty() || data.is_empty())
        {
            last.extend(records);
            if before.is_empty() {
                *before = data;
            }
        } else {
            self.effects.push_back(ExecutorEffect::Append { records, data });
        }
    }
}

#[cfg(test)]
mod tests;
