//! One unit of a local program: between its connection and the unit's origin.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use workmesh_proto::UnitId;
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Accepted, Eof, Kind, Refused, Submit};

use super::server::Control;
use super::stream::{ControlReader, ControlWriter, StreamError};
use crate::unit::{HEAD_BYTES, SubmittedUnit, UnitEvent, UnitEvents, UnitPayload, UnitRequest};

/// Responses that gather before they are written, in bytes.
const BATCH_BYTES: usize = 128 * 1024;

/// The units of local programs that can be cancelled from another connection: their own may be full of payload.
#[derive(Default)]
pub(super) struct Cancels {
    by_unit: Mutex<HashMap<UnitId, Arc<Notify>>>,
}

/// One entry; taken out when dropped.
struct Cancellable<'a> {
    cancels: &'a Cancels,
    unit: UnitId,
    told: Arc<Notify>,
}

impl Cancels {
    fn enter(&self, unit: UnitId) -> Cancellable<'_> {
        let told = self.by_unit.lock().entry(unit).or_default().clone();
        Cancellable {
            cancels: self,
            unit,
            told,
        }
    }

    /// `false`: no local program has a unit of this id under way.
    pub(super) fn cancel(&self, unit: UnitId) -> bool {
        let by_unit = self.by_unit.lock();
        let told = by_unit.get(&unit);
        told.inspect(|told| told.notify_one()).is_some()
    }
}

impl Drop for Cancellable<'_> {
    fn drop(&mut self) {
        let mut by_unit = self.cancels.by_unit.lock();
        // The map's handle and this one: no other connection has submitted the same id.
        if Arc::strong_count(&self.told) <= 2 {
            by_unit.remove(&self.unit);
        }
    }
}

/// Serves a unit to its end. A client that goes away cancels it.
pub(super) async fn serve<R, W>(
    control: &Control,
    submit: Submit,
    reader: &mut ControlReader<R>,
    writer: &mut ControlWriter<W>,
) -> Result<(), StreamError>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let _attended = control.units.attend();
    if let Some(refused) = control.units.refusal() {
        writer.put(FrameType::Refused, &refused);
        return writer.flush().await;
    }
    if let Err(limit) = submit.check() {
        let refused = Refused {
            kind: Kind::Protocol,
            message: format!("the submission has {limit}"),
        };
        writer.put(FrameType::Refused, &refused);
        return writer.flush().await;
    }
    let (head, complete) = match take_head(reader)? {
        Head::Payload { data, complete } => (data, complete),
        Head::Cancelled => return refuse(cancelled(), writer).await,
    };
    let cancellable = control.cancels.enter(submit.unit);
    let submitting = control.units.submit(request(submit), head, complete);
    tokio::pin!(submitting);
    let mut nothing_more = None;
    let submitted = tokio::select! {
        submitted = &mut submitting => submitted,
        () = cancellable.told.notified() => Err(cancelled()),
        () = control.units.until_cut_short() => Err(shut_down()),
        // A client whose payload is complete can only cancel, or go away.
        told = carry_payload(&mut nothing_more, reader), if complete => {
            told?;
            Err(cancelled())
        }
    };
    match submitted {
        Ok(unit) => carry(control, unit, &cancellable, complete, reader, writer).await,
        Err(eof) => refuse(eof, writer).await,
    }
}

/// Says that a unit is not taken, by the end that it has.
pub(super) async fn refuse<W: AsyncWrite + Unpin>(
    eof: Eof,
    writer: &mut ControlWriter<W>,
) -> Result<(), StreamError> {
    let Eof { kind, message, .. } = eof;
    writer.put(FrameType::Refused, &Refused { kind, message });
    writer.flush().await
}

fn cancelled() -> Eof {
    Eof::without_responses(Kind::Cancelled, "cancelled before an executor accepted")
}

fn shut_down() -> Eof {
    Eof::without_responses(Kind::Shutdown, "this node shut down before an executor accepted")
}

fn request(submit: Submit) -> UnitRequest {
    UnitRequest {
        unit: submit.unit,
        directive: submit.directive,
        to: submit.to,
        payload_bytes: submit.payload_bytes,
        params: submit.params,
        deadline: submit.deadline_ms.map(Duration::from_millis),
        trace: submit.trace,
    }
}

/// What has arrived together with the submission.
enum Head {
    /// Payload, and whether that is all of it.
    Payload { data: Bytes, complete: bool },
    /// The client has changed its mind.
    Cancelled,
}

