//! The payload of `node submit`: from the command line, a file or stdin, read beside the runtime in bounded memory.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::thread;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::exit::Failure;
use crate::control::client::PAYLOAD_FRAME_BYTES;

/// Pieces that wait to be sent; the reader stops while the queue is full.
const QUEUED_PIECES: usize = 4;

/// Where a payload comes from, and how long it is if that is known.
#[derive(Debug)]
pub(crate) struct Payload {
    /// Length in bytes.
    pub(crate) length: Option<u64>,
    /// Opened again, it is the same: a text, or a file that is not changed meanwhile.
    pub(crate) repeats: bool,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Given(Bytes),
    Reader(mpsc::Receiver<io::Result<Bytes>>),
}

impl Payload {
    /// Opens what the command line names: nothing, a text, `@FILE` or `-`. `@@` stands for a text that begins with `@`.
    pub(crate) fn open(argument: Option<&str>) -> anyhow::Result<Self> {
        match argument {
            None => Ok(Self::given(Bytes::new())),
            Some("-") => Self::stdin(),
            Some(text) => match text.strip_prefix('@') {
                None => Ok(Self::given(Bytes::copy_from_slice(text.as_bytes()))),
                Some(rest) if rest.starts_with('@') => {
                    Ok(Self::given(Bytes::copy_from_slice(rest.as_bytes())))
                }
                Some(path) => Self::file(path),
            },
        }
    }

    fn given(bytes: Bytes) -> Self {
        Self {
            length: Some(bytes.len() as u64),
            repeats: true,
            source: Source::Given(bytes),
        }
    }

    fn stdin() -> anyhow::Result<Self> {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            let hint = "node: reading the payload from the terminal; end it with Ctrl-D\n";
            io::Write::write_all(&mut io::stderr(), hint.as_bytes())?;
        }
        Self::reader(None, stdin)
    }

    fn file(path: &str) -> anyhow::Result<Self> {
        let refuse =
            |error: io::Error| Failure::usage(format!("payload file {path}: {error}; nothing was submitted"));
        let file = File::open(path).map_err(refuse)?;
        let about = file.metadata().map_err(refuse)?;
        if about.is_dir() {
            return Err(refuse(io::ErrorKind::IsADirectory.into()).into());
        }
        // Files that the kernel makes up have length 0 and content all the same.
        let length = (about.is_file() && about.len() > 0).then_some(about.len());
        match length {
            Some(length) => Self::reader(Some(length), file.take(length)),
            None => Self::reader(None, file),
        }
    }

    fn reader(length: Option<u64>, from: impl Read + Send + 'static) -> anyhow::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUED_PIECES);
        thread::Builder::new()
            .name("payload".into())
            .spawn(move || read_all(from, &sender))
            .context("starting a thread that reads the payload")?;
        Ok(Self {
            length,
            repeats: length.is_some(),
            source: Source::Reader(receiver),
        })
    }

    /// The next piece, at most [`PAYLOAD_FRAME_BYTES`] from a reader; `None` after the last. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        match &mut self.source {
            Source::Given(bytes) if bytes.is_empty() => Ok(None),
            Source::Given(bytes) => Ok(Some(std::mem::take(bytes))),
            Source::Reader(pieces) => pieces.recv().await.transpose(),
        }
    }
}

/// Reads until the end, an error, or until nobody takes pieces any more.
fn read_all(mut from: impl Read, pieces: &mpsc::Sender<io::Result<Bytes>>) {
    loop {
        let mut piece = BytesMut::zeroed(PAYLOAD_FRAME_BYTES);
        let read = match from.read(&mut piece) {
            Ok(0) => return,
            Ok(read) => Ok(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        let failed = read.is_err();
        let piece = read.map(|read| {
            piece.truncate(read);
            piece.freeze()
        });
        if pieces.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn all(mut payload: Payload) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = payload.next().await.unwrap() {
            all.extend_from_slice(&piece);
        }
        all
    }

    #[tokio::test]
    async fn a_text_is_sent_as_it_stands() {
        assert_eq!(all(Payload::open(None).unwrap()).await, b"");
        assert_eq!(all(Payload::open(Some("")).unwrap()).await, b"");
        assert_eq!(all(Payload::open(Some("{\"a\":1}")).unwrap()).await, b"{\"a\":1}");
        assert_eq!(all(Payload::open(Some("@@home")).unwrap()).await, b"@home");
    }

    #[tokio::test]
    async fn a_file_is_sent_whole_with_its_length() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..3 * PAYLOAD_FRAME_BYTES + 7).map(|i| i as u8).collect();
        file.write_all(&content).unwrap();
        let payload = Payload::open(Some(&format!("@{}", file.path().display()))).unwrap();
        assert_eq!(payload.length, Some(content.len() as u64));
        assert_eq!(all(payload).await, content);
    }

    #[tokio::test]
    async fn a_file_of_unknown_length_is_sent_without_one() {
        let payload = Payload::open(Some("@/proc/self/status")).unwrap();
        assert_eq!(payload.length, None);
        assert!(!all(payload).await.is_empty());
    }

    #[test]
    fn a_missing_file_and_a_directory_are_usage_errors() {
        for path in ["@/nonexistent/file", "@/"] {
            let error = Payload::open(Some(path)).unwrap_err();
            assert_eq!(super::super::exit::of_error(&error), 2);
            assert!(error.to_string().contains("nothing was submitted"), "{error}");
        }
    }
}
