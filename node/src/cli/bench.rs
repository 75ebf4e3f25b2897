//! `node bench`: how many units a second, and how long each takes, as a program on this machine sees it.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::task::{JoinSet, LocalSet};
use workmesh_proto::NodeId;
use workmesh_proto::wire::unit::Kind;

use super::connect::{Access, ConnectArgs};
use super::exit::{self, Failure};
use super::{text, unit, value};

/// The most units that may be under way at once.
const MAX_CONCURRENCY: i64 = 4096;
/// The longest latency that is told from longer ones, in microseconds.
const MAX_LATENCY_US: u64 = 3600 * 1_000_000;
/// The largest payload, in bytes.
const MAX_SIZE: u64 = 1024 * 1024 * 1024;

const EXAMPLES: &str = "\
Examples:
  node bench --to nodeB
  node bench --to nodeB --concurrency 64 --duration 30s
  node bench --to nodeB --directive echo:buffer --size 64MiB --concurrency 1
  node bench --json | jq .latency_ms.p99

What is measured: from opening a connection to the local node until the unit's EOF is read and its counts and digest
are checked. Each unit has a connection of its own; with --concurrency N, N units are under way at any time, each
followed at once by the next. A program on the node library is faster, as it needs no connection.
Throughput counts payload and response bytes of the units that succeeded.
The exit status is 1 if any unit failed.";

/// Measure units a second, latency and throughput
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    /// The node that runs the units; without, each is placed by itself
    #[arg(long, short, value_name = "NODE")]
    to: Option<NodeId>,
    /// What to run
    #[arg(long, short, value_name = "MODULE:FUNCTION", default_value = "echo:bytes")]
    directive: String,
    /// Size of each payload, as in 64 or 1MiB
    #[arg(long, short, default_value = "64", value_parser = size)]
    size: u64,
    /// Units under way at once
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=MAX_CONCURRENCY))]
    concurrency: u32,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = value::duration)]
    duration: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

fn size(text: &str) -> Result<u64, String> {
    match value::bytes(text)? {
        size @ ..=MAX_SIZE => Ok(size),
        _ => Err("at most 1GiB".into()),
    }
}

/// Runs the verb.
pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<ExitCode> {
    let access = Rc::new(Access::open(&args.connect).await?);
    let measured = measure(&args, &access).await;
    if let Ok(access) = Rc::try_unwrap(access) {
        access.close().await;
    }
    let measured = measured?;
    let report = measured.report(&args);
    let mut out = anstream::stdout();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        out.write_all(page(&report).as_bytes())?;
    }
    match report.failed.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => {
            let first = measured.first_failure.unwrap_or_default();
            let failed = text::count(report.failed.values().sum(), "unit");
            Err(Failure::new(exit::FAILED, format!("{failed} failed; the first: {first}")).into())
        }
    }
}

/// What was counted so far.
#[derive(Debug)]
struct Measured {
    latency_us: Histogram<u64>,
    bytes: u64,
    failed: BTreeMap<String, u64>,
    first_failure: Option<String>,
    lasted: Duration,
}

/// One unit that has ended.
enum UnitEnd {
    Succeeded { took: Duration, bytes: u64 },
    Failed { kind: Kind, message: String },
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    directive: String,
    to: Option<NodeId>,
    size: u64,
    concurrency: u32,
    seconds: f64,
    units: u64,
    units_per_second: f64,
    bytes_per_second: f64,
    latency_ms: Latency,
    failed: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    max: f64,
}

/// Keeps units under way until the time is over, then waits for those that are.
async fn measure(args: &BenchArgs, access: &Rc<Access>) -> anyhow::Result<Measured> {
    let payload = Bytes::from(vec![b'x'; usize::try_from(args.size).context("--size")?]);
    let mut measured = Measured {
        latency_us: Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).context("making a histogram")?,
        bytes: 0,
        failed: BTreeMap::new(),
        first_failure: None,
        lasted: Duration::ZERO,
    };
    let bar = progress(args.duration);
    let tasks = LocalSet::new();
    let started = Instant::now();
    tasks
        .run_until(async {
            let mut units = JoinSet::new();
            let submit = |units: &mut JoinSet<anyhow::Result<UnitEnd>>| {
                units.spawn_local(run_unit(args.clone(), Rc::clone(access), payload.clone()));
            };
            for _ in 0..args.concurrency {
                submit(&mut units);
            }
            while let Some(ended) = units.join_next().await {
                measured.add(ended.context("a unit's task failed")??);
                let elapsed = started.elapsed();
                bar.set_position(elapsed.min(args.duration).as_millis() as u64);
                if elapsed < args.duration {
                    submit(&mut units);
                }
            }
            anyhow::Ok(())
        })
        .await?;
    bar.finish_and_clear();
    measured.lasted = started.elapsed();
    Ok(measured)
}

