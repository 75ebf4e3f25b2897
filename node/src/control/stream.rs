//! Frames over a stream of bytes, from the node's side.

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use workmesh_proto::wire::codec::CodecError;
use workmesh_proto::wire::frame::{Frame, FrameError, FrameType, encode_cbor, encode_response_prefix};
use workmesh_proto::wire::items::{Item, ItemReader, Piece};

/// Bytes asked of the stream at once: few while it is quiet, because each waiting unit holds them.
const QUIET_READ_BYTES: usize = 512;
/// Bytes asked at once of a stream that brings much.
const BUSY_READ_BYTES: usize = 64 * 1024;

/// Why a conversation ended before its time. The client's affair.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Codec(#[from] CodecError),
    #[error("frame {0:#04x} out of order")]
    Unexpected(u8),
    #[error("the stream ends within a frame")]
    Truncated,
}

/// The incoming half.
pub(super) struct ControlReader<R> {
    stream: R,
    items: ItemReader,
    buffer: BytesMut,
    ask_bytes: usize,
}

impl<R: AsyncRead + Unpin> ControlReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            items: ItemReader::new(),
            buffer: BytesMut::new(),
            ask_bytes: QUIET_READ_BYTES,
        }
    }

    /// An item that has arrived already.
    pub(super) fn next_arrived(&mut self) -> Result<Option<Item>, StreamError> {
        Ok(self.items.next_item()?)
    }

    /// The next item; `None` at a clean end of the stream. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Item>, StreamError> {
        loop {
            if let Some(item) = self.items.next_item()? {
                return Ok(Some(item));
            }
            if self.buffer.capacity() != self.ask_bytes {
                self.buffer = BytesMut::with_capacity(self.ask_bytes);
            }
            let read = self.stream.read_buf(&mut self.buffer).await?;
            self.ask_bytes = if read >= QUIET_READ_BYTES {
                BUSY_READ_BYTES
            } else {
                QUIET_READ_BYTES
            };
            if read == 0 {
                return if self.items.is_empty() {
                    Ok(None)
                } else {
                    Err(StreamError::Truncated)
                };
            }
            self.items.feed(self.buffer.split().freeze());
        }
    }

    /// The next item, which has to be a whole frame.
    pub(super) async fn next_frame(&mut self) -> Result<Option<Frame>, StreamError> {
        match self.next().await? {
            Some(Item::Frame(frame)) => Ok(Some(frame)),
            Some(_) => Err(StreamError::Unexpected(FrameType::Payload as u8)),
            None => Ok(None),
        }
    }
}

/// The outgoing half. Frames gather until [`flush`](Self::flush).
pub(super) struct ControlWriter<W> {
    stream: W,
    gathered: BytesMut,
}

impl<W: AsyncWrite + Unpin> ControlWriter<W> {
    pub(super) fn new(stream: W) -> Self {
        Self {
            stream,
            gathered: BytesMut::new(),
        }
    }

    pub(super) fn put<T: Serialize>(&mut self, kind: FrameType, value: &T) {
        encode_cbor(kind, 0, value, &mut self.gathered);
    }

    pub(super) fn put_piece(&mut self, piece: &Piece) {
        encode_response_prefix(0, piece.serial, piece.last, piece.data.len(), &mut self.gathered);
        self.gathered.extend_from_slice(&piece.data);
    }

    /// Bytes that wait for a flush.
    pub(super) fn gathered_bytes(&self) -> usize {
        self.gathered.len()
    }

    pub(super) async fn flush(&mut self) -> Result<(), StreamError> {
        let out: Bytes = self.gathered.split().freeze();
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        Ok(())
    }
}
