//! One unit for verbs that make their own payload: sends it, hands out the responses, gives the end.

use std::pin::pin;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use workmesh_proto::unit::OriginEvent;
use workmesh_proto::wire::items::Piece;
use workmesh_proto::wire::unit::{Eof, Submit};
use workmesh_proto::{NodeId, UnitId};

use crate::control::client::{Client, ClientError};

/// A unit of a new id, without parameters.
pub(crate) fn submission(directive: &str, to: Option<&NodeId>, payload_bytes: u64) -> Submit {
    Submit {
        unit: UnitId(uuid::Uuid::now_v7()),
        directive: directive.to_owned(),
        to: to.cloned(),
        payload_bytes: Some(payload_bytes),
        params: std::collections::BTreeMap::new(),
        deadline_ms: None,
        trace: None,
        durable: false,
        detach: false,
        idempotent: false,
        offer: None,
    }
}

/// Runs a unit to its end; a refusal is an end without responses.
pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    client: Client<S>,
    submit: &Submit,
    payload: impl IntoIterator<Item = Bytes>,
    mut on_piece: impl FnMut(&Piece),
) -> Result<Eof, ClientError> {
    let (mut sender, mut receiver) = client.submit(submit).await?;
    let send = async move {
        for piece in payload {
            if sender.payload(piece).await.is_err() {
                return None;
            }
        }
        sender.payload_end().await.ok()?;
        Some(sender)
    };
    let receive = async move {
        loop {
            match receiver.next().await? {
                OriginEvent::Accepted(_)
                | OriginEvent::Stored(_)
                | OriginEvent::Started(_)
                | OriginEvent::Unfinished(_) => {}
                OriginEvent::Piece(piece) => on_piece(&piece),
                OriginEvent::Refused(refused) => {
                    return Ok(Eof::without_responses(refused.kind, refused.message));
                }
                OriginEvent::Eof(eof) => return Ok(eof),
            }
        }
    };
    let (send, mut receive) = (pin!(send), pin!(receive));
    tokio::select! {
        ended = &mut receive => ended,
        // A node that takes no more payload says why on the other half. A sender that is through stays open until the end.
        _open = send => receive.await,
    }
}
