//! An upgrade of the whole mesh under a steady load: each node in turn is told to stop and started again, while small durable units are
//! submitted at an even rate over the control sockets. Not one of them may be lost, or end otherwise than well.
//!
//! Each unit has a connection of its own, which stays open until its end and is made again when its node is away.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use workmesh_node::control::client::{ClientError, UnitReceiver, connect_socket};
use workmesh_node::{Bytes, Kind, NodeId, UnitId};
use workmesh_proto::unit::OriginEvent;
use workmesh_proto::wire::unit::Submit;

use crate::interrupt;
use crate::load::Seen;
use crate::mesh::Mesh;
use crate::plan::{self, Settings, Unit, name};
use crate::stream::{End, Stream};

/// Connections at once; with all of them open, units come later than planned.
const OPEN: usize = 800;
/// How long a unit's client tries, after the load is over too.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause before a client tries again, or elsewhere.
const AGAIN: Duration = Duration::from_millis(50);
/// How long the mesh is left whole before the next node is restarted.
const REST: Duration = Duration::from_secs(1);

/// What came of a unit.
pub(crate) struct Served {
    /// As it was submitted; its origin is the node that took it.
    pub(crate) unit: Unit,
    pub(crate) seen: Seen,
    /// When it was on its origin's disk, from the start.
    stored: Option<Duration>,
}

/// Restarts one node after the other, each when all are there again, and then says that it is over; not before `until`.
///
/// # Panics
/// When a node does not end, or does not come back.
pub(crate) fn restart_all<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    mesh: &'scope Mesh,
    until: Instant,
    over: &'scope AtomicBool,
) -> ScopedJoinHandle<'scope, ()> {
    scope.spawn(move || {
        let _over = SetAtEnd(over);
        for node in 0..mesh.nodes() {
            if !interrupt::sleep_until(Instant::now() + REST) {
                return;
            }
            let begun = Instant::now();
            mesh.restart(node, Signal::TERM, Duration::ZERO);
            mesh.wait_until_whole();
            println!("{} is back after {}", name(node), plan::Seconds(begun.elapsed()));
        }
        interrupt::sleep_until(until);
    })
}

/// Sets a flag when it is dropped, also by a panic.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Submits `rate` units a second until it is `over`, and answers with all of them once each has its end.
pub(crate) fn load(mesh: &Mesh, settings: &Settings, rate: u32, over: &AtomicBool) -> Result<Vec<Served>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the clients' runtime")?;
    let clients = Arc::new(Clients {
        dirs: (0..mesh.nodes())
            .map(|node| mesh.data_dir(node).to_owned())
            .collect(),
        runs: mesh.runs_file(),
    });
    let units = plan::steady(settings, rate);
    Ok(runtime.block_on(serve_all(&clients, units, over)))
}

async fn serve_all(
    clients: &Arc<Clients>,
    units: impl Iterator<Item = Unit>,
    over: &AtomicBool,
) -> Vec<Served> {
    let start = Instant::now();
    let room = Arc::new(Semaphore::new(OPEN));
    let mut serving = JoinSet::new();
    for unit in units {
        tokio::time::sleep_until((start + unit.at).into()).await;
        let Ok(room) = Arc::clone(&room).acquire_owned().await else {
            break;
        };
        if over.load(Ordering::Relaxed) {
            break;
        }
        let clients = Arc::clone(clients);
        serving.spawn(async move {
            let served = clients.serve(unit, start).await;
            drop(room);
            served
        });
    }
    serving.join_all().await
}

/// Where the nodes are, and where workers record their runs.
struct Clients {
    dirs: Vec<PathBuf>,
    runs: PathBuf,
}

impl Clients {
    /// Sees a unit through to its end.
    async fn serve(&self, unit: Unit, start: Instant) -> Served {
        let mut served = Served {
            seen: Seen::default(),
            stored: None,
            unit,
        };
        let mut stream = Stream::new(served.unit.id, served.unit.work);
        let serving = self.converse(&mut served, &mut stream, start);
        if tokio::time::timeout(PATIENCE, serving).await.is_err() {
            served.seen.wrong.push(format!("has no end after {PATIENCE:?}"));
        }
        served.seen.wrong.append(&mut stream.wrong);
        served.seen.ends = stream.ends;
        served
    }

