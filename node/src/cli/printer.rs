//! Writes a unit's responses from a thread of its own, so that a reader of stdout that is slow or gone never keeps the
//! conversation from hearing Ctrl-C.

use std::io::{self, BufWriter, Write};
use std::thread;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot};
use workmesh_proto::wire::durable::Unfinished;
use workmesh_proto::wire::items::Piece;
use workmesh_proto::wire::unit::Eof;
use workmesh_proto::{NodeId, UnitId};

use super::output::Output;

/// Events that wait to be written; the conversation is not read while the queue is full.
const QUEUED_EVENTS: usize = 16;
/// Bytes gathered before they are written, while more events wait.
const BUFFER_BYTES: usize = 64 * 1024;

/// What there is to write.
#[derive(Debug)]
pub(crate) enum Event {
    /// The unit is stored.
    Stored(UnitId),
    /// The unit was taken.
    Accepted(UnitId, NodeId),
    /// The unit's function begins.
    Started(UnitId),
    /// A piece of a response.
    Piece(Piece),
    /// The unit's end.
    Eof(Eof),
    /// There is no end yet.
    Unfinished(Unfinished),
}

/// The thread that writes, as the conversation sees it.
#[derive(Debug)]
pub(crate) struct Printer {
    events: mpsc::Sender<Event>,
    written: oneshot::Receiver<io::Result<()>>,
}

impl Printer {
    /// Starts a thread that writes to `sink` in the form of `output`.
    pub(crate) fn start(output: Output, sink: impl Write + Send + 'static) -> anyhow::Result<Self> {
        let (events, queue) = mpsc::channel(QUEUED_EVENTS);
        let (report, written) = oneshot::channel();
        thread::Builder::new()
            .name("printer".into())
            .spawn(move || {
                // Nobody to report to means that the conversation was given up.
                let _ = report.send(write_all(output, queue, sink));
            })
            .context("starting a thread that writes the responses")?;
        Ok(Self { events, written })
    }

    /// Waits for room. `None`: nothing can be written any more. May be dropped while it waits.
    pub(crate) async fn room(&self) -> Option<mpsc::Permit<'_, Event>> {
        self.events.reserve().await.ok()
    }

    /// Waits until nothing can be written any more.
    pub(crate) async fn closed(&self) {
        self.events.closed().await;
    }

    /// Waits until all events are written, or says why they could not be.
    pub(crate) async fn finish(self) -> io::Result<()> {
        drop(self.events);
        self.written
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the thread that writes the responses failed")))
    }
}

fn write_all(mut output: Output, mut queue: mpsc::Receiver<Event>, sink: impl Write) -> io::Result<()> {
    let mut sink = BufWriter::with_capacity(BUFFER_BYTES, sink);
    while let Some(event) = queue.blocking_recv() {
        match event {
            Event::Stored(unit) => output.stored(unit, &mut sink)?,
            Event::Started(unit) => output.started(unit, &mut sink)?,
            Event::Unfinished(unfinished) => output.unfinished(&unfinished, &mut sink)?,
            Event::Accepted(unit, executor) => output.accepted(unit, &executor, &mut sink)?,
            Event::Piece(piece) => output.piece(&piece, &mut sink)?,
            Event::Eof(eof) => output.eof(&eof, &mut sink)?,
        }
        if queue.is_empty() {
            sink.flush()?;
        }
    }
    sink.flush()
}