fn progress(duration: Duration) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("measuring {wide_bar} {eta}")
        .expect("the template is a constant that parses");
    ProgressBar::new(duration.as_millis() as u64).with_style(style)
}

/// One unit on a connection of its own. Its responses are counted and dropped.
async fn run_unit(args: BenchArgs, access: Rc<Access>, payload: Bytes) -> anyhow::Result<UnitEnd> {
    let sent = payload.len() as u64;
    let submit = unit::submission(&args.directive, args.to.as_ref(), sent);
    let started = Instant::now();
    let eof = unit::run(access.connect().await?, &submit, [payload], |_| {}).await?;
    Ok(match eof.kind {
        Kind::Ok => UnitEnd::Succeeded {
            took: started.elapsed(),
            bytes: sent + eof.bytes,
        },
        kind => UnitEnd::Failed {
            kind,
            message: eof.message,
        },
    })
}

impl Measured {
    fn add(&mut self, end: UnitEnd) {
        match end {
            UnitEnd::Succeeded { took, bytes } => {
                self.latency_us
                    .saturating_record(took.as_micros().try_into().unwrap_or(u64::MAX));
                self.bytes += bytes;
            }
            UnitEnd::Failed { kind, message } => {
                *self.failed.entry(kind.as_str().to_owned()).or_default() += 1;
                self.first_failure
                    .get_or_insert_with(|| format!("{kind}: {}", text::one_line(&message)));
            }
        }
    }

    fn report(&self, args: &BenchArgs) -> Report {
        let seconds = self.lasted.as_secs_f64().max(f64::MIN_POSITIVE);
        let quantile = |q| self.latency_us.value_at_quantile(q) as f64 / 1e3;
        Report {
            directive: args.directive.clone(),
            to: args.to.clone(),
            size: args.size,
            concurrency: args.concurrency,
            seconds,
            units: self.latency_us.len(),
            units_per_second: self.latency_us.len() as f64 / seconds,
            bytes_per_second: self.bytes as f64 / seconds,
            latency_ms: Latency {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                max: self.latency_us.max() as f64 / 1e3,
            },
            failed: self.failed.clone(),
        }
    }
}

fn page(report: &Report) -> String {
    let place = report
        .to
        .as_ref()
        .map_or("placed by the node".to_owned(), |to| format!("on {to}"));
    let latency = &report.latency_ms;
    let failed: Vec<_> = report
        .failed
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let failed = if failed.is_empty() {
        "none".to_owned()
    } else {
        failed.join(", ")
    };
    format!(
        "{} {place}, payload {}, {} at once, {:.1} s\n\
         units       {} in all, {:.0} a second\n\
         latency     p50 {}, p90 {}, p99 {}, max {}\n\
         throughput  {}/s\n\
         failed      {failed}\n",
        text::one_line(&report.directive),
        text::bytes(report.size),
        report.concurrency,
        report.seconds,
        report.units,
        report.units_per_second,
        text::milliseconds(latency.p50),
        text::milliseconds(latency.p90),
        text::milliseconds(latency.p99),
        text::milliseconds(latency.max),
        text::bytes(report.bytes_per_second as u64),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_kept_out_of_the_latency() {
        let mut measured = Measured {
            latency_us: Histogram::new_with_bounds(1, MAX_LATENCY_US, 3).unwrap(),
            bytes: 0,
            failed: BTreeMap::new(),
            first_failure: None,
            lasted: Duration::from_secs(2),
        };
        let succeeded = || UnitEnd::Succeeded {
            took: Duration::from_millis(1),
            bytes: 100,
        };
        let busy = || UnitEnd::Failed {
            kind: Kind::Busy,
            message: "full\n".into(),
        };
        for end in [succeeded(), succeeded(), busy(), busy()] {
            measured.add(end);
        }
        let args = BenchArgs {
            to: None,
            directive: "echo:bytes".into(),
            size: 50,
            concurrency: 1,
            duration: Duration::from_secs(2),
            json: false,
            connect: ConnectArgs::default(),
        };
        let report = measured.report(&args);
        assert_eq!(
            (report.units, report.units_per_second, report.bytes_per_second),
            (2, 1.0, 100.0)
        );
        let p99 = report.latency_ms.p99;
        assert!((0.999..1.001).contains(&p99), "{p99}");
        assert_eq!(measured.first_failure.as_deref(), Some("busy: full"));
        let page = page(&report);
        assert!(page.contains("units       2 in all, 1 a second"), "{page}");
        assert!(page.contains("failed      2 busy"), "{page}");
    }

    #[test]
    fn sizes_are_limited() {
        assert_eq!(size("1GiB"), Ok(MAX_SIZE));
        assert!(size("1073741825").is_err());
    }
}
