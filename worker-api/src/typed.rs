//! What stands between a worker's own types and the node: payloads decoded, results sent.
//! `#[worker]` calls these traits; a worker author implements them for types of their own.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::payload::{Buffer, Payload, PayloadFile};
use crate::responder::Responder;
use crate::vocabulary::PayloadKind;

/// A type that can be the first parameter of a worker. Chooses how the node delivers the payload.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't take a worker's payload",
    label = "not a payload",
    note = "the first parameter of a worker is `Bytes`, `Buffer`, `PayloadFile`, `Json<T>`, `Cbor<T>` or `()`",
    note = "`T` in `Json<T>` and `Cbor<T>` implements `serde::de::DeserializeOwned`"
)]
pub trait FromPayload: Sized {
    /// The kind that the node has to deliver.
    const KIND: PayloadKind;

    /// Takes the payload. Fails if it does not decode, or is of another kind than [`Self::KIND`].
    fn from_payload(payload: Payload) -> Result<Self>;
}

impl FromPayload for Bytes {
    const KIND: PayloadKind = PayloadKind::Bytes;

    fn from_payload(payload: Payload) -> Result<Self> {
        match payload {
            Payload::Bytes(bytes) => Ok(bytes),
            other => Err(wrong_kind(Self::KIND, &other)),
        }
    }
}

impl FromPayload for Buffer {
    const KIND: PayloadKind = PayloadKind::Buffer;

    fn from_payload(payload: Payload) -> Result<Self> {
        match payload {
            Payload::Buffer(buffer) => Ok(buffer),
            other => Err(wrong_kind(Self::KIND, &other)),
        }
    }
}

impl FromPayload for PayloadFile {
    const KIND: PayloadKind = PayloadKind::File;

    fn from_payload(payload: Payload) -> Result<Self> {
        match payload {
            Payload::File(file) => Ok(file),
            other => Err(wrong_kind(Self::KIND, &other)),
        }
    }
}

/// For workers that take no payload: anything but an empty one is refused.
impl FromPayload for () {
    const KIND: PayloadKind = PayloadKind::Bytes;

    fn from_payload(payload: Payload) -> Result<Self> {
        let bytes = Bytes::from_payload(payload)?;
        if bytes.is_empty() {
            return Ok(());
        }
        Err(Error::msg(format!(
            "this worker takes no payload, but {} bytes were sent",
            bytes.len()
        )))
    }
}

/// A payload or result as JSON text. As a payload `Option<Json<T>>` is `None` if the payload is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromPayload for Json<T> {
    const KIND: PayloadKind = PayloadKind::Bytes;

    fn from_payload(payload: Payload) -> Result<Self> {
        let bytes = Bytes::from_payload(payload)?;
        if bytes.is_empty() {
            return Err(Error::msg("the payload is empty, but this worker expects JSON"));
        }
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|e| Error::msg(format!("payload is not as expected: {e}")))
    }
}

impl<T: DeserializeOwned> FromPayload for Option<Json<T>> {
    const KIND: PayloadKind = PayloadKind::Bytes;

    fn from_payload(payload: Payload) -> Result<Self> {
        unless_empty(payload)
    }
}

/// A payload or result as one CBOR item. As a payload `Option<Cbor<T>>` is `None` if the payload is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cbor<T>(pub T);

impl<T: DeserializeOwned> FromPayload for Cbor<T> {
    const KIND: PayloadKind = PayloadKind::Bytes;

    fn from_payload(payload: Payload) -> Result<Self> {
        let bytes = Bytes::from_payload(payload)?;
        if bytes.is_empty() {
            return Err(Error::msg("the payload is empty, but this worker expects CBOR"));
        }
        let mut rest: &[u8] = &bytes;
        let value = ciborium::from_reader(&mut rest).map_err(|e| cbor_error(&e, bytes.len()))?;
        if rest.is_empty() {
            return Ok(Self(value));
        }
        Err(Error::msg(format!(
            "payload is not as expected: {} bytes follow the CBOR item",
            rest.len()
        )))
    }
}

impl<T: DeserializeOwned> FromPayload for Option<Cbor<T>> {
    const KIND: PayloadKind = PayloadKind::Bytes;

    fn from_payload(payload: Payload) -> Result<Self> {
        unless_empty(payload)
    }
}

fn cbor_error(error: &ciborium::de::Error<std::io::Error>, payload_bytes: usize) -> Error {
    use ciborium::de::Error as Cause;
    let cause = match error {
        Cause::Io(_) => format!("the CBOR item breaks off after {payload_bytes} bytes"),
        Cause::Syntax(at) => format!("malformed CBOR at byte {at}"),
        Cause::Semantic(Some(at), cause) => format!("{cause} at byte {at}"),
        Cause::Semantic(None, cause) => cause.clone(),
        Cause::RecursionLimitExceeded => "CBOR nested too deeply".to_owned(),
    };
    Error::msg(format!("payload is not as expected: {cause}"))
}

fn unless_empty<P: FromPayload>(payload: Payload) -> Result<Option<P>> {
    match payload {
        Payload::Bytes(bytes) if bytes.is_empty() => Ok(None),
        payload => P::from_payload(payload).map(Some),
    }
}

fn wrong_kind(expected: PayloadKind, payload: &Payload) -> Error {
    Error::msg(format!(
        "the node delivered the payload as {}, but the worker takes {expected}",
        payload.kind()
    ))
}

