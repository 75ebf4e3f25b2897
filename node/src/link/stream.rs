//! One conversation's stream: frames out, items in.
//!
//! Dropping a sender that was not finished resets the stream, so that a task that is cancelled or panics never looks
//! like a complete conversation. Dropping a receiver tells the peer to stop sending.

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use serde::Serialize;
use workmesh_proto::wire::frame::{
    Frame, FrameType, MAX_BODY_BYTES, MAX_PIECE_BYTES, encode_cbor, encode_prefix, encode_response_prefix,
};
use workmesh_proto::wire::items::{Item, ItemReader};

use super::LinkError;

/// The code of a reset: the conversation was given up.
const GIVEN_UP: u32 = 1;
/// Below this many bytes a body is copied behind its prefix; from here on it travels as it is.
const COPY_BYTES: usize = 2048;
/// After this many bytes a stream yields to younger ones of its session.
const BULK_BYTES: u64 = 64 * 1024;
/// The priority of such a stream; fresh ones have 0.
const BULK_PRIORITY: i32 = -1;
/// Chunks taken at once from a stream that brings much; a quiet one holds room for one.
const MAX_CHUNKS: usize = 16;

/// The outgoing half. Frames gather until [`flush`](Self::flush).
pub(crate) struct FrameSender {
    stream: SendStream,
    gathered: BytesMut,
    chunks: Vec<Bytes>,
    /// The conversation within the stream that frames are gathered for.
    unit: u32,
    sent_bytes: u64,
    finished: bool,
}

impl FrameSender {
    pub(super) fn new(stream: SendStream) -> Self {
        Self {
            stream,
            gathered: BytesMut::new(),
            chunks: Vec::new(),
            unit: 0,
            sent_bytes: 0,
            finished: false,
        }
    }

    /// What is gathered from here on is of this conversation within the stream.
    pub(crate) fn turn_to(&mut self, unit: u32) {
        self.unit = unit;
    }

    /// Gathers a frame whose body is the CBOR form of `value`.
    pub(crate) fn put<T: Serialize>(&mut self, kind: FrameType, value: &T) {
        encode_cbor(kind, self.unit, value, &mut self.gathered);
    }

    /// Gathers a frame without a body.
    pub(crate) fn put_bare(&mut self, kind: FrameType) {
        encode_prefix(kind as u8, 0, self.unit, 0, &mut self.gathered);
    }

    /// Gathers a whole frame.
    pub(crate) fn put_frame(&mut self, frame: &Frame) {
        frame.encode(&mut self.gathered);
    }

    /// Gathers payload bytes, cut into frames where they are too many for one.
    pub(crate) fn put_payload(&mut self, mut data: Bytes) {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_BODY_BYTES));
            encode_prefix(
                FrameType::Payload as u8,
                0,
                self.unit,
                piece.len(),
                &mut self.gathered,
            );
            self.put_data(piece);
        }
    }

    /// Gathers a part of a response, cut into frames where it is too long for one.
    pub(crate) fn put_response(&mut self, serial: u64, mut data: Bytes, last: bool) {
        loop {
            let piece = data.split_to(data.len().min(MAX_PIECE_BYTES));
            let complete = data.is_empty();
            encode_response_prefix(
                self.unit,
                serial,
                last && complete,
                piece.len(),
                &mut self.gathered,
            );
            self.put_data(piece);
            if complete {
                return;
            }
        }
    }

    fn put_data(&mut self, data: Bytes) {
        if data.len() < COPY_BYTES {
            self.gathered.extend_from_slice(&data);
        } else {
            self.chunks.push(self.gathered.split().freeze());
            self.chunks.push(data);
        }
    }

    /// Hands what was gathered to the connection; waits while the peer takes no more. Cancel-safe: what has not left
    /// leaves with the next flush.
    pub(crate) async fn flush(&mut self) -> Result<(), LinkError> {
        if !self.gathered.is_empty() {
            self.chunks.push(self.gathered.split().freeze());
        }
        if self.chunks.is_empty() {
            return Ok(());
        }
        let before = self.sent_bytes;
        let waiting: usize = self.chunks.iter().map(Bytes::len).sum();
        // Takes each chunk out of its place as it leaves.
        self.stream
            .write_all_chunks(&mut self.chunks)
            .await
            .map_err(write_error)?;
        self.chunks.clear();
        self.sent_bytes += waiting as u64;
        if before < BULK_BYTES && self.sent_bytes >= BULK_BYTES {
            let _gone = self.stream.set_priority(BULK_PRIORITY);
        }
        Ok(())
    }

    /// Flushes, and ends the stream cleanly.
    pub(crate) async fn finish(mut self) -> Result<(), LinkError> {
        self.flush().await?;
        self.finished = true;
        self.stream.finish().map_err(|e| LinkError::Closed(e.to_string()))
    }

    /// Ends the stream cleanly, and waits until the peer has everything or wants no more.
    pub(crate) async fn finish_and_wait(mut self) {
        if self.flush().await.is_ok() && self.stream.finish().is_ok() {
            self.finished = true;
            let _either = self.stream.stopped().await;
        }
    }

    /// Waits until the peer wants no more.
    pub(crate) async fn stopped(&mut self) {
        let _either = self.stream.stopped().await;
    }
}

