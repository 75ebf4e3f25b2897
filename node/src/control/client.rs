//! The asking side of the control socket: one conversation over any stream of bytes.
//!
//! Called by the command line, over the socket of a node or over a pipe into a node of its own process. It never
//! prints, and it never takes a stream that broke for an answer.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::UnixStream;
use workmesh_proto::unit::{OriginEvent, OriginUnit, UnitFault};
use workmesh_proto::wire::codec::{self, CodecError};
use workmesh_proto::wire::durable::{Attach, Position};
use workmesh_proto::wire::frame::{Frame, FrameError, FrameReader, FrameType, MAX_BODY_BYTES, encode_prefix};
use workmesh_proto::wire::items::ItemReader;
use workmesh_proto::wire::query::{Fault, Query, WorkFilter};
use workmesh_proto::wire::unit::{Cancel, Submit};
use workmesh_proto::{NodeId, UnitId};

use crate::unit::report::{
    DrainReport, HopReport, PingReport, ReleaseReport, StatusReport, WorkReport, WorkerReport,
};

/// The longest payload frame that a client sends, in bytes.
pub const PAYLOAD_FRAME_BYTES: usize = 64 * 1024;
/// How long a node may take to say what it knows.
const ANSWER: Duration = Duration::from_secs(30);
/// Bytes asked of the stream at once.
const READ_BYTES: usize = 64 * 1024;
/// The name of the control socket in a data directory.
pub const SOCKET_NAME: &str = "control.sock";

/// Any stream of bytes that a conversation can run over.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A stream of bytes, whatever carries it.
pub type BoxedStream = Box<dyn ByteStream>;

/// One conversation with a node: a question and its answer, or a unit.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
}

