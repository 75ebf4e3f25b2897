//! What the journals of origins and executors hold of a durable unit: CBOR, one value a record, in the order in which it came to be.
//! Payload and response bytes are not in records: they lie beside them, as streams of bytes.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::id::{NodeId, UnitId};
use crate::wire::batch::Parcel;
use crate::wire::codec::{self, CodecError};
use crate::wire::durable::Offer;
use crate::wire::unit::{Eof, Submit};

/// What is asked for, as far as it has to survive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// `module:function`.
    pub directive: String,
    /// The executor that the submitter wants; `None`: any that has the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeId>,
    /// For the worker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
    /// Length of the payload.
    pub payload_bytes: u64,
    /// XXH3-64 of the payload: the same id with another payload is another unit.
    pub payload_digest: u64,
    /// When it was submitted, in milliseconds since 1970 by the origin's clock.
    pub submitted_ms: u64,
    /// When it has to have ended, by the same clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// A W3C `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Running it twice does no harm.
    #[serde(default)]
    pub idempotent: bool,
}

impl Order {
    /// The submission that offers the unit to an executor at `now_ms`.
    pub fn submission(&self, unit: UnitId, offer: Offer, now_ms: u64) -> Submit {
        Submit {
            unit,
            directive: self.directive.clone(),
            to: None,
            payload_bytes: Some(self.payload_bytes),
            params: self.params.clone(),
            deadline_ms: self.deadline_ms.map(|at| at.saturating_sub(now_ms)),
            trace: self.trace.clone(),
            durable: true,
            detach: false,
            idempotent: self.idempotent,
            offer: Some(offer),
        }
    }

    /// The same for a batch, with its payload.
    pub fn parcel(&self, unit: UnitId, offer: Offer, now_ms: u64, payload: Bytes) -> Parcel {
        Parcel {
            unit,
            offer,
            directive: self.directive.clone(),
            params: self.params.clone(),
            deadline_ms: self.deadline_ms.map(|at| at.saturating_sub(now_ms)),
            trace: self.trace.clone(),
            idempotent: self.idempotent,
            payload,
        }
    }

    /// The same for every submission that asks for the same, no matter when: XXH3-64 of what makes it this one.
    pub fn identity(&self) -> u64 {
        let mut out = Vec::with_capacity(256);
        let mut text = |text: &str| {
            out.extend_from_slice(&(text.len() as u64).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        };
        text(&self.directive);
        // No node has an empty id.
        text(self.to.as_ref().map_or("", NodeId::as_str));
        for (name, value) in &self.params {
            text(name);
            text(value);
        }
        for number in [self.params.len() as u64, self.payload_bytes, self.payload_digest] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        XxHash3_64::oneshot(&out)
    }
}

/// A record of a unit at its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginRecord {
    /// The first: the unit is here, its payload is complete.
    Submitted(Box<Order>),
    /// It is about to be offered; from here on it may run.
    Offered {
        /// To whom.
        executor: NodeId,
        /// Under which number, to which life.
        offer: Offer,
        /// Its worker there is declared idempotent.
        #[serde(default)]
        idempotent: bool,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// The executor has it.
    Accepted {
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// Its function has begun.
    Started {
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// The latest offer has come to nothing: nothing was run.
    Withdrawn {
        /// Why, in one line.
        reason: String,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// The latest offer's executor is given up, though it may have run the unit, which is idempotent.
    GivenUp {
        /// Why, in one line.
        reason: String,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// The one end.
    Ended {
        /// As it is told to whoever asks.
        eof: Eof,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// This executor knows of the end, or of having been given up.
    Released {
        /// Which.
        executor: NodeId,
    },
    /// Nobody is to see the ended unit any more: it goes once its executors know of the end.
    Forgotten {
        /// Milliseconds since 1970.
        at_ms: u64,
    },
}

/// A record of a unit at its executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecutorRecord {
    /// The first: the unit is taken, it may run from here on.
    Taken {
        /// Whose it is, by certificate.
        origin: NodeId,
        /// The offer that was taken.
        offer: Offer,
        /// `module:function`.
        directive: String,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// Its function begins.
    Started {},
    /// Its end.
    Ended {
        /// As the origin is told.
        eof: Eof,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
    /// It was not started and will not be.
    Returned {
        /// Why, in one line.
        message: String,
        /// Milliseconds since 1970.
        at_ms: u64,
    },
}

/// A record as the journal keeps it.
pub fn encode<T: Serialize>(record: &T) -> Bytes {
    let mut out = BytesMut::with_capacity(256);
    codec::encode(record, &mut out);
    out.freeze()
}

/// Reads a record. An error: it is damaged, or of a newer version.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    codec::decode(bytes)
}
