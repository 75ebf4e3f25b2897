//! Reads the frames of a unit without gathering bulk data: payload and response bytes come out as slices of
//! what was fed, in pieces as they arrived. Sessions use it; whoever wants whole frames uses [`super::frame::FrameReader`].
//!
//! Measured on one core: 1 GiB of responses in 64 KiB frames, fed in pieces of 1,400 bytes, costs about 20 ms here
//! and about 80 ms with the digest of [`crate::unit::OriginUnit`].

use bytes::{Buf, Bytes, BytesMut};

use super::frame::{Frame, FrameError, FrameType, LAST_PIECE, MAX_BODY_BYTES, PREFIX_BYTES, SERIAL_BYTES};

/// What comes out of an [`ItemReader`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A whole frame of any type but the two below.
    Frame(Frame),
    /// Payload bytes. Where one frame ends and the next begins has no meaning.
    Payload {
        /// The conversation within the stream.
        unit: u32,
        /// At least one byte, unless the frame was empty.
        data: Bytes,
    },
    /// Response bytes.
    Response {
        /// The conversation within the stream.
        unit: u32,
        /// The bytes and their place.
        piece: Piece,
    },
}

/// A part of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which response of the unit, from 1.
    pub serial: u64,
    /// The next bytes of this response; may be empty.
    pub data: Bytes,
    /// The response is complete with these bytes.
    pub last: bool,
}

/// Takes items out of a stream of bytes that arrives in pieces of any size.
///
/// Holds what was fed last and at most one incomplete frame that is not data.
#[derive(Debug, Default)]
pub struct ItemReader {
    arrived: Bytes,
    partial: BytesMut,
    data: Option<DataFrame>,
}

/// A data frame whose body is under way.
#[derive(Debug)]
struct DataFrame {
    unit: u32,
    left: usize,
    /// Serial and last flag of a response; `None` for payload.
    response: Option<(u64, bool)>,
}

impl Item {
    /// The conversation within the stream.
    pub fn unit(&self) -> u32 {
        match self {
            Self::Frame(frame) => frame.unit,
            Self::Payload { unit, .. } | Self::Response { unit, .. } => *unit,
        }
    }
}

impl ItemReader {
    /// A reader at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that have arrived. Without a copy if [`next_item`](Self::next_item) has answered `None` since the last call.
    pub fn feed(&mut self, bytes: Bytes) {
        if self.arrived.is_empty() {
            self.arrived = bytes;
        } else {
            let mut both = BytesMut::with_capacity(self.arrived.len() + bytes.len());
            both.extend_from_slice(&self.arrived);
            both.extend_from_slice(&bytes);
            self.arrived = both.freeze();
        }
    }

    /// The next item; `None` until more bytes are fed. After an error the stream is of no further use.
    pub fn next_item(&mut self) -> Result<Option<Item>, FrameError> {
        if self.data.is_none()
            && let Some(frame) = self.next_head()?
        {
            return Ok(Some(Item::Frame(frame)));
        }
        Ok(self.next_piece())
    }