fn take_head<R: AsyncRead + Unpin>(reader: &mut ControlReader<R>) -> Result<Head, StreamError> {
    let mut head = BytesMut::new();
    while head.len() <= HEAD_BYTES / 2 {
        match reader.next_arrived()? {
            Some(Item::Payload { data, .. }) => head.extend_from_slice(&data),
            Some(Item::Frame(frame)) => match frame.frame_type() {
                Some(FrameType::PayloadEnd) => {
                    let data = head.freeze();
                    return Ok(Head::Payload { data, complete: true });
                }
                Some(FrameType::Cancel) => return Ok(Head::Cancelled),
                Some(_) => return Err(StreamError::Unexpected(frame.kind)),
                None => {}
            },
            Some(Item::Response { .. }) => return Err(StreamError::Unexpected(FrameType::Response as u8)),
            None => break,
        }
    }
    let data = head.freeze();
    Ok(Head::Payload {
        data,
        complete: false,
    })
}

async fn carry<R, W>(
    control: &Control,
    unit: SubmittedUnit,
    cancellable: &Cancellable<'_>,
    complete: bool,
    reader: &mut ControlReader<R>,
    writer: &mut ControlWriter<W>,
) -> Result<(), StreamError>
where
    R: AsyncRead + Send + Unpin,
    W: AsyncWrite + Send + Unpin,
{
    let SubmittedUnit { payload, mut events } = unit;
    writer.put(
        FrameType::Accepted,
        &Accepted {
            executor: events.executor().clone(),
        },
    );
    writer.flush().await?;
    // Lives until the end: dropped before, the payload would break off, and a cancelled unit would end as broken.
    let mut payload = if complete { None } else { Some(payload) };
    let up = carry_payload(&mut payload, reader);
    tokio::pin!(up);
    let mut up_ended = false;
    let cut_short = control.units.until_cut_short();
    tokio::pin!(cut_short);
    let mut is_cut_short = false;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(event) => {
                    let ended = tokio::select! {
                        ended = write_events(event, &mut events, writer) => ended?,
                        // A client that does not read gets no further word: the unit goes with its events.
                        () = cancellable.told.notified() => return Ok(()),
                    };
                    if ended {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            },
            () = cancellable.told.notified() => events.cancel(),
            () = &mut cut_short, if !is_cut_short => {
                is_cut_short = true;
                events.shut_down();
            }
            told = &mut up, if !up_ended => {
                up_ended = true;
                match told? {
                    Up::Cancel => events.cancel(),
                    Up::Gone => return Ok(()),
                }
            }
        }
    }
}

/// What the client's side of a unit comes to.
enum Up {
    Cancel,
    Gone,
}

/// Passes the payload on; afterwards, and also when the unit takes no more, waits for a cancellation.
async fn carry_payload<R: AsyncRead + Unpin>(
    payload: &mut Option<UnitPayload>,
    reader: &mut ControlReader<R>,
) -> Result<Up, StreamError> {
    loop {
        match reader.next().await? {
            Some(Item::Payload { data, .. }) => {
                if let Some(open) = payload
                    && open.send(data).await.is_err()
                {
                    *payload = None;
                }
            }
            Some(Item::Frame(frame)) => match frame.frame_type() {
                Some(FrameType::PayloadEnd) => {
                    if let Some(open) = payload.take() {
                        // A unit that has ended says so by its events.
                        let _ended = open.finish().await;
                    }
                }
                Some(FrameType::Cancel) => return Ok(Up::Cancel),
                Some(_) => return Err(StreamError::Unexpected(frame.kind)),
                None => {}
            },
            Some(Item::Response { .. }) => return Err(StreamError::Unexpected(FrameType::Response as u8)),
            None => return Ok(Up::Gone),
        }
    }
}

/// Writes an event and those that are there already; true once the end is written.
async fn write_events<W: AsyncWrite + Unpin>(
    first: UnitEvent,
    events: &mut UnitEvents,
    writer: &mut ControlWriter<W>,
) -> Result<bool, StreamError> {
    let mut next = Some(first);
    while let Some(event) = next {
        match event {
            UnitEvent::Piece(piece) => writer.put_piece(&piece),
            UnitEvent::Eof(eof) => {
                writer.put(FrameType::Eof, &eof);
                writer.flush().await?;
                return Ok(true);
            }
        }
        if writer.gathered_bytes() >= BATCH_BYTES {
            break;
        }
        next = events.next().now_or_never().flatten();
    }
    writer.flush().await?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_submitted_twice_stays_cancellable() {
        let cancels = Cancels::default();
        let unit = UnitId(uuid::Uuid::from_u128(1));
        let first = cancels.enter(unit);
        drop(cancels.enter(unit));
        cancels.cancel(unit);
        assert!(first.told.notified().now_or_never().is_some());
        drop(first);
        assert!(cancels.by_unit.lock().is_empty());
    }
}
