//! The answering side of the control socket: units, questions and cancellations of local programs, one conversation a
//! connection.
//!
//! Who may connect is decided by the socket's mode alone; whoever can, acts as this node.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};
use workmesh_proto::NodeId;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::Attach;
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::query::{Fault, Query};
use workmesh_proto::wire::unit::{Cancel, Kind, Refused, Submit};

use super::client::SOCKET_NAME;
use super::status::StatusSource;
use super::stream::{ControlReader, ControlWriter, StreamError};
use super::unit::{self, Cancels};
use super::work;
use crate::unit::Units;
use crate::unit::durable::{Work, unknown};

/// Rows of workers in one frame: as many of the longest as fit.
const WORKERS_A_FRAME: usize = 200;
/// Conversations at once; further ones wait until one ends.
const MAX_CONVERSATIONS: usize = 4096;
/// How long a client may take to say what it wants; one that is silent would keep another waiting.
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// What every conversation can reach.
#[derive(Clone)]
pub(crate) struct Control {
    pub(super) units: Arc<Units>,
    pub(super) cancels: Arc<Cancels>,
    drain_grace: Duration,
    status: Arc<StatusSource>,
    /// None on a node without a store.
    work: Option<Arc<Work>>,
}

impl Control {
    /// `drain_grace` is how long units may go on when a program asks for a drain.
    pub(crate) fn new(
        units: Arc<Units>,
        status: Arc<StatusSource>,
        work: Option<Arc<Work>>,
        drain_grace: Duration,
    ) -> Self {
        Self {
            units,
            work,
            cancels: Arc::default(),
            drain_grace,
            status,
        }
    }

    /// Serves one conversation over any stream of bytes.
    pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Send + Unpin>(self, stream: S) {
        let (read, write) = tokio::io::split(stream);
        let (mut reader, mut writer) = (ControlReader::new(read), ControlWriter::new(write));
        let first = tokio::time::timeout(FIRST_FRAME, reader.next_frame());
        let Ok(first) = first.await else {
            return debug!("control conversation without a first frame");
        };
        let frame = match first {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(error) => return debug!(%error, "control conversation broke off"),
        };
        if let Err(error) = self.answer(frame, &mut reader, &mut writer).await {
            debug!(%error, "control conversation broke off");
        }
    }

    async fn answer<R, W>(
        &self,
        frame: Frame,
        reader: &mut ControlReader<R>,
        writer: &mut ControlWriter<W>,
    ) -> Result<(), StreamError>
    where
        R: AsyncRead + Send + Unpin,
        W: AsyncWrite + Send + Unpin,
    {
        match frame.frame_type() {
            Some(FrameType::Submit) => match codec::decode::<Submit>(&frame.body) {
                Ok(submit) if submit.durable => {
                    work::submit(self.work.as_ref(), submit, reader, writer).await
                }
                Ok(submit) => unit::serve(self, submit, reader, writer).await,
                Err(error) => {
                    let refused = Refused {
                        kind: Kind::Protocol,
                        message: error.to_string(),
                    };
                    writer.put(FrameType::Refused, &refused);
                    writer.flush().await
                }
            },
            Some(FrameType::Cancel) => {
                if work::cancel(self.work.as_ref(), &frame, writer).await? {
                    return Ok(());
                }
                let cancel: Cancel = codec::decode(&frame.body)?;
                if !self.cancels.cancel(cancel.unit) {
                    writer.put(FrameType::Fault, &unknown(cancel.unit));
                    writer.flush().await?;
                }
                Ok(())
            }
            Some(FrameType::Attach) => {
                let attach: Attach = codec::decode(&frame.body)?;
                work::attach(self.work.as_ref(), &attach, reader, writer).await
            }
            Some(FrameType::Query) => {
                let query = codec::decode::<Query>(&frame.body)?;
                self.reply(query, writer).await?;
                writer.flush().await
            }
            _ => {
                let message = format!("a conversation can't begin with frame {:#04x}", frame.kind);
                writer.put(
                    FrameType::Fault,
                    &Fault {
                        kind: Kind::Protocol,
                        message,
                    },
                );
                writer.flush().await
            }
        }
    }

    async fn reply<W: AsyncWrite + Unpin>(
        &self,
        query: Query,
        writer: &mut ControlWriter<W>,
    ) -> Result<(), StreamError> {
        match query {
            Query::Ping { node } => match self.units.ping(node.as_ref()).await {
                Ok(report) => writer.put(FrameType::Reply, &report),
                Err(fault) => writer.put(FrameType::Fault, &fault),
            },
            Query::Status {} => writer.put(FrameType::Reply, &self.status.report()),
            Query::Workers {} => {
                for rows in self.status.workers().chunks(WORKERS_A_FRAME) {
                    writer.put(FrameType::Reply, &rows);
                    writer.flush().await?;
                }
            }
            Query::Trace { node } => self.trace(node, writer).await?,
            Query::Work(_) | Query::WorkShow { .. } | Query::WorkRelease { .. } => {
                work::reply(self.work.as_deref(), query, writer).await?;
            }
            Query::Drain {} => {
                let _attended = self.units.attend();
                let report = self.units.drain(self.drain_grace).await;
                writer.put(FrameType::Reply, &report);
                writer.flush().await?;
            }
        }
        Ok(())
    }

    async fn trace<W: AsyncWrite + Unpin>(
        &self,
        node: NodeId,
        writer: &mut ControlWriter<W>,
    ) -> Result<(), StreamError> {
        let mut trace = match self.units.trace(node).await {
            Ok(trace) => trace,
            Err(fault) => {
                writer.put(FrameType::Fault, &fault);
                return Ok(());
            }
        };
        loop {
            match trace.next().await {
                Ok(Some(hop)) => {
                    writer.put(FrameType::Reply, &hop);
                    writer.flush().await?;
                }
                Ok(None) => return Ok(()),
                Err(fault) => {
                    writer.put(FrameType::Fault, &fault);
                    return Ok(());
                }
            }
        }
    }
}

/// The control socket of a data directory; removed when dropped.
pub(crate) struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// Why there is no control socket. Our configuration; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another node answers on it.
    #[error(
        "another node runs with data directory {}: stop it, or choose another --data-dir",
        .0.display()
    )]
    InUse(PathBuf),
    /// The system refuses.
    #[error("cannot listen on the control socket {}: {error}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl ControlSocket {
    /// Listens in `data_dir`, for its owner alone. A socket that nobody answers on is replaced.
    pub(crate) async fn bind(data_dir: &Path) -> Result<Self, SocketError> {
        let path = data_dir.join(SOCKET_NAME);
        if UnixStream::connect(&path).await.is_ok() {
            return Err(SocketError::InUse(data_dir.to_owned()));
        }
        let listen = |error| SocketError::Listen {
            path: path.clone(),
            error,
        };
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(listen(error)),
        }
        let listener = UnixListener::bind(&path).map_err(listen)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(listen)?;
        Ok(Self { listener, path })
    }

    /// Serves for ever.
    pub(crate) async fn serve(&self, control: Control) {
        let places = Arc::new(Semaphore::new(MAX_CONVERSATIONS));
        let mut failing = false;
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    failing = false;
                    let control = control.clone();
                    tokio::spawn(async move {
                        control.serve(stream).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%error, "cannot accept on the control socket");
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "cannot remove the control socket");
        }
    }
}
