//! The frames of a link's control stream: hello, flooded advertisements, liveness.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use worker_api::{Directive, PayloadKind};

use super::codec::{self, CodecError};
use super::frame::{Frame, FrameType};
use crate::id::{Cost, Incarnation, NodeId};

/// The protocol version that this code speaks; it also understands the one before.
pub const PROTOCOL_VERSION: u16 = 1;
/// The oldest protocol version that this code understands.
pub const PROTOCOL_VERSION_MIN: u16 = 1;
/// The most neighbours that an advertisement may list.
pub const MAX_ADJACENCIES: usize = 1024;
/// The most workers that an advertisement may list.
pub const MAX_WORKERS: usize = 1024;
/// The most labels that an advertisement may list.
pub const MAX_LABELS: usize = 64;
/// The most features that a hello may name.
pub const MAX_FEATURES: usize = 64;
/// The longest description, label or version, in bytes.
pub const MAX_TEXT_BYTES: usize = 256;

/// The first frame in each direction of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Lowest protocol version that the sender speaks.
    pub version_min: u16,
    /// Highest protocol version that the sender speaks.
    pub version_max: u16,
    /// Names of optional features; unknown ones are ignored.
    #[serde(default)]
    pub features: Vec<String>,
    /// Must equal the name in the certificate (without a leaf instance).
    pub node: NodeId,
    /// Which life of the node.
    pub incarnation: Incarnation,
    /// What the sender says that the link costs; the greater of both sides counts.
    pub cost: Cost,
    /// The sender never passes anything on and leaves soon.
    #[serde(default)]
    pub leaf: bool,
}

/// What a node floods about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lsa {
    /// Who speaks.
    pub origin: NodeId,
    /// Which life of the origin.
    pub incarnation: Incarnation,
    /// Rises with each change; of one incarnation the highest counts.
    pub sequence: u64,
    /// The origin never passes anything on.
    #[serde(default)]
    pub leaf: bool,
    /// The origin leaves: forget it.
    #[serde(default)]
    pub leaving: bool,
    /// The origin takes several durable units in one conversation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub batches: bool,
    /// The origin's software version.
    #[serde(default)]
    pub version: String,
    /// Live links of the origin.
    #[serde(default)]
    pub adjacencies: Vec<Adjacency>,
    /// What the origin can run.
    #[serde(default)]
    pub workers: Vec<WorkerAd>,
    /// Set by the origin's operator.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// One live link in an [`Lsa`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjacency {
    /// The neighbour.
    pub node: NodeId,
    /// What it costs to cross the link.
    pub cost: Cost,
}

/// One worker function in an [`Lsa`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerAd {
    /// `module:function`.
    pub directive: Directive,
    /// How it takes its payload.
    pub kind: PayloadKind,
    /// The worker's own version.
    #[serde(default)]
    pub version: String,
    /// Whether running a unit twice does no harm.
    #[serde(default)]
    pub idempotent: bool,
    /// One line for a person.
    #[serde(default)]
    pub description: String,
}

/// What a node floods about its pool: small, often, apart from the [`Lsa`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Who speaks.
    pub origin: NodeId,
    /// Which life of the origin.
    pub incarnation: Incarnation,
    /// Rises with each change.
    pub sequence: u64,
    /// Units that can run at once.
    pub slots: u32,
    /// Units that run.
    pub running: u32,
    /// Units that wait.
    pub queued: u32,
    /// Units that can wait.
    pub queue_limit: u32,
}

/// A summary of the sender's database, sent from time to time; a receiver whose own differs sends its database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Entries in the database.
    pub entries: u64,
    /// XOR of the entries' hashes, load left out.
    pub hash: u64,
    /// XOR of the hashes of the load known of each entry; if only this differs, only loads are sent.
    #[serde(default)]
    pub load_hash: u64,
}

/// The sender has sent its whole database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synced {}

