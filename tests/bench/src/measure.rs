//! One measurement: a load on running processes, and the figures it yields.
//!
//! CPU time is read before the order is given and after its answer came, of all processes, so it holds what the load cost
//! and nothing of starting up or warming up.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::protocol::{Answer, DiskUse, Disks, Exchanges, Handling, Order, Transfer};
use crate::reading::{Load, Quantity};
use crate::subject::{CpuTime, Keeping, Running};

const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;
const KIB: f64 = 1024.0;

/// How long and how large the loads are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Of a load of small exchanges.
    pub(crate) window: Duration,
    /// Of the same load just before, not measured.
    pub(crate) warm_up: Duration,
    /// Of a transfer.
    pub(crate) bulk_bytes: u64,
    /// Of the transfer just before, not measured.
    pub(crate) bulk_warm_up_bytes: u64,
}

/// The figures of one measurement.
pub(crate) type Figures = Vec<(Quantity, f64)>;

/// Small exchanges, `outstanding` at a time.
pub(crate) fn exchange(
    running: &mut Running,
    extent: Extent,
    outstanding: usize,
    handling: Handling,
) -> Result<Figures> {
    let order = |window: Duration| -> Result<Order> {
        Ok(Order::Exchange {
            outstanding,
            handling,
            window_ms: millis(window)?,
        })
    };
    running.ask(order(extent.warm_up)?, extent.warm_up)?;
    let order = order(extent.window)?;
    let (answer, cpu) = ask_counting(running, order, extent.window)?;
    let Answer::Exchanges(exchanges) = answer else {
        bail!("{order:?} was answered by {answer:?}");
    };
    let count = count_of(&exchanges)?;
    let mut figures = latencies(&exchanges);
    figures.push((Quantity::PerSecond, count / exchanges.elapsed.as_secs_f64()));
    figures.push((Quantity::CpuMicrosEach, micros(cpu.all) / count));
    if !running.relays.is_empty() {
        figures.push((Quantity::RelayCpuMicrosEach, micros(cpu.relays) / count));
    }
    Ok(figures)
}

/// One transfer from the answering end to the asking one.
pub(crate) fn bulk(running: &mut Running, extent: Extent) -> Result<Figures> {
    let order = |bytes| Order::Bulk { bytes };
    running.ask(order(extent.bulk_warm_up_bytes), Duration::ZERO)?;
    let mut before = Vec::new();
    for relay in &running.relays {
        relay.forget_peak()?;
        before.push(relay.memory()?.resident);
    }
    let order = order(extent.bulk_bytes);
    let (answer, cpu) = ask_counting(running, order, Duration::ZERO)?;
    let Answer::Transfer(transfer) = answer else {
        bail!("{order:?} was answered by {answer:?}");
    };
    let gib = extent.bulk_bytes as f64 / GIB;
    let mut figures = vec![
        (Quantity::MibPerSecond, mib_per_second(&transfer)),
        (Quantity::CpuSecondsPerGib, cpu.all.as_secs_f64() / gib),
    ];
    let mut growth = None;
    for (relay, before) in running.relays.iter().zip(before) {
        let grown = relay.memory()?.peak.saturating_sub(before);
        growth = growth.max(Some(grown));
    }
    if let Some(growth) = growth {
        figures.push((Quantity::RelayCpuSecondsPerGib, cpu.relays.as_secs_f64() / gib));
        figures.push((Quantity::RelayGrowthMib, growth as f64 / MIB));
    }
    Ok(figures)
}

/// Small exchanges one at a time while a transfer saturates the same path.
pub(crate) fn mixed(running: &mut Running, extent: Extent, handling: Handling) -> Result<Figures> {
    let order = Order::Mixed {
        handling,
        window_ms: millis(extent.window)?,
    };
    let answer = running.ask(order, extent.window)?;
    let Answer::Mixed { exchanges, transfer } = answer else {
        bail!("{order:?} was answered by {answer:?}");
    };
    count_of(&exchanges)?;
    let mut figures = latencies(&exchanges);
    figures.push((Quantity::MibPerSecond, mib_per_second(&transfer)));
    Ok(figures)
}