impl Drop for FrameSender {
    fn drop(&mut self) {
        if !self.finished {
            let _gone = self.stream.reset(GIVEN_UP.into());
        }
    }
}

/// The incoming half.
pub(crate) struct FrameReceiver {
    stream: RecvStream,
    reader: ItemReader,
    chunks: Vec<Bytes>,
    /// How many of `chunks` have arrived, and how many of these the reader has got.
    arrived: usize,
    taken: usize,
}

impl FrameReceiver {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            reader: ItemReader::new(),
            chunks: Vec::new(),
            arrived: 0,
            taken: 0,
        }
    }

    /// The next item; `None` at a clean end of the stream. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Item>, LinkError> {
        loop {
            if let Some(item) = self.at_hand()? {
                return Ok(Some(item));
            }
            let wanted = if self.arrived == self.chunks.len() {
                self.arrived * 4
            } else {
                1
            };
            self.chunks.resize(wanted.clamp(1, MAX_CHUNKS), Bytes::new());
            match self
                .stream
                .read_chunks(&mut self.chunks)
                .await
                .map_err(read_error)?
            {
                Some(count) => (self.arrived, self.taken) = (count, 0),
                None if self.reader.is_empty() => return Ok(None),
                None => return Err(LinkError::Protocol("the stream ends within a frame".to_owned())),
            }
        }
    }

    /// The next item, if all of it has been read from the stream.
    pub(crate) fn at_hand(&mut self) -> Result<Option<Item>, LinkError> {
        loop {
            let item = self.reader.next_item();
            if let Some(item) = item.map_err(|e| LinkError::Protocol(e.to_string()))? {
                return Ok(Some(item));
            }
            if self.taken == self.arrived {
                return Ok(None);
            }
            self.reader.feed(std::mem::take(&mut self.chunks[self.taken]));
            self.taken += 1;
        }
    }

    /// The next whole frame; data frames are a violation.
    pub(crate) async fn next_frame(&mut self) -> Result<Option<Frame>, LinkError> {
        match self.next().await? {
            Some(Item::Frame(frame)) => Ok(Some(frame)),
            Some(_) => Err(LinkError::Protocol("payload where a frame was due".to_owned())),
            None => Ok(None),
        }
    }

    /// Tells the peer that nothing more is wanted.
    pub(crate) fn stop(&mut self) {
        let _gone = self.stream.stop(GIVEN_UP.into());
    }
}

fn write_error(error: WriteError) -> LinkError {
    match error {
        WriteError::ConnectionLost(lost) => lost.into(),
        other => LinkError::Closed(other.to_string()),
    }
}

fn read_error(error: ReadError) -> LinkError {
    match error {
        ReadError::ConnectionLost(lost) => lost.into(),
        other => LinkError::Closed(other.to_string()),
    }
}
