//! Durable units of local programs: submission, attachment, and the questions about them.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{Attach, Started, Stored, Unfinished};
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::query::{Fault, Query, WorkFilter};
use workmesh_proto::wire::unit::{Accepted, Eof, Kind, Submit};

use super::stream::{ControlReader, ControlWriter, StreamError};
use super::unit::refuse;
use crate::unit::durable::{AttachEvent, Attachment, NotTaken, Work, unknown};

/// Rows of units in one frame: as many of the longest as fit.
const ROWS_A_FRAME: usize = 40;
/// Responses that gather before they are written, in bytes.
const BATCH_BYTES: usize = 128 * 1024;

/// Takes a durable unit, and tells of it to its end unless the client wants to go.
pub(super) async fn submit<R, W>(
    work: Option<&Arc<Work>>,
    submit: Submit,
    reader: &mut ControlReader<R>,
    writer: &mut ControlWriter<W>,
) -> Result<(), StreamError>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let Some(work) = work else {
        return refuse(no_store(), writer).await;
    };
    if let Err(limit) = submit.check() {
        return refuse(
            Eof::without_responses(Kind::Protocol, format!("the submission has {limit}")),
            writer,
        )
        .await;
    }
    let (unit, detach) = (submit.unit, submit.detach);
    let mut draft = match work.begin(submit) {
        Ok(draft) => draft,
        Err(eof) => return refuse(eof, writer).await,
    };
    loop {
        match reader.next().await? {
            Some(Item::Payload { data, .. }) => {
                if let Err(eof) = draft.push(&data).await {
                    return refuse(eof, writer).await;
                }
            }
            Some(Item::Frame(frame)) => match frame.frame_type() {
                Some(FrameType::PayloadEnd) => break,
                Some(FrameType::Cancel) => return refuse(cancelled(), writer).await,
                Some(_) => return Err(StreamError::Unexpected(frame.kind)),
                None => {}
            },
            Some(Item::Response { .. }) => return Err(StreamError::Unexpected(FrameType::Response as u8)),
            None => return Ok(()),
        }
    }
    let attachment = match draft.finish().await {
        Ok(attachment) => attachment,
        Err(NotTaken::Refused(eof)) => return refuse(eof, writer).await,
        // Closed without a word: the client asks again.
        Err(NotTaken::Unknown) => return Ok(()),
    };
    writer.put(FrameType::Stored, &Stored { unit });
    writer.flush().await?;
    match detach {
        true => Ok(()),
        false => follow(work, attachment, reader, writer).await,
    }
}

/// Tells of a durable unit from a place on.
pub(super) async fn attach<R, W>(
    work: Option<&Arc<Work>>,
    attach: &Attach,
    reader: &mut ControlReader<R>,
    writer: &mut ControlWriter<W>,
) -> Result<(), StreamError>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let found = work.and_then(|work| Some((work, work.attach(attach)?)));
    let Some((work, attachment)) = found else {
        let Fault { kind, message } = unknown(attach.unit);
        return refuse(Eof::without_responses(kind, message), writer).await;
    };
    follow(work, attachment, reader, writer).await
}

/// Writes what happens until the last of it; the client can cancel the unit, or go.
async fn follow<R, W>(
    work: &Arc<Work>,
    mut attachment: Attachment,
    reader: &mut ControlReader<R>,
    writer: &mut ControlWriter<W>,
) -> Result<(), StreamError>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let unit = attachment.unit();
    let mut listening = true;
    loop {
        tokio::select! {
            event = attachment.next() => {
                let Some(event) = event else {
                    return writer.flush().await;
                };
                if let AttachEvent::Broken(why) = event {
                    return Err(StreamError::Io(std::io::Error::other(why)));
                }
                let last = matches!(event, AttachEvent::Eof(_) | AttachEvent::Unfinished(_));
                let bulk = matches!(event, AttachEvent::Piece(_));
                put(event, writer);
                if last || !bulk || writer.gathered_bytes() >= BATCH_BYTES {
                    writer.flush().await?;
                } else {
                    gather(&mut attachment, writer).await?;
                }
            }
            item = reader.next(), if listening => match item? {
                Some(Item::Frame(frame)) if frame.frame_type() == Some(FrameType::Cancel) => {
                    listening = false;
                    let work = work.clone();
                    tokio::spawn(async move { work.cancel(unit).await });
                }
                Some(Item::Frame(frame)) if frame.frame_type().is_none() => {}
                Some(_) => return Err(StreamError::Unexpected(FrameType::Payload as u8)),
                // The client has gone; the unit goes on.
                None => return Ok(()),
            }
        }
    }
}