/// What a worker's `Ok` can hold: `()` for workers that send through their [`Responder`],
/// or a value that is sent as one response.
#[diagnostic::on_unimplemented(
    message = "a worker can't respond with `{Self}`",
    label = "not a response",
    note = "return `Result<()>` and send through `out: &mut Responder`, or return one response: \
            `Result<Json<T>>`, `Result<Cbor<T>>`, `Result<Bytes>` or `Result<String>`",
    note = "`T` in `Json<T>` and `Cbor<T>` implements `serde::Serialize`"
)]
pub trait IntoResponse {
    /// Sends the value; ends a streamed response that is under way first.
    fn respond(self, out: &mut Responder) -> Result<()>;
}

impl IntoResponse for () {
    fn respond(self, out: &mut Responder) -> Result<()> {
        out.finish()
    }
}

impl IntoResponse for Bytes {
    fn respond(self, out: &mut Responder) -> Result<()> {
        out.send(self)
    }
}

impl IntoResponse for Vec<u8> {
    fn respond(self, out: &mut Responder) -> Result<()> {
        out.send(self)
    }
}

impl IntoResponse for String {
    fn respond(self, out: &mut Responder) -> Result<()> {
        out.send(self)
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn respond(self, out: &mut Responder) -> Result<()> {
        out.begin()?;
        serde_json::to_writer(&mut *out, &self.0).map_err(|e| match e.io_error_kind() {
            Some(_) => Error::from(std::io::Error::from(e)),
            None => Error::msg(format!("the result can't be written as JSON: {e}")),
        })?;
        out.finish()
    }
}

impl<T: Serialize> IntoResponse for Cbor<T> {
    fn respond(self, out: &mut Responder) -> Result<()> {
        let mut item = Vec::new();
        ciborium::into_writer(&self.0, &mut item)
            .map_err(|e| Error::msg(format!("the result can't be written as CBOR: {e}")))?;
        out.send(item)
    }
}

/// What a worker function returns: a [`Result`] of something that can be sent.
#[diagnostic::on_unimplemented(
    message = "a worker returns a `Result`, not `{Self}`",
    label = "not a `Result`",
    note = "return `worker_api::Result<()>`, or `worker_api::Result<Json<T>>` to send one response"
)]
pub trait WorkerResult {
    /// Sends what the function returned, or passes its error on.
    fn conclude(self, out: &mut Responder) -> Result<()>;
}

impl<T: IntoResponse, E: Into<Error>> WorkerResult for Result<T, E> {
    fn conclude(self, out: &mut Responder) -> Result<()> {
        self.map_err(Into::into)?.respond(out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn json_error_is_one_line_that_names_the_place() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Empty {}
        let error = Json::<Empty>::from_payload(bytes(b"{\"a\\nb\":1}"))
            .unwrap_err()
            .to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            error.contains("unknown field") && error.contains("line 1"),
            "{error}"
        );
    }

    #[test]
    fn json_nested_too_deeply_is_an_error() {
        let nested = "[".repeat(100_000);
        assert!(Json::<serde_json::Value>::from_payload(bytes(nested.as_bytes())).is_err());
    }

    #[test]
    fn cbor_round_trips() {
        let mut item = Vec::new();
        ciborium::into_writer(&BTreeMap::from([("a", 5)]), &mut item).unwrap();
        let Cbor(map) = Cbor::<BTreeMap<String, u32>>::from_payload(bytes(&item)).unwrap();
        assert_eq!(map["a"], 5);
    }

    #[test]
    fn cbor_with_trailing_bytes_is_refused() {
        let error = Cbor::<u8>::from_payload(bytes(&[0x05, 0x00]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("1 bytes follow"), "{error}");
    }

    #[test]
    fn broken_cbor_says_how_it_is_broken() {
        let text = |item: &[u8]| {
            Cbor::<Vec<u8>>::from_payload(bytes(item))
                .unwrap_err()
                .to_string()
        };
        assert!(
            text(&[0x82, 0x01]).contains("breaks off after 2 bytes"),
            "{}",
            text(&[0x82, 0x01])
        );
        assert!(text(&[0x81; 1000]).contains("not as expected"));
        assert!(text(&[0x81, 0x1c]).contains("byte 1"), "{}", text(&[0x81, 0x1c]));
    }

    #[test]
    fn cbor_with_a_huge_declared_length_is_refused_without_allocating_it() {
        let huge = [0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert!(Cbor::<Bytes>::from_payload(bytes(&huge)).is_err());
    }

    #[test]
    fn an_empty_payload_is_none_or_an_error() {
        assert_eq!(Option::<Json<u8>>::from_payload(bytes(b"")).unwrap(), None);
        assert_eq!(Option::<Cbor<u8>>::from_payload(bytes(b"")).unwrap(), None);
        assert!(
            Json::<u8>::from_payload(bytes(b""))
                .unwrap_err()
                .to_string()
                .contains("empty")
        );
        assert!(
            Cbor::<u8>::from_payload(bytes(b""))
                .unwrap_err()
                .to_string()
                .contains("empty")
        );
    }

    #[test]
    fn a_worker_without_payload_refuses_one() {
        assert!(<()>::from_payload(bytes(b"")).is_ok());
        assert!(
            <()>::from_payload(bytes(b"x"))
                .unwrap_err()
                .to_string()
                .contains("1 bytes")
        );
    }

    #[test]
    fn another_kind_than_the_worker_takes_is_an_error() {
        let error = Buffer::from_payload(bytes(b"")).unwrap_err().to_string();
        assert!(
            error.contains("as bytes") && error.contains("takes buffer"),
            "{error}"
        );
    }

    fn bytes(text: &[u8]) -> Payload {
        Payload::Bytes(Bytes::copy_from_slice(text))
    }
}
