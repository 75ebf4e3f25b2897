//! Where a worker's responses go.

use std::fmt;
use std::io;

use bytes::{Bytes, BytesMut};

use crate::cancel::StopReason;
use crate::error::{Error, Result};

/// How much a streamed response gathers before a piece leaves, in bytes.
pub const PIECE_BYTES: usize = 64 * 1024;

/// The node's end of a responder. A piece is part of the current response; `last` ends that response.
pub trait ResponseSink: Send {
    /// Takes a piece, blocking while the submitter is slower than the worker. Fails once the unit has to stop.
    fn send(&mut self, piece: Bytes, last: bool) -> std::result::Result<(), StopReason>;
}

/// Sends responses to the submitter: whole ones with [`send`](Self::send), or one streamed response
/// through [`io::Write`], ended by [`finish`](Self::finish), by the next `send` or by the function's return.
///
/// Responses arrive in order, each exactly once. Every call blocks under backpressure and fails once the
/// unit was cancelled or has expired.
pub struct Responder {
    sink: Box<dyn ResponseSink>,
    gathered: BytesMut,
    streaming: bool,
}

impl Responder {
    /// A responder that feeds `sink`.
    pub fn new(sink: impl ResponseSink + 'static) -> Self {
        Self {
            sink: Box::new(sink),
            gathered: BytesMut::new(),
            streaming: false,
        }
    }

    /// Sends one whole response. Ends a streamed response first, if one is under way.
    pub fn send(&mut self, response: impl Into<Bytes>) -> Result<()> {
        self.finish()?;
        self.pass(response.into(), true)
    }

    /// Ends the streamed response that is under way; nothing if there is none.
    pub fn finish(&mut self) -> Result<()> {
        if !self.streaming {
            return Ok(());
        }
        self.streaming = false;
        let rest = self.gathered.split().freeze();
        self.pass(rest, true)
    }

    fn pass(&mut self, piece: Bytes, last: bool) -> Result<()> {
        self.sink.send(piece, last).map_err(Error::stopped)
    }

    fn pass_gathered(&mut self) -> io::Result<()> {
        let piece = self.gathered.split().freeze();
        self.sink
            .send(piece, false)
            .map_err(|reason| io::Error::other(reason.as_str()))
    }
}

impl io::Write for Responder {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.streaming = true;
        let room = PIECE_BYTES - self.gathered.len();
        let taken = room.min(data.len());
        self.gathered.extend_from_slice(&data[..taken]);
        if self.gathered.len() == PIECE_BYTES {
            self.pass_gathered()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            Ok(())
        } else {
            self.pass_gathered()
        }
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("streaming", &self.streaming)
            .finish_non_exhaustive()
    }
}
