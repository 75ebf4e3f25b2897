//! `node work`: durable units, at the node that keeps them.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use uuid::Uuid;
use workmesh_proto::UnitId;
use workmesh_proto::wire::query::Fault;
use workmesh_proto::wire::unit::Kind;

use super::exit::{self, Failure};
use crate::control::client::ClientError;

mod list;
mod show;
mod attach;
mod cancel;
mod release;

const EXAMPLES: &str = "\
Examples:
  node submit --detach --to nodeB --directive sleep:execute '{\"duration\": 60}'    prints the unit's id
  node work list
  node work attach ID               its responses, and its end as the exit status
  node work release ID              forgets it

A durable unit is kept by the node that it was submitted to, and asked for there. An id is that which `node submit`
printed or was given.";

/// List, show, follow, cancel and forget durable units
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WorkArgs {
    #[command(subcommand)]
    verb: WorkVerb,
}

#[derive(Subcommand, Clone, Debug)]
enum WorkVerb {
    List(list::ListArgs),
    Show(show::ShowArgs),
    Attach(attach::AttachArgs),
    Results(attach::ResultsArgs),
    Cancel(cancel::CancelArgs),
    Release(release::ReleaseArgs),
}

/// Runs the verb.
pub(crate) async fn run(args: WorkArgs, data_dir: &Path) -> anyhow::Result<ExitCode> {
    let mut out = anstream::stdout();
    match args.verb {
        WorkVerb::List(args) => list::run(args, data_dir, &mut out).await,
        WorkVerb::Show(args) => show::run(args, data_dir, &mut out).await,
        WorkVerb::Attach(args) => attach::attach(args, data_dir).await,
        WorkVerb::Results(args) => attach::results(args, data_dir).await,
        WorkVerb::Cancel(args) => cancel::run(args, data_dir, &mut out).await,
        WorkVerb::Release(args) => release::run(args, data_dir, &mut out).await,
    }
}

/// A unit's id on the command line.
fn unit(text: &str) -> Result<UnitId, String> {
    Uuid::parse_str(text)
        .map(UnitId)
        .map_err(|_| format!("{text:?} is no unit id; `node work list` shows the ids"))
}

/// Writes a report as a line of JSON.
fn json(report: &impl serde::Serialize, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{}", serde_json::to_string(report)?)?;
    Ok(())
}

/// What was asked of a unit; of one that is not known, an error that says where to look.
fn found<T>(answer: Result<T, ClientError>) -> anyhow::Result<T> {
    answer.map_err(|error| match error {
        ClientError::Fault(Fault { kind, message })
            if kind == Kind::NoSuchUnit && !message.contains("node work list") =>
        {
            let text = format!("{kind}: {message}; `node work list` shows the units");
            Failure::new(exit::UNREACHABLE, text).into()
        }
        error => error.into(),
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::unit::report::WorkReport;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: WorkArgs,
    }

    /// A unit that runs, as the node reports it.
    pub(super) fn report(number: u128) -> WorkReport {
        serde_json::from_value(serde_json::json!({
            "unit": Uuid::from_u128(number), "directive": "echo:bytes", "state": "running", "executor": "nodeB",
            "attempt": 1, "submitted": "2026-01-01T00:00:00Z", "payload_bytes": 2048, "responses": 1, "bytes": 10,
            "idempotent": false, "cancel_requested": false, "executor_released": false,
        }))
        .unwrap()
    }

    /// Parses the words after `node work`; gives the error if there is one.
    pub(super) fn mistake(line: &str) -> Option<String> {
        let words = std::iter::once("work").chain(line.split(' '));
        Line::try_parse_from(words).err().map(|e| e.to_string())
    }

    #[test]
    fn every_verb_shows_examples() {
        for verb in Line::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains("Examples:\n  "),
                "{} has no examples",
                verb.get_name()
            );
        }
    }

    #[test]
    fn an_id_that_is_none_says_where_to_find_one() {
        for verb in ["show", "attach", "results", "cancel", "release"] {
            let error = mistake(&format!("{verb} nonsense")).unwrap();
            assert!(error.contains("node work list"), "{error}");
            let id = Uuid::from_u128(1);
            assert_eq!(mistake(&format!("{verb} {id}")), None);
            assert_eq!(mistake(&format!("{verb} {}", id.simple())), None);
        }
    }
}
