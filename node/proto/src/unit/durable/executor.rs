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
    /// Tell the origin that the unit is taken.
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

    /// A unit as the journal of an earlier life tells of it, at `now_ms`, with what was counted of the responses that are kept; for one that
    /// has its end they need not be counted. One that may have run and has no end gets one. `None`: the records are not those of a unit.
    pub fn recover(
        records: impl IntoIterator<Item = ExecutorRecord>,
        kept: ResponseTally,
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
        // An end that tells of other responses than those that are kept is none; the origin finds out if they were not counted.
        let counted = unit.tally.responses() > 0;
        if counted && unit.end.as_ref().is_some_and(|eof| !unit.has_sent(eof)) {
            unit.end = None;
            unit.phase = ExecutorPhase::Started;
        }
        // That it was not started can't be known for sure: the word of it may be what was lost.
        if matches!(unit.phase, ExecutorPhase::Taken | ExecutorPhase::Started) {
            unit.end(
                Eof::without_responses(Kind::NodeLost, "the executor stopped while it had the unit"),
                now_ms,
            );
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

    /// The payload is complete and kept: the unit is taken.
    pub fn take(&mut self, directive: &str, now_ms: u64) {
        if self.forgotten || self.phase != ExecutorPhase::Arriving {
            return;
        }
        self.phase = ExecutorPhase::Taken;
        self.append(vec![ExecutorRecord::Taken {
            origin: self.origin.clone(),
            offer: self.offer,
            directive: directive.to_owned(),
            at_ms: now_ms,
        }]);
        self.effects.push_back(ExecutorEffect::Run);
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
        self.effects.clear();
        self.tally = kept;
        self.acked = self.acked.min(self.position());
        self.end(Eof::without_responses(Kind::NodeLost, why), now_ms);
        self.effects.push_back(ExecutorEffect::Stop);
        true
    }

    /// The executor goes: a unit that has not started goes back. `false`: it has started.
    pub fn give_back(&mut self, message: &str, now_ms: u64) -> bool {
        if self.forgotten || self.phase != ExecutorPhase::Taken {
            return false;
        }
        self.phase = ExecutorPhase::Returned;
        self.ended_ms = Some(now_ms);
        self.returned = Some(message.to_owned());
        self.append(vec![ExecutorRecord::Returned {
            message: message.to_owned(),
            at_ms: now_ms,
        }]);
        self.effects.push_back(ExecutorEffect::Stop);
        true
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

    /// What comes before anybody has asked for the last append goes with it.
    fn append(&mut self, records: Vec<ExecutorRecord>) {
        let data = self.frames.take();
        if let Some(ExecutorEffect::Append {
            records: last,
            data: before,
        }) = self.effects.back_mut()
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
mod tests {
    use super::*;
    use crate::id::Incarnation;

    const OFFER: Offer = Offer {
        number: 1,
        life: Incarnation(7),
    };

    fn effects(unit: &mut DurableExecutor) -> Vec<ExecutorEffect> {
        std::iter::from_fn(|| unit.poll_effect()).collect()
    }

    fn taken() -> (DurableExecutor, Vec<ExecutorRecord>) {
        let mut unit = DurableExecutor::offered(NodeId::parse("O").unwrap(), OFFER);
        unit.take("echo:bytes", 1);
        let records = match &effects(&mut unit)[..] {
            [
                ExecutorEffect::Append { records, .. },
                ExecutorEffect::Run,
                ExecutorEffect::Accept,
            ] => records.clone(),
            other => panic!("{other:?}"),
        };
        (unit, records)
    }

    fn tally(pieces: &[&[u8]]) -> ResponseTally {
        let mut tally = ResponseTally::new();
        for data in pieces {
            tally.add(data, true);
        }
        tally
    }

    /// Carries out appends, and answers with what they add up to.
    fn append(unit: &mut DurableExecutor, records: &mut Vec<ExecutorRecord>) -> usize {
        let mut bytes = 0;
        for effect in effects(unit) {
            if let ExecutorEffect::Append { records: new, data } = effect {
                records.extend(new);
                bytes += data.len();
            }
        }
        bytes
    }

    #[test]
    fn a_unit_is_on_the_disk_before_it_runs_and_is_accepted() {
        let (unit, records) = taken();
        assert_eq!(unit.phase(), ExecutorPhase::Taken);
        assert!(matches!(
            records[..],
            [ExecutorRecord::Taken { offer: OFFER, .. }]
        ));
    }

    #[test]
    fn nothing_runs_before_it_is_taken_or_after_it_is_over() {
        let mut unit = DurableExecutor::offered(NodeId::parse("O").unwrap(), OFFER);
        assert!(!unit.handle_started());
        let (mut unit, _) = taken();
        assert!(unit.give_back("shuts down", 2));
        assert!(!unit.handle_started());
        assert_eq!(unit.returned(), Some("shuts down"));
        let (mut unit, _) = taken();
        unit.handle_end(Eof::without_responses(Kind::Cancelled, ""), 2);
        assert!(!unit.handle_started());
        let (mut unit, _) = taken();
        assert!(unit.handle_started());
        assert!(!unit.give_back("shuts down", 2));
    }

    #[test]
    fn an_end_counts_what_was_sent_and_nothing_follows_it() {
        let (mut unit, mut records) = taken();
        unit.handle_started();
        unit.handle_piece(b"ab", true);
        unit.handle_piece(b"", true);
        unit.handle_end(Eof::without_responses(Kind::Ok, ""), 2);
        assert!(append(&mut unit, &mut records) > 0);
        let eof = unit.end_of().unwrap().clone();
        assert_eq!(
            (eof.responses, eof.bytes, eof.digest),
            (2, 2, tally(&[b"ab", b""]).digest())
        );
        unit.handle_piece(b"late", true);
        unit.flush();
        unit.handle_end(Eof::without_responses(Kind::Panic, ""), 3);
        assert_eq!((effects(&mut unit), unit.end_of()), (vec![], Some(&eof)));
    }

    #[test]
    fn what_nobody_wants_any_more_keeps_nothing_more() {
        let (mut unit, _) = taken();
        unit.handle_started();
        assert!(!unit.handle_release(0));
        effects(&mut unit);
        assert!(unit.handle_release(1) && unit.handle_release(1));
        assert_eq!(effects(&mut unit), [ExecutorEffect::Stop, ExecutorEffect::Forget]);
        unit.handle_piece(b"late", true);
        unit.flush();
        unit.handle_end(Eof::without_responses(Kind::Ok, ""), 3);
        assert!(!unit.handle_started() && !unit.give_back("late", 3));
        assert_eq!(effects(&mut unit), []);
    }

    #[test]
    fn what_was_to_be_kept_is_not_once_nobody_wants_it() {
        let (mut unit, _) = taken();
        unit.handle_started();
        let Some(ExecutorEffect::Append { records, data }) = unit.poll_effect() else {
            panic!("the start is kept");
        };
        unit.handle_piece(b"ab", true);
        unit.flush();
        assert!(unit.handle_release(1));
        unit.append_again(records, data);
        assert_eq!(effects(&mut unit), [ExecutorEffect::Stop, ExecutorEffect::Forget]);
    }

    #[test]
    fn what_could_not_be_kept_was_not_taken() {
        let mut unit = DurableExecutor::offered(NodeId::parse("O").unwrap(), OFFER);
        unit.take("echo:bytes", 1);
        assert!(unit.give_back("shuts down", 2));
        unit.untake();
        assert_eq!((unit.phase(), unit.returned()), (ExecutorPhase::Arriving, None));
        assert_eq!(effects(&mut unit), []);
    }

    #[test]
    fn a_unit_that_nobody_asks_for_ends_with_what_it_sent() {
        let (mut unit, mut records) = taken();
        unit.handle_started();
        unit.handle_piece(b"ab", true);
        assert!(unit.lose("nobody asks", 5) && !unit.lose("nobody asks", 6));
        assert!(append(&mut unit, &mut records) > 0);
        let eof = unit.end_of().unwrap();
        assert_eq!((eof.kind, eof.bytes), (Kind::NodeLost, 2));
        assert!(matches!(
            records.last(),
            Some(ExecutorRecord::Ended { at_ms: 5, .. })
        ));
    }

    #[test]
    fn a_unit_whose_responses_cannot_be_kept_ends_with_those_that_are() {
        let (mut unit, mut records) = taken();
        unit.handle_started();
        unit.handle_piece(b"ab", true);
        unit.flush();
        append(&mut unit, &mut records);
        unit.handle_piece(b"cd", true);
        unit.flush();
        unit.handle_piece(b"ef", true);
        assert!(unit.fail("the disk is broken", tally(&[b"ab"]), 5));
        let left = effects(&mut unit);
        let [
            ExecutorEffect::Append { records: last, data },
            ExecutorEffect::Stop,
        ] = &left[..]
        else {
            panic!("{left:?}");
        };
        let eof = unit.end_of().unwrap();
        assert_eq!((eof.kind, eof.responses, eof.bytes), (Kind::NodeLost, 1, 2));
        assert!(
            data.is_empty() && matches!(&last[..], [ExecutorRecord::Ended { eof: kept, .. }] if kept == eof)
        );
        unit.handle_piece(b"late", true);
        unit.flush();
        assert_eq!(effects(&mut unit), []);
    }

    #[test]
    fn an_end_whose_responses_are_gone_gives_way() {
        let (mut unit, _) = taken();
        unit.handle_started();
        unit.handle_piece(b"ab", true);
        unit.handle_end(Eof::without_responses(Kind::Ok, ""), 2);
        effects(&mut unit);
        assert!(unit.fail("unreadable", tally(&[]), 5));
        assert_eq!(
            unit.end_of().map(|eof| (eof.kind, eof.bytes)),
            Some((Kind::NodeLost, 0))
        );
        assert!(unit.handle_release(1) && !unit.fail("unreadable", tally(&[]), 6));
    }

    #[test]
    fn an_acknowledgement_never_counts_more_than_was_sent() {
        let (mut unit, _) = taken();
        unit.handle_piece(b"abcd", true);
        unit.handle_ack(Position {
            responses: 0,
            bytes: 3,
        });
        assert_eq!(unit.unacknowledged(), 1);
        unit.handle_ack(Position {
            responses: 0,
            bytes: 1,
        });
        assert_eq!(unit.unacknowledged(), 1);
        unit.handle_ack(Position {
            responses: 9,
            bytes: 9,
        });
        assert_eq!((unit.unacknowledged(), unit.position().bytes), (0, 4));
    }

    #[test]
    fn after_a_restart_a_unit_without_an_end_is_lost_with_what_it_sent() {
        let (mut unit, mut records) = taken();
        let restarted = DurableExecutor::recover(records.clone(), ResponseTally::new(), 9).unwrap();
        assert_eq!(restarted.end_of().map(|eof| eof.kind), Some(Kind::NodeLost));
        unit.handle_started();
        unit.handle_piece(b"ab", true);
        unit.flush();
        append(&mut unit, &mut records);
        let mut restarted = DurableExecutor::recover(records.clone(), tally(&[b"ab"]), 9).unwrap();
        let eof = restarted.end_of().unwrap().clone();
        assert_eq!(
            (eof.kind, eof.outcome, eof.responses),
            (Kind::NodeLost, eof.kind.outcome(), 1)
        );
        append(&mut restarted, &mut records);
        let again = DurableExecutor::recover(records, tally(&[b"ab"]), 99).unwrap();
        assert_eq!(again.end_of(), Some(&eof));
    }

    #[test]
    fn after_a_restart_an_end_stays_if_all_that_it_counts_was_kept() {
        let (mut unit, mut records) = taken();
        unit.handle_started();
        unit.handle_piece(b"ab", true);
        unit.handle_end(Eof::without_responses(Kind::Ok, ""), 2);
        append(&mut unit, &mut records);
        let whole = DurableExecutor::recover(records.clone(), tally(&[b"ab"]), 9).unwrap();
        assert_eq!(whole.end_of(), unit.end_of());
        let uncounted = DurableExecutor::recover(records.clone(), ResponseTally::new(), 9).unwrap();
        assert_eq!(uncounted.end_of(), unit.end_of());
        let damaged = DurableExecutor::recover(records, tally(&[b"aX"]), 9).unwrap();
        assert_eq!(damaged.end_of().map(|eof| eof.kind), Some(Kind::NodeLost));
    }

    #[test]
    fn after_a_restart_the_latest_offer_that_was_taken_counts() {
        let (_, mut records) = taken();
        let later = Offer { number: 2, ..OFFER };
        let mut unit = DurableExecutor::offered(NodeId::parse("O").unwrap(), later);
        unit.take("echo:bytes", 2);
        append(&mut unit, &mut records);
        let restarted = DurableExecutor::recover(records, ResponseTally::new(), 9).unwrap();
        assert_eq!(restarted.offer(), later);
    }

    #[test]
    fn after_a_restart_what_was_given_back_is_so_still() {
        let (mut unit, mut records) = taken();
        assert!(unit.give_back("shuts down", 2));
        append(&mut unit, &mut records);
        let mut restarted = DurableExecutor::recover(records, ResponseTally::new(), 9).unwrap();
        assert_eq!(
            (restarted.phase(), restarted.returned()),
            (ExecutorPhase::Returned, Some("shuts down"))
        );
        assert_eq!(effects(&mut restarted), []);
        assert!(DurableExecutor::recover([ExecutorRecord::Started {}], ResponseTally::new(), 9).is_none());
    }

    #[test]
    fn what_happens_before_anybody_looks_is_one_append() {
        let (mut unit, _) = taken();
        unit.handle_started();
        unit.handle_piece(b"ab", true);
        unit.handle_end(Eof::without_responses(Kind::Ok, ""), 2);
        unit.flush();
        let seen = effects(&mut unit);
        let [ExecutorEffect::Append { records, data }] = &seen[..] else {
            panic!("{seen:?}");
        };
        assert!(matches!(
            records[..],
            [ExecutorRecord::Started {}, ExecutorRecord::Ended { .. }]
        ));
        assert!(!data.is_empty());
    }

    #[test]
    fn responses_that_were_to_be_kept_earlier_stay_apart() {
        let (mut unit, _) = taken();
        for piece in [b"ab", b"cd"] {
            unit.handle_piece(piece, true);
            unit.flush();
        }
        assert_eq!(effects(&mut unit).len(), 2);
    }
}
