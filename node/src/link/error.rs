//! How a link or a session fails, by blame.

use quinn::{ConnectionError, VarInt};
use workmesh_proto::NodeId;

/// The code of a close for a reason that stands in its text.
pub(super) const CLOSED: VarInt = VarInt::from_u32(1);
/// The code of a close because nothing was said: streams that were under way have not been seen.
pub(super) const CLOSED_IDLE: VarInt = VarInt::from_u32(2);

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
    /// The peer closed the session because nothing was said on it: it has not seen what was under way.
    #[error("the peer closed the idle session")]
    Idle,
    /// The connection ended.
    #[error("connection ended: {0}")]
    Closed(String),
}

impl From<ConnectionError> for LinkError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) if close.error_code == CLOSED_IDLE => Self::Idle,
            other => Self::Closed(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use quinn::ApplicationClose;

    use super::*;

    #[test]
    fn only_a_close_for_idleness_says_that_nothing_was_seen() {
        let closed = |error_code| {
            LinkError::from(ConnectionError::ApplicationClosed(ApplicationClose {
                error_code,
                reason: "idle".into(),
            }))
        };
        assert!(matches!(closed(CLOSED_IDLE), LinkError::Idle));
        assert!(matches!(closed(CLOSED), LinkError::Closed(_)));
        assert!(matches!(ConnectionError::TimedOut.into(), LinkError::Closed(_)));
    }
}
