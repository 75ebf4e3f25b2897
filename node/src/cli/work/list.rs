//! `node work list`: the durable units of a node, newest first.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use tokio::io::{AsyncRead, AsyncWrite};
use workmesh_proto::wire::query::{MAX_FILTER_BYTES, WorkFilter};
use workmesh_proto::{NodeId, UnitId};

use crate::cli::connect::connect_node;
use crate::cli::{exit, text, value};
use crate::control::client::Client;
use crate::unit::report::WorkReport;

const EXAMPLES: &str = "\
Examples:
  node work list
  node work list --state running --node nodeB
  node work list --directive 'zstd:*' --since 1h
  node work list --limit 0 --json | jq -r 'select(.outcome == \"lost\").unit'

With --json each unit is one object a line: unit, directive, state, reason, outcome, kind, message, executor, to, attempt,
submitted, ended, deadline, payload_bytes, responses, bytes, idempotent, cancel_requested, executor_released. Without a unit that
fits nothing is printed on stdout, and the exit status is 0.";

/// List durable units, newest first
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(super) struct ListArgs {
    /// Only units in this state, or that ended so
    #[arg(long, short, value_enum)]
    state: Option<State>,
    /// Only this module:function, or module:* for a whole module
    #[arg(long, short, value_name = "DIRECTIVE", value_parser = directive)]
    directive: Option<String>,
    /// Only units that this node runs or ran, or that wait for it
    #[arg(long, short)]
    node: Option<NodeId>,
    /// Only units submitted within this time, as in 30m or 12h
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    since: Option<Duration>,
    /// At most so many units; 0 for all
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    limit: u32,
    /// Only units older than this one: the next page
    #[arg(long, value_name = "ID", value_parser = super::unit)]
    after: Option<UnitId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a list can be narrowed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum State {
    /// Not accepted by an executor yet
    Waiting,
    /// In an executor's queue
    Accepted,
    /// Its function runs
    Running,
    /// Ended in any way
    Ended,
    /// Ended without an error
    Succeeded,
    /// Ended with an error
    Failed,
    /// Cancelled
    Cancelled,
    /// Its deadline passed
    Expired,
    /// Its executor was lost
    Lost,
}

fn directive(text: &str) -> Result<String, String> {
    if text.contains(':') && text.len() <= MAX_FILTER_BYTES {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is neither module:function nor module:*"))
    }
}

/// Runs the verb.
pub(super) async fn run(args: ListArgs, data_dir: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let client = connect_node(data_dir).await?;
    let remark = list(&args, client, Timestamp::now(), out).await?;
    if let Some(remark) = remark {
        writeln!(anstream::stderr(), "node: {remark}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes the list; gives what is to be said of what is not in it.
async fn list<S: AsyncRead + AsyncWrite + Unpin>(
    args: &ListArgs,
    client: Client<S>,
    now: Timestamp,
    out: &mut impl Write,
) -> anyhow::Result<Option<String>> {
    let mut rows = client.work(args.filter()).await?;
    let more = args.limit > 0 && rows.len() > args.limit as usize;
    if more {
        rows.truncate(args.limit as usize);
    }
    if args.json {
        for row in &rows {
            super::json(row, out)?;
        }
    } else if !rows.is_empty() {
        out.write_all(table(&rows, now).as_bytes())?;
    }
    Ok(match rows.last() {
        Some(last) if more => Some(format!(
            "there are more units: --after {} shows the next, --limit 0 all",
            last.unit
        )),
        None if !args.json => Some(nothing(args).to_owned()),
        _ => None,
    })
}

fn nothing(args: &ListArgs) -> &'static str {
    let all = WorkFilter {
        limit: args.filter().limit,
        ..WorkFilter::default()
    };
    if args.filter() == all {
        "this node keeps no durable units; `node submit --durable` and --detach make some"
    } else {
        "no durable unit fits; `node work list` shows all"
    }
}

impl ListArgs {
    /// Asks for one row more than is shown: whether there is more.
    fn filter(&self) -> WorkFilter {
        let state = self.state.and_then(|state| state.to_possible_value());
        WorkFilter {
            state: state.map(|state| state.get_name().to_owned()),
            directive: self.directive.clone(),
            node: self.node.clone(),
            since_ms: self.since.map(|d| d.as_millis().try_into().unwrap_or(u64::MAX)),
            limit: (self.limit > 0).then(|| self.limit.saturating_add(1)),
            after: self.after,
        }
    }
}

fn table(rows: &[WorkReport], now: Timestamp) -> String {
    let head = [
        "UNIT",
        "STATE",
        "DIRECTIVE",
        "NODE",
        "AGE",
        "RESPONSES",
        "BYTES",
        "REASON",
    ];
    let row = |row: &WorkReport| {
        [
            row.unit.to_string(),
            state(row),
            row.directive.clone(),
            node(row),
            age(row.submitted, now),
            row.responses.to_string(),
            text::bytes(row.bytes),
            reason(row),
        ]
    };
    text::table(head, rows.iter().map(row))
}

/// The state, and of an ended unit how it ended.
pub(super) fn state(row: &WorkReport) -> String {
    row.outcome
        .map_or_else(|| row.state.clone(), |outcome| outcome.to_string())
}

fn node(row: &WorkReport) -> String {
    let node = row.executor.as_ref().or(row.to.as_ref());
    node.map_or_else(|| "-".into(), ToString::to_string)
}

fn reason(row: &WorkReport) -> String {
    match &row.message {
        Some(message) if row.reason.is_empty() => message.clone(),
        _ => row.reason.clone(),
    }
}

/// How long ago; nothing if a clock is behind.
pub(super) fn age(at: Timestamp, now: Timestamp) -> String {
    let age = Duration::try_from(now.duration_since(at)).unwrap_or_default();
    text::duration(age)
}

#[cfg(test)]
mod tests {
    use workmesh_proto::wire::codec;
    use workmesh_proto::wire::frame::FrameType;
    use workmesh_proto::wire::query::Query;
    use workmesh_proto::wire::unit::{Kind, Outcome};

    use super::*;
    use crate::cli::work::tests::{mistake, report};
    use crate::control::scripted::pair;

    fn args() -> ListArgs {
        ListArgs {
            state: None,
            directive: None,
            node: None,
            since: None,
            limit: 100,
            after: None,
            json: false,
        }
    }

    /// What is asked, printed and remarked of these rows.
    async fn listed(args: &ListArgs, rows: Vec<WorkReport>) -> (WorkFilter, String, Option<String>) {
        let (client, mut node) = pair(4096);
        let mut out = Vec::new();
        let now = "2026-01-01T00:02:00Z".parse().unwrap();
        let (remark, filter) = tokio::join!(list(args, client, now, &mut out), async {
            let Query::Work(filter) = codec::decode(&node.next().await.unwrap().body).unwrap() else {
                panic!("another question");
            };
            node.say_cbor(FrameType::Reply, &rows).await;
            drop(node);
            filter
        });
        (filter, String::from_utf8(out).unwrap(), remark.unwrap())
    }

    #[tokio::test]
    async fn a_row_shows_how_a_unit_stands_or_how_it_ended() {
        let waiting = WorkReport {
            state: "waiting".into(),
            reason: "no route to nodeC".into(),
            executor: None,
            to: Some(NodeId::parse("nodeC").unwrap()),
            ..report(2)
        };
        let lost = WorkReport {
            state: "ended".into(),
            outcome: Some(Outcome::Lost),
            kind: Some(Kind::NodeLost),
            message: Some("the executor restarted\nwhile it ran".into()),
            ..report(1)
        };
        let (_, out, remark) = listed(&args(), vec![report(3), waiting, lost]).await;
        assert_eq!(
            out,
            "\
UNIT                                  STATE    DIRECTIVE   NODE   AGE     RESPONSES  BYTES  REASON
00000000-0000-0000-0000-000000000003  running  echo:bytes  nodeB  2m 00s  1          10 B
00000000-0000-0000-0000-000000000002  waiting  echo:bytes  nodeC  2m 00s  1          10 B   no route to nodeC
00000000-0000-0000-0000-000000000001  lost     echo:bytes  nodeB  2m 00s  1          10 B   the executor restarted while it ran
"
        );
        assert_eq!(remark, None);
    }

    #[tokio::test]
    async fn json_is_a_report_a_line() {
        let args = ListArgs { json: true, ..args() };
        let (_, out, _) = listed(&args, vec![report(2), report(1)]).await;
        let rows: Vec<WorkReport> = out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(rows, [report(2), report(1)]);
        let (_, out, remark) = listed(&args, vec![]).await;
        assert_eq!((&*out, remark), ("", None));
    }

    #[tokio::test]
    async fn one_row_more_than_the_limit_says_that_there_are_more() {
        let args = ListArgs { limit: 2, ..args() };
        let (filter, out, remark) = listed(&args, vec![report(2), report(1)]).await;
        assert_eq!((filter.limit, out.lines().count(), remark), (Some(3), 3, None));
        let (_, out, remark) = listed(&args, vec![report(3), report(2), report(1)]).await;
        assert_eq!(out.lines().count(), 3);
        let last = report(2).unit;
        assert_eq!(
            remark.unwrap(),
            format!("there are more units: --after {last} shows the next, --limit 0 all")
        );
        let all = ListArgs { limit: 0, ..args };
        assert_eq!(listed(&all, vec![]).await.0.limit, None);
    }

    #[tokio::test]
    async fn all_filters_are_asked_for() {
        let args = ListArgs {
            state: Some(State::Succeeded),
            directive: Some("echo:*".into()),
            node: Some(NodeId::parse("nodeB").unwrap()),
            since: Some(Duration::from_secs(60)),
            after: Some(report(9).unit),
            ..args()
        };
        let (filter, _, remark) = listed(&args, vec![]).await;
        let expected = WorkFilter {
            state: Some("succeeded".into()),
            directive: Some("echo:*".into()),
            node: args.node.clone(),
            since_ms: Some(60_000),
            limit: Some(101),
            after: args.after,
        };
        assert_eq!(filter, expected);
        assert!(remark.unwrap().starts_with("no durable unit fits"));
    }

    #[test]
    fn filters_are_checked_before_anything_is_asked() {
        assert_eq!(mistake("list --directive echo:* --since 1h --state lost"), None);
        for wrong in ["--directive echo", "--since 5", "--state done", "--limit -1"] {
            assert!(mistake(&format!("list {wrong}")).is_some(), "{wrong}");
        }
    }
}
