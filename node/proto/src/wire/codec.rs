//! The one place that names the CBOR library: encodes and decodes frame bodies.

use std::io;

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How deep a body may nest.
pub const MAX_DEPTH: usize = 16;
/// The longest text of a [`CodecError`], in bytes: it may quote what a peer sent.
pub const MAX_ERROR_BYTES: usize = 256;

/// Appends the CBOR form (RFC 8949) of `value` to `out`.
pub fn encode<T: Serialize>(value: &T, out: &mut BytesMut) {
    ciborium::into_writer(value, Sink(out)).expect("writing wire types to memory cannot fail");
}

/// Takes the many small writes of an encoder.
struct Sink<'a>(&'a mut BytesMut);

impl io::Write for Sink<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match *bytes {
            // A header is a byte and mostly nothing after it: copying that is not worth a call.
            [] => {}
            [byte] => self.0.extend_from_slice(&[byte]),
            _ => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the many small reads of a decoder.
struct Source<'a>(&'a [u8]);

impl io::Read for Source<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }

    #[inline]
    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        match (into, self.0) {
            ([], _) => {}
            ([byte], [first, rest @ ..]) => (*byte, self.0) = (*first, rest),
            (into, _) => self.0.read_exact(into)?,
        }
        Ok(())
    }
}

/// Decodes the whole of `body`. Nothing may follow the value; keys that `T` does not know are skipped.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    let mut source = Source(body);
    let value = ciborium::de::from_reader_with_recursion_limit(&mut source, MAX_DEPTH).map_err(malformed)?;
    match source.0.len() {
        0 => Ok(value),
        rest => Err(CodecError::TrailingBytes(rest as u64)),
    }
}

fn malformed(error: ciborium::de::Error<io::Error>) -> CodecError {
    let mut text = match error {
        ciborium::de::Error::Io(_) => "the body breaks off".to_owned(),
        ciborium::de::Error::Syntax(at) => format!("no CBOR at byte {at}"),
        ciborium::de::Error::Semantic(_, why) => why,
        ciborium::de::Error::RecursionLimitExceeded => format!("nested deeper than {MAX_DEPTH}"),
    };
    text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
    CodecError::Malformed(text)
}

