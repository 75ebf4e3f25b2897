//! Admission: a submission becomes a unit of the pool, or is refused with its own kind, at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use worker_api::PayloadKind;
use workmesh_proto::NodeId;
use workmesh_proto::unit::ExecutorUnit;
use workmesh_proto::wire::unit::{Kind, Refused, Submit, cut};

use super::{Pool, State};
use crate::exec::settings::ExecSettings;
use crate::exec::unit::{NewUnit, Request, Unit};

impl Pool {
    /// Takes the unit in, or says why not, at once.
    pub(in crate::exec) fn admit(
        self: &Arc<Self>,
        submit: &Submit,
        sender: NodeId,
    ) -> Result<Arc<Unit>, Refused> {
        let admitted = self.examine(submit, sender).and_then(|unit| {
            let mut state = self.state.lock();
            state.enter(&unit, &self.settings)?;
            state.counters.accepted += 1;
            if unit.entry.kind != PayloadKind::Bytes && !unit.durable {
                self.make_ready(&mut state, &unit);
            }
            self.publish(&mut state);
            Ok(unit)
        });
        admitted.map_err(|mut refused| {
            cut(&mut refused.message);
            self.state.lock().counters.refused.add(refused.kind);
            refused
        })
    }

    /// Makes the unit, unless the submission alone says that it can't be run.
    fn examine(&self, submit: &Submit, sender: NodeId) -> Result<Arc<Unit>, Refused> {
        if self.is_draining() {
            return Err(draining(&self.settings));
        }
        submit.check().map_err(|broken| refused(Kind::Protocol, broken))?;
        let directive = submit
            .parse_directive()
            .map_err(|e| refused(Kind::MalformedDirective, e.to_string()))?;
        let worker = self
            .registry
            .position(&directive, &self.settings.node)
            .map_err(|unknown| refused(unknown.kind, unknown.message))?;
        let entry = self.registry.entry(worker);
        let now = Instant::now();
        let mut machine = ExecutorUnit::new(now);
        machine
            .expect_payload(submit.payload_bytes, self.settings.payload_limit(entry))
            .map_err(|fault| refused(fault.kind(), fault.to_string()))?;
        let params = submit.params.clone();
        Ok(Arc::new(Unit::new(NewUnit {
            id: submit.unit,
            sender,
            worker,
            entry,
            order: self.next_order.fetch_add(1, Ordering::Relaxed),
            deadline: submit
                .deadline_ms
                .and_then(|ms| now.checked_add(Duration::from_millis(ms))),
            machine,
            request: Request { directive, params },
            durable: submit.durable,
            budget: &self.waiting_payload,
        })))
    }
}

impl State {
    /// Takes the unit among the active ones, if it may be there. A durable one may come again once it has ended: whoever keeps it
    /// knows which of its offers are over.
    fn enter(&mut self, unit: &Arc<Unit>, settings: &ExecSettings) -> Result<(), Refused> {
        if self.draining.is_some() || self.closed {
            return Err(draining(settings));
        }
        let active = self.active.contains_key(&unit.id);
        if unit.durable && active {
            let message = format!(
                "an earlier attempt of unit {} is still here: try again later",
                unit.id
            );
            return Err(refused(Kind::Busy, message));
        }
        if !unit.durable && (active || self.ended.contains(unit.id)) {
            let message = format!("unit {} runs or has run here: use a new id", unit.id);
            return Err(refused(Kind::Duplicate, message));
        }
        if !self.ledger.enter(unit.worker) {
            let (slots, queue) = (settings.slots, settings.queue);
            let message = format!(
                "all {slots} slots are taken and the queue of {queue} is full: try again later, or another node"
            );
            return Err(refused(Kind::Busy, message));
        }
        self.active.insert(unit.id, Arc::clone(unit));
        Ok(())
    }
}

fn refused(kind: Kind, message: impl Into<String>) -> Refused {
    Refused {
        kind,
        message: message.into(),
    }
}

fn draining(settings: &ExecSettings) -> Refused {
    let message = format!(
        "{} takes no new units, it drains or shuts down: submit to another node",
        settings.node
    );
    refused(Kind::Draining, message)
}
