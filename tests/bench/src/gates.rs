//! What the product promises beside the floor: every figure with its bound, and whether a run met it.

use serde::Serialize;

use crate::protocol::Handling;
use crate::reading::{Cell, Load, Place, Quantity, Readings, Spread};
use crate::rounds::Scope;
use crate::subject::{BASELINE, FLOOR, PRODUCT};

/// p50 of a no-op unit, one at a time, over raw quinn's stream per request.
const EXCHANGE_P50_RATIO: f64 = 2.5;
/// p99 of the same.
const EXCHANGE_P99_RATIO: f64 = 4.0;
/// No-op units a second, many at a time, over raw quinn's stream per request with a hand-off to a pool.
const EXCHANGE_RATE_RATIO: f64 = 0.6;
/// No-op units a second over one relay, over the own rate without.
const ONE_RELAY_RATE_RATIO: f64 = 0.7;
/// No-op units a second over three relays, over the own rate without.
const THREE_RELAYS_RATE_RATIO: f64 = 0.5;
/// Bulk throughput over raw quinn's, over as many blind forwarders as there are relays.
const BULK_RATE_RATIO: f64 = 0.85;
/// CPU time per GiB, all processes, over raw quinn's.
const BULK_CPU_RATIO: f64 = 1.2;
/// p50 of a no-op unit while a bulk unit saturates the same path, µs.
const MIXED_P50_MICROS: f64 = 2_000.0;
/// p99 of the same, µs.
const MIXED_P99_MICROS: f64 = 10_000.0;
/// Resident memory of an idle node, MiB.
const IDLE_MIB: f64 = 16.0;
/// Memory of a node for each idle neighbour, KiB.
const NEIGHBOUR_KIB: f64 = 150.0;
/// Memory for each pending unit, at its origin and at its executor, KiB.
const PENDING_KIB: f64 = 4.0;
/// Growth of a relay while bulk passes, MiB.
const RELAY_GROWTH_MIB: f64 = 16.0;
/// `node submit` of a local no-op, whole process, over `/bin/true`.
const SUBMIT_RATIO: f64 = 5.0;
/// `node ping` of a neighbour, whole process, over `/bin/true`.
const PING_RATIO: f64 = 6.0;
/// CPU time of a node from its start to listening, ms.
const START_CPU_MILLIS: f64 = 50.0;

/// Durable units a second, many at a time, over what the same disk gives for as few syncs as keeping them needs.
const DURABLE_RATE_RATIO: f64 = 0.5;
/// No-op units a second over another build's.
const AGAINST_RATE_RATIO: f64 = 0.95;

/// Exchanges under way at a time where latency is measured.
pub(crate) const ONE: usize = 1;
/// Exchanges under way at a time where the rate is measured.
pub(crate) const MANY: usize = 256;
/// Durable units under way at a time where their rate is measured.
pub(crate) const KEPT: usize = 64;
/// The command that every other one is compared with.
pub(crate) const TRUE: &str = "true";
/// A local no-op unit through the command line.
pub(crate) const SUBMIT: &str = "submit";
/// A ping of a neighbour through the command line.
pub(crate) const PING: &str = "ping";

/// The least or the most a figure may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn admits(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
        }
    }
}

/// How a promise came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    Met,
    Missed,
    NotMeasured,
}

/// A promise and what a run says to it. The median decides.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Gate {
    pub(crate) meaning: String,
    pub(crate) bound: Bound,
    pub(crate) measured: Option<Spread>,
    pub(crate) verdict: Verdict,
}

impl Gate {
    fn new(meaning: impl Into<String>, bound: Bound, measured: Option<Spread>) -> Self {
        let verdict = match measured {
            None => Verdict::NotMeasured,
            Some(spread) if bound.admits(spread.median) => Verdict::Met,
            Some(_) => Verdict::Missed,
        };
        Self {
            meaning: meaning.into(),
            bound,
            measured,
            verdict,
        }
    }
}

/// Every promise within `scope`, judged by `readings`.
pub(crate) fn judge(readings: &Readings, scope: Scope) -> Vec<Gate> {
    match scope {
        Scope::All => {}
        Scope::Durable => return vec![durable(readings)],
        Scope::Against => return against(readings),
    }
    let mut gates = exchanges(readings);
    gates.extend(bulk(readings));
    gates.extend(absolute(readings));
    gates.extend(starts(readings));
    gates.push(durable(readings));
    gates
}

fn durable(readings: &Readings) -> Gate {
    let rate = Cell {
        relays: 0,
        load: Load::Durable {
            outstanding: KEPT,
            place: Place::Neighbour,
        },
        quantity: Quantity::PerSecond,
    };
    Gate::new(
        format!("durable no-op units, {KEPT} at a time, rate over the disk's with the fewest syncs"),
        Bound::AtLeast(DURABLE_RATE_RATIO),
        readings.ratio((PRODUCT, rate), (FLOOR, rate)),
    )
}

