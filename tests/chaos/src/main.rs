//! The proof for durable units at the level of processes: a mesh of real nodes under a load of units and a schedule of faults,
//! both made from a seed, and at the end a verdict on every unit that was taken.
//!
//! `plan` says what happens, `load` and `faults`, or `rolling`, make it happen to `mesh`, `ledger` watches, `judge` and `verdict` judge.

#![expect(clippy::print_stdout, reason = "a program for the command line")]

mod rng;
mod work;
mod plan;
mod mesh;
mod interrupt;
mod faults;
mod stream;
mod load;
mod rolling;
mod judge;
mod ledger;
mod footprint;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use jiff::SignedDuration;

use crate::footprint::Footprint;
use crate::ledger::Ledger;
use crate::load::Load;
use crate::mesh::Mesh;
use crate::plan::{Plan, Settings, Unit, Ways, name};
use crate::rolling::Rate;
use crate::verdict::Verdict;

/// How long the mesh may take to end all units once it is whole again.
const SETTLE: Duration = Duration::from_secs(300);
/// Length of the payloads that each node has seen before its footprint is taken.
const WARM_UP_BYTES: usize = 1024 * 1024;

/// Of the units of a rolling restart the results of one in so many are read again from their origin.
const RESULTS_ONE_IN: u128 = 64;

const HELP: &str = "\
Examples:
  workmesh-chaos                               a minute, with a seed of its own
  workmesh-chaos --seed 42 --duration 30m      the run of seed 42: the same units and faults each time
  workmesh-chaos --seed 42 --plan              what that run does, and when; runs nothing
  workmesh-chaos --no-durable --duration 5m    only units that are not durable
  workmesh-chaos --schedule rolling --rate 200 an upgrade of all nodes under 200 durable units a second
  workmesh-chaos --keep                        leave the directory of the run: logs, runs, data directories

The nodes run chaos-node, which is built with this program: cargo build -p workmesh-chaos

At the end the mesh is healed, and when all units have ended it is checked that:
  - each unit that was stored has one end, the same for its origin and for its clients, for ever;
  - each response has the bytes and the serial that it has to have, when it comes and when it is asked for later;
  - each unit ran at most once, unless it may run again;
  - a unit is lost only by an end of its executor's process, and never if it may run again;
  - the nodes hold nothing any more: descriptors, threads, memory and files are near what they were.
Exit status: 0 all is so; 1 it is not, and the directory of the run is left; 130 broken off by a signal.";

/// Runs a mesh under load and faults, and judges what became of every unit
#[derive(Debug, Parser)]
#[command(name = "workmesh-chaos", version, after_help = HELP, max_term_width = 110)]
struct Args {
    /// What load and faults are made from [default: a random one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// How long load and faults last, as in 45s or 30m
    #[arg(long, default_value = "1m", value_parser = duration)]
    duration: Duration,
    /// What happens to the nodes while units come
    #[arg(long, value_enum, default_value_t = Schedule::Faults)]
    schedule: Schedule,
    /// Durable units that are submitted each second of a rolling restart
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// How many nodes there are
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u8).range(3..=16))]
    nodes: u8,
    /// Only durable units
    #[arg(long, conflicts_with = "no_durable")]
    durable_only: bool,
    /// No durable units
    #[arg(long)]
    no_durable: bool,
    /// Leave the directory of the run
    #[arg(long)]
    keep: bool,
    /// Print what would happen, and run nothing
    #[arg(long)]
    plan: bool,
}

/// What happens to the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Schedule {
    /// Faults of every kind, from the seed, under a load of every kind
    Faults,
    /// Each node is stopped in order and started again, one after the other, under a steady load of small durable units; lasts at least
    /// --duration
    Rolling,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text
        .parse::<SignedDuration>()
        .map_err(|error| format!("{error}; write a number with a unit, as in 45s or 30m"))?;
    Duration::try_from(parsed).map_err(|_| "a duration is not negative".to_owned())
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let settings = Settings {
        seed: args.seed.unwrap_or_else(rand::random),
        duration: args.duration,
        nodes: args.nodes.into(),
        ways: match (args.durable_only, args.no_durable) {
            (true, _) => Ways::Durable,
            (_, true) => Ways::Plain,
            _ => Ways::Mixed,
        },
    };
    if args.plan {
        println!("{}", Plan::new(settings));
        return Ok(ExitCode::SUCCESS);
    }
    interrupt::watch()?;
    println!("seed {}", settings.seed);
    let outcome = match args.schedule {
        Schedule::Faults => {
            let plan = Plan::new(settings);
            run(settings.nodes, args.keep, |mesh, start| {
                torment(mesh, &plan, start)
            })
        }
        Schedule::Rolling => run(settings.nodes, args.keep, |mesh, start| {
            roll(mesh, &settings, args.rate, start)
        }),
    };
    println!("seed {}", settings.seed);
    outcome
}

