//! The frame that all streams share: link control, units, queries, the local control socket.
//!
//! ```text
//! 0      1       2                6                10
//! +------+-------+----------------+----------------+------- - -
//! | type | flags | unit (u32, BE) | length (u32 BE)| body
//! +------+-------+----------------+----------------+------- - -
//! ```
//!
//! `length` counts the body. `unit` numbers the conversation within its stream; 0 where a stream carries only one.
//! A receiver skips types that it does not know.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;

use super::codec;

/// Bytes before a frame's body.
pub const PREFIX_BYTES: usize = 10;
const LENGTH_AT: usize = 6;
/// Room that is made for a frame of CBOR, in bytes: most are shorter.
const USUAL_BYTES: usize = 96;
/// The longest body of any frame, in bytes. A longer one ends the stream.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// Bytes of the serial at the head of a response's body.
pub const SERIAL_BYTES: usize = 8;
/// The most response bytes that one frame carries.
pub const MAX_PIECE_BYTES: usize = MAX_BODY_BYTES - SERIAL_BYTES;

/// The frame types. A gap in the numbers is free for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    // link control
    /// [`super::link::Hello`]
    Hello = 0x01,
    /// [`super::link::Lsa`]
    Lsa = 0x02,
    /// [`super::link::Load`]
    Load = 0x03,
    /// [`super::link::Digest`]
    Digest = 0x04,
    /// [`super::link::Synced`]
    Synced = 0x05,
    /// [`super::link::Conflict`]
    Conflict = 0x06,
    /// [`super::link::Probe`]
    Probe = 0x07,
    /// [`super::link::ProbeReply`]
    ProbeReply = 0x08,
    /// [`super::link::Goodbye`]
    Goodbye = 0x09,
    // a unit
    /// [`super::unit::Submit`]
    Submit = 0x20,
    /// Raw payload bytes.
    Payload = 0x21,
    /// The payload is complete; no body.
    PayloadEnd = 0x22,
    /// [`super::unit::Accepted`]
    Accepted = 0x23,
    /// [`super::unit::Refused`]
    Refused = 0x24,
    /// Serial (u64, BE), then raw response bytes; flag [`LAST_PIECE`] ends the response.
    Response = 0x25,
    /// [`super::unit::Eof`]
    Eof = 0x26,
    /// [`super::unit::Cancel`]
    Cancel = 0x27,
    // a durable unit
    /// [`super::durable::Stored`]
    Stored = 0x28,
    /// [`super::durable::Started`]
    Started = 0x29,
    /// [`super::durable::Returned`]
    Returned = 0x2a,
    /// [`super::durable::Ack`]
    Ack = 0x2b,
    /// [`super::durable::Resume`]
    Resume = 0x2c,
    /// [`super::durable::Release`]
    Release = 0x2d,
    /// [`super::durable::Released`]
    Released = 0x2e,
    /// [`super::durable::Attach`]
    Attach = 0x2f,
    /// [`super::durable::Unfinished`]
    Unfinished = 0x30,
    // a batch of durable units
    /// [`super::batch::Batch`]
    Batch = 0x31,
    /// [`super::batch::Parcel`]
    Parcel = 0x32,
    /// [`super::batch::Over`]
    Over = 0x33,
    /// [`super::batch::ReleasedUnits`]
    ReleasedUnits = 0x34,
    // questions
    /// [`super::query::Query`]
    Query = 0x40,
    /// An answer in the form that the question asks for.
    Reply = 0x41,
    /// [`super::query::Fault`]
    Fault = 0x42,
}

/// Flag of [`FrameType::Response`]: this piece is the last of its response.
pub const LAST_PIECE: u8 = 0x01;

impl FrameType {
    /// The type of this number, if it is known.
    pub fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            0x01 => Self::Hello,
            0x02 => Self::Lsa,
            0x03 => Self::Load,
            0x04 => Self::Digest,
            0x05 => Self::Synced,
            0x06 => Self::Conflict,
            0x07 => Self::Probe,
            0x08 => Self::ProbeReply,
            0x09 => Self::Goodbye,
            0x20 => Self::Submit,
            0x21 => Self::Payload,
            0x22 => Self::PayloadEnd,
            0x23 => Self::Accepted,
            0x24 => Self::Refused,
            0x25 => Self::Response,
            0x26 => Self::Eof,
            0x27 => Self::Cancel,
            0x28 => Self::Stored,
            0x29 => Self::Started,
            0x2a => Self::Returned,
            0x2b => Self::Ack,
            0x2c => Self::Resume,
            0x2d => Self::Release,
            0x2e => Self::Released,
            0x2f => Self::Attach,
            0x30 => Self::Unfinished,
            0x31 => Self::Batch,
            0x32 => Self::Parcel,
            0x33 => Self::Over,
            0x34 => Self::ReleasedUnits,
            0x40 => Self::Query,
            0x41 => Self::Reply,
            0x42 => Self::Fault,
            _ => return None,
        })
    }
}

/// One whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type's number; [`FrameType::from_u8`] names it.
    pub kind: u8,
    /// Bits whose meaning depends on the type; unknown bits are ignored.
    pub flags: u8,
    /// The conversation within the stream.
    pub unit: u32,
    /// CBOR or raw bytes, by type.
    pub body: Bytes,
}

impl Frame {
    /// A frame of a known type without flags.
    pub fn new(kind: FrameType, unit: u32, body: Bytes) -> Self {
        Self {
            kind: kind as u8,
            flags: 0,
            unit,
            body,
        }
    }

