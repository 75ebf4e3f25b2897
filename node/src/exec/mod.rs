//! Units at their executor: the registry of workers, admission, the bounded pool of threads, payloads in, responses
//! out. The session and control tasks admit units here and carry bytes; the mesh reads load and advertisements.
//! Imports neither mesh nor link, prints nothing, and never runs a function on the caller's thread.
//!
//! In reading order: what is asked for, who may enter, one unit and its two sides, the threads.

mod budget;
mod ledger;
mod remembered;
mod load;
mod output;
mod payload;
mod pool;
mod registry;
mod report;
mod run;
mod settings;
mod spool;
#[cfg(test)]
pub(crate) mod tests;
mod unit;
mod wakeups;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use workmesh_proto::wire::unit::{Kind, Refused, Submit};
use workmesh_proto::{NodeId, UnitId};

pub(crate) use load::LoadChanges;
pub(crate) use output::{OutputItem, UnitOutput};
pub(crate) use payload::PayloadFeed;
pub(crate) use registry::{EMPTY_REMEDY, Registry, RegistryError};
pub(crate) use report::{ActiveUnit, Counters, LoadFigures};
pub(crate) use settings::ExecSettings;
pub(crate) use spool::SpoolError;

use pool::{NoteStart, Pool};
use unit::Unit;

/// The executor. Clones are handles to one pool; with the last of them the units end and the threads go.
#[derive(Clone, Debug)]
pub(crate) struct Executor {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner {
    pool: Arc<Pool>,
    /// Held for its lock.
    _spool: File,
}

/// Why an executor can't be set up. Our configuration; nothing was started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecError {
    /// No slot at all.
    #[error("a node that runs work needs at least one worker thread: set max-workers to 1 or more")]
    NoSlots,
    /// The folder for payload files.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The first thread.
    #[error("can't start a worker thread: {0}")]
    Thread(io::Error),
}

/// An admitted unit: it runs or waits. Its three parts may live in different tasks.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// Where the payload goes in.
    pub(crate) payload: PayloadFeed,
    /// Where responses and the end come out.
    pub(crate) output: UnitOutput,
    /// Stops the unit.
    pub(crate) cancel: UnitCancel,
}

/// Stops one unit.
#[derive(Clone, Debug)]
pub(crate) struct UnitCancel {
    pool: Arc<Pool>,
    unit: Arc<Unit>,
}

/// What a drain has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Units that ended by themselves.
    pub(crate) ended: u64,
    /// Units that were stopped because they did not end in time.
    pub(crate) stopped: usize,
    /// Threads whose functions have not returned.
    pub(crate) stuck: usize,
}

impl Executor {
    /// An executor of these workers. Makes the spool folder, takes its lock and removes what a dead process left there.
    pub(crate) fn new(registry: Registry, settings: ExecSettings) -> Result<Self, ExecError> {
        if settings.slots == 0 {
            return Err(ExecError::NoSlots);
        }
        let spool = spool::open(&settings.spool_dir)?;
        let owner = Owner {
            pool: Pool::start(registry, settings).map_err(ExecError::Thread)?,
            _spool: spool,
        };
        Ok(Self {
            owner: Arc::new(owner),
        })
    }

    /// Takes a unit in, or refuses it with its own kind of error. Never waits.
    ///
    /// `sender` is the origin as its certificate proved it.
    pub(crate) fn admit(&self, submit: &Submit, sender: NodeId) -> Result<Admitted, Refused> {
        let pool = &self.owner.pool;
        let unit = pool.admit(submit, sender)?;
        Ok(Admitted {
            payload: PayloadFeed::new(Arc::clone(pool), Arc::clone(&unit)),
            output: UnitOutput::new(Arc::clone(pool), Arc::clone(&unit)),
            cancel: UnitCancel {
                pool: Arc::clone(pool),
                unit,
            },
        })
    }

    /// Cancels a unit by its id. `false`: `sender` has no such unit here, or it has ended.
    pub(crate) fn cancel(&self, id: UnitId, sender: &NodeId) -> bool {
        let unit = self.owner.pool.find(id).filter(|unit| unit.sender == *sender);
        unit.is_some_and(|unit| cancel(&self.owner.pool, &unit))
    }

