//! What a seed decides before anything happens: nodes, units, what their worker sends in each run, how rough the world is.

use std::collections::BTreeMap;

use workmesh_proto::record::Order;
use workmesh_proto::unit::durable::{OriginTimings, TableLimits};
use workmesh_proto::wire::unit::Kind;
use workmesh_proto::{NodeId, UnitId};

use crate::rng::Rng;

/// How late an origin's words can be.
pub(crate) const MAX_LATE_MS: u64 = 9000;

/// A piece of a worker's output; `true`: the last of its response.
pub(crate) type Sent = (Vec<u8>, bool);

/// One world.
pub(crate) struct Plan {
    pub(crate) executors: usize,
    pub(crate) units: Vec<UnitPlan>,
    pub(crate) timings: OriginTimings,
    /// When all faults end, in milliseconds.
    pub(crate) rough_ms: u64,
    /// Time between two faults, at most.
    pub(crate) fault_ms: u64,
    /// One effect in so many is the last one before a crash; 0: none.
    pub(crate) crash_in: u64,
    /// One conversation in a hundred times so many is cut at each message.
    pub(crate) cut_percent: u64,
    /// How long a unit waits at its executor, at most.
    pub(crate) queue_ms: u64,
    /// Executors are killed and nothing worse: a unit that has not begun is never lost.
    pub(crate) only_kills: bool,
    /// Of each executor.
    pub(crate) limits: TableLimits,
    /// Unacknowledged bytes at which a worker waits.
    pub(crate) window: u64,
}

/// One unit.
pub(crate) struct UnitPlan {
    pub(crate) id: UnitId,
    pub(crate) submit_ms: u64,
    /// The executor that it is for, if that is named.
    pub(crate) to: Option<usize>,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) cancel_ms: Option<u64>,
    pub(crate) order_idempotent: bool,
    pub(crate) worker_idempotent: bool,
    /// Later runs send something else.
    pub(crate) fickle: bool,
    /// Placed before it is stored.
    pub(crate) hurried: bool,
    pub(crate) payload: u64,
    pub(crate) end: Kind,
    pub(crate) step_ms: u64,
    output: Vec<Sent>,
}

/// The name of an executor.
pub(crate) fn executor(number: usize) -> NodeId {
    NodeId::parse(&format!("E{number}")).expect("a good name")
}

impl Plan {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let calm = rng.chance(10);
        let (executors, units) = (1 + rng.index(3), 1 + rng.index(3));
        let rough_ms = if calm { 0 } else { rng.range(500..20_000) };
        let only_kills = rng.chance(15);
        let patience = if only_kills { 1000 } else { 1 };
        Self {
            executors,
            units: (0..units)
                .map(|number| UnitPlan::new(number, executors, rough_ms, rng))
                .collect(),
            timings: OriginTimings {
                retry_least_ms: 100,
                retry_most_ms: 2000,
                give_up_ms: patience * rng.range(500..6000),
                lost_ms: patience * rng.range(5000..60_000),
                owe_ms: u64::MAX,
            },
            rough_ms,
            fault_ms: rng.range(100..4000),
            crash_in: [0, 60, 200, 1000][rng.index(4)],
            cut_percent: [0, 0, 1, 5, 15][rng.index(5)],
            queue_ms: [10, 300, 4000][rng.index(3)],
            only_kills,
            limits: match rng.chance(30) {
                true => TableLimits {
                    units: 1 + rng.index(3),
                    denied: 1 + rng.index(3),
                    forgotten: 1 + rng.index(3),
                    late_ms: 2 * MAX_LATE_MS,
                },
                false => TableLimits::default(),
            },
            window: [40, 1000, 200_000][rng.index(3)],
        }
    }
}

impl UnitPlan {
    fn new(number: usize, executors: usize, rough_ms: u64, rng: &mut Rng) -> Self {
        let often = |percent, rng: &mut Rng| rng.chance(percent);
        let submit_ms = rng.range(0..1 + rough_ms / 3);
        Self {
            id: UnitId(uuid(number)),
            submit_ms,
            to: often(25, rng).then(|| rng.index(executors)),
            deadline_ms: often(25, rng).then(|| submit_ms + rng.range(0..rough_ms + 2000)),
            cancel_ms: often(15, rng).then(|| submit_ms + rng.range(0..rough_ms + 2000)),
            order_idempotent: often(45, rng),
            worker_idempotent: often(20, rng),
            fickle: often(20, rng),
            hurried: often(60, rng),
            payload: rng.range(0..4),
            end: [Kind::Ok, Kind::Ok, Kind::Ok, Kind::WorkerError][rng.index(4)],
            step_ms: [1, 20, 300, 1500][rng.index(4)],
            output: output(rng),
        }
    }

    pub(crate) fn is_idempotent(&self) -> bool {
        self.order_idempotent || self.worker_idempotent
    }

    pub(crate) fn order(&self) -> Order {
        Order {
            directive: "sim:unit".into(),
            to: self.to.map(executor),
            params: BTreeMap::new(),
            payload_bytes: self.payload,
            payload_digest: 0,
            submitted_ms: self.submit_ms,
            deadline_ms: self.deadline_ms,
            trace: None,
            idempotent: self.order_idempotent,
        }
    }

    /// What the worker sends in its run `number`, from 1.
    pub(crate) fn output(&self, number: usize) -> Vec<Sent> {
        let mut output = self.output.clone();
        if self.fickle && number > 1 && !output.is_empty() {
            let at = (number * 7) % output.len();
            match output[at].0.first_mut() {
                Some(byte) => *byte ^= 1,
                None => output[at].0.push(b'x'),
            }
        } else if number > 1 {
            recut(&mut output, number);
        }
        output
    }
}

/// The same responses in other pieces.
fn recut(output: &mut Vec<Sent>, number: usize) {
    let mut cut = Vec::new();
    for (data, last) in output.drain(..) {
        let at = (number * 3).min(data.len());
        if at > 0 && at < data.len() {
            cut.push((data[..at].to_vec(), false));
            cut.push((data[at..].to_vec(), last));
        } else {
            cut.push((data, last));
        }
    }
    *output = cut;
}

fn output(rng: &mut Rng) -> Vec<Sent> {
    let mut output = Vec::new();
    for _ in 0..rng.index(6) {
        let pieces = 1 + rng.index(3);
        for piece in 0..pieces {
            let length = match rng.range(0..40) {
                0..12 => 0,
                12..39 => rng.range(1..30),
                _ => rng.range(60_000..150_000),
            };
            let first = rng.range(0..256) as u8;
            let data = (0..length).map(|i| first.wrapping_add(i as u8)).collect();
            output.push((data, piece + 1 == pieces));
        }
    }
    output
}

fn uuid(number: usize) -> uuid::Uuid {
    uuid::Uuid::from_u128(1 + number as u128)
}