/// Two live nodes carry one id; the younger has to go. Flooded by the older.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The id.
    pub node: NodeId,
    /// The older one, who stays.
    pub older: Incarnation,
    /// The younger one, who is refused.
    pub younger: Incarnation,
}

/// Asks for a [`ProbeReply`]: measures the round trip of a link, and proves that it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Comes back in the reply.
    pub token: u64,
}

/// Answers a [`Probe`] at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// From the probe.
    pub token: u64,
}

/// The last frame before the sender closes the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// One line for the log.
    pub reason: String,
}

/// A frame of the control stream, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkFrame {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Lsa`].
    Lsa(Arc<Lsa>),
    /// See [`Load`].
    Load(Load),
    /// See [`Digest`].
    Digest(Digest),
    /// See [`Synced`].
    Synced(Synced),
    /// See [`Conflict`].
    Conflict(Conflict),
    /// See [`Probe`].
    Probe(Probe),
    /// See [`ProbeReply`].
    ProbeReply(ProbeReply),
    /// See [`Goodbye`].
    Goodbye(Goodbye),
}

impl LinkFrame {
    /// Decodes a frame of the control stream; `None` for a type that is not of this stream, which a receiver skips.
    pub fn decode(frame: &Frame) -> Result<Option<Self>, LinkFrameError> {
        let Some(kind) = frame.frame_type() else {
            return Ok(None);
        };
        let body = &frame.body;
        let decoded = match kind {
            FrameType::Hello => codec::decode(body).map(Self::Hello),
            FrameType::Lsa => codec::decode(body).map(|lsa| Self::Lsa(Arc::new(lsa))),
            FrameType::Load => codec::decode(body).map(Self::Load),
            FrameType::Digest => codec::decode(body).map(Self::Digest),
            FrameType::Synced => codec::decode(body).map(Self::Synced),
            FrameType::Conflict => codec::decode(body).map(Self::Conflict),
            FrameType::Probe => codec::decode(body).map(Self::Probe),
            FrameType::ProbeReply => codec::decode(body).map(Self::ProbeReply),
            FrameType::Goodbye => codec::decode(body).map(Self::Goodbye),
            _ => return Ok(None),
        };
        let decoded = decoded.map_err(|source| LinkFrameError::Codec { kind, source })?;
        match decoded.check() {
            Ok(()) => Ok(Some(decoded)),
            Err(limit) => Err(LinkFrameError::Limit { kind, limit }),
        }
    }

    /// The frame that carries this.
    pub fn encode(&self) -> Frame {
        match self {
            Self::Hello(body) => Frame::cbor(FrameType::Hello, 0, body),
            Self::Lsa(body) => Frame::cbor(FrameType::Lsa, 0, &**body),
            Self::Load(body) => Frame::cbor(FrameType::Load, 0, body),
            Self::Digest(body) => Frame::cbor(FrameType::Digest, 0, body),
            Self::Synced(body) => Frame::cbor(FrameType::Synced, 0, body),
            Self::Conflict(body) => Frame::cbor(FrameType::Conflict, 0, body),
            Self::Probe(body) => Frame::cbor(FrameType::Probe, 0, body),
            Self::ProbeReply(body) => Frame::cbor(FrameType::ProbeReply, 0, body),
            Self::Goodbye(body) => Frame::cbor(FrameType::Goodbye, 0, body),
        }
    }

    /// Whether the frame keeps the limits of this module; says which one it breaks.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::Hello(hello) => hello.check(),
            Self::Lsa(lsa) => lsa.check(),
            Self::Conflict(conflict) if conflict.older >= conflict.younger => {
                Err("a conflict whose older incarnation is not the smaller one")
            }
            Self::Goodbye(goodbye) if is_long(&goodbye.reason) => Err("a reason of more than 256 bytes"),
            Self::Load(_)
            | Self::Digest(_)
            | Self::Synced(_)
            | Self::Conflict(_)
            | Self::Probe(_)
            | Self::ProbeReply(_)
            | Self::Goodbye(_) => Ok(()),
        }
    }
}

