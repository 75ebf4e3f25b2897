//! `node status`: what the local node knows of itself and of the mesh.

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::connect::{Access, ConnectArgs};
use super::{exit, text};
use crate::unit::report::{DurableReport, LinkReport, RouteReport, StatusReport};

const EXAMPLES: &str = "\
Examples:
  node status
  node status --json | jq '.links[] | select(.state != \"up\")'
  node status --json | jq -r .listen

With --json: node, mesh, version, uptime_s, listen, links[{node, address, cost, rtt_ms, state}],
routes[{node, next_hop, cost, hops}], workers[...], draining, pool{slots, running, queued, queue_limit, abandoned},
durable{units, unended, hosted, bytes, quota_bytes, damaged, refuses}, forwarded{packets, bytes, dropped},
certificate{not_after}.";

/// Days before the end of a certificate from which on it is pointed out.
const WARN_DAYS: i64 = 30;

/// Show what the node knows: links, routes, workers, pool, certificate
#[derive(Args, Clone, Debug)]
#[command(after_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// Runs the verb.
pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let access = Access::open(&args.connect).await?;
    let asked = async { anyhow::Ok(access.connect().await?.status().await?) }.await;
    access.close().await;
    let report = asked?;
    let mut out = anstream::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        out.write_all(page(&report, Timestamp::now()).as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The whole page for a person.
fn page(report: &StatusReport, now: Timestamp) -> String {
    let forwarded = &report.forwarded;
    let facts = [
        (
            "node",
            format!("{} of mesh {}", report.node, text::one_line(&report.mesh)),
        ),
        (
            "version",
            format!(
                "{}, up {}",
                text::one_line(&report.version),
                text::seconds(report.uptime_s)
            ),
        ),
        (
            "listens",
            report
                .listen
                .as_deref()
                .map_or_else(|| "no".to_owned(), text::one_line),
        ),
        ("pool", text::pool(&report.pool)),
        ("durable", durable(report.durable.as_ref())),
        (
            "forwarded",
            format!(
                "{}, {}, {} dropped",
                text::count(forwarded.packets, "packet"),
                text::bytes(forwarded.bytes),
                forwarded.dropped
            ),
        ),
        ("certificate", certificate(report.certificate.not_after, now)),
        ("workers", text::one_line(&report.workers.join(" "))),
    ];
    let draining = report.draining.then(|| {
        (
            "draining",
            "takes no new units until it is started anew".to_owned(),
        )
    });
    let mut page = String::new();
    for (name, fact) in facts.into_iter().chain(draining) {
        writeln!(page, "{name:<12} {fact}").expect("writing to a string cannot fail");
    }
    if !report.links.is_empty() {
        page.push('\n');
        let head = ["LINK", "ADDRESS", "STATE", "COST", "RTT", "LAST ERROR"];
        page.push_str(&text::table(head, report.links.iter().map(link)));
    }
    if !report.routes.is_empty() {
        page.push('\n');
        page.push_str(&text::table(
            ["NODE", "VIA", "COST", "HOPS"],
            report.routes.iter().map(route),
        ));
    }
    page
}

fn durable(kept: Option<&DurableReport>) -> String {
    let Some(kept) = kept else {
        return "no units are kept here".to_owned();
    };
    let mut line = format!(
        "{}, {} not ended, {} as executor; {} of {}",
        text::count(kept.units, "unit"),
        kept.unended,
        kept.hosted,
        text::bytes(kept.bytes),
        text::bytes(kept.quota_bytes),
    );
    if kept.damaged > 0 {
        write!(line, "; {} found damaged", text::count(kept.damaged, "place"))
            .expect("writing to a string cannot fail");
    }
    if let Some(why) = &kept.refuses {
        write!(line, "; takes no more: {}", text::one_line(why)).expect("writing to a string cannot fail");
    }
    line
}

fn certificate(not_after: Timestamp, now: Timestamp) -> String {
    let day = not_after.strftime("%Y-%m-%d");
    let days = not_after.duration_since(now).as_secs().div_euclid(86400);
    match days {
        ..0 => format!("expired on {day}; renew it with `node cert`"),
        0..WARN_DAYS => format!(
            "valid until {day}, {} left; renew it soon",
            text::count(days as u64, "day")
        ),
        _ => format!("valid until {day}"),
    }
}

fn link(link: &LinkReport) -> [String; 6] {
    [
        or_dash(link.node.as_ref()),
        link.address.clone(),
        link.state.clone(),
        link.cost.to_string(),
        link.rtt_ms.map_or_else(|| "-".into(), text::milliseconds),
        link.error.clone().unwrap_or_default(),
    ]
}

fn route(route: &RouteReport) -> [String; 4] {
    [
        route.node.to_string(),
        route
            .next_hop
            .as_ref()
            .map_or_else(|| "no way".into(), ToString::to_string),
        or_dash(route.cost),
        or_dash(route.hops),
    ]
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> StatusReport {
        serde_json::from_str(
            r#"{"node":"a","mesh":"demo","version":"0.1.0","uptime_s":90,"listen":"127.0.0.1:8888",
                "links":[{"node":"b","address":"127.0.0.1:9","cost":10,"rtt_ms":0.5,"state":"up"},
                         {"node":null,"address":"c:8888","cost":10,"rtt_ms":null,"state":"waiting",
                          "error":"connection timed out"}],
                "routes":[{"node":"b","next_hop":"b","cost":10,"hops":1},
                          {"node":"z","next_hop":null,"cost":null,"hops":null}],
                "workers":["echo:bytes","sys:info"],"pool":{"slots":8,"running":0,"queued":0,"queue_limit":64},
                "durable":{"units":12,"unended":3,"hosted":2,"bytes":1536,"quota_bytes":17179869184,"damaged":0},
                "forwarded":{"packets":1,"bytes":1536,"dropped":0},"sessions":1,"counters":{},
                "certificate":{"not_after":"2027-01-01T00:00:00Z"}}"#,
        )
        .unwrap()
    }

    #[test]
    fn the_page_shows_facts_links_and_routes() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(
            page(&report(), now),
            "node         a of mesh demo
version      0.1.0, up 1m 30s
listens      127.0.0.1:8888
pool         0 of 8 slots running, 0 of 64 queued
durable      12 units, 3 not ended, 2 as executor; 1.5 KiB of 16.0 GiB
forwarded    1 packet, 1.5 KiB, 0 dropped
certificate  valid until 2027-01-01
workers      echo:bytes sys:info

LINK  ADDRESS      STATE    COST  RTT      LAST ERROR
b     127.0.0.1:9  up       10    0.50 ms
-     c:8888       waiting  10    -        connection timed out

NODE  VIA     COST  HOPS
b     b       10    1
z     no way  -     -
"
        );
    }

    #[test]
    fn the_page_says_so_of_a_node_that_drains_and_of_abandoned_units() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut report = report();
        report.draining = true;
        report.pool.abandoned = 2;
        let page = page(&report, now);
        assert!(page.contains("\ndraining     takes no new units until"), "{page}");
        assert!(page.contains("0 of 64 queued, 2 abandoned\n"), "{page}");
    }

    #[test]
    fn the_page_says_what_is_wrong_with_the_store() {
        let mut report = report();
        let line = |report: &StatusReport| durable(report.durable.as_ref());
        if let Some(kept) = &mut report.durable {
            (kept.damaged, kept.refuses) = (1, Some("the quota is used".to_owned()));
        }
        assert!(
            line(&report).ends_with("of 16.0 GiB; 1 place found damaged; takes no more: the quota is used"),
            "{}",
            line(&report)
        );
        report.durable = None;
        assert_eq!(line(&report), "no units are kept here");
    }

    #[test]
    fn a_certificate_near_its_end_is_pointed_out() {
        let end = "2026-02-01T00:00:00Z".parse().unwrap();
        let seen = |now: &str| certificate(end, now.parse().unwrap());
        assert_eq!(seen("2026-01-01T00:00:00Z"), "valid until 2026-02-01");
        assert_eq!(
            seen("2026-01-31T12:00:00Z"),
            "valid until 2026-02-01, 0 days left; renew it soon"
        );
        assert_eq!(
            seen("2026-02-02T00:00:00Z"),
            "expired on 2026-02-01; renew it with `node cert`"
        );
    }
}
