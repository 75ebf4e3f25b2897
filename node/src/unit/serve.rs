//! Conversations that peers open with this node: units for its executor, cancellations, questions.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use tracing::{debug, info};
use workmesh_proto::wire::codec;
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Accepted, Cancel, Eof, Kind, Refused, Submit};
use workmesh_proto::{NodeId, UnitId};

use super::durable::Opening;
use super::query;
use super::units::Units;
use crate::exec::{Admitted, OutputItem, PayloadFeed, UnitOutput};
use crate::link::{FrameReceiver, FrameSender, LinkError};
use crate::mesh::{Conversation, InUse};

/// How long the acceptance of a unit whose payload is complete waits for the unit's first output.
pub(super) const ACCEPTANCE_DELAY: Duration = Duration::from_millis(1);

/// What is left of a conversation once its first frame is understood.
type Rest = BoxFuture<'static, Result<(), LinkError>>;

/// Serves one conversation to its end. What breaks it is the peer's affair: it sees its stream reset.
///
/// Each stage is boxed, and gone when the next begins: thousands of units wait in this function.
pub(super) fn serve(units: Arc<Units>, conversation: Conversation) -> impl Future<Output = ()> + Send {
    let peer = conversation.peer.clone();
    let opening = Box::pin(open(units, conversation));
    async move {
        let served = match opening.await {
            Ok(Some(rest)) => rest.await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            debug!(%peer, %error, "conversation broke off");
        }
    }
}

async fn open(units: Arc<Units>, mut conversation: Conversation) -> Result<Option<Rest>, LinkError> {
    let Some(frame) = conversation.receiver.next_frame().await? else {
        return Ok(None);
    };
    if let Some(opening) = durable_opening(&frame)? {
        return Ok(Some(durable(&units, opening, conversation)));
    }
    let Conversation {
        peer,
        mut sender,
        receiver,
        in_use,
    } = conversation;
    match frame.frame_type() {
        Some(FrameType::Submit) => match decode::<Submit>(&frame) {
            Ok(submit) => return Ok(Some(admit(&units, peer, submit, sender, receiver, in_use))),
            Err(error) => {
                let refused = Refused {
                    kind: Kind::Protocol,
                    message: error.to_string(),
                };
                sender.put(FrameType::Refused, &refused);
            }
        },
        Some(FrameType::Cancel) => {
            let cancel: Cancel = decode(&frame)?;
            let found = units.executor.cancel(cancel.unit, &peer);
            debug!(unit = %cancel.unit, %peer, found, "cancel");
        }
        Some(FrameType::Query) => query::answer(&units, &decode(&frame)?, &mut sender),
        _ => {
            let reason = format!("a conversation can't begin with frame {:#04x}", frame.kind);
            return Err(LinkError::Protocol(reason));
        }
    }
    Ok(Some(Box::pin(async move {
        let _in_use = in_use;
        sender.finish().await
    })))
}

/// What a durable conversation begins with; `None`: the conversation is of another sort, or can't be read.
fn durable_opening(frame: &Frame) -> Result<Option<Opening>, LinkError> {
    match Opening::read(frame) {
        Some(Ok(Opening::Submit(submit))) if !submit.durable => Ok(None),
        Some(Ok(opening)) => Ok(Some(opening)),
        Some(Err(_)) if frame.frame_type() == Some(FrameType::Submit) => Ok(None),
        Some(Err(error)) => Err(LinkError::Protocol(error.to_string())),
        None => Ok(None),
    }
}

fn durable(units: &Arc<Units>, opening: Opening, conversation: Conversation) -> Rest {
    let peer = conversation.peer.clone();
    let Some(host) = units.host().cloned() else {
        let refused = Refused {
            kind: Kind::Forbidden,
            message: "this node keeps no durable units".to_owned(),
        };
        let mut sender = conversation.sender;
        sender.put(FrameType::Refused, &refused);
        return Box::pin(sender.finish());
    };
    Box::pin(async move { host.answer(peer, opening, conversation.into()).await })
}

fn decode<T: serde::de::DeserializeOwned>(frame: &Frame) -> Result<T, LinkError> {
    codec::decode(&frame.body).map_err(|e| LinkError::Protocol(e.to_string()))
}

