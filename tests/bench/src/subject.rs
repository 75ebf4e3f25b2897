//! What can be compared: something that can raise real processes in a shape and have one of them exchange with another.
//!
//! The floor and the product each implement [`Subject`]; all measuring is above it and the same for both.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process::Process;
use crate::protocol::{Answer, Handling, Order};
use crate::reading::Place;

/// Name of the subject that is raw quinn.
pub(crate) const FLOOR: &str = "floor";
/// Name of the subject that is a mesh of nodes.
pub(crate) const PRODUCT: &str = "product";
/// Name of the subject that is a mesh of nodes of another build.
pub(crate) const BASELINE: &str = "baseline";

/// Which processes there are and how they are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The asking end, so many relays, the answering end.
    Line { relays: usize },
    /// The answering end with so many idle neighbours around it and nobody asking.
    Star { neighbours: usize },
}

/// A thing under comparison.
pub(crate) trait Subject {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// The ways in which its answering end can make an answer.
    fn handlings(&self) -> &'static [Handling];

    /// Starts the processes of `shape` and returns when all of them are ready and joined.
    fn raise(&self, shape: Shape) -> Result<Running>;

    /// Starts what keeps units that run at `place`, and returns when it is ready.
    fn raise_keeping(&self, place: Place) -> Result<Keeping>;

    /// The whole-process commands to be timed while `running` is up.
    fn commands(&self, running: &Running) -> Result<Vec<OneShot>>;
}

/// A command that is timed from its start to its end.
#[derive(Clone, Debug)]
pub(crate) struct OneShot {
    /// Its name in reports.
    pub(crate) name: &'static str,
    /// The program and its arguments.
    pub(crate) argv: Vec<OsString>,
}

/// The processes of a shape. Dropped, all of them end.
pub(crate) struct Running {
    /// The asking end; a [`Shape::Star`] has none.
    pub(crate) asker: Option<Process>,
    /// From the asking end to the answering one.
    pub(crate) relays: Vec<Process>,
    /// The answering end.
    pub(crate) answerer: Process,
    /// The idle neighbours of a [`Shape::Star`].
    pub(crate) neighbours: Vec<Process>,
    /// CPU time the answering end had used when it was ready.
    pub(crate) start_cpu: Duration,
}

impl Running {
    /// Gives the asking end an order that takes `duration`.
    pub(crate) fn ask(&mut self, order: Order, duration: Duration) -> Result<Answer> {
        self.asker
            .as_mut()
            .context("nobody asks in this shape")?
            .ask(&order, duration)
    }

    /// Every process that is not an idle neighbour.
    pub(crate) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.asker
            .iter()
            .chain(&self.relays)
            .chain(std::iter::once(&self.answerer))
    }

    /// CPU time of all processes, and of the relays among them.
    pub(crate) fn cpu_time(&self) -> Result<CpuTime> {
        Ok(CpuTime {
            all: self.processes().map(Process::cpu_time).sum::<Result<_>>()?,
            relays: self.relays.iter().map(Process::cpu_time).sum::<Result<_>>()?,
        })
    }
}

/// The processes that keep units on disk and run them. Dropped, all of them end.
pub(crate) struct Keeping {
    /// Has the units done.
    pub(crate) asker: Process,
    /// Those that keep and run them, if these are others.
    pub(crate) nodes: Vec<Process>,
}

impl Keeping {
    /// CPU time of all processes.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        let processes = std::iter::once(&self.asker).chain(&self.nodes);
        processes.map(Process::cpu_time).sum()
    }
}

/// CPU time of the processes of a shape.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime {
    pub(crate) all: Duration,
    pub(crate) relays: Duration,
}
