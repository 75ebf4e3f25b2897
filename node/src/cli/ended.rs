//! How a unit ended as the command line saw it, and what of that becomes the exit status and the line on stderr.

use std::io;

use workmesh_proto::wire::durable::Unfinished;
use workmesh_proto::wire::unit::{Eof, Kind, Outcome};
use workmesh_proto::{NodeId, UnitId};

use super::exit::{self, Failure};
use super::text;

/// Why a unit was stopped or left from here.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// By Ctrl-C.
    Interrupted,
    /// Nobody reads the responses.
    OutputClosed,
    /// The payload can't be read.
    Payload(io::Error),
}

/// How a unit ended, as seen from here.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Which unit.
    pub(crate) unit: UnitId,
    /// Who ran it, if it was taken.
    pub(crate) executor: Option<NodeId>,
    /// Whether the submitter named the executor.
    pub(crate) chosen: bool,
    /// The last that was heard of it.
    pub(crate) end: End,
    /// Why it was stopped from here, if it was.
    pub(crate) stopped: Option<Stopped>,
    /// Whether all responses were written.
    pub(crate) written: io::Result<()>,
}

/// The last that is heard of a unit.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// Its end; a refusal is one without responses.
    Eof(Eof),
    /// It has not ended yet.
    Unfinished(Unfinished),
    /// It was left, and goes on.
    Left,
    /// It was cancelled, and no answer came: it may go on.
    Unanswered,
}

impl Ended {
    /// The exit status; an error is the line for stderr.
    pub(crate) fn report(self) -> anyhow::Result<u8> {
        let unit = self.unit;
        if self.end == End::Unanswered {
            let text = format!(
                "unit {unit}: the node did not answer the cancellation; `node work cancel {unit}` makes sure"
            );
            return Err(Failure::new(exit::CANCELLED, text).into());
        }
        if let Err(error) = self.written {
            return Err(unwritten(unit, &self.end, &error).into());
        }
        let eof = match self.end {
            End::Eof(eof) => eof,
            End::Unfinished(unfinished) => return Err(not_ended(unit, self.executor, unfinished).into()),
            End::Left | End::Unanswered => {
                let text = format!(
                    "unit {unit} goes on: `node work attach {unit}` follows it, `node work cancel {unit}` stops it"
                );
                return Err(Failure::new(exit::CANCELLED, text).into());
            }
        };
        match self.stopped {
            Some(Stopped::Payload(error)) => {
                let text = format!("unit {unit}: cancelled, because its payload can't be read: {error}");
                return Err(Failure::new(exit::FAILED, text).into());
            }
            Some(Stopped::Interrupted) => {
                let text = format!("unit {unit}: cancelled; its end: {}", eof.outcome);
                return Err(Failure::new(exit::CANCELLED, text).into());
            }
            Some(Stopped::OutputClosed) => return Err(Failure::new(exit::CANCELLED, "").into()),
            None => {}
        }
        let status = exit::of_unit(eof.outcome, eof.kind);
        if status == exit::OK {
            return Ok(status);
        }
        let place = self
            .executor
            .map_or_else(String::new, |node| format!(" on {node}"));
        let mut line = format!(
            "unit {unit}{place}: {}: {}",
            eof.kind,
            text::one_line(&eof.message)
        );
        if let Some(remedy) = remedy(eof.kind, self.chosen, &eof.message) {
            line.push_str("; ");
            line.push_str(remedy);
        }
        Err(Failure::new(status, line).into())
    }
}

fn unwritten(unit: UnitId, end: &End, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::new(exit::CANCELLED, "");
    }
    let (before, after) = match end {
        End::Left | End::Unfinished(_) => ("its", ": the unit goes on".to_owned()),
        End::Eof(eof) if eof.outcome != Outcome::Cancelled => {
            ("its", format!("; the unit's end: {}", eof.outcome))
        }
        End::Eof(_) | End::Unanswered => ("cancelled, because its", String::new()),
    };
    let text = format!("unit {unit}: {before} responses can't be written: {error}{after}");
    Failure::new(exit::FAILED, text)
}

fn not_ended(unit: UnitId, executor: Option<NodeId>, unfinished: Unfinished) -> Failure {
    let state = text::one_line(&unfinished.state);
    let how = match (executor, text::one_line(&unfinished.reason)) {
        (Some(node), _) if state != "waiting" => format!("{state} on {node}"),
        (_, reason) if !reason.is_empty() => format!("{state}: {reason}"),
        _ => state,
    };
    Failure::new(
        exit::REFUSED,
        format!("unit {unit} has not ended, it is {how}; `node work attach {unit}` waits for its end"),
    )
}

/// What the command line can do about an end, unless its message says so already.
fn remedy(kind: Kind, chosen: bool, message: &str) -> Option<&'static str> {
    let (remedy, key) = match kind {
        Kind::Busy if chosen => ("or leave out --to", "--to"),
        Kind::Busy => ("try again later", "again"),
        Kind::NoSuchNode | Kind::NoRoute => {
            ("`node status` shows the nodes that can be reached", "node status")
        }
        Kind::UnknownModule | Kind::UnknownFunction | Kind::NoCapableNode => {
            ("`node workers` shows what can be run", "node workers")
        }
        Kind::Expired => ("allow more time with --deadline", "deadline"),
        Kind::MalformedDirective => ("write module:function", "module:function"),
        Kind::NoSuchUnit => ("`node work list` shows the units", "node work list"),
        Kind::NoSpace => (
            "`node work release --all` forgets what has ended",
            "node work release",
        ),
        _ => return None,
    };
    (!message.contains(key)).then_some(remedy)
}

#[cfg(test)]
mod tests {
    use workmesh_proto::UnitId;

    use super::*;

    fn unwritten_at(end: End) -> String {
        let full = io::Error::new(io::ErrorKind::StorageFull, "full");
        unwritten(UnitId(uuid::Uuid::nil()), &end, &full).to_string()
    }

    #[test]
    fn what_cant_be_written_is_not_taken_for_a_cancelled_unit() {
        let eof = |kind| End::Eof(Eof::without_responses(kind, ""));
        let unfinished = End::Unfinished(Unfinished {
            state: "running".to_owned(),
            reason: String::new(),
        });
        for (end, expected) in [
            (
                unfinished,
                "its responses can't be written: full: the unit goes on",
            ),
            (
                End::Left,
                "its responses can't be written: full: the unit goes on",
            ),
            (
                eof(Kind::Ok),
                "its responses can't be written: full; the unit's end: succeeded",
            ),
            (
                eof(Kind::Cancelled),
                "cancelled, because its responses can't be written: full",
            ),
        ] {
            let said = unwritten_at(end);
            assert!(said.ends_with(expected), "{said}");
        }
    }
}
