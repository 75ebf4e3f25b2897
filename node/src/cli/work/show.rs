//! `node work show`: all that is known of one durable unit.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use workmesh_proto::UnitId;

use super::list;
use crate::cli::connect::connect_node;
use crate::cli::{exit, text};
use crate::control::client::Client;
use crate::unit::report::WorkReport;

const EXAMPLES: &str = "\
Examples:
  node work show ID
  node work show ID --json | jq -r '.history[] | \"\\(.at) \\(.what)\"'

With --json: what `node work list --json` has, and history[{at, what}].";

/// Show a durable unit, with all that happened to it
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(super) struct ShowArgs {
    /// Which unit
    #[arg(value_name = "ID", value_parser = super::unit)]
    unit: UnitId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(super) async fn run(args: ShowArgs, data_dir: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let client = connect_node(data_dir).await?;
    show(&args, client, Timestamp::now(), out).await?;
    Ok(ExitCode::SUCCESS)
}

async fn show<S: AsyncRead + AsyncWrite + Unpin>(
    args: &ShowArgs,
    client: Client<S>,
    now: Timestamp,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let report = super::found(client.work_show(args.unit).await)?;
    if args.json {
        super::json(&report, out)
    } else {
        out.write_all(page(&report, now).as_bytes())?;
        Ok(())
    }
}

fn page(report: &WorkReport, now: Timestamp) -> String {
    let mut facts = vec![
        ("unit", report.unit.to_string()),
        ("directive", report.directive.clone()),
        ("state", state(report)),
    ];
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    fact(
        "message",
        report.message.clone().filter(|message| !message.is_empty()),
    );
    fact("asked for", report.to.as_ref().map(ToString::to_string));
    fact("executor", report.executor.as_ref().map(ToString::to_string));
    fact(
        "attempt",
        (report.attempt > 1).then(|| report.attempt.to_string()),
    );
    let ago = |at: Timestamp| format!("{at:.3}, {} ago", list::age(at, now));
    fact("submitted", Some(ago(report.submitted)));
    fact("ended", report.ended.map(ago));
    fact("deadline", report.deadline.map(|at| format!("{at:.3}")));
    fact("payload", Some(text::bytes(report.payload_bytes)));
    let responses = text::count(report.responses, "response");
    fact(
        "responses",
        Some(format!("{responses}, {}", text::bytes(report.bytes))),
    );
    let notes = [
        (report.idempotent, "idempotent"),
        (report.cancel_requested, "cancel requested"),
        (
            report.executor.is_some() && report.executor_released,
            "forgotten by its executor",
        ),
    ];
    let notes: Vec<_> = notes
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, note)| *note)
        .collect();
    fact("notes", (!notes.is_empty()).then(|| notes.join(", ")));
    let mut page = String::new();
    for (name, fact) in facts {
        writeln!(page, "{name:<12} {}", text::one_line(&fact)).expect("writing to a string cannot fail");
    }
    if !report.history.is_empty() {
        page.push('\n');
        let rows = report
            .history
            .iter()
            .map(|event| [format!("{:.3}", event.at), event.what.clone()]);
        page.push_str(&text::table(["AT", "WHAT"], rows));
    }
    page
}

/// The state, with its reason or its kind.
pub(super) fn state(report: &WorkReport) -> String {
    let state = list::state(report);
    match report.kind {
        Some(kind) if kind.as_str() != "ok" && kind.as_str() != state => format!("{state}, {kind}"),
        None if !report.reason.is_empty() => format!("{state}: {}", report.reason),
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use workmesh_proto::wire::frame::FrameType;
    use workmesh_proto::wire::query::Fault;
    use workmesh_proto::wire::unit::{Kind, Outcome};

    use super::*;
    use crate::cli::work::tests::report;
    use crate::control::scripted::pair;
    use crate::unit::report::WorkEvent;

    async fn shown(json: bool, answer: WorkReport) -> String {
        let (client, mut node) = pair(4096);
        let args = ShowArgs {
            unit: answer.unit,
            json,
        };
        let mut out = Vec::new();
        node.say_cbor(FrameType::Reply, &answer).await;
        let now = "2026-01-01T00:02:00Z".parse().unwrap();
        show(&args, client, now, &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    }

    fn lost() -> WorkReport {
        WorkReport {
            state: "ended".into(),
            outcome: Some(Outcome::Lost),
            kind: Some(Kind::NodeLost),
            message: Some("the executor restarted while it ran".into()),
            attempt: 2,
            ended: Some("2026-01-01T00:01:00Z".parse().unwrap()),
            idempotent: true,
            executor_released: true,
            history: vec![WorkEvent {
                at: "2026-01-01T00:00:00Z".parse().unwrap(),
                what: "stored\u{1b}".into(),
            }],
            ..report(1)
        }
    }

    #[tokio::test]
    async fn a_page_shows_facts_and_history() {
        assert_eq!(
            shown(false, lost()).await,
            "\
unit         00000000-0000-0000-0000-000000000001
directive    echo:bytes
state        lost, node_lost
message      the executor restarted while it ran
executor     nodeB
attempt      2
submitted    2026-01-01T00:00:00.000Z, 2m 00s ago
ended        2026-01-01T00:01:00.000Z, 1m 00s ago
payload      2.0 KiB
responses    1 response, 10 B
notes        idempotent, forgotten by its executor

AT                        WHAT
2026-01-01T00:00:00.000Z  stored\\x1b
"
        );
    }

    #[tokio::test]
    async fn json_is_the_report() {
        let line = shown(true, lost()).await;
        assert_eq!(serde_json::from_str::<WorkReport>(&line).unwrap(), lost());
    }

    #[tokio::test]
    async fn an_unknown_unit_has_status_3_and_a_way_on() {
        let (client, mut node) = pair(4096);
        let fault = Fault {
            kind: Kind::NoSuchUnit,
            message: "no durable unit".into(),
        };
        node.say_cbor(FrameType::Fault, &fault).await;
        let args = ShowArgs {
            unit: report(1).unit,
            json: false,
        };
        let error = show(&args, client, Timestamp::UNIX_EPOCH, &mut Vec::new())
            .await
            .unwrap_err();
        assert_eq!(exit::of_error(&error), exit::UNREACHABLE);
        assert_eq!(
            exit::line(&error).unwrap(),
            "node: no_such_unit: no durable unit; `node work list` shows the units"
        );
    }
}
