//! The frames of a unit: what the submitter asks, what the executor answers, and the one end.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use worker_api::Directive;

use super::durable::Offer;
use crate::id::{NodeId, UnitId};

/// The most parameters that a unit may carry.
pub const MAX_PARAMS: usize = 64;
/// The longest key and value of a parameter together, in bytes.
pub const MAX_PARAM_BYTES: usize = 4096;
/// The longest message of an EOF or a refusal, in bytes; longer ones are cut.
pub const MAX_MESSAGE_BYTES: usize = 4096;
/// The longest trace context, in bytes (W3C `traceparent` has 55).
pub const MAX_TRACE_BYTES: usize = 128;

/// Opens a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submit {
    /// Chosen by the submitter; the same id twice is one unit.
    pub unit: UnitId,
    /// As the submitter wrote it: the executor answers a malformed one with its own kind of error.
    pub directive: String,
    /// The executor that the submitter wants; on the control socket only, `None` lets the node place the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeId>,
    /// The payload's length in bytes, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<u64>,
    /// For the worker.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
    /// Milliseconds that are left when the frame is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// A W3C `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// The unit is to survive: its origin keeps it on disk, and its executor keeps what it sends until the origin has it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub durable: bool,
    /// The client wants to hear that the unit is stored, and nothing more. On the control socket only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub detach: bool,
    /// Running the unit twice does no harm, whatever its worker says.
    #[serde(default, skip_serializing_if = "is_false")]
    pub idempotent: bool,
    /// Which offer of a durable unit this is; on sessions only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<Offer>,
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

impl Submit {
    /// Whether the frame keeps the limits of this module; says which one it breaks.
    pub fn check(&self) -> Result<(), &'static str> {
        let too_long = |(key, value): (&String, &String)| key.len() + value.len() > MAX_PARAM_BYTES;
        if self.params.len() > MAX_PARAMS {
            Err("more than 64 parameters")
        } else if self.params.iter().any(too_long) {
            Err("a parameter of more than 4096 bytes")
        } else if self.trace.as_ref().is_some_and(|t| t.len() > MAX_TRACE_BYTES) {
            Err("a trace context of more than 128 bytes")
        } else {
            Ok(())
        }
    }

    /// The directive, parsed.
    pub fn parse_directive(&self) -> Result<Directive, worker_api::DirectiveError> {
        Directive::parse(&self.directive)
    }
}

/// The executor takes the unit: it runs, or waits in the executor's queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The node that runs it.
    pub executor: NodeId,
}

/// The executor does not take the unit; nothing was run. The unit may be offered to another executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub kind: Kind,
    /// One line that names the cause and the remedy.
    pub message: String,
}

/// Stops a unit. Sent on the unit's stream while its payload is under way, else on a stream of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Which unit.
    pub unit: UnitId,
}

/// The one end of a unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eof {
    /// How it went.
    pub outcome: Outcome,
    /// Why, in detail.
    pub kind: Kind,
    /// Empty when the unit succeeded; else one line that names the cause.
    #[serde(default)]
    pub message: String,
    /// Responses that the worker sent.
    pub responses: u64,
    /// Bytes in these responses.
    pub bytes: u64,
    /// XXH3-64 over all response bytes in order: tells a wrong or truncated stream, whatever broke it.
    pub digest: u64,
    /// Milliseconds from admission to the end, on the executor's clock.
    pub duration_ms: u64,
}

/// How a unit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The function returned without an error.
    Succeeded,
    /// The function failed, or the unit was refused.
    Failed,
    /// The submitter cancelled it.
    Cancelled,
    /// Its deadline passed.
    Expired,
    /// The executor went away; the function may have run.
    Lost,
}

