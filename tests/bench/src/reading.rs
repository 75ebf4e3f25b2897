//! What is measured: the load, the quantity and its unit, and a figure for every round.
//!
//! It holds figures and compares them; it measures nothing and prints nothing.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::protocol::Handling;

/// What the processes were doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// Small exchanges, so many at a time.
    Exchange { outstanding: usize, handling: Handling },
    /// One long transfer.
    Bulk,
    /// Small exchanges one at a time beside a transfer.
    Mixed,
    /// Starting up.
    Start,
    /// Nothing.
    Idle,
    /// Nothing, with idle neighbours.
    Neighbours,
    /// Holding units that wait.
    Pending,
    /// Durable units with small exchanges, so many at a time.
    Durable { outstanding: usize, place: Place },
    /// Running a whole-process command of this name.
    Command(&'static str),
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exchange {
                outstanding,
                handling: Handling::InPlace,
            } => write!(f, "exchange, {outstanding} at a time"),
            Self::Exchange {
                outstanding,
                handling: Handling::Pool,
            } => write!(f, "exchange through a pool, {outstanding} at a time"),
            Self::Bulk => f.write_str("bulk"),
            Self::Mixed => f.write_str("exchange beside bulk"),
            Self::Start => f.write_str("start to listening"),
            Self::Idle => f.write_str("idle"),
            Self::Neighbours => f.write_str("idle neighbours"),
            Self::Pending => f.write_str("pending units"),
            Self::Durable { outstanding, place } => {
                let place = match place {
                    Place::Neighbour => "at a neighbour",
                    Place::Here => "at their origin",
                };
                write!(f, "durable units {place}, {outstanding} at a time")
            }
            Self::Command(name) => write!(f, "command {name}"),
        }
    }
}

/// Where durable units run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// At a neighbour of their origin.
    Neighbour,
    /// At their origin.
    Here,
}

/// What was measured, in which unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Quantity {
    P50Micros,
    P99Micros,
    PerSecond,
    CpuMicrosEach,
    RelayCpuMicrosEach,
    MibPerSecond,
    CpuSecondsPerGib,
    RelayCpuSecondsPerGib,
    RelayGrowthMib,
    CpuMillis,
    ResidentMib,
    KibEach,
    AskerKibEach,
    WallMillis,
    SyncsEach,
    AppendsEach,
    LogBytesEach,
    ExecutorSyncsEach,
    ExecutorAppendsEach,
    ExecutorLogBytesEach,
}

impl std::fmt::Display for Quantity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::P50Micros => "p50 µs",
            Self::P99Micros => "p99 µs",
            Self::PerSecond => "per second",
            Self::CpuMicrosEach => "CPU µs each",
            Self::RelayCpuMicrosEach => "of it relays",
            Self::MibPerSecond => "MiB/s",
            Self::CpuSecondsPerGib => "CPU s/GiB",
            Self::RelayCpuSecondsPerGib => "of it relays, s/GiB",
            Self::RelayGrowthMib => "growth of a relay, MiB",
            Self::CpuMillis => "CPU ms",
            Self::ResidentMib => "resident MiB",
            Self::KibEach => "KiB each",
            Self::AskerKibEach => "KiB each, asking end",
            Self::WallMillis => "wall ms",
            Self::SyncsEach => "syncs each",
            Self::AppendsEach => "appends each",
            Self::LogBytesEach => "log bytes each",
            Self::ExecutorSyncsEach => "syncs each, executor",
            Self::ExecutorAppendsEach => "appends each, executor",
            Self::ExecutorLogBytesEach => "log bytes each, executor",
        })
    }
}

/// One thing measured in every round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) relays: usize,
    pub(crate) load: Load,
    pub(crate) quantity: Quantity,
}

/// A median with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of no figures there is none.
    pub(crate) fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let upper = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[upper - 1], sorted[upper])
        } else {
            sorted[upper]
        };
        Some(Self { median, min, max })
    }
}

/// Every figure of a run, by subject and cell, one a round.
#[derive(Debug, Default)]
pub(crate) struct Readings {
    rounds: BTreeMap<(Cell, &'static str), Vec<f64>>,
}

impl Readings {
    /// Adds a round's figure.
    pub(crate) fn push(&mut self, subject: &'static str, cell: Cell, figure: f64) {
        self.rounds.entry((cell, subject)).or_default().push(figure);
    }

    /// The figures of a subject, a round each; none where it was not measured.
    pub(crate) fn rounds(&self, subject: &'static str, cell: Cell) -> &[f64] {
        self.rounds.get(&(cell, subject)).map_or(&[], Vec::as_slice)
    }

    /// The ratio of two figures of the same round, over all rounds that have both; to nothing there is none.
    pub(crate) fn ratio(&self, of: (&'static str, Cell), to: (&'static str, Cell)) -> Option<Spread> {
        let pairs = self.rounds(of.0, of.1).iter().zip(self.rounds(to.0, to.1));
        let ratios = pairs.filter(|(_, to)| **to != 0.0).map(|(of, to)| of / to);
        Spread::of(&ratios.collect::<Vec<_>>())
    }

    /// All cells that any subject has, in order.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let mut cells: Vec<Cell> = self.rounds.keys().map(|&(cell, _)| cell).collect();
        cells.dedup();
        cells
    }
}

/// One row for machines: `Readings` is a list of them.
#[derive(Serialize)]
struct Row<'a> {
    subject: &'static str,
    relays: usize,
    load: String,
    quantity: String,
    #[serde(flatten)]
    spread: Option<Spread>,
    rounds: &'a [f64],
}

impl Serialize for Readings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rounds.iter().map(|(&(cell, subject), rounds)| Row {
            subject,
            relays: cell.relays,
            load: cell.load.to_string(),
            quantity: cell.quantity.to_string(),
            spread: Spread::of(rounds),
            rounds,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: Cell = Cell {
        relays: 0,
        load: Load::Bulk,
        quantity: Quantity::MibPerSecond,
    };

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
    }

    #[test]
    fn no_figures_have_no_median() {
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_ratio_is_taken_round_by_round() {
        let mut readings = Readings::default();
        for (product, floor) in [(1.0, 2.0), (30.0, 30.0), (8.0, 10.0)] {
            readings.push("product", CELL, product);
            readings.push("floor", CELL, floor);
        }
        let ratio = readings.ratio(("product", CELL), ("floor", CELL)).unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (0.8, 0.5, 1.0));
    }

    #[test]
    fn a_ratio_to_nothing_is_none() {
        let mut readings = Readings::default();
        readings.push("product", CELL, 0.0);
        readings.push("floor", CELL, 0.0);
        assert_eq!(readings.ratio(("product", CELL), ("floor", CELL)), None);
    }

    #[test]
    fn a_ratio_to_what_was_not_measured_is_none() {
        let mut readings = Readings::default();
        readings.push("product", CELL, 1.0);
        assert_eq!(readings.ratio(("product", CELL), ("floor", CELL)), None);
    }
}
