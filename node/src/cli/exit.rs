//! Exit statuses, and how a failure becomes one line on stderr. Every verb ends here; nothing else chooses a status.

use std::fmt;
use std::io;

use workmesh_proto::wire::unit::{Kind, Outcome};

use super::text;
use crate::config::ConfigError;
use crate::control::client::ClientError;
use crate::identity::IdentityError;
use crate::node::NodeError;

/// All went well.
pub(crate) const OK: u8 = 0;
/// The worker failed, or something here did.
pub(crate) const FAILED: u8 = 1;
/// The command line, a file it names or the configuration is wrong; nothing was started.
pub(crate) const USAGE: u8 = 2;
/// No such node, worker or route, or the node was lost.
pub(crate) const UNREACHABLE: u8 = 3;
/// The deadline passed.
pub(crate) const EXPIRED: u8 = 4;
/// Refused: busy, forbidden, draining, duplicate, too large; or what is asked for is not there yet.
pub(crate) const REFUSED: u8 = 5;
/// Cancelled, or left, as by Ctrl-C.
pub(crate) const CANCELLED: u8 = 130;

/// The table for help texts.
pub(crate) const HELP: &str = "\
Exit status:
  0    ok
  1    the worker failed: worker_error, panic, payload_broken, protocol, internal
  2    usage or configuration: malformed_directive, a missing file
  3    not there: no_such_node, no_capable_node, no_route, unknown_module, unknown_function, no_such_unit, node_lost, shutdown
  4    the deadline passed: expired
  5    refused: busy, forbidden, draining, duplicate, payload_too_large, no_space; or not ended yet
  130  cancelled, or left by Ctrl-C";

/// The status of a unit that ended so.
pub(crate) fn of_unit(outcome: Outcome, kind: Kind) -> u8 {
    match kind {
        Kind::Ok => OK,
        Kind::WorkerError | Kind::Panic | Kind::PayloadBroken | Kind::Protocol | Kind::Internal => FAILED,
        Kind::MalformedDirective => USAGE,
        Kind::NoSuchNode
        | Kind::NoCapableNode
        | Kind::NoRoute
        | Kind::UnknownModule
        | Kind::UnknownFunction
        | Kind::NoSuchUnit
        | Kind::Shutdown
        | Kind::NodeLost => UNREACHABLE,
        Kind::Expired => EXPIRED,
        Kind::Busy
        | Kind::Forbidden
        | Kind::Draining
        | Kind::Duplicate
        | Kind::PayloadTooLarge
        | Kind::NoSpace => REFUSED,
        Kind::Cancelled => CANCELLED,
        Kind::Unknown => match outcome {
            Outcome::Succeeded => OK,
            Outcome::Failed => FAILED,
            Outcome::Cancelled => CANCELLED,
            Outcome::Expired => EXPIRED,
            Outcome::Lost => UNREACHABLE,
        },
    }
}

/// A failure with its own exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    /// A failure that ends the process with `status` and one line on stderr; without a line if `text` is empty.
    pub(crate) fn new(status: u8, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    /// A mistake on the command line or in what it names.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::new(USAGE, text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// The status for an error of a verb.
pub(crate) fn of_error(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return failure.status;
        }
        if let Some(client) = cause.downcast_ref::<ClientError>() {
            return of_client(client);
        }
        if closed_pipe(cause) {
            return OK;
        }
        if is_setup(cause) {
            return USAGE;
        }
        if is_alone(cause) {
            return UNREACHABLE;
        }
    }
    FAILED
}

fn of_client(error: &ClientError) -> u8 {
    match error {
        ClientError::Fault(fault) => of_unit(fault.kind.outcome(), fault.kind),
        ClientError::TooLong => USAGE,
        _ => UNREACHABLE,
    }
}

/// Whether a command that joins as a leaf has found nobody.
fn is_alone(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(NodeError::NoNeighbour(_)))
}