fn run(
    nodes: usize,
    keep: bool,
    happen: impl FnOnce(&Mesh, &[Footprint]) -> Result<Verdict>,
) -> Result<ExitCode> {
    let mut mesh = Mesh::start(nodes, &node_program()?);
    if keep {
        mesh.keep_dir();
    }
    warm_up(&mesh)?;
    let start = footprints(&mesh)?;
    let verdict = happen(&mesh, &start)?;
    if interrupt::stopped() {
        return Ok(ExitCode::from(interrupt::STATUS));
    }
    println!("{verdict}");
    let clean = verdict.violations.is_empty();
    if keep || !clean {
        println!("left in {}", mesh.write_logs()?.display());
        mesh.keep_dir();
    }
    Ok(if clean {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Load and faults, the healing, and the judgement.
fn torment(mesh: &Mesh, plan: &Plan, start: &[Footprint]) -> Result<Verdict> {
    println!(
        "{} nodes, {} units and {} faults in {}",
        mesh.nodes(),
        plan.units.len(),
        plan.faults.len(),
        plan::Seconds(plan.settings.duration),
    );
    let durable = plan.settings.ways != Ways::Plain;
    let (load, ledger) = (Load::new(mesh, &plan.units), Ledger::default());
    let mut verdict = Verdict::default();
    thread::scope(|scope| {
        let begun = Instant::now();
        let faults = faults::begin(scope, mesh, &plan.faults, begun);
        let clients = load.begin(scope, begun);
        let watcher = durable.then(|| scope.spawn(|| ledger.follow(mesh)));
        interrupt::sleep_until(begun + plan.settings.duration);
        verdict.add(joined("faults", faults));
        if interrupt::stopped() {
            mesh.kill_clients();
        }
        println!("faults are over; waiting for all units to end");
        load.end_within(SETTLE);
        verdict.add(joined("load", clients));
        ledger.end();
        verdict.add(joined("ledger", watcher));
    });
    if interrupt::stopped() {
        return Ok(verdict);
    }
    mesh.wait_until_whole();
    let reports = match durable {
        true => ledger.settle(mesh, SETTLE),
        false => Vec::new(),
    };
    println!("judging {} units", plan.units.len());
    verdict.judge_units(mesh, &plan.units, &load.into_seen(), &reports, |_| true)?;
    verdict.add(ledger.wrong());
    if durable {
        release_all(mesh, &mut verdict);
    }
    verdict.judge_nodes(mesh, start)?;
    Ok(verdict)
}

/// The restarts of all nodes under a steady load, and the judgement.
fn roll(mesh: &Mesh, settings: &Settings, rate: u32, start: &[Footprint]) -> Result<Verdict> {
    println!(
        "{} nodes, restarted in turn under {rate} durable units a second",
        mesh.nodes()
    );
    let (over, ledger) = (AtomicBool::new(false), Ledger::default());
    let mut verdict = Verdict::default();
    let served = thread::scope(|scope| {
        let until = Instant::now() + settings.duration;
        let watcher = scope.spawn(|| ledger.follow(mesh));
        let restarts = rolling::restart_all(scope, mesh, until, &over);
        let served = rolling::load(mesh, settings, rate, &over);
        verdict.add(joined("restarts", [restarts]));
        ledger.end();
        verdict.add(joined("ledger", [watcher]));
        served
    })?;
    if interrupt::stopped() {
        return Ok(verdict);
    }
    println!("{}", Rate::of(&served));
    mesh.wait_until_whole();
    let reports = ledger.settle(mesh, SETTLE);
    println!("judging {} units", served.len());
    verdict.add(
        served
            .iter()
            .filter(|served| !served.seen.stored)
            .map(|served| format!("unit {} was taken by nobody", served.unit)),
    );
    let not_well = reports
        .iter()
        .flatten()
        .filter(|report| report.outcome != "succeeded");
    verdict.add(
        not_well.map(|report| format!("unit {} is {} in a rolling restart", report.unit, report.outcome)),
    );
    let (units, seen): (Vec<_>, Vec<_>) = served
        .into_iter()
        .map(|served| (served.unit, served.seen))
        .unzip();
    let sample = |unit: &Unit| unit.id.as_u128().is_multiple_of(RESULTS_ONE_IN);
    verdict.judge_units(mesh, &units, &seen, &reports, sample)?;
    verdict.add(ledger.wrong());
    release_all(mesh, &mut verdict);
    verdict.judge_nodes(mesh, start)?;
    Ok(verdict)
}

/// Has every node forget its units.
fn release_all(mesh: &Mesh, verdict: &mut Verdict) {
    for node in 0..mesh.nodes() {
        let done = mesh.run(node, &["work", "release", "--all", "--json"]);
        if done.status != 0 {
            verdict.add([format!(
                "{} does not release its units: {}",
                name(node),
                done.stderr
            )]);
        }
    }
}

/// Waits for threads; gives the texts of those that panicked.
fn joined<'scope>(
    what: &str,
    threads: impl IntoIterator<Item = ScopedJoinHandle<'scope, ()>>,
) -> Vec<String> {
    let panicked = threads.into_iter().filter_map(|thread| thread.join().err());
    panicked
        .map(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("{what}: {}", text.unwrap_or("a thread panicked"))
        })
        .collect()
}

/// Sends a payload from each node to each other one, so that what a node needs for its work is there.
fn warm_up(mesh: &Mesh) -> Result<()> {
    for from in 0..mesh.nodes() {
        for to in 0..mesh.nodes() {
            let args = ["submit", "--to", &name(to), "--directive", "echo:bytes", "-"].map(str::to_owned);
            let done = mesh.begin(from, &args, vec![0; WARM_UP_BYTES], SETTLE).end();
            anyhow::ensure!(
                done.status == 0 && done.stdout.len() == WARM_UP_BYTES,
                "a unit from {} to {} before any fault: {}",
                name(from),
                name(to),
                done.stderr
            );
        }
    }
    Ok(())
}

fn footprints(mesh: &Mesh) -> Result<Vec<Footprint>> {
    (0..mesh.nodes())
        .map(|node| Footprint::of(mesh.process(node).pid()))
        .collect()
}

/// The node that was built with this program.
fn node_program() -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let program = own.with_file_name("chaos-node");
    anyhow::ensure!(
        program.is_file(),
        "{} is missing: build it with `cargo build -p workmesh-chaos`",
        program.display()
    );
    Ok(program)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        assert!(duration("30").is_err());
        assert!(duration("-1s").is_err());
    }
}
