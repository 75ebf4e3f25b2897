//! A node that says what a test tells it to, on the other end of a pipe.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use workmesh_proto::unit::ResponseTally;
use workmesh_proto::wire::durable::{Started, Stored};
use workmesh_proto::wire::frame::{Frame, FrameReader, FrameType, LAST_PIECE};
use workmesh_proto::wire::unit::{Accepted, Eof, Kind, Submit};
use workmesh_proto::{NodeId, UnitId};

use super::client::Client;

/// The node's end of a conversation.
pub(crate) struct Scripted {
    stream: DuplexStream,
    frames: FrameReader,
    tally: ResponseTally,
}

/// A client and the node that it talks to, with room for `pipe_bytes` between them.
pub(crate) fn pair(pipe_bytes: usize) -> (Client<DuplexStream>, Scripted) {
    let (node, ours) = Scripted::alone(pipe_bytes);
    (Client::new(ours), node)
}

/// A unit without parameters.
pub(crate) fn submit(directive: &str) -> Submit {
    Submit {
        unit: UnitId(uuid::Uuid::now_v7()),
        directive: directive.into(),
        to: None,
        payload_bytes: None,
        params: Default::default(),
        deadline_ms: None,
        trace: None,
        durable: false,
        detach: false,
        idempotent: false,
        offer: None,
    }
}

impl Scripted {
    /// A node without a client, and the other end of its pipe.
    pub(crate) fn alone(pipe_bytes: usize) -> (Self, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(pipe_bytes);
        let node = Self {
            stream: theirs,
            frames: FrameReader::new(),
            tally: ResponseTally::new(),
        };
        (node, ours)
    }

    /// The same node on another connection, back with what it has said on the `earlier` one, which is closed.
    pub(crate) fn back(self, earlier: Self) -> Self {
        Self {
            tally: earlier.tally,
            ..self
        }
    }

    /// Says that the unit is stored.
    pub(crate) async fn store(&mut self, unit: UnitId) {
        self.say_cbor(FrameType::Stored, &Stored { unit }).await;
    }

    /// Says that the unit's function begins.
    pub(crate) async fn start(&mut self) {
        self.say_cbor(FrameType::Started, &Started {}).await;
    }

    /// The next frame of the client; `None` once it has gone.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.next_frame().unwrap() {
                return Some(frame);
            }
            let mut piece = BytesMut::with_capacity(4096);
            if self.stream.read_buf(&mut piece).await.unwrap() == 0 {
                return None;
            }
            self.frames.feed(&piece);
        }
    }

    /// Reads frames up to one of type `kind`.
    pub(crate) async fn until(&mut self, kind: FrameType) -> Frame {
        loop {
            let frame = self.next().await.expect("the client has gone");
            if frame.frame_type() == Some(kind) {
                return frame;
            }
        }
    }

    /// Reads payload frames up to the payload's end.
    pub(crate) async fn payload(&mut self) -> Vec<u8> {
        let mut payload = Vec::new();
        loop {
            let frame = self.next().await.expect("the client has gone");
            match frame.frame_type() {
                Some(FrameType::Payload) => payload.extend_from_slice(&frame.body),
                Some(FrameType::PayloadEnd) => return payload,
                _ => {}
            }
        }
    }

    /// Says these bytes, whatever they are. A client that has gone does not hear them.
    pub(crate) async fn say_bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Says a frame.
    pub(crate) async fn say(&mut self, frame: Frame) -> bool {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.say_bytes(&bytes).await
    }

    /// Says a frame with a body of CBOR.
    pub(crate) async fn say_cbor<T: serde::Serialize>(&mut self, kind: FrameType, body: &T) -> bool {
        self.say(Frame::cbor(kind, 0, body)).await
    }

    /// Says that `nodeB` runs the unit.
    pub(crate) async fn accept(&mut self) {
        let executor = NodeId::parse("nodeB").unwrap();
        self.say_cbor(FrameType::Accepted, &Accepted { executor }).await;
    }

    /// Says a piece of a response.
    pub(crate) async fn respond(&mut self, data: &[u8], last: bool) -> bool {
        let serial = self.tally.add(data, last);
        let body: Bytes = [&serial.to_be_bytes(), data].concat().into();
        let mut frame = Frame::new(FrameType::Response, 0, body);
        frame.flags = if last { LAST_PIECE } else { 0 };
        self.say(frame).await
    }

    /// Says the end that fits what was said before.
    pub(crate) async fn end(&mut self, kind: Kind, message: &str) {
        let eof = Eof {
            responses: self.tally.responses(),
            bytes: self.tally.bytes(),
            digest: self.tally.digest(),
            duration_ms: 5,
            ..Eof::without_responses(kind, message)
        };
        self.say_cbor(FrameType::Eof, &eof).await;
    }
}