    /// Whether the stream may end here: no incomplete frame is held.
    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.partial.is_empty() && self.data.is_none()
    }

    /// Reads what stands before data into `self.data`, or a whole frame that is not data.
    fn next_head(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(mut prefix) = self.peek(PREFIX_BYTES) else {
            return Ok(None);
        };
        let (kind, flags, unit) = (prefix.get_u8(), prefix.get_u8(), prefix.get_u32());
        let length = prefix.get_u32() as usize;
        if length > MAX_BODY_BYTES {
            return Err(FrameError::TooLong { kind, length });
        }
        if kind == FrameType::Payload as u8 {
            self.skip(PREFIX_BYTES);
            self.data = Some(DataFrame {
                unit,
                left: length,
                response: None,
            });
            return Ok(None);
        }
        if kind == FrameType::Response as u8 {
            let left = length
                .checked_sub(SERIAL_BYTES)
                .ok_or(FrameError::NoSerial { length })?;
            let Some(head) = self.peek(PREFIX_BYTES + SERIAL_BYTES) else {
                return Ok(None);
            };
            let serial = (&head[PREFIX_BYTES..]).get_u64();
            self.skip(PREFIX_BYTES + SERIAL_BYTES);
            self.data = Some(DataFrame {
                unit,
                left,
                response: Some((serial, flags & LAST_PIECE != 0)),
            });
            return Ok(None);
        }
        if self.peek(PREFIX_BYTES + length).is_none() {
            return Ok(None);
        }
        let mut body = self.take(PREFIX_BYTES + length);
        body.advance(PREFIX_BYTES);
        Ok(Some(Frame {
            kind,
            flags,
            unit,
            body,
        }))
    }

    fn next_piece(&mut self) -> Option<Item> {
        let frame = self.data.as_mut()?;
        let count = frame.left.min(self.arrived.len());
        if count == 0 && frame.left > 0 {
            return None;
        }
        let data = self.arrived.split_to(count);
        frame.left -= count;
        let complete = frame.left == 0;
        let unit = frame.unit;
        let item = match frame.response {
            None => Item::Payload { unit, data },
            Some((serial, last)) => {
                let last = last && complete;
                let piece = Piece { serial, data, last };
                Item::Response { unit, piece }
            }
        };
        if complete {
            self.data = None;
        }
        Some(item)
    }

    /// The next `count` bytes, if they have arrived; what is incomplete moves to `partial`, which never holds more than
    /// the frame or head that is read.
    fn peek(&mut self, count: usize) -> Option<&[u8]> {
        if self.partial.is_empty() && self.arrived.len() >= count {
            return Some(&self.arrived[..count]);
        }
        let missing = count.saturating_sub(self.partial.len());
        let found = self.arrived.split_to(missing.min(self.arrived.len()));
        self.partial.reserve(missing);
        self.partial.extend_from_slice(&found);
        self.partial.get(..count)
    }

    /// Takes the bytes that [`peek`](Self::peek) has shown.
    fn take(&mut self, count: usize) -> Bytes {
        if self.partial.is_empty() {
            self.arrived.split_to(count)
        } else {
            self.partial.split().freeze()
        }
    }

    /// Drops the bytes that [`peek`](Self::peek) has shown.
    fn skip(&mut self, count: usize) {
        if self.partial.is_empty() {
            self.arrived.advance(count);
        } else {
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{MAX_PIECE_BYTES, encode_prefix, encode_response_prefix};

    /// A stream with each sort of frame, and what it means.
    fn stream() -> (Bytes, Vec<Item>) {
        let mut out = BytesMut::new();
        let body = Bytes::from_static(b"a body that is not data");
        let frame = Frame::new(FrameType::Eof, 3, body);
        frame.encode(&mut out);
        Frame::new(FrameType::Payload, 4, vec![1; 300].into()).encode(&mut out);
        Frame::new(FrameType::Payload, 4, Bytes::new()).encode(&mut out);
        Frame::new(FrameType::PayloadEnd, 4, Bytes::new()).encode(&mut out);
        encode_response_prefix(5, 7, false, 200, &mut out);
        out.extend_from_slice(&[2; 200]);
        encode_response_prefix(5, 7, true, 0, &mut out);
        encode_response_prefix(5, u64::MAX, true, 1, &mut out);
        out.extend_from_slice(&[3]);
        let response = |serial, data: &[u8], last| Item::Response {
            unit: 5,
            piece: Piece {
                serial,
                data: Bytes::copy_from_slice(data),
                last,
            },
        };
        let items = vec![
            Item::Frame(frame),
            Item::Payload {
                unit: 4,
                data: vec![1; 300].into(),
            },
            Item::Payload {
                unit: 4,
                data: Bytes::new(),
            },
            Item::Frame(Frame::new(FrameType::PayloadEnd, 4, Bytes::new())),
            response(7, &[2; 200], false),
            response(7, &[], true),
            response(u64::MAX, &[3], true),
        ];
        (out.freeze(), items)
    }

    #[test]
    fn items_survive_any_cut() {
        let (bytes, expected) = stream();
        for cut in 1..=bytes.len() {
            let mut reader = ItemReader::new();
            let mut items = Vec::new();
            for at in (0..bytes.len()).step_by(cut) {
                reader.feed(bytes.slice(at..bytes.len().min(at + cut)));
                drain(&mut reader, &mut items);
            }
            assert_eq!(joined(items), joined(expected.clone()), "cut at {cut}");
            assert!(reader.is_empty(), "cut at {cut}");
        }
    }

    #[test]
    fn bytes_fed_before_the_reader_was_drained_are_kept_in_order() {
        let (bytes, expected) = stream();
        let mut reader = ItemReader::new();
        for at in (0..bytes.len()).step_by(7) {
            reader.feed(bytes.slice(at..bytes.len().min(at + 7)));
        }
        let mut items = Vec::new();
        drain(&mut reader, &mut items);
        assert_eq!(items, expected);
    }

    #[test]
    fn data_is_not_copied() {
        let (bytes, _) = stream();
        let mut reader = ItemReader::new();
        reader.feed(bytes.clone());
        let mut items = Vec::new();
        drain(&mut reader, &mut items);
        for item in items {
            let (Item::Frame(Frame { body: data, .. })
            | Item::Payload { data, .. }
            | Item::Response {
                piece: Piece { data, .. },
                ..
            }) = item;
            assert!(data.is_empty() || bytes.as_ptr_range().contains(&data.as_ptr()));
        }
    }

    #[test]
    fn stream_that_ends_within_a_frame_is_not_empty() {
        let (bytes, _) = stream();
        let mut whole = 0;
        for end in 0..=bytes.len() {
            let mut reader = ItemReader::new();
            reader.feed(bytes.slice(..end));
            drain(&mut reader, &mut Vec::new());
            whole += usize::from(reader.is_empty());
        }
        assert_eq!(
            whole, 8,
            "only the start and the ends of the seven frames are whole"
        );
    }

    #[test]
    fn body_length_is_limited_for_data_too() {
        for kind in [FrameType::Payload, FrameType::Response, FrameType::Eof] {
            let mut prefix = BytesMut::new();
            encode_prefix(kind as u8, 0, 0, MAX_BODY_BYTES, &mut prefix);
            let mut reader = ItemReader::new();
            reader.feed(prefix.clone().freeze());
            assert_eq!(reader.next_item(), Ok(None));
            prefix[6..].copy_from_slice(&(MAX_BODY_BYTES as u32 + 1).to_be_bytes());
            let mut reader = ItemReader::new();
            reader.feed(prefix.freeze());
            let length = MAX_BODY_BYTES + 1;
            let kind = kind as u8;
            assert_eq!(reader.next_item(), Err(FrameError::TooLong { kind, length }));
        }
    }

    #[test]
    fn longest_piece_fits_a_frame() {
        let mut bytes = BytesMut::new();
        encode_response_prefix(0, 1, true, MAX_PIECE_BYTES, &mut bytes);
        bytes.resize(bytes.len() + MAX_PIECE_BYTES, 0);
        let mut reader = ItemReader::new();
        reader.feed(bytes.freeze());
        assert!(matches!(
            reader.next_item(),
            Ok(Some(Item::Response { piece, .. })) if piece.last && piece.data.len() == MAX_PIECE_BYTES
        ));
    }

    #[test]
    fn response_needs_room_for_its_serial() {
        for length in [SERIAL_BYTES - 1, SERIAL_BYTES] {
            let mut bytes = BytesMut::new();
            encode_prefix(FrameType::Response as u8, 0, 0, length, &mut bytes);
            bytes.resize(PREFIX_BYTES + length, 0);
            let mut reader = ItemReader::new();
            reader.feed(bytes.freeze());
            match reader.next_item() {
                Err(FrameError::NoSerial { length: 7 }) => assert_eq!(length, 7),
                Ok(Some(Item::Response { .. })) => assert_eq!(length, 8),
                other => panic!("{other:?}"),
            }
        }
    }

    fn drain(reader: &mut ItemReader, items: &mut Vec<Item>) {
        while let Some(item) = reader.next_item().unwrap() {
            items.push(item);
        }
    }

    /// Joins the pieces of a frame again.
    fn joined(items: Vec<Item>) -> Vec<Item> {
        let mut whole: Vec<Item> = Vec::new();
        for item in items {
            match (whole.last_mut(), item) {
                (Some(Item::Payload { data, .. }), Item::Payload { data: more, .. }) => {
                    *data = [&data[..], &more].concat().into()
                }
                (Some(Item::Response { piece, .. }), Item::Response { piece: more, .. })
                    if piece.serial == more.serial =>
                {
                    piece.data = [&piece.data[..], &more.data].concat().into();
                    piece.last = more.last;
                }
                (_, item) => whole.push(item),
            }
        }
        whole
    }
}