fn admit(
    units: &Arc<Units>,
    peer: NodeId,
    submit: Submit,
    mut sender: FrameSender,
    receiver: FrameReceiver,
    in_use: InUse,
) -> Rest {
    let admitted = match units.executor.admit(&submit, peer.clone()) {
        Ok(admitted) => admitted,
        Err(refused) => {
            info!(unit = %submit.unit, directive = submit.directive, %peer, kind = %refused.kind, "unit refused");
            sender.put(FrameType::Refused, &refused);
            return Box::pin(async move {
                let _in_use = in_use;
                sender.finish().await
            });
        }
    };
    debug!(unit = %submit.unit, directive = submit.directive, %peer, "unit accepted");
    sender.put(
        FrameType::Accepted,
        &Accepted {
            executor: units.node.clone(),
        },
    );
    let name = UnitName {
        unit: submit.unit,
        directive: submit.directive,
        peer,
    };
    Box::pin(serve_unit(
        units.clone(),
        name,
        admitted,
        sender,
        receiver,
        in_use,
    ))
}

async fn serve_unit(
    units: Arc<Units>,
    name: UnitName,
    admitted: Admitted,
    sender: FrameSender,
    receiver: FrameReceiver,
    in_use: InUse,
) -> Result<(), LinkError> {
    let Admitted {
        payload,
        output,
        cancel: _,
    } = admitted;
    // Boxed, and gone with the payload's end: a unit that waits for its slot has no use for it.
    let mut receiving = Some(Box::pin(receive_payload(payload, receiver)));
    if received(&mut receiving).now_or_never().is_some() {
        receiving = None;
    }
    let sending = send_output(output, sender, receiving.is_none());
    tokio::pin!(sending);
    let (eof, sender) = loop {
        tokio::select! {
            biased;
            () = received(&mut receiving) => receiving = None,
            sent = &mut sending => break sent?,
        }
    };
    log_end(&name, &eof);
    if units.is_stopping() {
        // The node leaves the mesh only after this: a unit that ran to its end is not lost on the last metres.
        sender.finish_and_wait().await;
    } else {
        sender.finish().await?;
    }
    drop(in_use);
    Ok(())
}

/// A unit in the log.
struct UnitName {
    unit: UnitId,
    directive: String,
    peer: NodeId,
}

/// Waits for the payload's end; for ever once it has come.
async fn received<F: Future<Output = ()> + Unpin>(receiving: &mut Option<F>) {
    match receiving {
        Some(receiving) => receiving.await,
        None => std::future::pending().await,
    }
}

fn log_end(
    UnitName {
        unit,
        directive,
        peer,
    }: &UnitName,
    eof: &Eof,
) {
    let Eof {
        outcome,
        kind,
        message,
        responses,
        bytes,
        duration_ms,
        ..
    } = eof;
    if *kind == Kind::Ok {
        debug!(%unit, directive, %peer, %outcome, responses, bytes, duration_ms, "unit ended");
    } else {
        info!(%unit, directive, %peer, %outcome, %kind, error = message, responses, bytes, duration_ms, "unit ended");
    }
}

/// Feeds the payload to the executor. A stream that ends or breaks too early drops the feed: the unit ends so.
async fn receive_payload(mut feed: PayloadFeed, mut receiver: FrameReceiver) {
    loop {
        match receiver.next().await {
            Ok(Some(Item::Payload { data, .. })) => {
                if feed.push(data).await.is_err() {
                    receiver.stop();
                    return;
                }
            }
            Ok(Some(Item::Frame(frame))) => match frame.frame_type() {
                Some(FrameType::PayloadEnd) => return feed.finish(),
                None => {}
                Some(_) => return,
            },
            Ok(Some(Item::Response { .. }) | None) | Err(_) => return,
        }
    }
}

/// Sends what the unit puts out, up to its end. Dropped or failing, it drops the output: the unit is cancelled.
/// Gives back the stream, still to be finished.
async fn send_output(
    mut output: UnitOutput,
    mut sender: FrameSender,
    payload_complete: bool,
) -> Result<(Eof, FrameSender), LinkError> {
    let mut batch = VecDeque::new();
    if payload_complete {
        // A short unit is over by then, and its acceptance leaves in one packet with its end. Whoever has more
        // payload waits for the acceptance.
        let _long = tokio::time::timeout(ACCEPTANCE_DELAY, output.next_batch(&mut batch)).await;
    }
    loop {
        for item in batch.drain(..) {
            match item {
                OutputItem::Started => {}
                OutputItem::Piece { serial, data, last } => sender.put_response(serial, data, last),
                OutputItem::Eof(eof) => {
                    sender.put(FrameType::Eof, &eof);
                    sender.flush().await?;
                    return Ok((eof, sender));
                }
            }
        }
        sender.flush().await?;
        let at_once = std::future::poll_fn(|cx| Poll::Ready(output.poll_batch(cx, &mut batch))).await;
        if at_once.is_pending() {
            tokio::select! {
                () = output.next_batch(&mut batch) => {}
                () = sender.stopped() => return Err(LinkError::Closed("the submitter is gone".to_owned())),
            }
        }
    }
}