/// Adds what is there already, and writes it.
async fn gather<W: AsyncWrite + Unpin>(
    attachment: &mut Attachment,
    writer: &mut ControlWriter<W>,
) -> Result<(), StreamError> {
    while writer.gathered_bytes() < BATCH_BYTES {
        match futures_util::FutureExt::now_or_never(attachment.next()).flatten() {
            Some(AttachEvent::Broken(why)) => return Err(StreamError::Io(std::io::Error::other(why))),
            Some(event) => put(event, writer),
            None => break,
        }
    }
    writer.flush().await
}

fn put<W: AsyncWrite + Unpin>(event: AttachEvent, writer: &mut ControlWriter<W>) {
    match event {
        AttachEvent::Accepted(executor) => writer.put(FrameType::Accepted, &Accepted { executor }),
        AttachEvent::Started => writer.put(FrameType::Started, &Started {}),
        AttachEvent::Piece(piece) => writer.put_piece(&piece),
        AttachEvent::Eof(eof) => writer.put(FrameType::Eof, &eof),
        AttachEvent::Broken(_) => {}
        AttachEvent::Unfinished(unfinished) => writer.put::<Unfinished>(FrameType::Unfinished, &unfinished),
    }
}

/// Answers a question about durable units.
pub(super) async fn reply<W: AsyncWrite + Unpin>(
    work: Option<&Work>,
    query: Query,
    writer: &mut ControlWriter<W>,
) -> Result<(), StreamError> {
    let Some(work) = work else {
        let Eof { kind, message, .. } = no_store();
        writer.put(FrameType::Fault, &Fault { kind, message });
        return Ok(());
    };
    if let Err(limit) = query.check() {
        let message = format!("the question has {limit}");
        let kind = Kind::Protocol;
        writer.put(FrameType::Fault, &Fault { kind, message });
        return Ok(());
    }
    match query {
        Query::Work(filter) => list(work, &filter, writer).await?,
        Query::WorkShow { unit } => match work.show(unit) {
            Ok(report) => writer.put(FrameType::Reply, &report),
            Err(fault) => writer.put(FrameType::Fault, &fault),
        },
        Query::WorkRelease {
            units,
            all,
            older_than_ms,
        } => {
            let report = work.release(units, all, older_than_ms).await;
            writer.put(FrameType::Reply, &report);
        }
        _ => {}
    }
    Ok(())
}

/// Writes the rows of a listing, giving way to others between them.
async fn list<W: AsyncWrite + Unpin>(
    work: &Work,
    filter: &WorkFilter,
    writer: &mut ControlWriter<W>,
) -> Result<(), StreamError> {
    let mut place = None;
    if let Some(after) = filter.after {
        place = work.place_of(after);
        if place.is_none() {
            let message = format!("no durable unit {after} here to go on after: list from the beginning");
            let kind = Kind::NoSuchUnit;
            writer.put(FrameType::Fault, &Fault { kind, message });
            return Ok(());
        }
    }
    let mut left = filter.limit.map_or(usize::MAX, |limit| limit as usize);
    loop {
        let (mut rows, next) = work.list(filter, place);
        rows.truncate(left);
        left -= rows.len();
        for rows in rows.chunks(ROWS_A_FRAME) {
            writer.put(FrameType::Reply, &rows);
            writer.flush().await?;
        }
        if next.is_none() || left == 0 {
            return Ok(());
        }
        place = next;
        tokio::task::yield_now().await;
    }
}

/// Cancels a durable unit, and says what has become of it. `false`: it is none of this node's durable units.
pub(super) async fn cancel<W: AsyncWrite + Unpin>(
    work: Option<&Arc<Work>>,
    frame: &Frame,
    writer: &mut ControlWriter<W>,
) -> Result<bool, StreamError> {
    let cancel: workmesh_proto::wire::unit::Cancel = codec::decode(&frame.body)?;
    let Some(work) = work.filter(|work| work.has(cancel.unit)) else {
        return Ok(false);
    };
    match work.cancel(cancel.unit).await {
        Ok(report) => writer.put(FrameType::Reply, &report),
        Err(fault) => writer.put(FrameType::Fault, &fault),
    }
    writer.flush().await?;
    Ok(true)
}

fn cancelled() -> Eof {
    Eof::without_responses(Kind::Cancelled, "cancelled before it was stored")
}

fn no_store() -> Eof {
    Eof::without_responses(
        Kind::Forbidden,
        "this node keeps no durable units: it joined for one command only",
    )
}
