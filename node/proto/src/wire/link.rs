//! The frames of a link's control stream: hello, flooded advertisements, liveness.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use worker_api::{Directive, PayloadKind};

use crate::id::{Cost, Incarnation, NodeId};

/// The protocol version that this code speaks; it also understands the one before.
pub const PROTOCOL_VERSION: u16 = 1;
/// The most neighbours that an advertisement may list.
pub const MAX_ADJACENCIES: usize = 1024;
/// The most workers that an advertisement may list.
pub const MAX_WORKERS: usize = 1024;
/// The most labels that an advertisement may list.
pub const MAX_LABELS: usize = 64;
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
    /// XOR of the entries' hashes.
    pub hash: u64,
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
    Lsa(std::sync::Arc<Lsa>),
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
