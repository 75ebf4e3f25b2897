//! Values that are written for every unit, as arrays without names: what stands where is part of the format. For `#[serde(with)]` and its kin.

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

/// An end of a unit.
pub(crate) mod eof {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::wire::unit::{Eof, Kind, Outcome};

    pub(crate) fn serialize<S: Serializer>(eof: &Eof, serializer: S) -> Result<S::Ok, S::Error> {
        let Eof {
            outcome,
            kind,
            message,
            responses,
            bytes,
            digest,
            duration_ms,
        } = eof;
        (outcome, kind, message, responses, bytes, digest, duration_ms).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Eof, D::Error> {
        type Row = (Outcome, Kind, String, u64, u64, u64, u64);
        let (outcome, kind, message, responses, bytes, digest, duration_ms) = Row::deserialize(deserializer)?;
        Ok(Eof {
            outcome,
            kind,
            message,
            responses,
            bytes,
            digest,
            duration_ms,
        })
    }
}

/// Reads a struct that was written as an array of its fields, or as a map of them.
pub(crate) fn array_or_map<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(AsItStands(deserializer))
}

/// Asks for whatever stands there.
struct AsItStands<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for AsItStands<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