fn against(readings: &Readings) -> Vec<Gate> {
    let gate = |outstanding| {
        let rate = Cell {
            relays: 0,
            load: Load::Exchange {
                outstanding,
                handling: Handling::Pool,
            },
            quantity: Quantity::PerSecond,
        };
        Gate::new(
            format!("no-op units, {outstanding} at a time, rate over the other build's"),
            Bound::AtLeast(AGAINST_RATE_RATIO),
            readings.ratio((PRODUCT, rate), (BASELINE, rate)),
        )
    };
    vec![gate(ONE), gate(MANY)]
}

fn exchanges(readings: &Readings) -> Vec<Gate> {
    let exchange = |relays, outstanding, handling, quantity| Cell {
        relays,
        load: Load::Exchange {
            outstanding,
            handling,
        },
        quantity,
    };
    let latency = |quantity| {
        readings.ratio(
            (PRODUCT, exchange(0, ONE, Handling::Pool, quantity)),
            (FLOOR, exchange(0, ONE, Handling::InPlace, quantity)),
        )
    };
    let rate = |relays| exchange(relays, MANY, Handling::Pool, Quantity::PerSecond);
    let own_rate = |relays| readings.ratio((PRODUCT, rate(relays)), (PRODUCT, rate(0)));
    vec![
        Gate::new(
            "no-op unit one at a time, p50 over raw quinn's",
            Bound::AtMost(EXCHANGE_P50_RATIO),
            latency(Quantity::P50Micros),
        ),
        Gate::new(
            "no-op unit one at a time, p99 over raw quinn's",
            Bound::AtMost(EXCHANGE_P99_RATIO),
            latency(Quantity::P99Micros),
        ),
        Gate::new(
            format!("no-op units, {MANY} at a time, rate over raw quinn's with a pool"),
            Bound::AtLeast(EXCHANGE_RATE_RATIO),
            readings.ratio((PRODUCT, rate(0)), (FLOOR, rate(0))),
        ),
        Gate::new(
            "the same over 1 relay, over the own rate without",
            Bound::AtLeast(ONE_RELAY_RATE_RATIO),
            own_rate(1),
        ),
        Gate::new(
            "the same over 3 relays, over the own rate without",
            Bound::AtLeast(THREE_RELAYS_RATE_RATIO),
            own_rate(3),
        ),
    ]
}

fn bulk(readings: &Readings) -> Vec<Gate> {
    [0, 1, 3]
        .into_iter()
        .flat_map(|relays| {
            let ratio = |quantity| {
                let cell = Cell {
                    relays,
                    load: Load::Bulk,
                    quantity,
                };
                readings.ratio((PRODUCT, cell), (FLOOR, cell))
            };
            [
                Gate::new(
                    format!("bulk over {relays} relays, throughput over raw quinn's"),
                    Bound::AtLeast(BULK_RATE_RATIO),
                    ratio(Quantity::MibPerSecond),
                ),
                Gate::new(
                    format!("bulk over {relays} relays, CPU time over raw quinn's"),
                    Bound::AtMost(BULK_CPU_RATIO),
                    ratio(Quantity::CpuSecondsPerGib),
                ),
            ]
        })
        .collect()
}

fn absolute(readings: &Readings) -> Vec<Gate> {
    let of_product = |relays, load, quantity| {
        Spread::of(readings.rounds(
            PRODUCT,
            Cell {
                relays,
                load,
                quantity,
            },
        ))
    };
    let mut gates = Vec::new();
    for relays in [0, 1, 3] {
        gates.push(Gate::new(
            format!("no-op unit beside bulk over {relays} relays, p50 µs"),
            Bound::AtMost(MIXED_P50_MICROS),
            of_product(relays, Load::Mixed, Quantity::P50Micros),
        ));
        gates.push(Gate::new(
            format!("no-op unit beside bulk over {relays} relays, p99 µs"),
            Bound::AtMost(MIXED_P99_MICROS),
            of_product(relays, Load::Mixed, Quantity::P99Micros),
        ));
    }
    for relays in [1, 3] {
        gates.push(Gate::new(
            format!("growth of a relay of {relays} under bulk, MiB"),
            Bound::AtMost(RELAY_GROWTH_MIB),
            of_product(relays, Load::Bulk, Quantity::RelayGrowthMib),
        ));
    }
    gates.extend([
        Gate::new(
            "idle node, resident MiB",
            Bound::AtMost(IDLE_MIB),
            of_product(0, Load::Idle, Quantity::ResidentMib),
        ),
        Gate::new(
            "idle neighbour, KiB",
            Bound::AtMost(NEIGHBOUR_KIB),
            of_product(0, Load::Neighbours, Quantity::KibEach),
        ),
        Gate::new(
            "pending unit at its executor, KiB",
            Bound::AtMost(PENDING_KIB),
            of_product(0, Load::Pending, Quantity::KibEach),
        ),
        Gate::new(
            "pending unit at its origin, KiB",
            Bound::AtMost(PENDING_KIB),
            of_product(0, Load::Pending, Quantity::AskerKibEach),
        ),
        Gate::new(
            "node start to listening, CPU ms",
            Bound::AtMost(START_CPU_MILLIS),
            of_product(0, Load::Start, Quantity::CpuMillis),
        ),
    ]);
    gates
}