/// Why a body could not be read. The peer's fault; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not CBOR, or not of the expected shape.
    #[error("malformed body: {0}")]
    Malformed(String),
    /// Bytes after the value.
    #[error("{0} bytes follow the body")]
    TrailingBytes(u64),
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use ciborium::Value;
    use uuid::Uuid;
    use worker_api::{Directive, PayloadKind};

    use super::*;
    use crate::id::{Cost, Incarnation, NodeId, UnitId};
    use crate::wire::{batch, durable, link, query, unit};

    /// Above the 4,096 bytes of ciborium's scratch buffer, where borrowed texts fail.
    const LONG: usize = 5000;

    #[test]
    fn long_texts_survive_in_every_frame() {
        let long = || "x".repeat(LONG);
        let labels: BTreeMap<String, String> = [(long(), long())].into();
        round_trip(&unit::Submit {
            unit: UnitId(Uuid::max()),
            directive: long(),
            to: Some(longest_id()),
            payload_bytes: Some(u64::MAX),
            params: labels.clone(),
            deadline_ms: Some(u64::MAX),
            trace: Some(long()),
            durable: false,
            detach: false,
            idempotent: false,
            offer: None,
        });
        round_trip(&unit::Accepted {
            executor: longest_id(),
        });
        round_trip(&unit::Refused {
            kind: unit::Kind::Busy,
            message: long(),
        });
        round_trip(&unit::Cancel {
            unit: UnitId(Uuid::nil()),
        });
        round_trip(&unit::Eof {
            message: long(),
            digest: u64::MAX,
            ..unit::Eof::without_responses(unit::Kind::WorkerError, "")
        });
        round_trip(&query::Query::Ping { node: None });
        round_trip(&query::Query::Ping {
            node: Some(longest_id()),
        });
        round_trip(&query::Query::Status {});
        round_trip(&query::Query::Workers {});
        round_trip(&query::Query::Trace { node: longest_id() });
        round_trip(&query::Query::Work(query::WorkFilter {
            state: Some(long()),
            directive: Some(long()),
            node: Some(longest_id()),
            since_ms: Some(u64::MAX),
            limit: Some(u32::MAX),
            after: Some(UnitId(Uuid::max())),
        }));
        round_trip(&query::Query::WorkShow {
            unit: UnitId(Uuid::max()),
        });
        round_trip(&query::Query::WorkRelease {
            units: vec![UnitId(Uuid::max()); query::MAX_RELEASED],
            all: true,
            older_than_ms: Some(u64::MAX),
        });
        round_trip(&durable::Returned { message: long() });
        round_trip(&durable::Unfinished {
            state: long(),
            reason: long(),
        });
        round_trip(&batch::Parcel {
            unit: UnitId(Uuid::max()),
            offer: durable::Offer {
                number: u32::MAX,
                life: Incarnation(u64::MAX),
            },
            directive: long(),
            params: labels.clone(),
            deadline_ms: Some(u64::MAX),
            trace: Some(long()),
            idempotent: true,
            payload: vec![7; LONG].into(),
        });
        round_trip(&batch::Over(unit::Eof {
            digest: u64::MAX,
            message: long(),
            ..unit::Eof::without_responses(unit::Kind::WorkerError, "")
        }));
        round_trip(&query::Fault {
            kind: unit::Kind::NoRoute,
            message: long(),
        });
        round_trip(&link::Hello {
            version_min: 0,
            version_max: u16::MAX,
            features: vec![long()],
            node: longest_id(),
            incarnation: Incarnation(u64::MAX),
            cost: Cost(u16::MAX),
            leaf: true,
        });
        round_trip(&link::Lsa {
            origin: longest_id(),
            incarnation: Incarnation(1),
            sequence: u64::MAX,
            leaf: true,
            leaving: true,
            batches: true,
            version: long(),
            adjacencies: vec![
                link::Adjacency {
                    node: longest_id(),
                    cost: Cost(1),
                };
                100
            ],
            workers: vec![link::WorkerAd {
                directive: Directive::parse(&format!("m:{}", "f".repeat(254))).unwrap(),
                kind: PayloadKind::File,
                version: long(),
                idempotent: true,
                description: long(),
            }],
            labels,
        });
        round_trip(&link::Goodbye { reason: long() });
    }

    #[test]
    fn unknown_keys_are_skipped_whatever_they_hold() {
        let known = unit::Accepted {
            executor: longest_id(),
        };
        let values = [
            Value::Null,
            Value::Float(0.5),
            Value::Bytes(vec![0; LONG]),
            Value::Text("x".repeat(LONG)),
            Value::Array(vec![Value::Map(vec![(
                Value::Integer(1.into()),
                Value::Bool(true),
            )])]),
            Value::Tag(9, Box::new(Value::Text("tagged".into()))),
        ];
        for value in values {
            let text = |t: &str| Value::Text(t.into());
            let entries = vec![
                (text("newer"), value.clone()),
                (text("executor"), text(known.executor.as_str())),
                (text("newest"), value),
            ];
            let mut body = BytesMut::new();
            encode(&Value::Map(entries), &mut body);
            assert_eq!(decode(&body), Ok(known.clone()));
        }
    }

    #[test]
    fn absent_key_is_an_error_and_absent_option_is_none() {
        assert!(matches!(
            decode::<unit::Accepted>(b"\xa0"),
            Err(CodecError::Malformed(_))
        ));
        let ping = Value::Map(vec![(Value::Text("ping".into()), Value::Map(vec![]))]);
        let mut body = BytesMut::new();
        encode(&ping, &mut body);
        assert_eq!(decode(&body), Ok(query::Query::Ping { node: None }));
        let work = Value::Map(vec![(Value::Text("work".into()), Value::Map(vec![]))]);
        body.clear();
        encode(&work, &mut body);
        assert_eq!(
            decode(&body),
            Ok(query::Query::Work(query::WorkFilter::default()))
        );
    }

    #[test]
    fn nothing_may_follow_the_value() {
        assert_eq!(decode::<u8>(&[7]), Ok(7));
        assert_eq!(decode::<u8>(&[7, 7, 7]), Err(CodecError::TrailingBytes(2)));
        assert!(matches!(decode::<u8>(&[]), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn depth_is_limited() {
        let nested = |depth: usize| {
            let mut body = vec![0x81; depth];
            body.push(0);
            decode::<Value>(&body)
        };
        assert!(nested(MAX_DEPTH).is_ok());
        assert_eq!(
            nested(MAX_DEPTH + 1),
            Err(CodecError::Malformed("nested deeper than 16".into()))
        );
    }

    #[test]
    fn announced_length_does_not_allocate() {
        for head in [0x5b, 0x7b, 0x9b, 0xbb] {
            let mut body = vec![head];
            body.extend_from_slice(&u64::MAX.to_be_bytes());
            assert!(decode::<Value>(&body).is_err());
            assert!(decode::<unit::Submit>(&body).is_err());
            assert!(decode::<batch::Batch>(&body).is_err());
            assert!(decode::<batch::ReleasedUnits>(&body).is_err());
        }
    }

    #[test]
    fn error_quotes_a_limited_part_of_the_body() {
        let mut body = BytesMut::new();
        encode(&BTreeMap::from([("executor", "ä".repeat(LONG))]), &mut body);
        let Err(CodecError::Malformed(text)) = decode::<unit::Accepted>(&body) else {
            panic!("an id of 5,000 letters was taken");
        };
        assert!(text.len() <= MAX_ERROR_BYTES, "{text}");
    }

    fn longest_id() -> NodeId {
        NodeId::parse(&format!("{}+{}", "n".repeat(63), "f".repeat(16))).unwrap()
    }

    fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
        let mut body = BytesMut::new();
        encode(value, &mut body);
        assert_eq!(decode::<T>(&body).as_ref(), Ok(value));
    }
}