fn is_long(text: &str) -> bool {
    text.len() > MAX_TEXT_BYTES
}

impl Hello {
    fn check(&self) -> Result<(), &'static str> {
        if self.version_min > self.version_max {
            Err("a lowest version above the highest")
        } else if self.features.len() > MAX_FEATURES {
            Err("more than 64 features")
        } else if self.features.iter().any(|f| is_long(f)) {
            Err("a feature of more than 256 bytes")
        } else {
            Ok(())
        }
    }
}

impl Lsa {
    fn check(&self) -> Result<(), &'static str> {
        if self.adjacencies.len() > MAX_ADJACENCIES {
            Err("more than 1024 adjacencies")
        } else if self.workers.len() > MAX_WORKERS {
            Err("more than 1024 workers")
        } else if self.labels.len() > MAX_LABELS {
            Err("more than 64 labels")
        } else if is_long(&self.version) {
            Err("a version of more than 256 bytes")
        } else if self
            .workers
            .iter()
            .any(|w| is_long(&w.version) || is_long(&w.description))
        {
            Err("a worker's version or description of more than 256 bytes")
        } else if self.labels.iter().any(|(k, v)| is_long(k) || is_long(v)) {
            Err("a label of more than 256 bytes")
        } else {
            Ok(())
        }
    }
}

