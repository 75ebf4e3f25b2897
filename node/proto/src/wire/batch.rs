//! The frames of a batch: a conversation of several small durable units, numbered from 1 by the `unit` of their frames.
//!
//! Many of them are written and read for every unit, so their bodies are arrays, without names: what stands where is part of the protocol, and
//! a later version that wants more has a frame of another type.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::Deserializer;
use serde::ser::{SerializeTuple as _, Serializer};
use serde::{Deserialize, Serialize};

use super::durable::{Offer, Release};
use super::row::{self, Row};
use super::unit::{Eof, Outcome, Submit};
use crate::id::{Incarnation, UnitId};

/// Most units of one batch.
pub const MAX_BATCH: usize = 64;
/// Most bytes in the body of a [`Parcel`].
pub const MAX_BATCHED_BYTES: usize = 4096;
/// Most response bytes of a unit that are told in its batch.
pub const MAX_BATCHED_RESPONSE_BYTES: usize = 64 * 1024;
/// Most `Response` frames of a unit in its batch.
pub const MAX_BATCHED_PIECES: usize = 1024;

/// Opens a batch, with what the executor is to forget meanwhile: at most [`MAX_RELEASES`](super::durable::MAX_RELEASES).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Answered by [`ReleasedUnits`].
    pub releases: Vec<Release>,
}

/// Offers one unit of a batch: all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// Which unit.
    pub unit: UnitId,
    /// Which offer of it.
    pub offer: Offer,
    /// `module:function`.
    pub directive: String,
    /// For the worker.
    pub params: BTreeMap<String, String>,
    /// Milliseconds that are left when the frame is sent.
    pub deadline_ms: Option<u64>,
    /// A W3C `traceparent`.
    pub trace: Option<String>,
    /// Running the unit twice does no harm, whatever its worker says.
    pub idempotent: bool,
    /// The whole payload.
    pub payload: Bytes,
}

/// The end of a unit of a batch: an [`Eof`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Over(#[serde(with = "row::eof")] pub Eof);

/// Units that the executor has forgotten, or never knew: some of those of [`Batch::releases`], each once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleasedUnits(pub Vec<UnitId>);

impl Parcel {
    /// The same as a submission, and the payload, which is as long as that says.
    pub fn open(self) -> (Submit, Bytes) {
        let submit = Submit {
            unit: self.unit,
            directive: self.directive,
            to: None,
            payload_bytes: Some(self.payload.len() as u64),
            params: self.params,
            deadline_ms: self.deadline_ms,
            trace: self.trace,
            durable: true,
            detach: false,
            idempotent: self.idempotent,
            offer: Some(self.offer),
        };
        (submit, self.payload)
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = |release: &Release| (release.unit, release.number, release.outcome);
        serializer.collect_seq(self.releases.iter().map(row))
    }
}

impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rows = Vec::<Row<(UnitId, u32, Outcome)>>::deserialize(deserializer)?;
        let release = |Row((unit, number, outcome))| Release {
            unit,
            number,
            outcome,
        };
        Ok(Self {
            releases: rows.into_iter().map(release).collect(),
        })
    }
}

impl Serialize for Parcel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_tuple(9)?;
        row.serialize_element(&self.unit)?;
        row.serialize_element(&self.offer.number)?;
        row.serialize_element(&self.offer.life)?;
        row.serialize_element(&self.directive)?;
        row.serialize_element(&self.params)?;
        row.serialize_element(&self.deadline_ms)?;
        row.serialize_element(&self.trace)?;
        row.serialize_element(&self.idempotent)?;
        row.serialize_element(&self.payload)?;
        row.end()
    }
}

type ParcelFields = (
    UnitId,
    u32,
    Incarnation,
    String,
    BTreeMap<String, String>,
    Option<u64>,
    Option<String>,
    bool,
    Bytes,
);

