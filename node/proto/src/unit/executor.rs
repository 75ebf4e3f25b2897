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