    /// A frame whose body is the CBOR form of `value`.
    pub fn cbor<T: Serialize>(kind: FrameType, unit: u32, value: &T) -> Self {
        let mut body = BytesMut::with_capacity(128);
        codec::encode(value, &mut body);
        Self::new(kind, unit, body.freeze())
    }

    /// The type, if it is known.
    pub fn frame_type(&self) -> Option<FrameType> {
        FrameType::from_u8(self.kind)
    }

    /// Appends prefix and body.
    pub fn encode(&self, out: &mut BytesMut) {
        encode_prefix(self.kind, self.flags, self.unit, self.body.len(), out);
        out.extend_from_slice(&self.body);
    }
}

/// Appends the ten bytes that stand before a body of `length` bytes, for a sender that passes the body on unchanged.
///
/// `length` is at most [`MAX_BODY_BYTES`]: senders cut longer data into several frames.
pub fn encode_prefix(kind: u8, flags: u8, unit: u32, length: usize, out: &mut BytesMut) {
    debug_assert!(length <= MAX_BODY_BYTES, "a body is cut before it is framed");
    let mut prefix = [0; PREFIX_BYTES];
    let mut rest = &mut prefix[..];
    rest.put_u8(kind);
    rest.put_u8(flags);
    rest.put_u32(unit);
    rest.put_u32(length as u32);
    out.extend_from_slice(&prefix);
}

/// Appends a frame of a known type without flags whose body is the CBOR form of `value`.
pub fn encode_cbor<T: Serialize>(kind: FrameType, unit: u32, value: &T, out: &mut BytesMut) {
    out.reserve(USUAL_BYTES);
    let start = out.len();
    encode_prefix(kind as u8, 0, unit, 0, out);
    codec::encode(value, out);
    let length = out.len() - start - PREFIX_BYTES;
    debug_assert!(length <= MAX_BODY_BYTES, "bodies of CBOR are short");
    out[start + LENGTH_AT..start + PREFIX_BYTES].copy_from_slice(&(length as u32).to_be_bytes());
}

/// Appends prefix and serial of a response frame for `length` response bytes, which the sender passes on unchanged.
///
/// `length` is at most [`MAX_PIECE_BYTES`]; `last` ends the response.
pub fn encode_response_prefix(unit: u32, serial: u64, last: bool, length: usize, out: &mut BytesMut) {
    let flags = if last { LAST_PIECE } else { 0 };
    encode_prefix(FrameType::Response as u8, flags, unit, SERIAL_BYTES + length, out);
    out.put_u64(serial);
}

/// Takes frames out of a stream of bytes that arrives in pieces of any size.
///
/// Holds at most one incomplete frame and the piece that was fed last.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffered: BytesMut,
}

impl FrameReader {
    /// A reader at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that have arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffered.extend_from_slice(bytes);
    }

    /// The next complete frame; `None` until more bytes are fed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(mut prefix) = self.buffered.get(..PREFIX_BYTES) else {
            return Ok(None);
        };
        let (kind, flags, unit) = (prefix.get_u8(), prefix.get_u8(), prefix.get_u32());
        let length = prefix.get_u32() as usize;
        if length > MAX_BODY_BYTES {
            return Err(FrameError::TooLong { kind, length });
        }
        if self.buffered.len() < PREFIX_BYTES + length {
            self.buffered.reserve(PREFIX_BYTES + length - self.buffered.len());
            return Ok(None);
        }
        self.buffered.advance(PREFIX_BYTES);
        let body = self.buffered.split_to(length).freeze();
        Ok(Some(Frame {
            kind,
            flags,
            unit,
            body,
        }))
    }

    /// Whether the stream may end here: no incomplete frame is held.
    pub fn is_empty(&self) -> bool {
        self.buffered.is_empty()
    }
}

/// Why a stream is no stream of frames. The peer's fault; the stream is of no further use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A body above [`MAX_BODY_BYTES`].
    #[error("frame of type {kind:#04x} announces {length} bytes; at most {MAX_BODY_BYTES} are allowed")]
    TooLong {
        /// The type's number.
        kind: u8,
        /// The announced length.
        length: usize,
    },
    /// A response without room for its serial.
    #[error("response frame of {length} bytes has no room for its serial")]
    NoSerial {
        /// The announced length.
        length: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize) -> Frame {
        Frame {
            kind: 0x21,
            flags: 1,
            unit: 7,
            body: vec![9; length].into(),
        }
    }

    #[test]
    fn frames_survive_any_cut() {
        let mut bytes = BytesMut::new();
        for length in [0, 1, 300] {
            frame(length).encode(&mut bytes);
        }
        for cut in 1..bytes.len() {
            let mut reader = FrameReader::new();
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                reader.feed(piece);
                while let Some(frame) = reader.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, [frame(0), frame(1), frame(300)]);
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn body_length_is_limited() {
        let mut bytes = BytesMut::new();
        encode_prefix(0x21, 0, 0, MAX_BODY_BYTES, &mut bytes);
        let mut reader = FrameReader::new();
        reader.feed(&bytes);
        assert_eq!(reader.next_frame(), Ok(None));
        let mut reader = FrameReader::new();
        reader.feed(&[0x21, 0, 0, 0, 0, 0, 0, 4, 0, 1]);
        assert_eq!(
            reader.next_frame(),
            Err(FrameError::TooLong {
                kind: 0x21,
                length: MAX_BODY_BYTES + 1
            })
        );
    }

    #[test]
    fn every_known_type_has_one_number() {
        let known = (0..=255u8).filter_map(FrameType::from_u8);
        assert!(
            known
                .clone()
                .all(|kind| FrameType::from_u8(kind as u8) == Some(kind))
        );
        assert_eq!(known.count(), 33);
    }
}
