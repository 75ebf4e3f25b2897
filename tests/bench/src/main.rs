//! The comparator: the product and raw quinn doing the same exchanges, in turn within one run, over loopback processes.
//!
//! Driver: `rounds` raises each `subject`'s processes, `measure` loads them, `gates` judges, `report` prints.
//! Roles: hidden verbs of this program, one a process, under `role`. Started under the name `node`, it is a node.

mod accounting;
mod disk;
mod floor;
mod gates;
mod identity;
mod interrupt;
mod measure;
mod one_shot;
mod process;
mod product;
mod protocol;
mod reading;
mod report;
mod role;
mod rounds;
mod settings;
mod subject;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::disk::Disk;
use crate::floor::Floor;
use crate::measure::Extent;
use crate::product::Product;
use crate::report::Draft;
use crate::rounds::{Plan, Scope};
use crate::subject::Subject;

/// Compares Workmesh with raw quinn doing the same exchanges in the same minutes
#[derive(Debug, Parser)]
#[command(name = "workmesh-bench", version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    run: Run,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Relays between the ends, a list
    #[arg(long, value_delimiter = ',', default_value = "0,1,3",
          value_parser = clap::value_parser!(u8).range(0..=16))]
    relays: Vec<u8>,
    /// Milliseconds of a load of small exchanges
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    window_ms: u64,
    /// Size of a transfer in MiB
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    bulk_mib: u64,
    /// Leave the product out, and with it the need for a `node` program
    #[arg(long)]
    floor_only: bool,
    /// Measure durable units and nothing else
    #[arg(long)]
    durable: bool,
    /// Measure only how fast small units are that go to no disk, beside another build's `node` and `workmesh-bench` in this
    /// directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["floor_only", "durable"])]
    against: Option<PathBuf>,
    /// A directory on the disk that durable units are to be kept on [default: the one for temporary files, or where that
    /// is in memory, the program's]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Print one JSON object, no tables
    #[arg(long)]
    json: bool,
    /// Exit with status 1 unless every promise was measured and met
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    FloorServer(role::floor_server::Args),
    #[command(hide = true)]
    FloorClient(role::floor_client::Args),
    #[command(hide = true)]
    UdpForwarder(role::udp_forwarder::Args),
    #[command(hide = true)]
    ProductClient(role::product_client::Args),
    #[command(hide = true)]
    DiskFloor(role::disk_floor::Args),
    #[command(hide = true)]
    DurableClient(role::durable_client::Args),
}

fn main() -> Result<ExitCode> {
    if std::env::args_os()
        .next()
        .is_some_and(|name| Path::new(&name) == product::NODE)
    {
        return Ok(workmesh_node::main());
    }
    let args = Args::parse();
    match args.role {
        Some(Role::FloorServer(args)) => role::run(role::floor_server::run(args)),
        Some(Role::FloorClient(args)) => role::run(role::floor_client::run(args)),
        Some(Role::UdpForwarder(args)) => role::run(role::udp_forwarder::run(args)),
        Some(Role::ProductClient(args)) => role::run(role::product_client::run(args)),
        Some(Role::DiskFloor(args)) => role::run(role::disk_floor::run(args)),
        Some(Role::DurableClient(args)) => role::run(role::durable_client::run(args)),
        None => return drive(&args.run),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn drive(run: &Run) -> Result<ExitCode> {
    let disk = Disk::choose(run.dir.as_deref())?;
    let directory = tempfile::Builder::new()
        .prefix("workmesh-bench-")
        .tempdir_in(&disk.directory)
        .context("make the run's directory")?;
    interrupt::watch(directory.path().to_owned())?;
    let plan = plan(run);
    let draft = Draft::begin(&plan, &disk)?;
    let mut subjects: Vec<Box<dyn Subject>> = vec![match &run.against {
        Some(programs) => Box::new(Product::create_baseline(&directory, programs)?),
        None => Box::new(Floor::create(&directory)?),
    }];
    if !run.floor_only {
        subjects.push(Box::new(Product::create(&directory)?));
    }
    let readings = rounds::run(&subjects, &plan, report::progress)?;
    let gates = gates::judge(&readings, plan.scope);
    let report = draft.finish(readings, gates);
    if run.json {
        report.print_json()?;
    } else {
        report.print_tables();
    }
    Ok(if run.check && !report.all_met() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn plan(run: &Run) -> Plan {
    const MIB: u64 = 1024 * 1024;
    let window = Duration::from_millis(run.window_ms);
    let bulk_bytes = run.bulk_mib * MIB;
    Plan {
        scope: match run {
            Run { durable: true, .. } => Scope::Durable,
            Run { against: Some(_), .. } => Scope::Against,
            _ => Scope::All,
        },
        rounds: run.rounds.into(),
        relays: run.relays.iter().map(|&relays| relays.into()).collect(),
        extent: Extent {
            window,
            warm_up: window / 4,
            bulk_bytes,
            bulk_warm_up_bytes: bulk_bytes / 16,
        },
    }
}
