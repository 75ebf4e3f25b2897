//! Durable units as they are listed. One that has ended for all concerned is kept as little more than its row.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use workmesh_proto::wire::query::WorkFilter;
use workmesh_proto::wire::unit::{Eof, Kind, Outcome};
use workmesh_proto::{NodeId, UnitId};

use super::active::Active;
use super::happened::{Happened, What, first_and_latest};
use super::work::Entry;
use crate::unit::report::{WorkEvent, WorkReport};

/// Texts that many units share, each kept once.
#[derive(Default)]
pub(super) struct Names(Mutex<HashSet<Arc<str>>>);

/// The most texts that are shared; further ones are kept by each unit.
const MAX_NAMES: usize = 10_000;

impl Names {
    pub(super) fn share(&self, text: &str) -> Arc<str> {
        let mut names = self.0.lock();
        if let Some(known) = names.get(text) {
            return known.clone();
        }
        let name: Arc<str> = text.into();
        if names.len() < MAX_NAMES {
            names.insert(name.clone());
        }
        name
    }
}

/// A unit that has ended for all concerned.
#[derive(Debug)]
pub(super) struct EndedUnit {
    pub(super) unit: UnitId,
    directive: Arc<str>,
    to: Option<Arc<str>>,
    executor: Option<Arc<str>>,
    pub(super) outcome: Outcome,
    kind: Kind,
    idempotent: bool,
    attempt: u32,
    message: Option<Box<str>>,
    pub(super) submitted_ms: u64,
    pub(super) ended_ms: u64,
    deadline_ms: Option<u64>,
    /// What was asked for, in short.
    pub(super) identity: u64,
    digest: u64,
    duration_ms: u64,
    pub(super) payload_bytes: u64,
    responses: u64,
    pub(super) response_bytes: u64,
    /// Bytes of the frames that are kept.
    pub(super) stream_bytes: u64,
    events: Box<[Happened]>,
}

/// Events of an ended unit that stay, if they tell more than that it was submitted and ended: the first and the latest.
const ENDED_EVENTS: usize = 8;

impl EndedUnit {
    /// `None`: the unit has no end.
    pub(super) fn of(active: &Active, names: &Names) -> Option<Self> {
        active.with_state(|state| {
            let (history, order) = (&state.history, state.history.order());
            let eof = history.end()?;
            let share = |node: &NodeId| names.share(node.as_str());
            let telling = history.attempts() > 1 || eof.outcome == Outcome::Lost;
            Some(Self {
                unit: active.unit,
                directive: names.share(&order.directive),
                to: order.to.as_ref().map(share),
                executor: state.executor().map(share),
                outcome: eof.outcome,
                kind: eof.kind,
                idempotent: history.is_idempotent(),
                attempt: history.attempts(),
                message: Some(eof.message.as_str())
                    .filter(|m| !m.is_empty())
                    .map(Into::into),
                submitted_ms: order.submitted_ms,
                ended_ms: history.ended_ms().unwrap_or(order.submitted_ms),
                deadline_ms: order.deadline_ms,
                identity: order.identity(),
                digest: eof.digest,
                duration_ms: eof.duration_ms,
                payload_bytes: order.payload_bytes,
                responses: eof.responses,
                response_bytes: eof.bytes,
                stream_bytes: state.stream_bytes,
                events: match telling {
                    true => first_and_latest(state.events.clone(), ENDED_EVENTS).into(),
                    false => Box::default(),
                },
            })
        })
    }

    pub(super) fn eof(&self) -> Eof {
        Eof {
            outcome: self.outcome,
            kind: self.kind,
            message: self.message.as_deref().unwrap_or_default().to_owned(),
            responses: self.responses,
            bytes: self.response_bytes,
            digest: self.digest,
            duration_ms: self.duration_ms,
        }
    }

    pub(super) fn executor(&self) -> Option<NodeId> {
        NodeId::parse(self.executor.as_deref()?).ok()
    }

