//! The executor's end of a unit: what may still be sent, whether the payload is as announced, and the one end.
//! Driven by the unit's task at its executor; return, panic, cancel, deadline and a lost session race for the end there.

use std::time::Instant;

use super::tally::ResponseTally;
use crate::wire::unit::{Eof, Kind};

/// Where a unit is at its executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExecutorState {
    /// Admitted, waits for a slot.
    Queued,
    /// Its function runs.
    Running,
    /// Has its end; nothing may be sent after it.
    Ended,
}

/// One unit at its executor, from admission to its end.
#[derive(Debug)]
pub struct ExecutorUnit {
    state: ExecutorState,
    admitted: Instant,
    tally: ResponseTally,
    payload: Payload,
}

#[derive(Debug)]
struct Payload {
    announced: Option<u64>,
    limit: u64,
    arrived: u64,
    complete: bool,
}

impl ExecutorUnit {
    /// A unit admitted at `now`, queued, without a limit on its payload.
    pub fn new(now: Instant) -> Self {
        Self {
            state: ExecutorState::Queued,
            admitted: now,
            tally: ResponseTally::new(),
            payload: Payload {
                announced: None,
                limit: u64::MAX,
                arrived: 0,
                complete: false,
            },
        }
    }

    /// Sets what the submitter announced and what executor and worker allow, in bytes. Fails at once for
    /// an announced payload above `limit`: the unit is then refused with the fault's kind.
    pub fn expect_payload(&mut self, announced: Option<u64>, limit: u64) -> Result<(), PayloadFault> {
        self.payload.announced = announced;
        self.payload.limit = limit;
        if announced.is_some_and(|bytes| bytes > limit) {
            Err(PayloadFault::TooLarge { limit })
        } else {
            Ok(())
        }
    }

    /// Where the unit is.
    pub fn state(&self) -> ExecutorState {
        self.state
    }

    /// When the unit was admitted.
    pub fn admitted(&self) -> Instant {
        self.admitted
    }

    /// What the worker has sent so far.
    pub fn tally(&self) -> &ResponseTally {
        &self.tally
    }

    /// A slot is free for the unit. `false`: it has ended (or runs already) and must not be run.
    pub fn start(&mut self) -> bool {
        let queued = self.state == ExecutorState::Queued;
        if queued {
            self.state = ExecutorState::Running;
        }
        queued
    }

    /// Takes the arrival of `length` payload bytes.
    pub fn handle_payload(&mut self, length: usize) -> Result<(), PayloadFault> {
        let payload = &mut self.payload;
        if payload.complete {
            return Err(PayloadFault::AfterEnd);
        }
        payload.arrived = payload.arrived.saturating_add(length as u64);
        if payload.arrived > payload.limit {
            return Err(PayloadFault::TooLarge { limit: payload.limit });
        }
        match payload.announced {
            Some(announced) if payload.arrived > announced => Err(PayloadFault::TooLong { announced }),
            _ => Ok(()),
        }
    }

    /// Takes the submitter's word that the payload is complete.
    pub fn handle_payload_end(&mut self) -> Result<(), PayloadFault> {
        let payload = &mut self.payload;
        if payload.complete {
            return Err(PayloadFault::AfterEnd);
        }
        match payload.announced {
            Some(announced) if payload.arrived < announced => Err(PayloadFault::TooShort {
                announced,
                arrived: payload.arrived,
            }),
            _ => {
                payload.complete = true;
                Ok(())
            }
        }
    }

    /// The submitter's side of the stream is finished or reset: a fault unless the payload is complete.
    pub fn handle_payload_stream_end(&self) -> Result<(), PayloadFault> {
        if self.payload.complete {
            Ok(())
        } else {
            Err(PayloadFault::BrokenOff {
                arrived: self.payload.arrived,
            })
        }
    }

    /// Payload bytes that have arrived.
    pub fn payload_bytes(&self) -> u64 {
        self.payload.arrived
    }

    /// Counts a piece that the worker sends and answers with the serial to send it under; `last` ends the response.
    /// `None`: the unit has ended, the piece must not be sent.
    pub fn response_piece(&mut self, data: &[u8], last: bool) -> Option<u64> {
        (self.state != ExecutorState::Ended).then(|| self.tally.add(data, last))
    }

