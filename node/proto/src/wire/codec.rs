//! The one place that names the CBOR library: encodes and decodes frame bodies.

use std::io::Cursor;

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How deep a body may nest.
pub const MAX_DEPTH: usize = 16;

/// Appends the CBOR form (RFC 8949) of `value` to `out`.
pub fn encode<T: Serialize>(value: &T, out: &mut BytesMut) {
    ciborium::into_writer(value, out.writer()).expect("writing wire types to memory cannot fail");
}

/// Decodes the whole of `body`. Nothing may follow the value; keys that `T` does not know are skipped.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    let mut cursor = Cursor::new(body);
    let value = ciborium::de::from_reader_with_recursion_limit(&mut cursor, MAX_DEPTH)
        .map_err(|e| CodecError::Malformed(e.to_string()))?;
    let rest = body.len() as u64 - cursor.position();
    if rest > 0 {
        Err(CodecError::TrailingBytes(rest))
    } else {
        Ok(value)
    }
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