/// Whether the identity or the configuration is at fault.
fn is_setup(cause: &(dyn std::error::Error + 'static)) -> bool {
    let identity = match cause.downcast_ref() {
        Some(NodeError::Identity(error)) => Some(error),
        _ => cause.downcast_ref(),
    };
    // A full disk is not: a service manager starts the node again, and there may be room then.
    let full = |error: &IdentityError| matches!(error, IdentityError::Write { error, .. } if error.kind() == io::ErrorKind::StorageFull);
    identity.is_some_and(|error| !full(error)) || cause.is::<ConfigError>()
}

fn closed_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Whether what is printed has no room where it goes: all other files are named by what writes them.
fn is_full_stdout(error: &anyhow::Error) -> bool {
    let first = error
        .chain()
        .next()
        .and_then(|cause| cause.downcast_ref::<io::Error>());
    first.is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
}

/// What went wrong and why, each once: many an error's text ends with that of its cause.
pub(crate) fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if text != cause && !text.ends_with(&format!(": {cause}")) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// The line for an error of a verb; `None` if there is nothing to say, as when the reader of a pipe has gone.
pub(crate) fn line(error: &anyhow::Error) -> Option<String> {
    let text = match is_full_stdout(error) {
        true => format!("stdout can't be written: {error}"),
        false => causes(error),
    };
    let quiet = text.is_empty() || of_error(error) == OK;
    (!quiet).then(|| format!("node: {}", text::one_line(&text)))
}

#[cfg(test)]
mod tests {
    use workmesh_proto::wire::query::Fault;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let broken = io::Error::other("it is gone");
        let error = anyhow::Error::from(ClientError::Io(broken)).context("asking");
        let said = line(&error);
        assert_eq!(
            said.as_deref(),
            Some("node: asking: the connection to the node broke: it is gone")
        );
    }

    #[test]
    fn a_full_stdout_is_not_taken_for_the_disk_of_the_node() {
        let full = || anyhow::Error::from(io::Error::from(io::ErrorKind::StorageFull));
        let said = line(&full()).unwrap_or_default();
        assert!(said.starts_with("node: stdout can't be written: "), "{said}");
        let named = line(&full().context("writing node.key")).unwrap_or_default();
        assert!(named.starts_with("node: writing node.key: "), "{named}");
    }

    #[test]
    fn a_full_disk_is_no_mistake_in_the_setup() {
        let of = |kind: io::ErrorKind| {
            let (path, error) = ("incarnation".into(), kind.into());
            of_error(&NodeError::Identity(IdentityError::Write { path, error }).into())
        };
        assert_eq!(of(io::ErrorKind::StorageFull), FAILED);
        assert_eq!(of(io::ErrorKind::PermissionDenied), USAGE);
    }

    #[test]
    fn every_kind_has_the_status_of_the_help_text() {
        let table = [
            (Kind::Ok, 0),
            (Kind::WorkerError, 1),
            (Kind::Panic, 1),
            (Kind::MalformedDirective, 2),
            (Kind::UnknownModule, 3),
            (Kind::UnknownFunction, 3),
            (Kind::NoSuchNode, 3),
            (Kind::NoCapableNode, 3),
            (Kind::NoRoute, 3),
            (Kind::Busy, 5),
            (Kind::Forbidden, 5),
            (Kind::Draining, 5),
            (Kind::Duplicate, 5),
            (Kind::PayloadTooLarge, 5),
            (Kind::PayloadBroken, 1),
            (Kind::Cancelled, 130),
            (Kind::Expired, 4),
            (Kind::NodeLost, 3),
            (Kind::Protocol, 1),
            (Kind::Internal, 1),
            (Kind::NoSuchUnit, 3),
            (Kind::Shutdown, 3),
            (Kind::NoSpace, 5),
        ];
        for (kind, status) in table {
            assert_eq!(of_unit(kind.outcome(), kind), status, "{kind}");
            let line = HELP
                .lines()
                .find(|line| line.trim_start().starts_with(&format!("{status} ")))
                .unwrap();
            let named = [Kind::Ok, Kind::Cancelled].contains(&kind) || line.contains(kind.as_str());
            assert!(named, "{kind} is missing in {line:?}");
        }
    }

    #[test]
    fn a_kind_of_a_newer_node_has_the_status_of_its_outcome() {
        let status = |outcome| of_unit(outcome, Kind::Unknown);
        assert_eq!(status(Outcome::Succeeded), 0);
        assert_eq!(status(Outcome::Failed), 1);
        assert_eq!(status(Outcome::Lost), 3);
        assert_eq!(status(Outcome::Expired), 4);
        assert_eq!(status(Outcome::Cancelled), 130);
    }

    #[test]
    fn a_fault_has_the_status_of_its_kind_and_other_conversations_are_unreachable() {
        let fault = |kind| {
            anyhow::Error::from(ClientError::Fault(Fault {
                kind,
                message: "x".into(),
            }))
        };
        assert_eq!(of_error(&fault(Kind::NoSuchNode)), 3);
        assert_eq!(of_error(&fault(Kind::Expired)), 4);
        assert_eq!(of_error(&ClientError::Broken("it broke").into()), 3);
        assert_eq!(of_error(&Failure::usage("x").into()), 2);
        assert_eq!(of_error(&anyhow::anyhow!("x")), 1);
    }

    #[test]
    fn a_missing_identity_and_a_bad_configuration_are_mistakes_of_usage() {
        let missing = || IdentityError::NoDataDir;
        assert_eq!(of_error(&missing().into()), 2);
        assert_eq!(of_error(&NodeError::Identity(missing()).into()), 2);
        let variable = ConfigError::Variable {
            variable: "NODE_COST",
            problem: "x".into(),
        };
        assert_eq!(of_error(&variable.into()), 2);
    }

    #[test]
    fn an_error_is_one_clean_line() {
        let error = anyhow::Error::from(Failure::new(1, "a\nb\u{1b}[2J"));
        assert_eq!(line(&error).unwrap(), "node: a b\\x1b[2J");
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(line(&gone.into()), None);
    }
}