    /// Ends the unit: gives the EOF the first time, `None` ever after. A message longer than an EOF may carry is cut.
    ///
    /// A function that returned while a response was incomplete has not succeeded: kind `internal` takes the place of `ok`.
    pub fn end(&mut self, kind: Kind, message: impl Into<String>, now: Instant) -> Option<Eof> {
        if self.state == ExecutorState::Ended {
            return None;
        }
        self.state = ExecutorState::Ended;
        let end = if kind == Kind::Ok && self.tally.is_open() {
            let serial = self.tally.responses();
            Eof::without_responses(Kind::Internal, format!("response {serial} was not completed"))
        } else {
            Eof::without_responses(kind, message)
        };
        let lived = now.saturating_duration_since(self.admitted);
        Some(Eof {
            responses: self.tally.responses(),
            bytes: self.tally.bytes(),
            digest: self.tally.digest(),
            duration_ms: u64::try_from(lived.as_millis()).unwrap_or(u64::MAX),
            ..end
        })
    }
}

/// What is wrong with a payload. The submitter's fault; the unit must be ended with [`kind`](Self::kind).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadFault {
    /// Above what the executor or the worker allows.
    #[error("payload is larger than the {limit} bytes that are allowed; use a worker that takes a stream")]
    TooLarge {
        /// The most bytes that are allowed.
        limit: u64,
    },
    /// More than announced.
    #[error("payload is longer than the announced {announced} bytes")]
    TooLong {
        /// From the submission.
        announced: u64,
    },
    /// Less than announced.
    #[error("payload ended after {arrived} of the announced {announced} bytes")]
    TooShort {
        /// From the submission.
        announced: u64,
        /// Bytes that came.
        arrived: u64,
    },
    /// The stream ended within the payload.
    #[error("payload broke off after {arrived} bytes")]
    BrokenOff {
        /// Bytes that came.
        arrived: u64,
    },
    /// Payload after its end.
    #[error("payload after its end")]
    AfterEnd,
}

