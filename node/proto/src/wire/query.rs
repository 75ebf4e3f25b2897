//! Questions to a node: over a session or over its control socket. One stream, one question, one answer.

use serde::{Deserialize, Serialize};

use super::unit::Kind;
use crate::id::NodeId;

/// A question. The answer is a `Reply` whose CBOR body depends on the question, or a `Fault`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// How is `node`? The node asked itself if `None`; on the control socket any node of the mesh.
    Ping {
        /// Whom to ask.
        node: Option<NodeId>,
    },
    /// What does this node know? Control socket only.
    Status {},
    /// Which workers does the mesh have? Control socket only.
    Workers {},
    /// Drain: take no new units, and see those that run to their end. Answered once they are. Control socket only.
    Drain {},
    /// The way to `node`, hop by hop; on a session, just the next hop.
    Trace {
        /// Where to.
        node: NodeId,
    },
}

/// A question that could not be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Why.
    pub kind: Kind,
    /// One line that names the cause and the remedy.
    pub message: String,
}