impl<'de> Deserialize<'de> for Parcel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Row(fields) = Row::<ParcelFields>::deserialize(deserializer)?;
        let (unit, number, life, directive, params, deadline_ms, trace, idempotent, payload) = fields;
        Ok(Self {
            unit,
            offer: Offer { number, life },
            directive,
            params,
            deadline_ms,
            trace,
            idempotent,
            payload,
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use ciborium::Value;
    use serde::de::DeserializeOwned;
    use uuid::Uuid;

    use super::*;
    use crate::wire::codec;
    use crate::wire::unit::Kind;

    fn unit() -> UnitId {
        UnitId(Uuid::from_u128(7))
    }

    fn parcel() -> Parcel {
        Parcel {
            unit: unit(),
            offer: Offer {
                number: 1,
                life: Incarnation(2),
            },
            directive: "m:f".to_owned(),
            params: BTreeMap::new(),
            deadline_ms: None,
            trace: None,
            idempotent: false,
            payload: Bytes::from_static(b"abc"),
        }
    }

    /// The same value with one element less, as it is, and with one more.
    fn is_read_at_its_length_alone<T: Serialize + DeserializeOwned>(value: &T) {
        let mut body = BytesMut::new();
        codec::encode(value, &mut body);
        let Ok(Value::Array(whole)) = codec::decode::<Value>(&body) else {
            panic!("{body:?} is no array");
        };
        let read = |elements: Vec<Value>| {
            let mut body = BytesMut::new();
            codec::encode(&Value::Array(elements), &mut body);
            codec::decode::<T>(&body).is_ok()
        };
        assert!(read(whole.clone()));
        assert!(!read(whole[1..].to_vec()) && !read(whole[..whole.len() - 1].to_vec()));
        let longer = |at: usize| {
            let mut longer = whole.clone();
            longer.insert(at, Value::Null);
            longer
        };
        assert!(!read(longer(0)) && !read(longer(whole.len())));
    }

    #[test]
    fn an_array_has_all_its_elements_and_no_more() {
        is_read_at_its_length_alone(&parcel());
        is_read_at_its_length_alone(&Over(Eof::without_responses(Kind::Ok, "")));
    }

    fn body<T: Serialize>(value: &T) -> Vec<u8> {
        let mut body = BytesMut::new();
        codec::encode(value, &mut body);
        body.to_vec()
    }

    /// The array at `at` of a body announces one element more than there are, or none and a break behind the last one, at `end`.
    fn is_read_if_it_is_whole<T: DeserializeOwned + PartialEq + std::fmt::Debug>(
        body: &[u8],
        at: usize,
        end: usize,
    ) {
        let value = codec::decode::<T>(body).unwrap();
        let mut announced = body.to_vec();
        announced[at] += 1;
        assert!(codec::decode::<T>(&announced).is_err());
        let mut broken = body.to_vec();
        broken[at] = 0x9f;
        assert!(codec::decode::<T>(&broken).is_err(), "it does not end");
        broken.insert(end, 0xff);
        assert_eq!(codec::decode::<T>(&broken), Ok(value));
    }

    #[test]
    fn an_array_is_read_to_its_end_whatever_its_head_says() {
        let parcel = body(&parcel());
        is_read_if_it_is_whole::<Parcel>(&parcel, 0, parcel.len());
        let over = body(&Over(Eof::without_responses(Kind::Ok, "")));
        is_read_if_it_is_whole::<Over>(&over, 0, over.len());
        let release = Release {
            unit: unit(),
            number: 1,
            outcome: Outcome::Succeeded,
        };
        let batch = body(&Batch {
            releases: vec![release; 2],
        });
        let row = (batch.len() - 1) / 2;
        is_read_if_it_is_whole::<Batch>(&batch, 0, batch.len());
        is_read_if_it_is_whole::<Batch>(&batch, 1, 1 + row);
        is_read_if_it_is_whole::<Batch>(&batch, 1 + row, batch.len());
    }

    #[test]
    fn a_parcel_is_a_submission_of_its_payload() {
        let (submit, payload) = parcel().open();
        assert_eq!((submit.payload_bytes, &payload[..]), (Some(3), &b"abc"[..]));
        assert_eq!((submit.offer, submit.durable), (Some(parcel().offer), true));
    }

    #[test]
    fn a_kind_of_a_newer_peer_keeps_its_outcome() {
        let row = ("lost", "out_of_moon_phase", "wait", 0, 0, 0, 0);
        let mut body = BytesMut::new();
        codec::encode(&row, &mut body);
        let Over(eof) = codec::decode(&body).unwrap();
        assert_eq!((eof.outcome, eof.kind), (Outcome::Lost, Kind::Unknown));
    }
}
