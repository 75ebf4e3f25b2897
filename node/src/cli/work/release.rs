//! `node work release`: forgets durable units.

use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite};
use workmesh_proto::UnitId;
use workmesh_proto::wire::query::MAX_RELEASED;

use crate::cli::connect::connect_node;
use crate::cli::exit::{self, Failure};
use crate::cli::{text, value};
use crate::control::client::Client;
use crate::unit::report::ReleaseReport;

const EXAMPLES: &str = "\
Examples:
  node work release ID
  node work release --all --older-than 24h
  node work list --state succeeded --limit 0 --json | jq -r .unit | xargs -r node work release

A unit that is named and has not ended is cancelled first; --all leaves what has not ended. Released units and their responses
are gone, here and at their executors; at one that is out of reach once it is back. With --json: released, running (left because
they have not ended), kept (have ended, and the disk does not let them go), unknown[...]. If the node does not know a unit that
is named, the exit status is 3; if the disk keeps one, it is 1; the others are released all the same.";

/// Forget durable units and their responses
#[derive(Args, Clone, Debug)]
#[command(
    override_usage = "node work release [OPTIONS] <ID>...\n       node work release [OPTIONS] --all [--older-than <DURATION>]",
    after_help = format!("{EXAMPLES}\n\n{}", exit::HELP)
)]
pub(super) struct ReleaseArgs {
    /// Which units
    #[arg(value_name = "ID", required_unless_present = "all", value_parser = super::unit)]
    units: Vec<UnitId>,
    /// All units that have ended
    #[arg(long, conflicts_with = "units")]
    all: bool,
    /// Of all, only those that ended so long ago, as in 1h or 30m
    #[arg(long, value_name = "DURATION", requires = "all", conflicts_with = "units", value_parser = value::duration)]
    older_than: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(super) async fn run(
    args: ReleaseArgs,
    data_dir: &Path,
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    release(&args, || connect_node(data_dir), out).await?;
    Ok(ExitCode::SUCCESS)
}

async fn release<S, F>(
    args: &ReleaseArgs,
    connect: impl Fn() -> F,
    out: &mut impl Write,
) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = anyhow::Result<Client<S>>>,
{
    let mut report = ReleaseReport::default();
    if args.all {
        let older_than_ms = args
            .older_than
            .map(|d| d.as_millis().try_into().unwrap_or(u64::MAX));
        report = connect().await?.work_release_all(older_than_ms).await?;
    }
    for units in args.units.chunks(MAX_RELEASED) {
        let part = connect().await?.work_release(units.to_vec()).await?;
        report.released += part.released;
        report.running += part.running;
        report.kept += part.kept;
        report.unknown.extend(part.unknown);
    }
    if args.json {
        super::json(&report, out)?;
    } else {
        writeln!(out, "{}", summary(&report))?;
    }
    match &report.unknown[..] {
        [] if report.kept > 0 => Err(kept(report.kept)),
        [] => Ok(()),
        [unit] => Err(unknown(format!("no durable unit {unit}"))),
        [unit, rest @ ..] => Err(unknown(format!(
            "no durable unit {unit}, nor {} more of those named",
            rest.len()
        ))),
    }
}

fn unknown(what: String) -> anyhow::Error {
    let text = format!("no_such_unit: {what}; `node work list` shows the units");
    Failure::new(exit::UNREACHABLE, text).into()
}

fn kept(count: u64) -> anyhow::Error {
    let units = text::count(count, "unit");
    let text = format!(
        "internal: the disk does not let go of {units}; the node's log says why: release again when it is mended"
    );
    Failure::new(exit::FAILED, text).into()
}

fn summary(report: &ReleaseReport) -> String {
    let released = text::count(report.released, "unit");
    match report.running {
        0 => format!("released {released}"),
        running => format!(
            "released {released}, left {} that did not end yet",
            text::count(running, "unit")
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use workmesh_proto::wire::codec;
    use workmesh_proto::wire::frame::FrameType;
    use workmesh_proto::wire::query::Query;

    use super::*;
    use crate::cli::work::tests::{mistake, report};
    use crate::control::scripted::pair;

    fn args(units: Vec<UnitId>) -> ReleaseArgs {
        ReleaseArgs {
            all: units.is_empty(),
            units,
            older_than: None,
            json: false,
        }
    }

    /// What is asked and printed, with these answers of the node.
    async fn released(
        args: &ReleaseArgs,
        answers: Vec<ReleaseReport>,
    ) -> (Vec<Query>, String, anyhow::Result<()>) {
        let (mut clients, mut nodes): (Vec<_>, Vec<_>) = answers.iter().map(|_| pair(1 << 20)).unzip();
        clients.reverse();
        let clients = Mutex::new(clients);
        let connect = || {
            let client = clients.lock().unwrap().pop().unwrap();
            async { anyhow::Ok(client) }
        };
        let mut out = Vec::new();
        let (done, asked) = tokio::join!(release(args, connect, &mut out), async {
            let mut asked = Vec::new();
            for (node, answer) in nodes.iter_mut().zip(&answers) {
                asked.push(codec::decode(&node.next().await.unwrap().body).unwrap());
                node.say_cbor(FrameType::Reply, answer).await;
            }
            asked
        });
        (asked, String::from_utf8(out).unwrap(), done)
    }

    fn answer(released: u64, running: u64, unknown: Vec<UnitId>) -> ReleaseReport {
        ReleaseReport {
            released,
            running,
            kept: 0,
            unknown,
        }
    }

    #[tokio::test]
    async fn all_says_how_many_are_left() {
        let args = ReleaseArgs {
            older_than: Some(Duration::from_secs(60)),
            ..args(vec![])
        };
        let (asked, out, done) = released(&args, vec![answer(3, 1, vec![])]).await;
        let expected = Query::WorkRelease {
            units: vec![],
            all: true,
            older_than_ms: Some(60_000),
        };
        assert_eq!(asked, [expected]);
        assert_eq!(out, "released 3 units, left 1 unit that did not end yet\n");
        done.unwrap();
    }

    #[tokio::test]
    async fn what_the_disk_keeps_has_status_1() {
        let report = ReleaseReport {
            kept: 2,
            ..answer(3, 0, vec![])
        };
        let (_, out, done) = released(&args(vec![]), vec![report]).await;
        assert_eq!(out, "released 3 units\n");
        let error = done.unwrap_err();
        assert_eq!(exit::of_error(&error), exit::FAILED);
        assert!(exit::line(&error).unwrap().contains("does not let go of 2 units"));
    }

    #[tokio::test]
    async fn units_above_the_limit_of_a_question_take_another() {
        let units = vec![report(1).unit; MAX_RELEASED + 1];
        let answers = vec![answer(1000, 0, vec![]), answer(1, 0, vec![])];
        let (asked, out, _) = released(&args(units), answers).await;
        let sizes: Vec<_> = asked
            .iter()
            .map(|query| match query {
                Query::WorkRelease { units, .. } => units.len(),
                _ => 0,
            })
            .collect();
        assert_eq!(sizes, [MAX_RELEASED, 1]);
        assert!(asked.iter().all(|query| query.check().is_ok()));
        assert_eq!(out, "released 1001 units\n");
    }

    #[tokio::test]
    async fn an_unknown_unit_has_status_3_after_the_others_were_released() {
        let [known, unknown] = [1, 2].map(|number| report(number).unit);
        let args = ReleaseArgs {
            json: true,
            ..args(vec![known, unknown])
        };
        let (_, out, done) = released(&args, vec![answer(1, 0, vec![unknown])]).await;
        let json: ReleaseReport = serde_json::from_str(&out).unwrap();
        assert_eq!(json, answer(1, 0, vec![unknown]));
        let error = done.unwrap_err();
        assert_eq!(exit::of_error(&error), exit::UNREACHABLE);
        assert_eq!(
            exit::line(&error).unwrap(),
            format!("node: no_such_unit: no durable unit {unknown}; `node work list` shows the units")
        );
    }

    #[test]
    fn units_are_named_or_all() {
        let unit = report(1).unit;
        assert_eq!(mistake("release --all --older-than 1h"), None);
        for wrong in [
            "release".to_owned(),
            format!("release --all {unit}"),
            format!("release --older-than 1h {unit}"),
        ] {
            assert!(mistake(&wrong).is_some(), "{wrong}");
        }
    }
}