/// Why a unit ended as it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Succeeded.
    Ok,
    /// The function returned an error.
    WorkerError,
    /// The function panicked.
    Panic,
    /// The directive is not of the form `module:function`.
    MalformedDirective,
    /// The executor has no such module.
    UnknownModule,
    /// The executor has the module, but not the function.
    UnknownFunction,
    /// No node of this id is known.
    NoSuchNode,
    /// No reachable node has the worker.
    NoCapableNode,
    /// The node is known, but there is no way to it.
    NoRoute,
    /// Pool and queue are full.
    Busy,
    /// The executor does not let this submitter run this.
    Forbidden,
    /// The executor shuts down.
    Draining,
    /// A unit of this id runs, or has run.
    Duplicate,
    /// The payload is larger than the executor or the worker allows.
    PayloadTooLarge,
    /// The payload broke off, stalled or was not as announced.
    PayloadBroken,
    /// Cancelled by the submitter.
    Cancelled,
    /// The deadline passed.
    Expired,
    /// The executor was lost while the unit ran.
    NodeLost,
    /// A frame broke the protocol.
    Protocol,
    /// The executor's own fault, such as a full disk.
    Internal,
    /// No durable unit of this id is known.
    NoSuchUnit,
    /// The store of durable units is full, or its disk.
    NoSpace,
    /// Stopped because its executor shut down.
    Shutdown,
    /// A kind that a newer peer knows.
    #[serde(other)]
    Unknown,
}

impl Outcome {
    /// The name on the wire and in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Lost => "lost",
        }
    }
}

impl Kind {
    /// The name on the wire and in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::WorkerError => "worker_error",
            Self::Panic => "panic",
            Self::MalformedDirective => "malformed_directive",
            Self::UnknownModule => "unknown_module",
            Self::UnknownFunction => "unknown_function",
            Self::NoSuchNode => "no_such_node",
            Self::NoCapableNode => "no_capable_node",
            Self::NoRoute => "no_route",
            Self::Busy => "busy",
            Self::Forbidden => "forbidden",
            Self::Draining => "draining",
            Self::Duplicate => "duplicate",
            Self::PayloadTooLarge => "payload_too_large",
            Self::PayloadBroken => "payload_broken",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::NodeLost => "node_lost",
            Self::Protocol => "protocol",
            Self::Internal => "internal",
            Self::NoSuchUnit => "no_such_unit",
            Self::NoSpace => "no_space",
            Self::Shutdown => "shutdown",
            Self::Unknown => "unknown",
        }
    }

    /// The outcome that a unit of this kind has.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Ok => Outcome::Succeeded,
            Self::Cancelled | Self::Shutdown => Outcome::Cancelled,
            Self::Expired => Outcome::Expired,
            Self::NodeLost => Outcome::Lost,
            _ => Outcome::Failed,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Eof {
    /// An end without any response.
    pub fn without_responses(kind: Kind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        cut(&mut message);
        Self {
            outcome: kind.outcome(),
            kind,
            message,
            responses: 0,
            bytes: 0,
            digest: EMPTY_DIGEST,
            duration_ms: 0,
        }
    }
}

/// XXH3-64 of nothing.
pub const EMPTY_DIGEST: u64 = 0x2d06_8005_38d3_94c2;

