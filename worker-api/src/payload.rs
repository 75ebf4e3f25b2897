//! What a worker is handed: the payload in one of its three kinds.
//! The node builds these values; a worker only reads them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

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

/// A payload that is read as it arrives. End of file means that the whole payload was read;
/// a payload that breaks off, or a cancelled unit, ends in an [`io::Error`].
pub struct Buffer {
    source: Box<dyn Read + Send>,
}

impl Buffer {
    /// Wraps any reader; tests of workers use this with a byte slice.
    pub fn new(source: impl Read + Send + 'static) -> Self {
        Self {
            source: Box::new(source),
        }
    }
}

impl Read for Buffer {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.source.read(out)
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
