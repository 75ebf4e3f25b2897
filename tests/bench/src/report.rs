//! What a run found, for people and for machines. The only place that prints.

use std::fs;

use anyhow::{Context as _, Result};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::disk::Disk;
use crate::gates::{Bound, Gate, Verdict};
use crate::reading::{Readings, Spread};
use crate::rounds::{Plan, Scope};
use crate::settings;
use crate::subject::{BASELINE, FLOOR, PRODUCT};

/// Everything a run found, and what it ran on.
#[derive(Serialize)]
pub(crate) struct Report {
    /// What the product is compared with.
    beside: &'static str,
    machine: Machine,
    settings: Settings,
    readings: Readings,
    gates: Vec<Gate>,
}

#[derive(Serialize)]
struct Machine {
    cpus: usize,
    kernel: String,
    /// What the run's files are on, durable units among them.
    disk: String,
    /// Of the last minute before the run: what else kept the machine busy.
    load_average: String,
}

#[derive(Serialize)]
struct Settings {
    rounds: usize,
    window_ms: u128,
    bulk_bytes: u64,
    exchange_bytes: usize,
    kept_steps: usize,
    kept_bytes: usize,
    pool_threads: usize,
    mtu_upper_bound_bytes: u16,
    socket_buffer_bytes: usize,
    stream_window_bytes: u32,
    connection_window_bytes: u32,
    send_window_bytes: u32,
    open_streams: u32,
}

impl Machine {
    fn read(disk: &Disk) -> Result<Self> {
        let text = |path: &str| fs::read_to_string(path).with_context(|| format!("read {path}"));
        Ok(Self {
            cpus: std::thread::available_parallelism().map_or(1, Into::into),
            kernel: text("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            disk: format!("{} at {}", disk.name(), disk.directory.display()),
            load_average: text("/proc/loadavg")?
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned(),
        })
    }
}

/// A report that waits for its figures; the machine is looked at before they are taken.
pub(crate) struct Draft {
    beside: &'static str,
    machine: Machine,
    settings: Settings,
}

impl Draft {
    /// Notes the machine and the plan.
    pub(crate) fn begin(plan: &Plan, disk: &Disk) -> Result<Self> {
        Ok(Self {
            beside: match plan.scope {
                Scope::All | Scope::Durable => FLOOR,
                Scope::Against => BASELINE,
            },
            machine: Machine::read(disk)?,
            settings: Settings {
                rounds: plan.rounds,
                window_ms: plan.extent.window.as_millis(),
                bulk_bytes: plan.extent.bulk_bytes,
                exchange_bytes: settings::EXCHANGE_BYTES,
                kept_steps: settings::KEPT_STEPS,
                kept_bytes: settings::KEPT_BYTES,
                pool_threads: settings::POOL_THREADS,
                mtu_upper_bound_bytes: settings::MTU_UPPER_BOUND_BYTES,
                socket_buffer_bytes: settings::SOCKET_BUFFER_BYTES,
                stream_window_bytes: settings::STREAM_WINDOW_BYTES,
                connection_window_bytes: settings::CONNECTION_WINDOW_BYTES,
                send_window_bytes: settings::SEND_WINDOW_BYTES,
                open_streams: settings::OPEN_STREAMS,
            },
        })
    }

    /// Adds the figures and what they mean.
    pub(crate) fn finish(self, readings: Readings, gates: Vec<Gate>) -> Report {
        Report {
            beside: self.beside,
            machine: self.machine,
            settings: self.settings,
            readings,
            gates,
        }
    }
}

/// Says on stderr what comes next.
#[expect(clippy::print_stderr, reason = "this is the program's terminal")]
pub(crate) fn progress(line: &str) {
    eprintln!("{line}");
}

impl Report {
    /// Prints one JSON object.
    #[expect(clippy::print_stdout, reason = "this is the program's output")]
    pub(crate) fn print_json(&self) -> Result<()> {
        println!(
            "{}",
            serde_json::to_string_pretty(self).context("encode the report")?
        );
        Ok(())
    }

    /// Prints tables for people.
    #[expect(clippy::print_stdout, reason = "this is the program's output")]
    pub(crate) fn print_tables(&self) {
        println!(
            "{} CPUs, Linux {}, files on {}, load average {} before the run; {} rounds, median [least-most]",
            self.machine.cpus,
            self.machine.kernel,
            self.machine.disk,
            self.machine.load_average,
            self.settings.rounds,
        );
        println!("{}", self.readings_table());
        if self.is_product_measured() {
            println!("{}", self.gates_table());
        }
    }

    /// Whether every promise was measured and met.
    pub(crate) fn all_met(&self) -> bool {
        self.gates.iter().all(|gate| gate.verdict == Verdict::Met)
    }

    fn is_product_measured(&self) -> bool {
        self.gates.iter().any(|gate| gate.verdict != Verdict::NotMeasured)
    }

    fn readings_table(&self) -> Table {
        let mut table = new_table(&["relays", "load", "quantity", self.beside, PRODUCT, "ratio"]);
        for cell in self.readings.cells() {
            table.add_row([
                cell.relays.to_string(),
                cell.load.to_string(),
                cell.quantity.to_string(),
                show(Spread::of(self.readings.rounds(self.beside, cell))),
                show(Spread::of(self.readings.rounds(PRODUCT, cell))),
                show(self.readings.ratio((PRODUCT, cell), (self.beside, cell))),
            ]);
        }
        align_right(&mut table, 3..6);
        table
    }

    fn gates_table(&self) -> Table {
        let mut table = new_table(&["promise", "bound", "measured", "verdict"]);
        for gate in &self.gates {
            let bound = match gate.bound {
                Bound::AtLeast(least) => format!("at least {least}"),
                Bound::AtMost(most) => format!("at most {most}"),
            };
            let verdict = match gate.verdict {
                Verdict::Met => "met",
                Verdict::Missed => "MISSED",
                Verdict::NotMeasured => "not measured",
            };
            table.add_row([
                gate.meaning.clone(),
                bound,
                show(gate.measured),
                verdict.to_owned(),
            ]);
        }
        align_right(&mut table, 1..3);
        table
    }
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table
}

fn align_right(table: &mut Table, columns: std::ops::Range<usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn show(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |Spread { median, min, max }| format!("{} [{}-{}]", figure(median), figure(min), figure(max)),
    )
}

/// Three digits are all that such a figure is worth.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
