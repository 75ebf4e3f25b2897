//! `node ping`: how a node is, and what it works on.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use workmesh_proto::NodeId;

use super::connect::{Access, ConnectArgs};
use super::exit::{self, Failure};
use super::{text, value};
use crate::unit::report::PingReport;

const EXAMPLES: &str = "\
Examples:
  node ping                         the node that runs here
  node ping nodeB                   any node of the mesh
  node ping nodeB --count 10 --interval 200ms
  node ping nodeB --json | jq .rtt_ms

With --json each answer is one object a line: node, rtt_ms, version, uptime_s, initial_time, response_time,
active_work[{id, directive, sender, state, age_s}], draining, pool{slots, running, queued, queue_limit, abandoned}.";

/// Ask a node how it is: round-trip time, version, uptime, pool, running and queued units
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct PingArgs {
    /// Whom to ask; without, the node that runs here
    node: Option<NodeId>,
    /// How often to ask
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How long to wait between two questions
    #[arg(long, short, default_value = "1s", value_parser = value::duration)]
    interval: Duration,
    /// How long to wait for each answer
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = value::duration)]
    deadline: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Runs the verb.
pub(crate) async fn run(args: PingArgs) -> anyhow::Result<ExitCode> {
    let access = Access::open(&args.connect).await?;
    let pinged = ping_all(&args, &access).await;
    access.close().await;
    pinged.map(|()| ExitCode::SUCCESS)
}

async fn ping_all(args: &PingArgs, access: &Access) -> anyhow::Result<()> {
    let mut out = anstream::stdout();
    let mut times = Vec::new();
    for question in 0..args.count {
        if question > 0 {
            tokio::time::sleep(args.interval).await;
        }
        let report = ping(args, access).await?;
        times.push(report.rtt_ms);
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        } else {
            out.write_all(answer(&report).as_bytes())?;
        }
    }
    if args.count > 1 && !args.json {
        out.write_all(summary(&times).as_bytes())?;
    }
    Ok(())
}

async fn ping(args: &PingArgs, access: &Access) -> anyhow::Result<PingReport> {
    let asked = async { Ok(access.connect().await?.ping(args.node.clone()).await?) };
    match tokio::time::timeout(args.deadline, asked).await {
        Ok(report) => report,
        Err(_) => {
            let whom = args.node.as_ref().map_or("the node", NodeId::as_str);
            let waited = text::duration(args.deadline);
            let text = format!("no answer from {whom} within {waited}; allow more time with --deadline");
            Err(Failure::new(exit::EXPIRED, text).into())
        }
    }
}

/// One line for the node, and a table of its units if it has any.
fn answer(report: &PingReport) -> String {
    let mut answer = format!(
        "{}: {}, version {}, up {}, {}{}\n",
        report.node,
        text::milliseconds(report.rtt_ms),
        text::one_line(&report.version),
        text::seconds(report.uptime_s),
        text::pool(&report.pool),
        if report.draining {
            ", draining: it takes no new units"
        } else {
            ""
        },
    );
    if !report.active_work.is_empty() {
        let rows = report.active_work.iter().map(|work| {
            [
                work.id.to_string(),
                work.directive.clone(),
                work.sender.to_string(),
                work.state.clone(),
                text::seconds(work.age_s),
            ]
        });
        answer.push_str(&text::table(
            ["UNIT", "DIRECTIVE", "SENDER", "STATE", "AGE"],
            rows,
        ));
    }
    if report.omitted_work > 0 {
        answer.push_str(&format!("and {} more\n", report.omitted_work));
    }
    answer
}

fn summary(times: &[f64]) -> String {
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let most = times.iter().copied().fold(0.0, f64::max);
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    format!(
        "{}: least {}, mean {}, most {}\n",
        text::count(times.len() as u64, "answer"),
        text::milliseconds(least),
        text::milliseconds(mean),
        text::milliseconds(most),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> PingReport {
        serde_json::from_str(
            r#"{"node":"nodeB","rtt_ms":1.234,"version":"0.1.0","uptime_s":250,
                "initial_time":"2026-01-01T00:00:00Z","response_time":"2026-01-01T00:00:00.001Z",
                "active_work":[{"id":"0199c3a4-7b6c-7d11-9c7e-0242ac120002","directive":"sleep:execute",
                "sender":"a","state":"running","age_s":1.5}],
                "pool":{"slots":8,"running":1,"queued":0,"queue_limit":64}}"#,
        )
        .unwrap()
    }

    #[test]
    fn an_answer_names_the_node_its_pool_and_its_units() {
        assert_eq!(
            answer(&report()),
            "nodeB: 1.23 ms, version 0.1.0, up 4m 10s, 1 of 8 slots running, 0 of 64 queued\n\
             UNIT                                  DIRECTIVE      SENDER  STATE    AGE\n\
             0199c3a4-7b6c-7d11-9c7e-0242ac120002  sleep:execute  a       running  1.5 s\n"
        );
    }

    #[test]
    fn an_answer_says_so_of_a_node_that_drains() {
        let mut report = report();
        report.draining = true;
        let first = answer(&report).lines().next().unwrap().to_owned();
        assert!(
            first.ends_with("0 of 64 queued, draining: it takes no new units"),
            "{first}"
        );
    }

    #[test]
    fn a_summary_has_least_mean_and_most() {
        assert_eq!(
            summary(&[1.0, 3.0]),
            "2 answers: least 1.00 ms, mean 2.00 ms, most 3.00 ms\n"
        );
    }
}