    /// Submits the unit and reads what comes, over as many connections as it takes.
    async fn converse(&self, served: &mut Served, stream: &mut Stream, start: Instant) {
        let Some(submit) = submission(&served.unit) else {
            return served.seen.wrong.push("can't be submitted".to_owned());
        };
        let payload = Bytes::from(served.unit.work.payload(served.unit.id, &self.runs));
        let mut receiver: Option<UnitReceiver<_>> = None;
        // An answer was not heard: the node may have stored it.
        let mut in_doubt = false;
        loop {
            let Ok(client) = connect_socket(&self.dirs[served.unit.origin]).await else {
                self.pause(served, receiver.is_none() && !in_doubt).await;
                continue;
            };
            let (mut sender, mut reading) = match receiver.take() {
                Some(mut reading) => (reading.resume(submit.unit, client), reading),
                None => match client.submit(&submit).await {
                    Ok(halves) => halves,
                    Err(_) => {
                        in_doubt = true;
                        self.pause(served, false).await;
                        continue;
                    }
                },
            };
            // What can't be sent has its reason on the other half.
            if served.seen.stored {
                let _broken = sender.flush().await;
            } else if sender.payload(payload.clone()).await.is_ok() {
                let _broken = sender.payload_end().await;
            }
            let elsewhere = loop {
                match reading.next().await {
                    Ok(OriginEvent::Stored(_)) => {
                        served.seen.stored = true;
                        served.stored.get_or_insert(start.elapsed());
                    }
                    Ok(OriginEvent::Piece(piece)) => stream.piece(piece.serial, &piece.data, piece.last),
                    Ok(OriginEvent::Eof(eof)) => {
                        return stream.end(End {
                            outcome: eof.outcome.to_string(),
                            kind: eof.kind.to_string(),
                            message: eof.message,
                        });
                    }
                    Ok(OriginEvent::Refused(refused)) => {
                        let may_again = may_be_taken_elsewhere(refused.kind);
                        if served.seen.stored || !(may_again || refused.message.contains("being submitted")) {
                            let text = format!("refused as {}: {}", refused.kind, refused.message);
                            return served.seen.wrong.push(text);
                        }
                        in_doubt &= !may_again;
                        break may_again;
                    }
                    Ok(OriginEvent::Accepted(_) | OriginEvent::Started(_)) => {}
                    Ok(OriginEvent::Unfinished(_)) => {
                        return served.seen.wrong.push("is said to be unfinished".to_owned());
                    }
                    Err(error) if error.is_absence() => {
                        in_doubt = true;
                        break false;
                    }
                    Err(error) => return served.seen.wrong.push(describe(&error)),
                }
            };
            receiver = reading.is_resumable().then_some(reading);
            self.pause(served, elsewhere).await;
        }
    }

    /// Waits a moment; `elsewhere`: the next node is asked then.
    async fn pause(&self, served: &mut Served, elsewhere: bool) {
        if elsewhere {
            served.unit.origin = (served.unit.origin + 1) % self.dirs.len();
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn describe(error: &ClientError) -> String {
    format!("its conversation failed: {error}")
}

/// Whether this refusal says that the node does not have the unit, and another one may take it.
fn may_be_taken_elsewhere(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Draining | Kind::Busy | Kind::NoRoute | Kind::NoSuchNode | Kind::NoCapableNode
    )
}

fn submission(unit: &Unit) -> Option<Submit> {
    let to = unit.to.map(|node| NodeId::parse(&name(node)));
    Some(Submit {
        unit: UnitId(unit.id),
        directive: unit.work.directive(unit.idempotent).to_owned(),
        to: to.transpose().ok()?,
        payload_bytes: None,
        params: Default::default(),
        deadline_ms: unit
            .deadline
            .and_then(|deadline| u64::try_from(deadline.as_millis()).ok()),
        trace: None,
        durable: true,
        detach: false,
        idempotent: unit.idempotent,
        offer: None,
    })
}

/// How many units were stored, and how fast.
#[derive(Debug, PartialEq)]
pub(crate) struct Rate {
    units: usize,
    seconds: f64,
    /// Units of the full second in which the fewest were stored.
    least: usize,
}

impl Rate {
    pub(crate) fn of(served: &[Served]) -> Self {
        Self::of_times(served.iter().filter_map(|served| served.stored).collect())
    }

    fn of_times(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let last = times.last().copied().unwrap_or_default();
        let mut seconds = vec![0; usize::try_from(last.as_secs()).unwrap_or_default()];
        for at in &times {
            let second = usize::try_from(at.as_secs()).unwrap_or_default();
            if let Some(count) = seconds.get_mut(second) {
                *count += 1;
            }
        }
        Self {
            units: times.len(),
            seconds: last.as_secs_f64(),
            least: seconds.into_iter().min().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            units,
            seconds,
            least,
        } = self;
        let rate = *units as f64 / seconds.max(f64::EPSILON);
        write!(
            f,
            "{units} durable units stored in {seconds:.1} s: {rate:.1} a second, {least} in the slowest second"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_tells_of_the_slowest_second_too() {
        let times = [100, 200, 1100, 2100, 2200, 2300, 4000].map(Duration::from_millis);
        let rate = Rate::of_times(times.to_vec());
        let expected = Rate {
            units: 7,
            seconds: 4.0,
            least: 0,
        };
        assert_eq!(rate, expected);
        assert_eq!(
            rate.to_string(),
            "7 durable units stored in 4.0 s: 1.8 a second, 0 in the slowest second"
        );
        assert_eq!(Rate::of_times(Vec::new()).units, 0);
    }

    #[test]
    fn a_unit_goes_elsewhere_only_if_its_node_says_that_it_does_not_have_it() {
        assert!(may_be_taken_elsewhere(Kind::Draining));
        for kind in [Kind::Duplicate, Kind::NoSpace, Kind::Internal, Kind::Unknown] {
            assert!(!may_be_taken_elsewhere(kind), "{kind}");
        }
    }
}
