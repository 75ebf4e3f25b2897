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
/// through [`io::Write`] or [`write_piece`](Self::write_piece), ended by [`finish`](Self::finish), by the next `send` or by the function's return.
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

    /// Begins a streamed response, which then exists even if nothing is written to it.
    /// Ends the one that is under way, if there is one.
    pub fn begin(&mut self) -> Result<()> {
        self.finish()?;
        self.streaming = true;
        Ok(())
    }

    /// Adds a piece to the streamed response without copying it; begins one if none is under way.
    pub fn write_piece(&mut self, piece: impl Into<Bytes>) -> Result<()> {
        self.streaming = true;
        if !self.gathered.is_empty() {
            let gathered = self.gathered.split().freeze();
            self.pass(gathered, false)?;
        }
        let piece = piece.into();
        if piece.is_empty() {
            Ok(())
        } else {
            self.pass(piece, false)
        }
    }

    fn pass(&mut self, piece: Bytes, last: bool) -> Result<()> {
        self.sink.send(piece, last).map_err(Error::stopped)
    }

    fn pass_gathered(&mut self) -> io::Result<()> {
        let piece = self.gathered.split().freeze();
        self.sink.send(piece, false).map_err(io::Error::from)
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn writing_gathers_pieces_and_finish_ends_the_response() {
        let (mut out, sent) = responder();
        out.write_all(&vec![7; PIECE_BYTES + 1]).unwrap();
        out.finish().unwrap();
        out.finish().unwrap();
        assert_eq!(lengths(&sent), [(PIECE_BYTES, false), (1, true)]);
    }

    #[test]
    fn sending_ends_the_streamed_response_first() {
        let (mut out, sent) = responder();
        out.write_all(b"ab").unwrap();
        out.send("c").unwrap();
        assert_eq!(lengths(&sent), [(2, true), (1, true)]);
    }

    #[test]
    fn a_begun_response_exists_even_if_empty() {
        let (mut out, sent) = responder();
        out.begin().unwrap();
        out.begin().unwrap();
        out.finish().unwrap();
        assert_eq!(lengths(&sent), [(0, true), (0, true)]);
    }

    #[test]
    fn a_piece_follows_what_was_written_before_it() {
        let (mut out, sent) = responder();
        out.write_all(b"ab").unwrap();
        out.write_piece("cde").unwrap();
        out.write_piece("").unwrap();
        out.finish().unwrap();
        assert_eq!(lengths(&sent), [(2, false), (3, false), (0, true)]);
    }

    #[test]
    fn a_failed_write_says_that_the_unit_was_stopped() {
        struct Stopped;
        impl ResponseSink for Stopped {
            fn send(&mut self, _: Bytes, _: bool) -> std::result::Result<(), StopReason> {
                Err(StopReason::Cancelled)
            }
        }
        let error = Responder::new(Stopped)
            .write_all(&vec![0; PIECE_BYTES])
            .unwrap_err();
        assert_eq!(Error::from(error).stop_reason(), Some(StopReason::Cancelled));
    }

    struct Channel(mpsc::Sender<(Bytes, bool)>);

    impl ResponseSink for Channel {
        fn send(&mut self, piece: Bytes, last: bool) -> std::result::Result<(), StopReason> {
            self.0.send((piece, last)).map_err(|_| StopReason::Cancelled)
        }
    }

    fn responder() -> (Responder, mpsc::Receiver<(Bytes, bool)>) {
        let (sender, receiver) = mpsc::channel();
        (Responder::new(Channel(sender)), receiver)
    }

    fn lengths(sent: &mpsc::Receiver<(Bytes, bool)>) -> Vec<(usize, bool)> {
        sent.try_iter().map(|(piece, last)| (piece.len(), last)).collect()
    }
}
