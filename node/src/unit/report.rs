//! The answers to questions, as they travel over sessions and the control socket and as `--json` prints them.
//!
//! Filled in by the node, printed by the command line. Field names are part of the product's interface.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use workmesh_proto::wire::unit::{Kind, Outcome};
use workmesh_proto::{NodeId, UnitId};

/// How a node is: the answer to a ping.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PingReport {
    /// Who answers.
    pub node: NodeId,
    /// Round-trip time in milliseconds, measured by the node that was asked to ping.
    pub rtt_ms: f64,
    /// Software version.
    pub version: String,
    /// Seconds since the node started.
    pub uptime_s: f64,
    /// When the ping left.
    pub initial_time: Timestamp,
    /// When the node answered, by its own clock.
    pub response_time: Timestamp,
    /// Units that run or wait on the node.
    pub active_work: Vec<ActiveWork>,
    /// Further units that the list has no room for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted_work: u64,
    /// It takes no new units, because it drains or stops.
    #[serde(default)]
    pub draining: bool,
    /// The node's pool.
    pub pool: PoolReport,
}

/// A unit that runs or waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActiveWork {
    /// The unit.
    pub id: UnitId,
    /// What it asks for.
    pub directive: String,
    /// Who submitted it, by certificate.
    pub sender: NodeId,
    /// `queued`, `running`, `stopping` or `abandoned`.
    pub state: String,
    /// Seconds since admission.
    pub age_s: f64,
}

/// How full a pool is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PoolReport {
    /// Units that can run at once.
    pub slots: u32,
    /// Units that run.
    pub running: u32,
    /// Units that wait.
    pub queued: u32,
    /// Units that can wait.
    pub queue_limit: u32,
    /// Units that have ended and whose functions do not return: each still has a thread, and no slot.
    #[serde(default)]
    pub abandoned: u32,
}

/// What a node keeps of durable units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableReport {
    /// Units of which it is the origin, ended ones included.
    pub units: u64,
    /// Of these, those that have not ended for all concerned.
    pub unended: u64,
    /// Units that it runs, or whose end it keeps until their origins have it; its own among them.
    pub hosted: u64,
    /// Bytes that the store takes.
    pub bytes: u64,
    /// Bytes that it may take.
    pub quota_bytes: u64,
    /// Places of the store that were found damaged when it was opened; what could be read of them is set aside.
    pub damaged: u64,
    /// Why no further unit is taken now: the quota, or the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuses: Option<String>,
}

/// What a node knows: the answer to `node status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StatusReport {
    /// Who answers.
    pub node: NodeId,
    /// The mesh's name.
    pub mesh: String,
    /// Software version.
    pub version: String,
    /// Seconds since the node started.
    pub uptime_s: f64,
    /// Where the node listens.
    pub listen: Option<String>,
    /// Links, up or being dialled.
    pub links: Vec<LinkReport>,
    /// Every other node, and the way to it.
    pub routes: Vec<RouteReport>,
    /// This node's own workers.
    pub workers: Vec<String>,
    /// It takes no new units, because it drains or stops.
    #[serde(default)]
    pub draining: bool,
    /// This node's pool.
    pub pool: PoolReport,
    /// Durable units that it keeps; none on a node without a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durable: Option<DurableReport>,
    /// Frames passed on for other nodes.
    pub forwarded: ForwardedReport,
    /// Sessions that are up.
    pub sessions: usize,
    /// Totals since the start: units by kind, bytes, frames, drops by reason, advertisements.
    pub counters: BTreeMap<String, u64>,
    /// This node's certificate.
    pub certificate: CertificateReport,
}

/// What became of a node's units: the answer to `node drain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReport {
    /// Who answers.
    pub node: NodeId,
    /// Units that ran or waited when the drain began, and ended by themselves.
    pub ended: u64,
    /// Units that were stopped because they did not end within the grace.
    pub stopped: u64,
    /// Functions that have not returned although they were told to stop.
    pub stuck: u64,
}

/// One link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LinkReport {
    /// The neighbour; unknown while dialling an address without id.
    pub node: Option<NodeId>,
    /// `host:port`.
    pub address: String,
    /// What it costs to cross.
    pub cost: u32,
    /// Smoothed round-trip time in milliseconds; none while down.
    pub rtt_ms: Option<f64>,
    /// `up`, `dialling` or `waiting`.
    pub state: String,
    /// Why the last attempt failed, while down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The way to one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteReport {
    /// Where to.
    pub node: NodeId,
    /// The neighbour to hand packets to; none if there is no way.
    pub next_hop: Option<NodeId>,
    /// Sum of the links' costs.
    pub cost: Option<u32>,
    /// Links to cross.
    pub hops: Option<u16>,
}

/// Frames passed on for other nodes since the start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ForwardedReport {
    /// Frames.
    pub packets: u64,
    /// Bytes in them, headers included.
    pub bytes: u64,
    /// Frames dropped, for whatever reason.
    pub dropped: u64,
}

/// A node's certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CertificateReport {
    /// When it ends.
    pub not_after: Timestamp,
}

/// One worker function on one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkerReport {
    /// Who has it.
    pub node: NodeId,
    /// `module:function`.
    pub directive: String,
    /// `bytes`, `buffer` or `file`.
    pub payload: String,
    /// The worker's own version.
    pub version: String,
    /// Whether running a unit twice does no harm.
    pub idempotent: bool,
    /// One line for a person.
    pub description: String,
}

/// One hop on the way to a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HopReport {
    /// From 1.
    pub hop: u16,
    /// The node that was reached.
    pub node: NodeId,
    /// Round-trip time from here to that node in milliseconds.
    pub rtt_ms: f64,
}

/// A relay's answer to a trace: whom it would hand packets for the target to. None when it is the target.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NextHop {
    /// The neighbour.
    pub next_hop: Option<NodeId>,
}

/// A durable unit, as its origin knows it: a row of a list, or the answer to a question about one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkReport {
    /// Which unit.
    pub unit: UnitId,
    /// What it asks for.
    pub directive: String,
    /// `waiting`, `accepted`, `running` or `ended`.
    pub state: String,
    /// Why it waits, or does not get on; empty if all is well.
    #[serde(default)]
    pub reason: String,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it ended so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The end's message, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The node that runs or ran it, if one has accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executor: Option<NodeId>,
    /// The node that its submitter chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeId>,
    /// How often it was given to an executor that may have run it; above 1 only for idempotent ones.
    pub attempt: u32,
    /// When it was stored.
    pub submitted: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// When it ends at the latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// Responses begun that are on the origin's disk.
    pub responses: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Whether running it twice does no harm, as its submitter or its worker says.
    pub idempotent: bool,
    /// Whether somebody has asked to cancel it.
    pub cancel_requested: bool,
    /// Whether its executor knows of the end and keeps nothing of the unit any more, never had it, or is gone for good. The unit itself stays at its origin.
    pub executor_released: bool,
    /// What happened to it, in order; only in the answer about a single unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<WorkEvent>,
}

/// Something that happened to a durable unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkEvent {
    /// When.
    pub at: Timestamp,
    /// What, in one line.
    pub what: String,
}

/// The answer to a release of durable units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseReport {
    /// Units that were forgotten.
    pub released: u64,
    /// Units that stay because they have not ended.
    pub running: u64,
    /// Units that have ended, and stay because the disk does not let them go.
    #[serde(default)]
    pub kept: u64,
    /// Of the units that the question names, those that the node does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<UnitId>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
