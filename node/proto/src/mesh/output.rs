//! What the mesh machine wants done. The driver carries it out, in order.

use std::sync::Arc;

use super::view::View;
use crate::id::{Cost, Incarnation, LinkId, NodeId};
use crate::wire::frame::Frame;
use crate::wire::link::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};

/// One thing to do or to know.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this frame on the link's control stream.
    Send {
        /// Which link.
        link: LinkId,
        /// What to send.
        frame: Frame,
    },
    /// Close the link, after what was sent on it. The machine has forgotten it; further calls for it do nothing.
    Close {
        /// Which link.
        link: LinkId,
        /// Why; fit for a log line.
        reason: CloseReason,
    },
    /// The link may carry packets.
    LinkUp {
        /// Which link.
        link: LinkId,
        /// The neighbour.
        node: NodeId,
        /// Which life of the neighbour.
        incarnation: Incarnation,
        /// The neighbour never passes anything on.
        leaf: bool,
        /// What it costs to cross: the greater of what both ends say.
        cost: Cost,
    },
    /// The link no longer carries packets. Comes once for each [`Output::LinkUp`].
    LinkDown {
        /// Which link.
        link: LinkId,
        /// The neighbour.
        node: NodeId,
    },
    /// What is known of the mesh has changed.
    ViewChanged(Arc<View>),
    /// An older live node carries this node's id: this process must stop. All links are closed.
    DuplicateId {
        /// The life of the other one.
        older: Incarnation,
    },
}

/// Why a link is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// A frame that could not be understood. The peer's fault.
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// Another frame came before the hello. The peer's fault.
    #[error("frame before the hello")]
    HelloExpected,
    /// A second hello that differs from the first. The peer's fault.
    #[error("second hello that differs from the first")]
    SecondHello,
    /// No hello in time. The peer may be overloaded; dial again.
    #[error("no hello in time")]
    HelloTimeout,
    /// No common protocol version. Upgrade the older node.
    #[error(
        "peer speaks protocol versions {min} to {max}, this node {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}; upgrade the older one"
    )]
    Version {
        /// The peer's lowest.
        min: u16,
        /// The peer's highest.
        max: u16,
    },
    /// The hello names another node than the certificate.
    #[error(
        "certificate of {certified:?}, but hello of {claimed:?}; install the certificate of the node's own id"
    )]
    WrongIdentity {
        /// From the certificate.
        certified: NodeId,
        /// From the hello.
        claimed: NodeId,
    },
    /// An id with a leaf instance in a hello that is not a leaf's.
    #[error("{0:?} is a leaf's id, but its hello is not a leaf's")]
    LeafId(NodeId),
    /// The link leads to this very process. Take the address off the list of peers.
    #[error("connected to myself; take this address off the list of peers")]
    Oneself,
    /// Two live nodes carry one id; the younger is refused.
    #[error(
        "two live nodes are called {node:?}: the one started at {} stays, the one started at {} is refused; give one of them another id",
        older.0, younger.0
    )]
    Duplicate {
        /// The id.
        node: NodeId,
        /// Who stays.
        older: Incarnation,
        /// Who is refused.
        younger: Incarnation,
    },
    /// Another link to the same node is used. Nothing to do: the node stays a neighbour.
    #[error("replaced by another link to the same node")]
    Replaced,
    /// The node has restarted; this link belongs to its former life.
    #[error("the node has restarted")]
    Restarted,
    /// The link did not answer a probe while another one to the same node did.
    #[error("link does not answer")]
    Unresponsive,
    /// This node has as many links as it can advertise.
    #[error("too many links; connect to another node")]
    TooManyLinks,
    /// The peer said goodbye.
    #[error("peer said goodbye: {0}")]
    Goodbye(String),
    /// This node leaves the mesh.
    #[error("leaving")]
    Leaving,
    /// This node has to stop, because its id is taken.
    #[error("stopping, the id is taken by an older node")]
    Stopping,
}
