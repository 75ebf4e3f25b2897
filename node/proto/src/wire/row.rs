//! Values that are written for every unit, as arrays without names: what stands where is part of the format. For `#[serde(with)]` and its kin.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// What is read from an array that has its elements, and no further one.
pub(crate) struct Row<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Row<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Whole(PhantomData)).map(Self)
    }
}

struct Whole<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Whole<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<T, A::Error> {
        let value = T::deserialize(SeqAccessDeserializer::new(&mut elements))?;
        // A tuple takes what it wants, and does not look whether that is all.
        match elements.next_element::<IgnoredAny>()? {
            None => Ok(value),
            Some(_) => Err(A::Error::custom("an array with further elements")),
        }
    }
}

/// An end of a unit.
pub(crate) mod eof {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Row;
    use crate::wire::unit::Eof;

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
        Row::deserialize(deserializer).map(|Row(eof)| eof)
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
