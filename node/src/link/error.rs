//! How a link or a session fails, by blame.

use workmesh_proto::NodeId;

/// Why there is no link or session. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// Our socket, certificate or settings.
    #[error("{0}")]
    Configuration(String),
    /// The peer's certificate was refused by us; `subject` and what was expected stand in the text.
    #[error("refused the peer's certificate: {0}")]
    RefusedPeer(String),
    /// The peer proved another name than was asked for.
    #[error("refused the peer: expected node {expected}, found {found}")]
    WrongNode {
        /// Whom we meant.
        expected: NodeId,
        /// Who answered.
        found: NodeId,
    },
    /// The handshake broke: no answer, or the peer refused us.
    #[error("{0}")]
    Handshake(String),
    /// The peer broke the protocol.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// The connection ended.
    #[error("connection ended: {0}")]
    Closed(String),
}