    /// Takes a unit back that no thread has taken; it ends as [`Kind::Draining`]. `false`: it runs, has ended, or is not here.
    pub(crate) fn withdraw(&self, id: UnitId) -> bool {
        let pool = &self.owner.pool;
        pool.find(id).is_some_and(|unit| pool.withdraw(&unit))
    }

    /// Passes wake-ups from the workers' threads on to this runtime, and calls threads for quick units, many at a time, for
    /// ever. Without it each costs a system call of its own; the task is to be spawned on the runtime that admits units and reads their outputs.
    pub(crate) async fn attend(self) {
        let pool = &self.owner.pool;
        pool.wakeups.attend(|| pool.call_all()).await;
    }

    /// Has `note` called on the worker's thread before a durable unit begins, from here on. If it fails the unit does not begin, and
    /// ends as [`Kind::Draining`]. The first call counts.
    pub(crate) fn note_starts(&self, note: impl Fn(UnitId) -> io::Result<()> + Send + Sync + 'static) {
        // Somebody else's stays.
        let _second = self.owner.pool.starts.set(NoteStart(Box::new(note)));
    }

    /// The workers.
    pub(crate) fn registry(&self) -> &Registry {
        &self.owner.pool.registry
    }

    /// How long a payload may bring nothing.
    pub(crate) fn payload_idle(&self) -> Duration {
        self.owner.pool.settings.payload_idle
    }

    /// How full the pool is.
    pub(crate) fn load(&self) -> LoadFigures {
        self.owner.pool.load()
    }

    /// Tells of each change of the load; changes that come faster than they are read are told as one.
    pub(crate) fn load_changes(&self) -> LoadChanges {
        LoadChanges::new(Arc::clone(&self.owner.pool))
    }

    /// Every unit that runs or waits, and every thread that was given up, in order of admission.
    pub(crate) fn active(&self) -> Vec<ActiveUnit> {
        self.owner.pool.active()
    }

    /// Totals since the start.
    pub(crate) fn counters(&self) -> Counters {
        self.owner.pool.counters()
    }

    /// Refuses new units from here on.
    pub(crate) fn refuse_new(&self) {
        self.owner.pool.refuse_new();
    }

    /// Whether new units are refused.
    pub(crate) fn is_draining(&self) -> bool {
        self.owner.pool.is_draining()
    }

    /// Refuses new units, waits up to `limit` for the admitted ones, then stops the rest and waits until their
    /// functions have returned or their threads are given up. May be called again, also while it runs.
    pub(crate) async fn drain(&self, limit: Duration) -> Drained {
        let pool = &self.owner.pool;
        pool.refuse_new();
        let mut load = self.load_changes();
        if !is_idle_within(&mut load, limit).await {
            pool.stop_all();
            let grace = pool.settings.stop_grace + Duration::from_secs(1);
            // What is left after the grace holds its slot because the limit of abandoned threads is reached.
            is_idle_within(&mut load, grace).await;
            let Drained { stopped, stuck, .. } = pool.drained();
            tracing::warn!(stopped, stuck, "units did not end in time");
        }
        let drained = pool.drained();
        self.log_drained(drained);
        drained
    }

    /// Refuses new units and ends those that are there, without waiting for their functions.
    pub(crate) fn stop_now(&self) {
        self.owner.pool.refuse_new();
        self.owner.pool.stop_all();
    }

    fn log_drained(&self, drained: Drained) {
        let Counters {
            accepted,
            refused,
            ended,
            abandoned,
            payload_bytes,
            response_bytes,
            spool_bytes,
        } = self.counters();
        tracing::info!(
            accepted, %refused, %ended, abandoned, payload_bytes, response_bytes, spool_bytes, stopped = drained.stopped,
            "executor drained"
        );
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl UnitCancel {
    /// Cancels the unit: it ends at once for its submitter, and its function is told. `false`: it had its end already.
    pub(crate) fn cancel(&self) -> bool {
        cancel(&self.pool, &self.unit)
    }
}

async fn is_idle_within(load: &mut LoadChanges, limit: Duration) -> bool {
    let idle = load.wait_for(LoadFigures::is_idle);
    tokio::time::timeout(limit, idle).await.is_ok()
}

fn cancel(pool: &Arc<Pool>, unit: &Arc<Unit>) -> bool {
    pool.end(unit, Kind::Cancelled, "cancelled by the submitter".to_owned())
}
