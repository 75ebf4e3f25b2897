//! Questions to a node: over a session or over its control socket. One stream, one question, one answer.

use serde::{Deserialize, Serialize};

use super::unit::Kind;
use crate::id::{NodeId, UnitId};

/// The most units that one release names.
pub const MAX_RELEASED: usize = 1000;
/// The longest state and the longest directive that a filter names, in bytes.
pub const MAX_FILTER_BYTES: usize = 256;

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
    /// Which durable units does this node keep as their origin? Control socket only.
    Work(WorkFilter),
    /// How is a durable unit? Control socket only.
    WorkShow {
        /// Which unit.
        unit: UnitId,
    },
    /// Forget durable units. Control socket only.
    WorkRelease {
        /// These, at most [`MAX_RELEASED`]. One that has not ended is cancelled first.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        units: Vec<UnitId>,
        /// And all that have ended.
        #[serde(default, skip_serializing_if = "is_false")]
        all: bool,
        /// Of all, only those whose end is at least so many milliseconds old.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        older_than_ms: Option<u64>,
    },
}

/// Which durable units are asked for: those that fit all that is given. Newest first, by the time of their submission.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkFilter {
    /// A state, or an outcome of ended ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `module:function`, or `module:*` for all functions of a module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directive: Option<String>,
    /// The node that runs or ran them, or that they wait for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Submitted within the last so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// At most so many; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only those that come after this unit in the order of the answer: the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<UnitId>,
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Query {
    /// Whether the question keeps the limits of this module; says which one it breaks.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Self::WorkRelease { units, .. } if units.len() > MAX_RELEASED => {
                Err("more than 1000 units to release")
            }
            Self::Work(filter) => filter.check(),
            Self::Ping { .. }
            | Self::Status {}
            | Self::Workers {}
            | Self::Drain {}
            | Self::Trace { .. }
            | Self::WorkShow { .. }
            | Self::WorkRelease { .. } => Ok(()),
        }
    }
}

impl WorkFilter {
    fn check(&self) -> Result<(), &'static str> {
        let too_long = |text: &Option<String>| text.as_ref().is_some_and(|t| t.len() > MAX_FILTER_BYTES);
        if too_long(&self.state) {
            Err("a state of more than 256 bytes")
        } else if too_long(&self.directive) {
            Err("a directive of more than 256 bytes")
        } else {
            Ok(())
        }
    }

    /// Whether units of this directive are asked for.
    pub fn wants_directive(&self, directive: &str) -> bool {
        self.directive
            .as_ref()
            .is_none_or(|wanted| match wanted.strip_suffix(":*") {
                Some(module) => directive.split_once(':').is_some_and(|(of, _)| of == module),
                None => wanted == directive,
            })
    }
}

/// A question that could not be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Why.
    pub kind: Kind,
    /// One line that names the cause and the remedy.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn units_of_a_release_are_limited() {
        let with = |count: usize| Query::WorkRelease {
            units: vec![UnitId(Uuid::nil()); count],
            all: false,
            older_than_ms: None,
        };
        assert_eq!(with(MAX_RELEASED).check(), Ok(()));
        assert_eq!(
            with(MAX_RELEASED + 1).check(),
            Err("more than 1000 units to release")
        );
    }

    #[test]
    fn texts_of_a_filter_are_limited() {
        let text = |length: usize| Some("x".repeat(length));
        let state = |length| {
            Query::Work(WorkFilter {
                state: text(length),
                ..WorkFilter::default()
            })
        };
        let directive = |length| {
            Query::Work(WorkFilter {
                directive: text(length),
                ..WorkFilter::default()
            })
        };
        assert_eq!(state(MAX_FILTER_BYTES).check(), Ok(()));
        assert_eq!(
            state(MAX_FILTER_BYTES + 1).check(),
            Err("a state of more than 256 bytes")
        );
        assert_eq!(directive(MAX_FILTER_BYTES).check(), Ok(()));
        assert_eq!(
            directive(MAX_FILTER_BYTES + 1).check(),
            Err("a directive of more than 256 bytes")
        );
    }

    #[test]
    fn directive_of_a_filter_is_whole_or_a_module() {
        let wants = |wanted: Option<&str>, directive| {
            let filter = WorkFilter {
                directive: wanted.map(Into::into),
                ..WorkFilter::default()
            };
            filter.wants_directive(directive)
        };
        assert!(wants(None, "echo:bytes"));
        assert!(wants(Some("echo:bytes"), "echo:bytes"));
        assert!(wants(Some("echo:*"), "echo:bytes"));
        assert!(!wants(Some("echo:b"), "echo:bytes"));
        assert!(!wants(Some("ech:*"), "echo:bytes"));
        assert!(!wants(Some("echo"), "echo:bytes"));
    }
}