impl PayloadFault {
    /// The kind that a unit with this fault ends with, or is refused with.
    pub fn kind(&self) -> Kind {
        match self {
            Self::TooLarge { .. } => Kind::PayloadTooLarge,
            Self::AfterEnd => Kind::Protocol,
            Self::TooLong { .. } | Self::TooShort { .. } | Self::BrokenOff { .. } => Kind::PayloadBroken,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use twox_hash::XxHash3_64;

    use super::*;
    use crate::wire::unit::{EMPTY_DIGEST, MAX_MESSAGE_BYTES, Outcome};

    #[test]
    fn eof_carries_counts_digest_and_time() {
        let now = Instant::now();
        let mut unit = ExecutorUnit::new(now);
        assert!(unit.start());
        assert_eq!(unit.response_piece(b"ab", false), Some(1));
        assert_eq!(unit.response_piece(b"c", true), Some(1));
        assert_eq!(unit.response_piece(b"", true), Some(2));
        let eof = unit.end(Kind::Ok, "", now + Duration::from_millis(1500)).unwrap();
        let expected = Eof {
            outcome: Outcome::Succeeded,
            kind: Kind::Ok,
            message: String::new(),
            responses: 2,
            bytes: 3,
            digest: XxHash3_64::oneshot(b"abc"),
            duration_ms: 1500,
        };
        assert_eq!(eof, expected);
    }

    #[test]
    fn ended_unit_is_not_started_and_sends_nothing() {
        let now = Instant::now();
        let mut unit = ExecutorUnit::new(now);
        let eof = unit
            .end(Kind::Cancelled, "cancelled by the submitter", now)
            .unwrap();
        assert_eq!((eof.outcome, eof.digest), (Outcome::Cancelled, EMPTY_DIGEST));
        assert!(!unit.start());
        assert_eq!(unit.response_piece(b"late", true), None);
        assert_eq!(unit.tally().bytes(), 0);
    }

    #[test]
    fn unit_starts_once() {
        let mut unit = ExecutorUnit::new(Instant::now());
        assert_eq!(unit.state(), ExecutorState::Queued);
        assert!(unit.start() && !unit.start());
        assert_eq!(unit.state(), ExecutorState::Running);
    }

    #[test]
    fn open_response_is_no_success_but_may_fail() {
        let now = Instant::now();
        for (kind, ends_as) in [(Kind::Ok, Kind::Internal), (Kind::Panic, Kind::Panic)] {
            let mut unit = ExecutorUnit::new(now);
            unit.response_piece(b"half", false);
            assert_eq!(unit.end(kind, "", now).unwrap().kind, ends_as);
        }
    }

    #[test]
    fn message_is_cut_and_a_clock_that_goes_back_counts_as_zero() {
        let now = Instant::now();
        let mut unit = ExecutorUnit::new(now + Duration::from_secs(1));
        let eof = unit
            .end(Kind::WorkerError, "m".repeat(MAX_MESSAGE_BYTES + 1), now)
            .unwrap();
        assert_eq!((eof.message.len(), eof.duration_ms), (MAX_MESSAGE_BYTES, 0));
    }

    #[test]
    fn payload_must_be_as_announced() {
        let announced = Some(10);
        let short = PayloadFault::TooShort {
            announced: 10,
            arrived: 9,
        };
        assert_eq!(payload(announced, &[4, 6]), Ok(()));
        assert_eq!(payload(announced, &[4, 5]), Err(short));
        assert_eq!(
            payload(announced, &[4, 7]),
            Err(PayloadFault::TooLong { announced: 10 })
        );
        assert_eq!(payload(Some(0), &[]), Ok(()));
        assert_eq!(
            payload(Some(0), &[1]),
            Err(PayloadFault::TooLong { announced: 0 })
        );
        assert_eq!(payload(None, &[4, 7]), Ok(()));
        assert_eq!(short.kind(), Kind::PayloadBroken);
    }

    #[test]
    fn payload_is_limited() {
        let fault = PayloadFault::TooLarge { limit: LIMIT };
        let too_large = Err(fault);
        assert_eq!(payload(Some(LIMIT), &[LIMIT as usize]), Ok(()));
        assert_eq!(payload(Some(LIMIT + 1), &[]), too_large);
        assert_eq!(payload(None, &[LIMIT as usize]), Ok(()));
        assert_eq!(payload(None, &[LIMIT as usize, 1]), too_large);
        assert_eq!(payload(None, &[usize::MAX, usize::MAX]), too_large);
        assert_eq!(fault.kind(), Kind::PayloadTooLarge);
    }

    #[test]
    fn payload_ends_once_and_a_stream_that_ends_before_is_broken() {
        let mut unit = ExecutorUnit::new(Instant::now());
        unit.handle_payload(3).unwrap();
        let broken = unit.handle_payload_stream_end().unwrap_err();
        assert_eq!(
            (broken, broken.kind()),
            (PayloadFault::BrokenOff { arrived: 3 }, Kind::PayloadBroken)
        );
        unit.handle_payload_end().unwrap();
        assert_eq!(unit.handle_payload_stream_end(), Ok(()));
        assert_eq!(unit.handle_payload(0), Err(PayloadFault::AfterEnd));
        assert_eq!(unit.handle_payload_end(), Err(PayloadFault::AfterEnd));
        assert_eq!(unit.payload_bytes(), 3);
    }

    /// What can happen to a unit at its executor, in any order and more than once.
    #[derive(Clone, Debug)]
    enum Event {
        Start,
        Piece(Vec<u8>, bool),
        End(Kind),
    }

    fn event() -> impl Strategy<Value = Event> {
        let ends = [
            Kind::Ok,
            Kind::WorkerError,
            Kind::Panic,
            Kind::Cancelled,
            Kind::Expired,
            Kind::NodeLost,
        ];
        prop_oneof![
            Just(Event::Start),
            (prop::collection::vec(any::<u8>(), 0..300), any::<bool>())
                .prop_map(|(data, last)| Event::Piece(data, last)),
            prop::sample::select(ends.to_vec()).prop_map(Event::End),
        ]
    }

    proptest! {
        #[test]
        fn return_panic_cancel_deadline_and_loss_give_one_end_in_any_order(
            events in prop::collection::vec(event(), 0..24),
            last in event().prop_filter("an end", |e| matches!(e, Event::End(_))),
        ) {
            let now = Instant::now();
            let mut unit = ExecutorUnit::new(now);
            let (mut ends, mut sent, mut runs) = (Vec::new(), Vec::new(), 0);
            for event in events.into_iter().chain([last]) {
                match event {
                    Event::Start => runs += u32::from(unit.start()),
                    Event::Piece(data, last) => {
                        let serial = unit.response_piece(&data, last);
                        prop_assert_eq!(serial.is_some(), ends.is_empty());
                        if serial.is_some() {
                            sent.extend(data);
                        }
                    }
                    Event::End(kind) => ends.extend(unit.end(kind, "", now)),
                }
            }
            prop_assert!(runs <= 1);
            prop_assert_eq!(unit.state(), ExecutorState::Ended);
            prop_assert_eq!(ends.len(), 1);
            prop_assert_eq!(ends[0].bytes, sent.len() as u64);
            prop_assert_eq!(ends[0].digest, XxHash3_64::oneshot(&sent));
        }
    }

    const LIMIT: u64 = 1000;

    fn payload(announced: Option<u64>, pieces: &[usize]) -> Result<(), PayloadFault> {
        let mut unit = ExecutorUnit::new(Instant::now());
        unit.expect_payload(announced, LIMIT)?;
        for piece in pieces {
            unit.handle_payload(*piece)?;
        }
        unit.handle_payload_end()
    }
}
