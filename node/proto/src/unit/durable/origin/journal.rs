//! How a unit ends at its origin, and what goes to its journal.

use bytes::Bytes;

use super::{DurableOrigin, Step};
use crate::id::NodeId;
use crate::record::OriginRecord;
use crate::unit::durable::frames::{ResponseFrames, position};
use crate::unit::durable::words::OriginEffect;
use crate::wire::unit::{Eof, Kind, Outcome};

impl DurableOrigin {
    // the end

    pub(super) fn cancel(&mut self) {
        self.cancelled = true;
        if self.may_end() {
            self.end(Kind::Cancelled, "cancelled by the submitter");
        }
    }

    /// Ends the unit from here, with what has come so far.
    pub(super) fn end(&mut self, kind: Kind, why: impl Into<String>) {
        let eof = Eof {
            responses: self.tally.responses(),
            bytes: self.tally.bytes(),
            digest: self.tally.digest(),
            duration_ms: self.now.saturating_sub(self.history.order().submitted_ms),
            ..Eof::without_responses(kind, why)
        };
        self.finish(eof);
    }

    pub(super) fn finish(&mut self, eof: Eof) {
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
    pub(super) fn store_end(&mut self, eof: Eof) {
        if self.append.is_some() {
            self.eof = Some(eof.clone());
            self.step = Step::Ending { append: 0, eof };
            return;
        }
        let data = self.frames.take();
        self.drop_needless_notes();
        let record = OriginRecord::Ended {
            eof: eof.clone(),
            at_ms: self.now,
        };
        let append = self.append(vec![record], data.clone(), true);
        self.append = Some((append, data, self.tally.clone()));
        self.step = Step::Ending { append, eof };
    }

    /// How far the unit had come says nothing to who reads its end with it.
    fn drop_needless_notes(&mut self) {
        let notes = |record: &OriginRecord| {
            matches!(
                record,
                OriginRecord::Accepted { .. } | OriginRecord::Started { .. }
            )
        };
        for effect in &mut self.effects {
            if let OriginEffect::Append { records, .. } = effect
                && records.iter().all(notes)
            {
                records.clear();
            }
        }
    }

    /// An end that is not on the disk yet is told to nobody.
    pub(super) fn may_tell(&self) -> bool {
        !matches!(
            self.step,
            Step::Ending { .. } | Step::EndLater { .. } | Step::Gone
        )
    }

    pub(super) fn tell_debts(&mut self) {
        let outcome = self.history.end().map_or(Outcome::Lost, |eof| eof.outcome);
        for (executor, number) in self.debts.due(self.now) {
            self.effects.push_back(OriginEffect::Release {
                executor,
                number,
                outcome,
            });
        }
    }

    pub(super) fn on_released(&mut self, executor: &NodeId, number: u32) {
        if self.debts.settle(executor, number) {
            self.note(OriginRecord::Released {
                executor: executor.clone(),
            });
            self.done_if_told();
        }
    }

    pub(super) fn done_if_told(&mut self) {
        if matches!(self.step, Step::Ended) && self.debts.is_empty() {
            self.effects.push_back(OriginEffect::Done);
        }
    }

    pub(super) fn forget(&mut self) {
        let ended = matches!(self.step, Step::Ended);
        if ended && !self.history.is_forgotten() && self.forgetting.is_none() {
            let record = OriginRecord::Forgotten { at_ms: self.now };
            self.forgetting = Some(self.append(vec![record], Bytes::new(), true));
        }
    }

    // the journal

    /// Goes with the append before it if that has not been given out yet: what it makes safe only comes later than it has to.
    pub(super) fn append(&mut self, mut records: Vec<OriginRecord>, mut data: Bytes, sync: bool) -> u64 {
        let waiting = self.effects.iter_mut().rev().find_map(|effect| match effect {
            OriginEffect::Append {
                number,
                records,
                data,
                sync,
            } => Some((number, records, data, sync)),
            _ => None,
        });
        if let Some((number, records_before, data_before, sync_before)) = waiting
            && (data_before.is_empty() || data.is_empty())
        {
            records_before.append(&mut records);
            if data_before.is_empty() {
                std::mem::swap(data_before, &mut data);
            }
            *sync_before |= sync;
            return *number;
        }
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
    pub(super) fn note(&mut self, record: OriginRecord) -> u64 {
        self.history.apply(&record);
        self.append(vec![record], Bytes::new(), false)
    }

    /// Hands the journal what has come, one append at a time.
    pub(super) fn flush(&mut self) {
        let may = self.append.is_none() && self.append_at.is_none() && !self.frames.is_empty();
        if !may || !self.may_end() {
            return;
        }
        let data = self.frames.take();
        let number = self.append(Vec::new(), data.clone(), true);
        self.append = Some((number, data, self.tally.clone()));
    }

    pub(super) fn on_stored(&mut self, number: u64) {
        if let Some((_, _, tally)) = self.append.take_if(|(append, ..)| *append == number) {
            self.stored = position(&tally);
            self.kept = tally;
            self.hindered = None;
            self.effects.push_back(OriginEffect::Changed);
            self.acknowledge();
        }
        self.accepting.take_if(|append| *append == number);
        if self.forgetting.take_if(|append| *append == number).is_some() {
            self.history.apply(&OriginRecord::Forgotten { at_ms: self.now });
            // Without debts the last effect has been given already.
            if !self.debts.is_empty() {
                self.effects.push_back(OriginEffect::Changed);
            }
        }
        self.debts.on_append(number);
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
            Step::Offering { append } if *append == number => {
                self.debts.on_successor();
                if !self.is_overdue() {
                    self.offer();
                }
            }
            Step::Ending { append, eof } if *append == number => {
                let eof = eof.clone();
                self.debts.on_successor();
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

    pub(super) fn store_end_now(&mut self) {
        if let Some(eof) = self.eof.take() {
            self.store_end(eof);
        }
    }

    /// What came and is not on the disk is lost: the unit ends with what is.
    pub(super) fn on_closed(&mut self, number: u64, why: String) {
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

    pub(super) fn on_not_stored(&mut self, number: u64, why: String) {
        let retry = self.now + self.timings.retry_most_ms.min(1000);
        let data = self.append.take_if(|(append, ..)| *append == number);
        if let Some((_, data, _)) = &data {
            self.frames.put_back(data);
            self.append_at = Some(retry);
        }
        if self.forgetting.take_if(|append| *append == number).is_some() {
            self.forget_at = Some(retry);
        }
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
                let eof = self.without_the_unstored(eof.clone());
                self.reason = why;
                self.eof = None;
                self.step = Step::EndLater { at: retry, eof };
                self.effects.push_back(OriginEffect::Changed);
            }
            _ if data.is_some() => {
                self.hindered = Some(why);
                self.effects.push_back(OriginEffect::Changed);
            }
            _ => {}
        }
    }

    /// A unit that is not to go on does not wait for room for what it has sent: it ends with what is on the disk.
    fn without_the_unstored(&mut self, eof: Eof) -> Eof {
        if !matches!(eof.kind, Kind::Cancelled | Kind::Expired) {
            return eof;
        }
        self.frames = ResponseFrames::default();
        self.tally = self.kept.clone();
        Eof {
            responses: self.tally.responses(),
            bytes: self.tally.bytes(),
            digest: self.tally.digest(),
            ..eof
        }
    }
}
