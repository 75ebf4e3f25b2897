//! What the executor tells about itself: load, active units, counters. Plain snapshots for status, ping and metrics.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use workmesh_proto::wire::unit::{Kind, Outcome};
use workmesh_proto::{NodeId, UnitId};

/// How full the pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadFigures {
    /// Units that can run at once.
    pub slots: usize,
    /// Units that occupy a slot.
    pub running: usize,
    /// Units that wait for a slot, for their payload, or for their worker's own limit.
    pub queued: usize,
    /// How many units may wait while no slot can take them.
    pub queue_limit: usize,
    /// Threads whose function was told to stop and has not returned; others have taken their place.
    pub abandoned: usize,
}

impl LoadFigures {
    /// The figures that other nodes hear.
    pub fn advertised(&self) -> workmesh_proto::mesh::LoadFigures {
        let count = |figure: usize| u32::try_from(figure).unwrap_or(u32::MAX);
        workmesh_proto::mesh::LoadFigures {
            slots: count(self.slots),
            running: count(self.running),
            queued: count(self.queued),
            queue_limit: count(self.queue_limit),
        }
    }

    /// Whether no unit runs or waits.
    pub fn is_idle(&self) -> bool {
        self.running + self.queued == 0
    }
}

/// One unit that has been admitted and is not gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveUnit {
    /// Its id.
    pub id: UnitId,
    /// `module:function`.
    pub directive: &'static str,
    /// Who submitted it.
    pub sender: NodeId,
    /// Where it is.
    pub state: ActiveState,
    /// Since admission.
    pub age: Duration,
}

/// Where an active unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ActiveState {
    /// Waits for a slot, for its payload, or for its worker's own limit.
    Queued,
    /// Its function runs.
    Running,
    /// Has ended for the submitter; its function was told to stop and still holds the slot.
    Stopping,
    /// Has ended for the submitter; its function does not return, and another thread has taken the slot.
    Abandoned,
}

impl ActiveState {
    /// The name in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Abandoned => "abandoned",
        }
    }
}

impl fmt::Display for ActiveState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Totals since the executor's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Units admitted.
    pub accepted: u64,
    /// Units refused, by kind.
    pub refused: KindCounts,
    /// Units ended, by kind.
    pub ended: KindCounts,
    /// Threads given up.
    pub abandoned: u64,
    /// Payload bytes taken in.
    pub payload_bytes: u64,
    /// Response bytes handed out by workers.
    pub response_bytes: u64,
    /// Payload bytes written to temporary files.
    pub spool_bytes: u64,
}

/// A count for each kind that has occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindCounts {
    counts: Vec<(Kind, u64)>,
}

impl KindCounts {
    pub(super) fn add(&mut self, kind: Kind) {
        match self.counts.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((kind, 1)),
        }
    }

    /// The count of one kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.iter()
            .filter(|(k, _)| *k == kind)
            .map(|(_, count)| count)
            .sum()
    }

    /// The count of all kinds of an outcome.
    pub fn of_outcome(&self, outcome: Outcome) -> u64 {
        self.iter()
            .filter(|(kind, _)| kind.outcome() == outcome)
            .map(|(_, count)| count)
            .sum()
    }

    /// The count of all kinds.
    pub fn total(&self) -> u64 {
        self.iter().map(|(_, count)| count).sum()
    }

    /// Each kind that has occurred, in order of first occurrence.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64)> {
        self.counts.iter().copied()
    }
}

/// A total that grows from several threads.
#[derive(Debug, Default)]
pub(super) struct Meter(AtomicU64);

impl Meter {
    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The totals that are counted outside the pool's lock.
#[derive(Debug, Default)]
pub(super) struct Meters {
    pub(super) payload_bytes: Meter,
    pub(super) response_bytes: Meter,
    pub(super) spool_bytes: Meter,
}