/// Connects to the control socket of the node that runs with `data_dir`.
pub async fn connect_socket(data_dir: &Path) -> Result<Client<BoxedStream>, ClientError> {
    let path = data_dir.join(SOCKET_NAME);
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok(Client::new(Box::new(stream))),
        Err(error) => Err(match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NoNode(data_dir.to_owned())
            }
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(path),
            _ => ClientError::Connect { path, error },
        }),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// A conversation at its start.
    pub fn new(stream: S) -> Self {
        Self { stream }
    }

    /// Asks how `node` is; the node on the other side of the stream if `None`.
    pub async fn ping(self, node: Option<NodeId>) -> Result<PingReport, ClientError> {
        self.ask(Query::Ping { node }).await
    }

    /// Asks what the node knows.
    pub async fn status(self) -> Result<StatusReport, ClientError> {
        in_time(self.ask(Query::Status {})).await
    }

    /// Asks which workers the mesh has.
    pub async fn workers(self) -> Result<Vec<WorkerReport>, ClientError> {
        in_time(self.rows(&Query::Workers {})).await
    }

    /// Asks for the durable units that fit `filter`, newest first.
    pub async fn work(self, filter: WorkFilter) -> Result<Vec<WorkReport>, ClientError> {
        in_time(self.rows(&Query::Work(filter))).await
    }

    /// Asks how a durable unit is, with its history.
    pub async fn work_show(self, unit: UnitId) -> Result<WorkReport, ClientError> {
        in_time(self.ask(Query::WorkShow { unit })).await
    }

    /// Cancels a durable unit; gives what has become of it. One that has ended stays as it is.
    pub async fn work_cancel(self, unit: UnitId) -> Result<WorkReport, ClientError> {
        let cancel = Frame::cbor(FrameType::Cancel, 0, &Cancel { unit });
        in_time(async { only(self.say(&cancel, "cancellation").await?).await }).await
    }

    /// Forgets these durable units, at most [`MAX_RELEASED`](workmesh_proto::wire::query::MAX_RELEASED); one that has not ended is
    /// cancelled first.
    pub async fn work_release(self, units: Vec<UnitId>) -> Result<ReleaseReport, ClientError> {
        let query = Query::WorkRelease {
            units,
            all: false,
            older_than_ms: None,
        };
        self.ask(query).await
    }

    /// Forgets all durable units that have ended, at least `older_than_ms` milliseconds ago.
    pub async fn work_release_all(self, older_than_ms: Option<u64>) -> Result<ReleaseReport, ClientError> {
        let query = Query::WorkRelease {
            units: Vec::new(),
            all: true,
            older_than_ms,
        };
        self.ask(query).await
    }

    /// Drains the node; waits until the units that it runs have ended or were stopped.
    pub async fn drain(self) -> Result<DrainReport, ClientError> {
        self.ask(Query::Drain {}).await
    }

    /// Asks for the way to `node`; the hops are read one by one as they are found.
    pub async fn trace(self, node: NodeId) -> Result<Hops<S>, ClientError> {
        let mut answers = self.question(&Query::Trace { node }).await?;
        answers.what = "trace";
        Ok(Hops(answers))
    }

    /// Opens a unit: one half takes its payload and its cancellation, the other yields what the executor says.
    pub async fn submit(
        self,
        submit: &Submit,
    ) -> Result<(UnitSender<WriteHalf<S>>, UnitReceiver<ReadHalf<S>>), ClientError> {
        let (reader, writer) = tokio::io::split(self.stream);
        let mut sender = UnitSender {
            writer,
            outgoing: BytesMut::new(),
            unit: submit.unit,
        };
        let frame = Frame::cbor(FrameType::Submit, 0, submit);
        if frame.body.len() > MAX_BODY_BYTES {
            return Err(ClientError::TooLong);
        }
        frame.encode(&mut sender.outgoing);
        sender.flush().await?;
        let unit = if submit.durable {
            OriginUnit::durable()
        } else {
            OriginUnit::new()
        };
        Ok((sender, UnitReceiver::new(reader, unit)))
    }

    /// Opens the rest of a durable unit: one half takes its cancellation, the other yields what is left from the position that `attach`
    /// names. Dropping both leaves the unit running.
    pub async fn attach(
        self,
        attach: &Attach,
    ) -> Result<(UnitSender<WriteHalf<S>>, UnitReceiver<ReadHalf<S>>), ClientError> {
        let (reader, writer) = tokio::io::split(self.stream);
        let mut sender = UnitSender::attached(writer, attach);
        sender.flush().await?;
        Ok((sender, UnitReceiver::new(reader, OriginUnit::attached(attach))))
    }

    async fn ask<T: DeserializeOwned>(self, query: Query) -> Result<T, ClientError> {
        only(self.question(&query).await?).await
    }

    async fn rows<T: DeserializeOwned>(self, query: &Query) -> Result<Vec<T>, ClientError> {
        let mut answers = self.question(query).await?;
        let mut rows = Vec::new();
        while let Some(body) = answers.next().await? {
            rows.extend(codec::decode::<Vec<T>>(&body)?);
        }
        Ok(rows)
    }

    async fn question(self, query: &Query) -> Result<Answers<S>, ClientError> {
        let frame = Frame::cbor(FrameType::Query, 0, query);
        self.say(&frame, "question").await
    }

    async fn say(mut self, frame: &Frame, what: &'static str) -> Result<Answers<S>, ClientError> {
        let mut outgoing = BytesMut::new();
        frame.encode(&mut outgoing);
        self.stream.write_all(&outgoing).await?;
        self.stream.flush().await?;
        Ok(Answers {
            frames: FrameStream::new(self.stream),
            what,
        })
    }
}

/// The answer to a question for which the node waits for nobody else.
async fn in_time<T>(answer: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
    tokio::time::timeout(ANSWER, answer)
        .await
        .unwrap_or(Err(ClientError::Silent))
}

/// The only reply.
async fn only<S: AsyncRead + Unpin, T: DeserializeOwned>(mut answers: Answers<S>) -> Result<T, ClientError> {
    match answers.next().await? {
        Some(body) => Ok(codec::decode(&body)?),
        None => Err(ClientError::Broken(
            "the node closed the connection without an answer",
        )),
    }
}

/// The replies to one question.
#[derive(Debug)]
struct Answers<S> {
    frames: FrameStream<S>,
    what: &'static str,
}

impl<S: AsyncRead + Unpin> Answers<S> {
    /// The next reply's body; `None` at the orderly end of the stream.
    async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.frames.next().await? {
            match frame.frame_type() {
                Some(FrameType::Reply) => return Ok(Some(frame.body)),
                Some(FrameType::Fault) => {
                    return Err(ClientError::Fault(codec::decode(&frame.body)?));
                }
                Some(kind) => {
                    return Err(ClientError::Unexpected {
                        kind,
                        after: self.what,
                    });
                }
                None => {}
            }
        }
        Ok(None)
    }
}