/// Cuts `message` to [`MAX_MESSAGE_BYTES`] at a character's boundary.
pub fn cut(message: &mut String) {
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use uuid::Uuid;

    use super::*;
    use crate::wire::codec;

    #[test]
    fn kind_of_a_newer_peer_reads_as_unknown() {
        let mut body = BytesMut::new();
        let refused = BTreeMap::from([("kind", "out_of_moon_phase"), ("message", "wait a week")]);
        codec::encode(&refused, &mut body);
        let refused: Refused = codec::decode(&body).unwrap();
        assert_eq!(
            (refused.kind, refused.kind.outcome()),
            (Kind::Unknown, Outcome::Failed)
        );
    }

    #[test]
    fn kinds_and_outcomes_have_their_printed_name_on_the_wire() {
        for kind in KINDS {
            assert_eq!(wire_text(&kind), kind.as_str());
            assert_eq!(read(kind.as_str()), Ok(kind));
        }
        for outcome in OUTCOMES {
            assert_eq!(wire_text(&outcome), outcome.as_str());
            assert_eq!(read(outcome.as_str()), Ok(outcome));
        }
        assert!(read::<Outcome>("vanished").is_err());
    }

    #[test]
    fn protocol_text_lists_every_kind_with_its_outcome() {
        let text = include_str!("../../../../docs/PROTOCOL.md");
        for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Unknown) {
            let row = format!("| `{kind}` | {} |", kind.outcome());
            assert!(text.contains(&row), "docs/PROTOCOL.md lacks {row}");
        }
    }

    #[test]
    fn count_of_parameters_is_limited() {
        let with = |count: usize| Submit {
            params: (0..count).map(|i| (i.to_string(), String::new())).collect(),
            ..submit()
        };
        assert_eq!(with(MAX_PARAMS).check(), Ok(()));
        assert_eq!(with(MAX_PARAMS + 1).check(), Err("more than 64 parameters"));
    }

    #[test]
    fn key_and_value_of_a_parameter_are_limited_together() {
        let with = |key: usize, value: usize| Submit {
            params: [("k".repeat(key), "v".repeat(value))].into(),
            ..submit()
        };
        assert_eq!(with(96, MAX_PARAM_BYTES - 96).check(), Ok(()));
        assert_eq!(
            with(97, MAX_PARAM_BYTES - 96).check(),
            Err("a parameter of more than 4096 bytes")
        );
    }

    #[test]
    fn trace_context_is_limited() {
        let with = |length| Submit {
            trace: Some("t".repeat(length)),
            ..submit()
        };
        assert_eq!(with(MAX_TRACE_BYTES).check(), Ok(()));
        assert_eq!(
            with(MAX_TRACE_BYTES + 1).check(),
            Err("a trace context of more than 128 bytes")
        );
    }

    #[test]
    fn message_is_cut_at_a_character() {
        let message = |length: usize| Eof::without_responses(Kind::Panic, "m".repeat(length)).message;
        assert_eq!(message(MAX_MESSAGE_BYTES).len(), MAX_MESSAGE_BYTES);
        assert_eq!(message(MAX_MESSAGE_BYTES + 1).len(), MAX_MESSAGE_BYTES);
        let mut wide = format!("m{}", "ä".repeat(MAX_MESSAGE_BYTES / 2));
        cut(&mut wide);
        assert_eq!(wide.len(), MAX_MESSAGE_BYTES - 1);
    }

    const OUTCOMES: [Outcome; 5] = [
        Outcome::Succeeded,
        Outcome::Failed,
        Outcome::Cancelled,
        Outcome::Expired,
        Outcome::Lost,
    ];

    const KINDS: [Kind; 24] = [
        Kind::Ok,
        Kind::WorkerError,
        Kind::Panic,
        Kind::MalformedDirective,
        Kind::UnknownModule,
        Kind::UnknownFunction,
        Kind::NoSuchNode,
        Kind::NoCapableNode,
        Kind::NoRoute,
        Kind::Busy,
        Kind::Forbidden,
        Kind::Draining,
        Kind::Duplicate,
        Kind::PayloadTooLarge,
        Kind::PayloadBroken,
        Kind::Cancelled,
        Kind::Expired,
        Kind::NodeLost,
        Kind::Protocol,
        Kind::Internal,
        Kind::NoSuchUnit,
        Kind::NoSpace,
        Kind::Shutdown,
        Kind::Unknown,
    ];

    fn submit() -> Submit {
        Submit {
            unit: UnitId(Uuid::nil()),
            directive: "echo:bytes".into(),
            to: None,
            payload_bytes: None,
            params: BTreeMap::new(),
            deadline_ms: None,
            trace: None,
            durable: false,
            detach: false,
            idempotent: false,
            offer: None,
        }
    }

    fn wire_text<T: Serialize>(value: &T) -> String {
        let mut body = BytesMut::new();
        codec::encode(value, &mut body);
        codec::decode(&body).unwrap()
    }

    fn read<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, codec::CodecError> {
        let mut body = BytesMut::new();
        codec::encode(&text, &mut body);
        codec::decode(&body)
    }
}
