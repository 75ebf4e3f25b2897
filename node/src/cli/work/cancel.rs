//! `node work cancel`: ends a durable unit.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite};
use workmesh_proto::UnitId;

use super::show;
use crate::cli::connect::connect_node;
use crate::cli::{exit, text};
use crate::control::client::Client;

const EXAMPLES: &str = "\
Examples:
  node work cancel ID
  node work list --state waiting --limit 0 --json | jq -r .unit | xargs -rn1 node work cancel

Prints what has become of the unit; with --json as `node work list --json` does. A unit that has ended stays as it is, and
cancelling it again is no error. An executor that is out of reach stops the unit when it is back.";

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
    if args.json {
        return super::json(&report, out);
    }
    let state = text::one_line(&show::state(&report));
    writeln!(out, "unit {}: {state}", report.unit)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use workmesh_proto::wire::frame::FrameType;
    use workmesh_proto::wire::unit::{Kind, Outcome};

    use super::*;
    use crate::cli::work::tests::report;
    use crate::control::scripted::pair;
    use crate::unit::report::WorkReport;

    async fn cancelled(json: bool, answer: &WorkReport) -> String {
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
        done.unwrap();
        String::from_utf8(out).unwrap()
    }

    fn ended(kind: Kind) -> WorkReport {
        WorkReport {
            state: "ended".into(),
            outcome: Some(kind.outcome()),
            kind: Some(kind),
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
}
