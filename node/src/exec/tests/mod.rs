//! The executor as its callers see it: an executor of test workers, units pushed in and their ends read out.

mod admission;
mod endings;
mod outputs;
mod payloads;
mod stuck;
pub(crate) mod workers;

use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tempfile::TempDir;
use worker_api::Uuid;
use workmesh_proto::wire::unit::{Eof, Kind, Refused, Submit};
use workmesh_proto::{NodeId, UnitId};

use super::payload::UnitEnded;
use super::report::{ActiveState, KindCounts};
use super::*;
use workers::{Gate, Go};

/// An executor with a folder of its own.
struct Rig {
    executor: Executor,
    dir: TempDir,
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn rig(slots: usize, queue: usize) -> Rig {
    rig_with(|settings| {
        settings.slots = slots;
        settings.queue = queue;
        settings.abandoned_limit = slots;
    })
}

/// Functions that were told to stop lose their slot at once, so that no test waits for the grace.
fn rig_with(change: impl FnOnce(&mut ExecSettings)) -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = ExecSettings::new(node("here"), 2, dir.path());
    settings.stop_grace = Duration::ZERO;
    change(&mut settings);
    let registry = Registry::from_entries(workers::all()).unwrap();
    let executor = Executor::new(registry, settings).unwrap();
    Rig { executor, dir }
}

fn submit(directive: &str) -> Submit {
    Submit {
        unit: UnitId(Uuid::now_v7()),
        directive: directive.to_owned(),
        to: None,
        payload_bytes: None,
        params: Default::default(),
        deadline_ms: None,
        trace: None,
        durable: false,
        detach: false,
        idempotent: false,
        offer: None,
    }
}

/// What has become of a piece by the time that a push would wait; `None`: it waits.
fn push_now(feed: &mut PayloadFeed, piece: impl Into<Bytes>) -> Option<Result<(), UnitEnded>> {
    feed.push(piece.into()).now_or_never()
}

fn count(counts: &KindCounts, kind: Kind) -> u64 {
    let counts = counts.iter().find(|(k, _)| *k == kind);
    counts.map_or(0, |(_, count)| count)
}

fn total(counts: &KindCounts) -> u64 {
    counts.iter().map(|(_, count)| count).sum()
}

/// Responses and end of a unit.
#[derive(Debug)]
struct Ended {
    responses: Vec<Vec<u8>>,
    eof: Eof,
}

impl Rig {
    fn admit(&self, submit: &Submit) -> Result<Admitted, Refused> {
        self.executor.admit(submit, node("sender"))
    }

    fn refusal(&self, submit: &Submit) -> Kind {
        self.admit(submit).expect_err("refused").kind
    }

    /// Admits a unit with a gate and a complete empty payload.
    fn gated(&self, directive: &str) -> (Gate, UnitOutput, UnitCancel) {
        let submit = submit(directive);
        let gate = Gate::of(submit.unit);
        let Admitted {
            payload,
            output,
            cancel,
        } = self.admit(&submit).unwrap();
        payload.finish();
        (gate, output, cancel)
    }

    /// Runs a unit with this payload to its end.
    async fn run(&self, submit: &Submit, payload: &'static [u8]) -> Ended {
        let mut admitted = self.admit(submit).unwrap();
        if admitted.payload.push(Bytes::from_static(payload)).await.is_ok() {
            admitted.payload.finish();
        }
        end_of(&mut admitted.output).await
    }

    async fn idle(&self) {
        let mut load = self.executor.load_changes();
        load.wait_for(|l| l.is_idle() && l.abandoned == 0).await;
    }

    fn payload_files(&self) -> usize {
        let names = fs::read_dir(self.dir.path()).unwrap();
        names
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with("payload-")
            })
            .count()
    }

    fn states(&self) -> Vec<ActiveState> {
        self.executor.active().iter().map(|u| u.state).collect()
    }
}

async fn end_of(output: &mut UnitOutput) -> Ended {
    let mut responses = vec![Vec::new()];
    let mut batch = VecDeque::new();
    loop {
        output.next_batch(&mut batch).await;
        for item in batch.drain(..) {
            match item {
                OutputItem::Started => {}
                OutputItem::Piece { serial, data, last } => {
                    assert_eq!(serial, responses.len() as u64, "pieces come in order");
                    responses[serial as usize - 1].extend_from_slice(&data);
                    if last {
                        responses.push(Vec::new());
                    }
                }
                OutputItem::Eof(eof) => {
                    responses.pop_if(|r| r.is_empty());
                    return Ended { responses, eof };
                }
            }
        }
    }
}