/// Small exchanges of durable units, `outstanding` at a time.
pub(crate) fn durable(keeping: &mut Keeping, extent: Extent, outstanding: usize) -> Result<Figures> {
    let order = |window: Duration| -> Result<Order> {
        Ok(Order::Exchange {
            outstanding,
            handling: Handling::Pool,
            window_ms: millis(window)?,
        })
    };
    keeping.asker.ask(&order(extent.warm_up)?, extent.warm_up)?;
    let disks = disks(keeping)?;
    let cpu = keeping.cpu_time()?;
    let order = order(extent.window)?;
    let answer = keeping.asker.ask(&order, extent.window)?;
    let cpu = keeping.cpu_time()?.saturating_sub(cpu);
    let used = used(disks, self::disks(keeping)?);
    let Answer::Exchanges(exchanges) = answer else {
        bail!("{order:?} was answered by {answer:?}");
    };
    let count = count_of(&exchanges)?;
    let mut figures = latencies(&exchanges);
    figures.extend([
        (Quantity::PerSecond, count / exchanges.elapsed.as_secs_f64()),
        (Quantity::CpuMicrosEach, micros(cpu) / count),
        (Quantity::SyncsEach, used.origin.syncs as f64 / count),
        (Quantity::AppendsEach, used.origin.appends as f64 / count),
        (Quantity::LogBytesEach, used.origin.bytes as f64 / count),
    ]);
    if let Some(executor) = used.executor {
        figures.extend([
            (Quantity::ExecutorSyncsEach, executor.syncs as f64 / count),
            (Quantity::ExecutorAppendsEach, executor.appends as f64 / count),
            (Quantity::ExecutorLogBytesEach, executor.bytes as f64 / count),
        ]);
    }
    Ok(figures)
}

fn disks(keeping: &mut Keeping) -> Result<Disks> {
    match keeping.asker.ask(&Order::Disks, Duration::ZERO)? {
        Answer::Disks(disks) => Ok(disks),
        answer => bail!("{:?} was answered by {answer:?}", Order::Disks),
    }
}

/// What was used between two looks.
fn used(before: Disks, after: Disks) -> Disks {
    let between = |before: DiskUse, after: DiskUse| DiskUse {
        syncs: after.syncs.saturating_sub(before.syncs),
        appends: after.appends.saturating_sub(before.appends),
        // A log that was compacted meanwhile is shorter.
        bytes: after.bytes.saturating_sub(before.bytes),
    };
    Disks {
        origin: between(before.origin, after.origin),
        executor: before
            .executor
            .zip(after.executor)
            .map(|(before, after)| between(before, after)),
    }
}

/// Memory of `count` pending requests at either end; what the first one costs once is not in it.
pub(crate) fn pending(running: &mut Running, count: usize) -> Result<Figures> {
    let resident = |running: &Running| -> Result<(u64, u64)> {
        let asker = running.asker.as_ref().context("nobody asks in this shape")?;
        Ok((running.answerer.memory()?.resident, asker.memory()?.resident))
    };
    running.ask(Order::Hold { count: 1 }, Duration::ZERO)?;
    running.ask(Order::Release, Duration::ZERO)?;
    let before = resident(running)?;
    running.ask(Order::Hold { count }, Duration::ZERO)?;
    let after = resident(running)?;
    running.ask(Order::Release, Duration::ZERO)?;
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / KIB / count as f64;
    Ok(vec![
        (Quantity::KibEach, each(before.0, after.0)),
        (Quantity::AskerKibEach, each(before.1, after.1)),
    ])
}

/// Start and rest of an answering end without neighbours.
pub(crate) fn rest(running: &Running) -> Result<Vec<(Load, Quantity, f64)>> {
    let resident = running.answerer.memory()?.resident;
    Ok(vec![
        (
            Load::Start,
            Quantity::CpuMillis,
            running.start_cpu.as_secs_f64() * 1000.0,
        ),
        (Load::Idle, Quantity::ResidentMib, resident as f64 / MIB),
    ])
}

/// Memory of each idle neighbour, by the difference between two answering ends.
pub(crate) fn neighbours(alone: &Running, among: &Running) -> Result<Figures> {
    let alone = alone.answerer.memory()?.resident;
    let grown = among.answerer.memory()?.resident.saturating_sub(alone);
    let each = grown as f64 / KIB / among.neighbours.len() as f64;
    Ok(vec![(Quantity::KibEach, each)])
}

fn ask_counting(running: &mut Running, order: Order, duration: Duration) -> Result<(Answer, CpuTime)> {
    let before = running.cpu_time()?;
    let answer = running.ask(order, duration)?;
    let after = running.cpu_time()?;
    let spent = CpuTime {
        all: after.all.saturating_sub(before.all),
        relays: after.relays.saturating_sub(before.relays),
    };
    Ok((answer, spent))
}

fn latencies(exchanges: &Exchanges) -> Figures {
    vec![
        (Quantity::P50Micros, micros(exchanges.p50)),
        (Quantity::P99Micros, micros(exchanges.p99)),
    ]
}

fn count_of(exchanges: &Exchanges) -> Result<f64> {
    if exchanges.count == 0 {
        bail!("no exchange was completed");
    }
    Ok(exchanges.count as f64)
}

fn mib_per_second(transfer: &Transfer) -> f64 {
    transfer.bytes as f64 / MIB / transfer.elapsed.as_secs_f64()
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn millis(duration: Duration) -> Result<u64> {
    duration.as_millis().try_into().context("a window too long")
}