/// Why a frame of the control stream is refused. The peer's fault; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkFrameError {
    /// The body is not of the type's shape.
    #[error("{kind:?} frame: {source}")]
    Codec {
        /// The frame's type.
        kind: FrameType,
        /// What is wrong with its body.
        source: CodecError,
    },
    /// The body breaks a limit of this module.
    #[error("{kind:?} frame with {limit}")]
    Limit {
        /// The frame's type.
        kind: FrameType,
        /// Which limit.
        limit: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_frame_survives_the_wire() {
        let conflict = Conflict {
            node: id("a"),
            older: Incarnation(1),
            younger: Incarnation(2),
        };
        let load = Load {
            origin: id("a"),
            incarnation: Incarnation(1),
            sequence: 2,
            slots: 3,
            running: 4,
            queued: 5,
            queue_limit: 6,
        };
        let digest = Digest {
            entries: 1,
            hash: 2,
            load_hash: 3,
        };
        let frames = [
            LinkFrame::Hello(hello()),
            LinkFrame::Lsa(Arc::new(lsa())),
            LinkFrame::Load(load),
            LinkFrame::Digest(digest),
            LinkFrame::Synced(Synced {}),
            LinkFrame::Conflict(conflict),
            LinkFrame::Probe(Probe { token: 7 }),
            LinkFrame::ProbeReply(ProbeReply { token: 7 }),
            LinkFrame::Goodbye(Goodbye { reason: "bye".into() }),
        ];
        for frame in frames {
            assert_eq!(LinkFrame::decode(&frame.encode()), Ok(Some(frame)));
        }
    }

    #[test]
    fn types_of_other_streams_and_unknown_ones_are_skipped() {
        let mut frame = Frame::new(FrameType::Payload, 1, Bytes::from_static(b"raw"));
        assert_eq!(LinkFrame::decode(&frame), Ok(None));
        frame.kind = 0xee;
        assert_eq!(LinkFrame::decode(&frame), Ok(None));
    }

    #[test]
    fn counts_are_accepted_at_their_limit_and_refused_one_past_it() {
        let features = |n| {
            LinkFrame::Hello(Hello {
                features: vec![String::new(); n],
                ..hello()
            })
        };
        assert_limit(features(MAX_FEATURES), features(MAX_FEATURES + 1));
        let adjacencies = |n| {
            advertise(Lsa {
                adjacencies: vec![adjacency(); n],
                ..lsa()
            })
        };
        assert_limit(adjacencies(MAX_ADJACENCIES), adjacencies(MAX_ADJACENCIES + 1));
        let workers = |n| {
            advertise(Lsa {
                workers: vec![worker(0); n],
                ..lsa()
            })
        };
        assert_limit(workers(MAX_WORKERS), workers(MAX_WORKERS + 1));
        let labels = |n| {
            let labels = (0..n).map(|i| (i.to_string(), String::new())).collect();
            advertise(Lsa { labels, ..lsa() })
        };
        assert_limit(labels(MAX_LABELS), labels(MAX_LABELS + 1));
    }

    #[test]
    fn texts_are_accepted_at_their_limit_and_refused_one_past_it() {
        let text = |n| "x".repeat(n);
        let (limit, past) = (MAX_TEXT_BYTES, MAX_TEXT_BYTES + 1);
        let feature = |n| {
            LinkFrame::Hello(Hello {
                features: vec![text(n)],
                ..hello()
            })
        };
        assert_limit(feature(limit), feature(past));
        let version = |n| {
            advertise(Lsa {
                version: text(n),
                ..lsa()
            })
        };
        assert_limit(version(limit), version(past));
        let description = |n| {
            advertise(Lsa {
                workers: vec![worker(n)],
                ..lsa()
            })
        };
        assert_limit(description(limit), description(past));
        let label = |n| {
            advertise(Lsa {
                labels: BTreeMap::from([("k".into(), text(n))]),
                ..lsa()
            })
        };
        assert_limit(label(limit), label(past));
        let goodbye = |n| LinkFrame::Goodbye(Goodbye { reason: text(n) });
        assert_limit(goodbye(limit), goodbye(past));
    }

    #[test]
    fn contradictions_are_refused() {
        let hello = LinkFrame::Hello(Hello {
            version_min: 3,
            version_max: 2,
            ..hello()
        });
        assert!(LinkFrame::decode(&hello.encode()).is_err());
        let conflict = LinkFrame::Conflict(Conflict {
            node: id("a"),
            older: Incarnation(2),
            younger: Incarnation(2),
        });
        assert!(LinkFrame::decode(&conflict.encode()).is_err());
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(kind in 0u8..16, body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let frame = Frame { kind, flags: 0, unit: 0, body: body.into() };
            _ = LinkFrame::decode(&frame);
        }
    }

    fn assert_limit(at: LinkFrame, past: LinkFrame) {
        assert_eq!(LinkFrame::decode(&at.encode()), Ok(Some(at)));
        assert!(matches!(
            LinkFrame::decode(&past.encode()),
            Err(LinkFrameError::Limit { .. })
        ));
    }

    fn id(text: &str) -> NodeId {
        NodeId::parse(text).unwrap()
    }

    fn hello() -> Hello {
        Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            features: vec!["zip".into()],
            node: id("a"),
            incarnation: Incarnation(7),
            cost: Cost::DEFAULT,
            leaf: true,
        }
    }

    fn lsa() -> Lsa {
        Lsa {
            origin: id("a"),
            incarnation: Incarnation(7),
            sequence: 3,
            leaf: false,
            leaving: false,
            batches: false,
            version: "1.0.0".into(),
            adjacencies: vec![adjacency()],
            workers: vec![worker(5)],
            labels: BTreeMap::from([("site".into(), "north".into())]),
        }
    }

    fn advertise(lsa: Lsa) -> LinkFrame {
        LinkFrame::Lsa(Arc::new(lsa))
    }

    fn adjacency() -> Adjacency {
        Adjacency {
            node: id("b"),
            cost: Cost(1),
        }
    }

    fn worker(description_bytes: usize) -> WorkerAd {
        WorkerAd {
            directive: Directive::parse("echo:bytes").unwrap(),
            kind: PayloadKind::Bytes,
            version: String::new(),
            idempotent: true,
            description: "d".repeat(description_bytes),
        }
    }
}
