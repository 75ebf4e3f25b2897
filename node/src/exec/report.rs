//! What the executor tells about itself: load, active units, counters. Plain snapshots for status, ping and metrics.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use workmesh_proto::wire::unit::Kind;
use workmesh_proto::{NodeId, UnitId};

/// How full the pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoadFigures {
    /// Units that can run at once.
    pub(crate) slots: usize,
    /// Units that occupy a slot.
    pub(crate) running: usize,
    /// Units that wait for a slot, for their payload, or for their worker's own limit.
    pub(crate) queued: usize,
    /// How many units may wait while no slot can take them.
    pub(crate) queue_limit: usize,
    /// Threads whose function was told to stop and has not returned; others have taken their place.
    pub(crate) abandoned: usize,
}

impl LoadFigures {
    /// The figures that other nodes hear.
    pub(crate) fn advertised(&self) -> workmesh_proto::mesh::LoadFigures {
        let count = |figure: usize| u32::try_from(figure).unwrap_or(u32::MAX);
        workmesh_proto::mesh::LoadFigures {
            slots: count(self.slots),
            running: count(self.running),
            queued: count(self.queued),
            queue_limit: count(self.queue_limit),
        }
    }

    /// Whether no unit runs or waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.running + self.queued == 0
    }
}

/// One unit that has been admitted and is not gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActiveUnit {
    /// Its id.
    pub(crate) id: UnitId,
    /// `module:function`.
    pub(crate) directive: &'static str,
    /// Who submitted it.
    pub(crate) sender: NodeId,
    /// Where it is.
    pub(crate) state: ActiveState,
    /// Since admission.
    pub(crate) age: Duration,
}

/// Where an active unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ActiveState {
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
    pub(crate) fn as_str(self) -> &'static str {
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
pub(crate) struct Counters {
    /// Units admitted.
    pub(crate) accepted: u64,
    /// Units refused, by kind.
    pub(crate) refused: KindCounts,
    /// Units ended, by kind.
    pub(crate) ended: KindCounts,
    /// Threads given up.
    pub(crate) abandoned: u64,
    /// Payload bytes taken in.
    pub(crate) payload_bytes: u64,
    /// Response bytes handed out by workers.
    pub(crate) response_bytes: u64,
    /// Payload bytes written to temporary files.
    pub(crate) spool_bytes: u64,
}

impl Counters {
    /// Units admitted that have no end yet.
    pub(super) fn unended(&self) -> u64 {
        let ended: u64 = self.ended.iter().map(|(_, count)| count).sum();
        self.accepted.saturating_sub(ended)
    }
}

/// A count for each kind that has occurred.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KindCounts {
    counts: Vec<(Kind, u64)>,
}

impl KindCounts {
    pub(super) fn add(&mut self, kind: Kind) {
        match self.counts.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((kind, 1)),
        }
    }

    /// Each kind that has occurred, in order of first occurrence.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Kind, u64)> {
        self.counts.iter().copied()
    }
}

impl fmt::Display for KindCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (kind, count)) in self.iter().enumerate() {
            let separator = if position == 0 { "" } else { " " };
            write!(f, "{separator}{kind}={count}")?;
        }
        Ok(())
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
