//! Conversations that peers open with this node: units for its executor, cancellations, questions.

use std::collections::VecDeque;
use std::sync::Arc;

use tracing::{debug, info};
use workmesh_proto::wire::codec;
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Accepted, Cancel, Eof, Kind, Refused, Submit};
use workmesh_proto::{NodeId, UnitId};

use super::query;
use super::units::Units;
use crate::exec::{Admitted, OutputItem, PayloadFeed, UnitOutput};
use crate::link::{FrameReceiver, FrameSender, LinkError};
use crate::mesh::Conversation;

/// Serves one conversation to its end. What breaks it is the peer's affair: it sees its stream reset.
pub(super) async fn serve(units: Arc<Units>, conversation: Conversation) {
    let peer = conversation.peer.clone();
    if let Err(error) = serve_one(&units, conversation).await {
        debug!(%peer, %error, "conversation broke off");
    }
}

async fn serve_one(units: &Arc<Units>, conversation: Conversation) -> Result<(), LinkError> {
    let Conversation {
        peer,
        mut sender,
        mut receiver,
        in_use,
    } = conversation;
    let Some(frame) = receiver.next_frame().await? else {
        return Ok(());
    };
    let result = match frame.frame_type() {
        Some(FrameType::Submit) => match decode::<Submit>(&frame) {
            // Boxed: what the other conversations need is not held while a unit waits.
            Ok(submit) => Box::pin(serve_unit(units, peer, submit, sender, receiver)).await,
            Err(error) => {
                let message = error.to_string();
                sender.put(
                    FrameType::Refused,
                    &Refused {
                        kind: Kind::Protocol,
                        message,
                    },
                );
                sender.finish().await
            }
        },
        Some(FrameType::Cancel) => {
            let cancel: Cancel = decode(&frame)?;
            let found = units.executor.cancel(cancel.unit, &peer);
            debug!(unit = %cancel.unit, %peer, found, "cancel");
            sender.finish().await
        }
        Some(FrameType::Query) => {
            query::answer(units, &decode(&frame)?, &mut sender);
            sender.finish().await
        }
        _ => Err(LinkError::Protocol(format!(
            "a conversation can't begin with frame {:#04x}",
            frame.kind
        ))),
    };
    drop(in_use);
    result
}

fn decode<T: serde::de::DeserializeOwned>(frame: &Frame) -> Result<T, LinkError> {
    codec::decode(&frame.body).map_err(|e| LinkError::Protocol(e.to_string()))
}

async fn serve_unit(
    units: &Units,
    peer: NodeId,
    submit: Submit,
    mut sender: FrameSender,
    receiver: FrameReceiver,
) -> Result<(), LinkError> {
    let admitted = match units.executor.admit(&submit, peer.clone()) {
        Ok(admitted) => admitted,
        Err(refused) => {
            info!(unit = %submit.unit, directive = submit.directive, %peer, kind = %refused.kind, "unit refused");
            sender.put(FrameType::Refused, &refused);
            return sender.finish().await;
        }
    };
    debug!(unit = %submit.unit, directive = submit.directive, %peer, "unit accepted");
    sender.put(
        FrameType::Accepted,
        &Accepted {
            executor: units.node.clone(),
        },
    );
    let Admitted {
        payload,
        output,
        cancel: _,
    } = admitted;
    let unit = UnitName {
        unit: submit.unit,
        directive: submit.directive,
    };
    // Boxed, and gone with the payload's end: a unit that waits for its slot has no use for it.
    let mut receiving = Some(Box::pin(receive_payload(payload, receiver)));
    let sending = send_output(output, sender);
    tokio::pin!(sending);
    let (eof, sender) = loop {
        tokio::select! {
            biased;
            () = received(&mut receiving) => receiving = None,
            sent = &mut sending => break sent?,
        }
    };
    log_end(&unit, &peer, &eof);
    // A node that stops leaves the mesh only after this: a unit that ran to its end is not lost on the last metres.
    sender.finish_and_wait().await;
    Ok(())
}

/// A unit in the log.
struct UnitName {
    unit: UnitId,
    directive: String,
}

/// Waits for the payload's end; for ever once it has come.
async fn received<F: Future<Output = ()> + Unpin>(receiving: &mut Option<F>) {
    match receiving {
        Some(receiving) => receiving.await,
        None => std::future::pending().await,
    }
}

fn log_end(UnitName { unit, directive }: &UnitName, peer: &NodeId, eof: &Eof) {
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
        info!(%unit, directive, %peer, %outcome, %kind, message, responses, bytes, duration_ms, "unit ended");
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
) -> Result<(Eof, FrameSender), LinkError> {
    let mut batch = VecDeque::new();
    // A short unit is over before the other ready tasks have had their turn: its acceptance then leaves with its end.
    tokio::task::yield_now().await;
    loop {
        if std::future::poll_fn(|cx| std::task::Poll::Ready(output.poll_batch(cx, &mut batch)))
            .await
            .is_pending()
        {
            sender.flush().await?;
            tokio::select! {
                () = output.next_batch(&mut batch) => {}
                () = sender.stopped() => return Err(LinkError::Closed("the submitter is gone".to_owned())),
            }
        }
        for item in batch.drain(..) {
            match item {
                OutputItem::Piece { serial, data, last } => sender.put_response(serial, data, last),
                OutputItem::Eof(eof) => {
                    sender.put(FrameType::Eof, &eof);
                    sender.flush().await?;
                    return Ok((eof, sender));
                }
            }
        }
        sender.flush().await?;
    }
}