    pub(super) fn report(&self, whole: bool) -> WorkReport {
        let node = |name: &Arc<str>| NodeId::parse(name).ok();
        WorkReport {
            unit: self.unit,
            directive: self.directive.to_string(),
            state: "ended".to_owned(),
            reason: String::new(),
            outcome: Some(self.outcome),
            kind: Some(self.kind),
            message: self.message.as_deref().map(str::to_owned),
            executor: self.executor(),
            to: self.to.as_ref().and_then(node),
            attempt: self.attempt,
            submitted: time(self.submitted_ms),
            ended: Some(time(self.ended_ms)),
            deadline: self.deadline_ms.map(time),
            payload_bytes: self.payload_bytes,
            responses: self.responses,
            bytes: self.response_bytes,
            idempotent: self.idempotent,
            cancel_requested: self.kind == Kind::Cancelled,
            executor_released: true,
            history: match whole {
                true if self.events.is_empty() => self.outline(),
                true => events(&self.events),
                false => Vec::new(),
            },
        }
    }

    fn outline(&self) -> Vec<WorkEvent> {
        let happened = |at_ms, what| Happened {
            at: time(at_ms),
            what,
        };
        events(&[
            happened(self.submitted_ms, What::Submitted),
            happened(self.ended_ms, What::Ended(self.kind)),
        ])
    }
}

fn events(happened: &[Happened]) -> Vec<WorkEvent> {
    happened.iter().map(Happened::event).collect()
}

/// A unit that has not ended for all concerned.
pub(super) fn report(active: &Active, whole: bool) -> WorkReport {
    active.with_state(|state| {
        let (history, order) = (&state.history, state.history.order());
        let eof = state.end.as_ref();
        WorkReport {
            unit: active.unit,
            directive: order.directive.clone(),
            state: state.name().to_owned(),
            reason: state.reason(),
            outcome: eof.map(|eof| eof.outcome),
            kind: eof.map(|eof| eof.kind),
            message: eof.map(|eof| eof.message.clone()).filter(|m| !m.is_empty()),
            executor: state.executor().cloned(),
            to: order.to.clone(),
            attempt: history.attempts(),
            submitted: time(order.submitted_ms),
            ended: history.ended_ms().filter(|_| eof.is_some()).map(time),
            deadline: order.deadline_ms.map(time),
            payload_bytes: order.payload_bytes,
            responses: eof.map_or(state.responses, |eof| eof.responses),
            bytes: state.bytes,
            idempotent: history.is_idempotent(),
            cancel_requested: active.is_cancelled() || eof.is_some_and(|eof| eof.kind == Kind::Cancelled),
            executor_released: eof.is_some() && history.debts().next().is_none(),
            history: if whole { events(&state.events) } else { Vec::new() },
        }
    })
}

/// The row of a unit that fits the filter.
pub(super) fn wants(filter: &WorkFilter, entry: &Entry) -> Option<WorkReport> {
    let fits = |state: &str, outcome: Option<Outcome>, directive: &str, node: &dyn Fn(&str) -> bool| {
        let state_fits = filter.state.as_deref().is_none_or(|wanted| {
            wanted == state || outcome.is_some_and(|outcome| outcome.as_str() == wanted)
        });
        let node_fits = filter.node.as_ref().is_none_or(|wanted| node(wanted.as_str()));
        state_fits && node_fits && filter.wants_directive(directive)
    };
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    match entry {
        Entry::Storing => None,
        Entry::Active(active) if active.is_forgotten() => None,
        Entry::Active(active) => active
            .with_state(|state| {
                let order = state.history.order();
                fits(
                    state.name(),
                    state.end.as_ref().map(|e| e.outcome),
                    &order.directive,
                    &|wanted| {
                        let nodes = [state.executor(), order.to.as_ref()];
                        nodes
                            .into_iter()
                            .flatten()
                            .any(|node| same(node.as_str(), wanted))
                    },
                )
            })
            .then(|| report(active, false)),
        Entry::Ended(ended) => fits("ended", Some(ended.outcome), &ended.directive, &|wanted| {
            let nodes = [&ended.executor, &ended.to];
            nodes.into_iter().flatten().any(|node| same(node, wanted))
        })
        .then(|| ended.report(false)),
    }
}

fn time(ms: u64) -> Timestamp {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}