fn starts(readings: &Readings) -> Vec<Gate> {
    let command = |name| Cell {
        relays: 0,
        load: Load::Command(name),
        quantity: Quantity::WallMillis,
    };
    let over_true = |name| readings.ratio((PRODUCT, command(name)), (FLOOR, command(TRUE)));
    vec![
        Gate::new(
            "submit of a local no-op, whole process, over /bin/true",
            Bound::AtMost(SUBMIT_RATIO),
            over_true(SUBMIT),
        ),
        Gate::new(
            "ping of a neighbour, whole process, over /bin/true",
            Bound::AtMost(PING_RATIO),
            over_true(PING),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_at_its_bound_meets_it_and_one_past_it_does_not() {
        let spread = |median| {
            Some(Spread {
                median,
                min: 0.0,
                max: 9.0,
            })
        };
        let verdict = |bound, median| Gate::new("", bound, spread(median)).verdict;
        assert_eq!(verdict(Bound::AtMost(2.5), 2.5), Verdict::Met);
        assert_eq!(verdict(Bound::AtMost(2.5), 2.6), Verdict::Missed);
        assert_eq!(verdict(Bound::AtLeast(0.6), 0.6), Verdict::Met);
        assert_eq!(verdict(Bound::AtLeast(0.6), 0.5), Verdict::Missed);
    }

    #[test]
    fn a_figure_that_is_no_number_meets_nothing() {
        assert!(!Bound::AtMost(1.0).admits(f64::NAN));
        assert!(!Bound::AtLeast(1.0).admits(f64::NAN));
    }

    #[test]
    fn without_the_product_nothing_is_measured() {
        let gates = judge(&Readings::default(), Scope::All);
        assert!(gates.iter().all(|gate| gate.verdict == Verdict::NotMeasured));
    }

    #[test]
    fn latency_is_judged_against_the_floor_that_answers_in_place() {
        let mut readings = Readings::default();
        let cell = |handling| Cell {
            relays: 0,
            load: Load::Exchange {
                outstanding: ONE,
                handling,
            },
            quantity: Quantity::P50Micros,
        };
        readings.push(FLOOR, cell(Handling::InPlace), 50.0);
        readings.push(FLOOR, cell(Handling::Pool), 100.0);
        readings.push(PRODUCT, cell(Handling::Pool), 150.0);
        assert_eq!(judge(&readings, Scope::All)[0].verdict, Verdict::Missed);
    }
    #[test]
    fn durable_units_are_judged_where_they_run_at_a_neighbour() {
        let mut readings = Readings::default();
        let cell = |place| Cell {
            relays: 0,
            load: Load::Durable {
                outstanding: KEPT,
                place,
            },
            quantity: Quantity::PerSecond,
        };
        for (place, product) in [(Place::Neighbour, 499.0), (Place::Here, 900.0)] {
            readings.push(FLOOR, cell(place), 1000.0);
            readings.push(PRODUCT, cell(place), product);
        }
        let verdicts = judge(&readings, Scope::Durable);
        assert_eq!(verdicts.len(), 1);
        assert_eq!(verdicts[0].verdict, Verdict::Missed);
    }

    #[test]
    fn another_build_is_the_measure_where_one_is_given() {
        let mut readings = Readings::default();
        for (outstanding, product) in [(ONE, 95.0), (MANY, 94.0)] {
            let cell = Cell {
                relays: 0,
                load: Load::Exchange {
                    outstanding,
                    handling: Handling::Pool,
                },
                quantity: Quantity::PerSecond,
            };
            readings.push(BASELINE, cell, 100.0);
            readings.push(PRODUCT, cell, product);
        }
        let verdicts = judge(&readings, Scope::Against)
            .into_iter()
            .map(|gate| gate.verdict);
        assert_eq!(verdicts.collect::<Vec<_>>(), [Verdict::Met, Verdict::Missed]);
    }
}
