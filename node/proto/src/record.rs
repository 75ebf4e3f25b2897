//! What the journals of origins and executors hold of a durable unit: CBOR, one value a record, in the order in which it came to be.
//! Payload and response bytes are not in records: they lie beside them, as streams of bytes.
//!
//! What every unit has (its order, its offer, its end) is an array without names, which is shorter and faster written; a map of the same is
//! read as well.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize, Serializer};
use twox_hash::XxHash3_64;

use crate::id::{NodeId, UnitId};
use crate::wire::batch::Parcel;
use crate::wire::codec::{self, CodecError};
use crate::wire::durable::Offer;
use crate::wire::row;
use crate::wire::unit::{Eof, Submit};

/// Room that is made for a record, in bytes: most are shorter.
const USUAL_BYTES: usize = 128;

/// What is asked for, as far as it has to survive.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Order {
    /// `module:function`.
    pub directive: String,
    /// The executor that the submitter wants; `None`: any that has the worker.
    #[serde(default)]
    pub to: Option<NodeId>,
    /// For the worker.
    #[serde(default)]
    pub params: BTreeMap<String, String>,
    /// Length of the payload.
    pub payload_bytes: u64,
    /// XXH3-64 of the payload: the same id with another payload is another unit.
    pub payload_digest: u64,
    /// When it was submitted, in milliseconds since 1970 by the origin's clock.
    pub submitted_ms: u64,
    /// When it has to have ended, by the same clock.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
    /// A W3C `traceparent`.
    #[serde(default)]
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

fn order_row<S: Serializer>(order: &Order, serializer: S) -> Result<S::Ok, S::Error> {
    let Order {
        directive,
        to,
        params,
        payload_bytes,
        payload_digest,
        submitted_ms,
        deadline_ms,
        trace,
        idempotent,
    } = order;
    (
        directive,
        to,
        params,
        payload_bytes,
        payload_digest,
        submitted_ms,
        deadline_ms,
        trace,
        idempotent,
    )
        .serialize(serializer)
}

fn offer_row<S: Serializer>(offer: &Offer, serializer: S) -> Result<S::Ok, S::Error> {
    (offer.number, offer.life).serialize(serializer)
}

/// A record of a unit at its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginRecord {
    /// The first: the unit is here, its payload is complete.
    Submitted(#[serde(serialize_with = "order_row", deserialize_with = "row::array_or_map")] Box<Order>),
    /// It is about to be offered; from here on it may run.
    Offered {
        /// To whom.
        executor: NodeId,
        /// Under which number, to which life.
        #[serde(serialize_with = "offer_row", deserialize_with = "row::array_or_map")]
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
        #[serde(
            serialize_with = "row::eof::serialize",
            deserialize_with = "row::array_or_map"
        )]
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
        #[serde(serialize_with = "offer_row", deserialize_with = "row::array_or_map")]
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
        #[serde(
            serialize_with = "row::eof::serialize",
            deserialize_with = "row::array_or_map"
        )]
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
    let mut out = BytesMut::with_capacity(USUAL_BYTES);
    codec::encode(record, &mut out);
    out.freeze()
}

/// The same of several, in one piece of memory.
pub fn encode_all<T: Serialize>(records: &[T]) -> impl ExactSizeIterator<Item = Bytes> {
    let mut out = BytesMut::with_capacity(records.len() * USUAL_BYTES);
    records.iter().map(move |record| {
        codec::encode(record, &mut out);
        out.split().freeze()
    })
}

/// Reads a record. An error: it is damaged, or of a newer version.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    codec::decode(bytes)
}

#[cfg(test)]
mod tests {
    use ciborium::cbor;

    use super::*;
    use crate::id::Incarnation;
    use crate::wire::unit::Kind;

    fn read_again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(record: &T) {
        assert_eq!(decode::<T>(&encode(record)).as_ref(), Ok(record));
    }

    #[test]
    fn what_was_written_with_names_is_read() {
        let named = cbor!({"submitted" => {
            "directive" => "m:f", "payload_bytes" => 3, "payload_digest" => 4, "submitted_ms" => 5, "idempotent" => true,
        }});
        let order = Order {
            directive: "m:f".to_owned(),
            to: None,
            params: BTreeMap::new(),
            payload_bytes: 3,
            payload_digest: 4,
            submitted_ms: 5,
            deadline_ms: None,
            trace: None,
            idempotent: true,
        };
        let submitted = OriginRecord::Submitted(Box::new(order));
        assert_eq!(decode(&encode(&named.unwrap())), Ok(submitted.clone()));
        read_again(&submitted);

        let named = cbor!({"offered" => {
            "executor" => "e", "offer" => {"number" => 1, "life" => 2}, "idempotent" => false, "at_ms" => 6,
        }});
        let offered = OriginRecord::Offered {
            executor: NodeId::parse("e").unwrap(),
            offer: Offer {
                number: 1,
                life: Incarnation(2),
            },
            idempotent: false,
            at_ms: 6,
        };
        assert_eq!(decode(&encode(&named.unwrap())), Ok(offered.clone()));
        read_again(&offered);

        let named = cbor!({"taken" => {
            "origin" => "a", "offer" => {"number" => 1, "life" => 2}, "directive" => "m:f", "at_ms" => 6,
        }});
        let taken = ExecutorRecord::Taken {
            origin: NodeId::parse("a").unwrap(),
            offer: Offer {
                number: 1,
                life: Incarnation(2),
            },
            directive: "m:f".to_owned(),
            at_ms: 6,
        };
        assert_eq!(decode(&encode(&named.unwrap())), Ok(taken.clone()));
        read_again(&taken);

        let named = cbor!({"ended" => {
            "eof" => {
                "outcome" => "lost", "kind" => "node_lost", "message" => "gone", "responses" => 1, "bytes" => 2, "digest" => 3,
                "duration_ms" => 4,
            },
            "at_ms" => 7,
        }});
        let eof = Eof {
            responses: 1,
            bytes: 2,
            digest: 3,
            duration_ms: 4,
            ..Eof::without_responses(Kind::NodeLost, "gone")
        };
        let (named, at_ms) = (encode(&named.unwrap()), 7);
        let ended = OriginRecord::Ended {
            eof: eof.clone(),
            at_ms,
        };
        assert_eq!(decode(&named), Ok(ended.clone()));
        assert_eq!(decode(&named), Ok(ExecutorRecord::Ended { eof, at_ms }));
        read_again(&ended);
    }

    #[test]
    fn an_order_with_everything_survives() {
        let order = Order {
            directive: "m:f".to_owned(),
            to: Some(NodeId::parse("e").unwrap()),
            params: [("key".to_owned(), "value".to_owned())].into(),
            payload_bytes: u64::MAX,
            payload_digest: u64::MAX,
            submitted_ms: u64::MAX,
            deadline_ms: Some(u64::MAX),
            trace: Some("t".to_owned()),
            idempotent: false,
        };
        read_again(&OriginRecord::Submitted(Box::new(order)));
    }
}