/// The hops of a trace, in order.
#[derive(Debug)]
pub struct Hops<S>(Answers<S>);

impl<S: AsyncRead + Unpin> Hops<S> {
    /// The next hop; `None` once the target was reached.
    pub async fn next(&mut self) -> Result<Option<HopReport>, ClientError> {
        match self.0.next().await? {
            Some(body) => Ok(Some(codec::decode(&body)?)),
            None => Ok(None),
        }
    }
}

/// The half of a unit's conversation that the submitter writes.
///
/// Each method may be dropped while it waits: bytes that were not written yet go out before those of the next call, so
/// that a cancellation never lands inside a payload frame.
#[derive(Debug)]
pub struct UnitSender<W> {
    writer: W,
    outgoing: BytesMut,
    unit: UnitId,
}

impl<W: AsyncWrite + Unpin> UnitSender<W> {
    /// A half whose first frame is not sent yet: it goes out with the next call.
    fn attached(writer: W, attach: &Attach) -> Self {
        let mut outgoing = BytesMut::new();
        Frame::cbor(FrameType::Attach, 0, attach).encode(&mut outgoing);
        Self {
            writer,
            outgoing,
            unit: attach.unit,
        }
    }

    /// Sends a piece of the payload of any length.
    pub async fn payload(&mut self, mut piece: Bytes) -> Result<(), ClientError> {
        self.flush().await?;
        while !piece.is_empty() {
            let part = piece.split_to(piece.len().min(PAYLOAD_FRAME_BYTES));
            encode_prefix(FrameType::Payload as u8, 0, 0, part.len(), &mut self.outgoing);
            self.outgoing.extend_from_slice(&part);
            self.flush().await?;
        }
        Ok(())
    }

    /// Says that the payload is complete.
    pub async fn payload_end(&mut self) -> Result<(), ClientError> {
        Frame::new(FrameType::PayloadEnd, 0, Bytes::new()).encode(&mut self.outgoing);
        self.flush().await
    }

    /// Asks to stop the unit; its end still comes from the other half.
    pub async fn cancel(&mut self) -> Result<(), ClientError> {
        Frame::cbor(FrameType::Cancel, 0, &Cancel { unit: self.unit }).encode(&mut self.outgoing);
        self.flush().await
    }

    /// Sends what earlier calls have left.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        while !self.outgoing.is_empty() {
            if self.writer.write_buf(&mut self.outgoing).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
        }
        self.writer.flush().await?;
        Ok(())
    }
}

/// The half of a unit's conversation that the executor speaks on: in order, counted and checked against the end.
#[derive(Debug)]
pub struct UnitReceiver<R> {
    reader: R,
    items: ItemReader,
    unit: OriginUnit,
}

impl<S: AsyncRead + AsyncWrite> UnitReceiver<ReadHalf<S>> {
    /// Goes on over another connection with a unit that [is resumable](Self::is_resumable). Nothing is sent before the first call of
    /// the half that this returns, such as its [`flush`](UnitSender::flush).
    pub fn resume(&mut self, unit: UnitId, client: Client<S>) -> UnitSender<WriteHalf<S>> {
        let (reader, writer) = tokio::io::split(client.stream);
        self.reader = reader;
        self.items = ItemReader::new();
        UnitSender::attached(writer, &self.unit.resume(unit))
    }
}

impl<R: AsyncRead + Unpin> UnitReceiver<R> {
    fn new(reader: R, unit: OriginUnit) -> Self {
        Self {
            reader,
            items: ItemReader::new(),
            unit,
        }
    }

    /// Whether a broken connection is no end: the unit is durable, stored and not known to have ended.
    pub fn is_resumable(&self) -> bool {
        self.unit.is_resumable()
    }

    /// What has arrived so far.
    pub fn position(&self) -> Position {
        self.unit.position()
    }

