//! `node work cancel`: ends a durable unit.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite};
use workmesh_proto::UnitId;
use workmesh_proto::wire::unit::Kind;

use super::show;
use crate::cli::connect::connect_node;
use crate::cli::exit::Failure;
use crate::cli::{exit, text};
use crate::control::client::Client;
use crate::unit::report::WorkReport;

const EXAMPLES: &str = "\
Examples:
  node work cancel ID
  node work list --state waiting --limit 0 --json | jq -r .unit | xargs -rn1 node work cancel

Prints what has become of the unit; with --json as `node work list --json` does. A unit that has ended stays as it is, and
cancelling it again is no error. An executor that is out of reach stops the unit when it is back; until then the answer says so
(executor_released is false). If the cancellation can't be stored for now, the exit status is 1: it is tried again by itself.";

/// Cancel a durable unit
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(super) struct CancelArgs {
    /// Which unit
    #[arg(value_name = "ID", value_parser = super::unit)]
    unit: UnitId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(super) async fn run(args: CancelArgs, data_dir: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let client = connect_node(data_dir).await?;
    cancel(&args, client, out).await?;
    Ok(ExitCode::SUCCESS)
}

async fn cancel<S: AsyncRead + AsyncWrite + Unpin>(
    args: &CancelArgs,
    client: Client<S>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let report = super::found(client.work_cancel(args.unit).await)?;
    let (unit, state) = (report.unit, text::one_line(&show::state(&report)));
    if args.json {
        super::json(&report, out)?;
    } else {
        writeln!(out, "unit {unit}: {state}{}", untold(&report))?;
    }
    if report.outcome.is_none() {
        let text = format!(
            "internal: unit {unit} is not cancelled yet, the node can't store that: it tries again until it can"
        );
        return Err(Failure::new(exit::FAILED, text).into());
    }
    Ok(())
}

/// What is to be known of an executor that has not heard of the end.
fn untold(report: &WorkReport) -> String {
    match &report.executor {
        Some(node) if report.kind == Some(Kind::Cancelled) && !report.executor_released => {
            format!("; {node} does not know yet: it may run the unit until it can be reached")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use workmesh_proto::NodeId;
    use workmesh_proto::wire::frame::FrameType;
    use workmesh_proto::wire::unit::Outcome;

    use super::*;
    use crate::cli::work::tests::report;
    use crate::control::scripted::pair;

    async fn cancelled(json: bool, answer: &WorkReport) -> String {
        let (done, printed) = asked(json, answer).await;
        done.unwrap();
        printed
    }

    async fn asked(json: bool, answer: &WorkReport) -> (anyhow::Result<()>, String) {
        let (client, mut node) = pair(4096);
        let args = CancelArgs {
            unit: answer.unit,
            json,
        };
        let mut out = Vec::new();
        let (done, ()) = tokio::join!(cancel(&args, client, &mut out), async {
            let first = node.next().await.unwrap();
            assert_eq!(first.frame_type(), Some(FrameType::Cancel));
            node.say_cbor(FrameType::Reply, answer).await;
        });
        (done, String::from_utf8(out).unwrap())
    }

    fn ended(kind: Kind) -> WorkReport {
        WorkReport {
            state: "ended".into(),
            outcome: Some(kind.outcome()),
            kind: Some(kind),
            executor_released: true,
            ..report(1)
        }
    }

    #[tokio::test]
    async fn it_prints_what_has_become_of_the_unit() {
        let unit = report(1).unit;
        assert_eq!(
            cancelled(false, &ended(Kind::Cancelled)).await,
            format!("unit {unit}: cancelled\n")
        );
        assert_eq!(
            cancelled(false, &ended(Kind::Ok)).await,
            format!("unit {unit}: succeeded\n")
        );
        assert_eq!(
            cancelled(false, &ended(Kind::Panic)).await,
            format!("unit {unit}: failed, panic\n")
        );
        let json = cancelled(true, &ended(Kind::Cancelled)).await;
        let report: WorkReport = serde_json::from_str(&json).unwrap();
        assert_eq!(report.outcome, Some(Outcome::Cancelled));
    }

    #[tokio::test]
    async fn it_says_whether_the_executor_knows() {
        let executor = NodeId::parse("far").ok();
        let report = WorkReport {
            executor,
            executor_released: false,
            ..ended(Kind::Cancelled)
        };
        let unit = report.unit;
        assert_eq!(
            cancelled(false, &report).await,
            format!(
                "unit {unit}: cancelled; far does not know yet: it may run the unit until it can be reached\n"
            )
        );
    }

    #[tokio::test]
    async fn a_cancellation_that_is_not_stored_is_a_failure() {
        let waiting = WorkReport {
            state: "waiting".into(),
            reason: "the disk is full".into(),
            ..report(1)
        };
        for json in [false, true] {
            let (done, printed) = asked(json, &waiting).await;
            assert!(printed.contains("the disk is full"), "{printed}");
            assert_eq!(exit::of_error(&done.unwrap_err()), exit::FAILED);
        }
    }
}
