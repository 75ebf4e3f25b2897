//! What a worker is handed: the payload in one of its three kinds.
//! The node builds these values; a worker only reads them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};

use crate::responder::PIECE_BYTES;
use crate::vocabulary::PayloadKind;

/// A unit's payload as the node hands it to [`crate::WorkerEntry::run`].
#[derive(Debug)]
pub enum Payload {
    /// The whole payload.
    Bytes(Bytes),
    /// A stream of the payload.
    Buffer(Buffer),
    /// A temporary file that holds the payload.
    File(PayloadFile),
}

impl Payload {
    /// The kind that this payload has.
    pub fn kind(&self) -> PayloadKind {
        match self {
            Self::Bytes(_) => PayloadKind::Bytes,
            Self::Buffer(_) => PayloadKind::Buffer,
            Self::File(_) => PayloadKind::File,
        }
    }
}

/// The node's end of a [`Buffer`]: pieces of the payload, handed over without a copy.
pub trait PayloadSource: Send {
    /// The next piece, blocking until it is there; `None` once the payload is complete. Fails if the payload
    /// breaks off, or with a [`crate::StopReason`] inside once the unit has to stop.
    fn next_piece(&mut self) -> io::Result<Option<Bytes>>;
}

/// A payload that is read as it arrives. End of file means that the whole payload was read;
/// a payload that breaks off, or a cancelled unit, ends in an [`io::Error`].
pub struct Buffer {
    source: Source,
}

enum Source {
    Reader(Box<dyn Read + Send>),
    Pieces {
        source: Box<dyn PayloadSource>,
        current: Bytes,
        ended: bool,
    },
}

impl Buffer {
    /// Wraps any reader; tests of workers use this with a byte slice.
    pub fn new(source: impl Read + Send + 'static) -> Self {
        Self {
            source: Source::Reader(Box::new(source)),
        }
    }

    /// Wraps a source of pieces.
    pub fn from_pieces(source: impl PayloadSource + 'static) -> Self {
        let source = Box::new(source);
        Self {
            source: Source::Pieces {
                source,
                current: Bytes::new(),
                ended: false,
            },
        }
    }

    /// The next piece of the payload as it arrived, not copied and never empty; `None` at its end.
    /// May be mixed with [`Read`].
    pub fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        match &mut self.source {
            Source::Reader(reader) => {
                let mut piece = BytesMut::zeroed(PIECE_BYTES);
                let read = read_some(reader, &mut piece)?;
                piece.truncate(read);
                Ok((read > 0).then(|| piece.freeze()))
            }
            Source::Pieces {
                source,
                current,
                ended,
            } => {
                fill(source.as_mut(), current, ended)?;
                Ok((!current.is_empty()).then(|| mem::take(current)))
            }
        }
    }
}

impl Read for Buffer {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            Source::Reader(reader) => reader.read(out),
            Source::Pieces {
                source,
                current,
                ended,
            } => {
                fill(source.as_mut(), current, ended)?;
                let taken = current.len().min(out.len());
                current.split_to(taken).copy_to_slice(&mut out[..taken]);
                Ok(taken)
            }
        }
    }
}

/// Makes `current` hold something, unless the payload is at its end.
fn fill(source: &mut dyn PayloadSource, current: &mut Bytes, ended: &mut bool) -> io::Result<()> {
    while current.is_empty() && !*ended {
        match source.next_piece()? {
            Some(piece) => *current = piece,
            None => *ended = true,
        }
    }
    Ok(())
}

fn read_some(reader: &mut dyn Read, out: &mut [u8]) -> io::Result<usize> {
    loop {
        match reader.read(out) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Buffer")
    }
}

/// A payload in a private temporary file (mode 0600). The node removes it when the function
/// returns, fails or panics; a worker that wants to keep the content copies it.
#[derive(Debug)]
pub struct PayloadFile {
    path: PathBuf,
}

impl PayloadFile {
    /// Names the file that holds the payload. The caller keeps it until the function has returned.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file for reading.
    pub fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

impl AsRef<Path> for PayloadFile {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pieces(Vec<&'static str>);

    impl PayloadSource for Pieces {
        fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
            if self.0.is_empty() {
                return Ok(None);
            }
            Ok(Some(Bytes::from(self.0.remove(0))))
        }
    }

    #[test]
    fn pieces_read_as_one_stream_and_empty_ones_are_no_end() {
        let mut text = String::new();
        Buffer::from_pieces(Pieces(vec!["ab", "", "c"]))
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "abc");
    }

    #[test]
    fn what_was_read_is_not_in_the_next_piece() {
        let mut buffer = Buffer::from_pieces(Pieces(vec!["abc", "d"]));
        buffer.read_exact(&mut [0]).unwrap();
        assert_eq!(buffer.next_piece().unwrap().as_deref(), Some(&b"bc"[..]));
        assert_eq!(buffer.next_piece().unwrap().as_deref(), Some(&b"d"[..]));
        assert_eq!(buffer.next_piece().unwrap(), None);
        assert_eq!(buffer.next_piece().unwrap(), None);
    }

    #[test]
    fn a_reader_gives_pieces_too() {
        let mut buffer = Buffer::new(&b"abc"[..]);
        assert_eq!(buffer.next_piece().unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(buffer.next_piece().unwrap(), None);
    }
}