    /// What comes next. After a refusal, an EOF or word that there is none yet nothing does, and the conversation may be dropped.
    ///
    /// May be dropped while it waits, without loss. Fails if the stream ends before the unit does, or if what arrives
    /// is not one well-formed conversation.
    pub async fn next(&mut self) -> Result<OriginEvent, ClientError> {
        loop {
            while let Some(item) = self.items.next_item()? {
                if let Some(event) = self.unit.handle_item(item)? {
                    return Ok(event);
                }
            }
            match read_some(&mut self.reader).await? {
                Some(bytes) => self.items.feed(bytes),
                None => {
                    return Err(ClientError::Broken(
                        "the connection to the node broke before the unit's end",
                    ));
                }
            }
        }
    }
}

/// The next bytes, as many as there are; `None` at the end of the stream.
async fn read_some<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Option<Bytes>> {
    let mut incoming = BytesMut::with_capacity(READ_BYTES);
    Ok(match reader.read_buf(&mut incoming).await? {
        0 => None,
        _ => Some(incoming.freeze()),
    })
}

/// Frames as they arrive; reading may be dropped at any point without loss.
#[derive(Debug)]
struct FrameStream<R> {
    reader: R,
    frames: FrameReader,
}

impl<R: AsyncRead + Unpin> FrameStream<R> {
    fn new(reader: R) -> Self {
        Self {
            reader,
            frames: FrameReader::new(),
        }
    }

    /// The next frame; `None` if the stream ended between two frames.
    async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                return Ok(Some(frame));
            }
            match read_some(&mut self.reader).await? {
                Some(bytes) => self.frames.feed(&bytes),
                None if self.frames.is_empty() => return Ok(None),
                None => {
                    return Err(ClientError::Broken(
                        "the connection to the node broke inside a frame",
                    ));
                }
            }
        }
    }
}

/// Why a conversation gave no answer. Nothing is known of what the node did meanwhile, unless a variant says so.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the control socket. Nothing was asked.
    #[error(
        "no node runs with data directory {}: start one with `node run --data-dir {}`, or give --peers host:port to a verb that takes it",
        .0.display(),
        .0.display()
    )]
    NoNode(PathBuf),
    /// The socket belongs to another user. Nothing was asked.
    #[error("no permission for {}: run as the user that runs the node, or as root", .0.display())]
    NotAllowed(PathBuf),
    /// The socket can't be reached for another reason. Nothing was asked.
    #[error("connecting to {}: {error}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The node takes the question, and says nothing.
    #[error("the node does not answer for {} s: it is stopped, or has too much to do; its log or `ps` tells", ANSWER.as_secs())]
    Silent,
    /// Directive and parameters don't fit into a frame. Nothing was submitted.
    #[error("directive and parameters have more than {MAX_BODY_BYTES} bytes; put them into the payload")]
    TooLong,
    /// The node answered that it can't answer.
    #[error("{}: {}", .0.kind, .0.message)]
    Fault(Fault),
    /// The stream ended before the answer did.
    #[error("{0}; whether the node still works on it is unknown: look at its log")]
    Broken(&'static str),
    /// Reading or writing failed.
    #[error("the connection to the node broke: {0}")]
    Io(#[from] io::Error),
    /// The node sent what is no frame.
    #[error("the node does not speak this protocol: {0}")]
    Frame(#[from] FrameError),
    /// The node sent what is no well-formed conversation. The unit's end is unknown.
    #[error("the node breaks the protocol: {0}")]
    Unit(#[from] UnitFault),
    /// The node sent a body that can't be read.
    #[error("the node does not speak this protocol: {0}")]
    Codec(#[from] CodecError),
    /// The node sent a frame that has no place here.
    #[error("the node does not speak this protocol: a {kind:?} frame follows a {after}")]
    Unexpected {
        /// What came.
        kind: FrameType,
        /// What was under way.
        after: &'static str,
    },
}

impl ClientError {
    /// Whether the node went away, or was not there: it may be back later.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::NoNode(_) | Self::Connect { .. } | Self::Silent | Self::Broken(_) | Self::Io(_) => true,
            Self::NotAllowed(_)
            | Self::TooLong
            | Self::Fault(_)
            | Self::Frame(_)
            | Self::Unit(_)
            | Self::Codec(_)
            | Self::Unexpected { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests;
