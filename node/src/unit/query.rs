//! Questions between nodes: how are you, and whom would you hand a packet for that node to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use workmesh_proto::NodeId;
use workmesh_proto::mesh::Reach;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::query::{Fault, Query};
use workmesh_proto::wire::unit::Kind;

use super::report::{ActiveWork, HopReport, NextHop, PingReport, PoolReport};
use super::units::Units;
use crate::link::{FrameSender, LinkError};
use crate::mesh::SessionError;

/// How long a node may take to answer a question.
const ANSWER: Duration = Duration::from_secs(10);
/// The most units that a ping lists: their rows fit one frame.
const MAX_ACTIVE: usize = 500;
/// The most hops that a trace follows.
const MAX_HOPS: u16 = 32;

/// Answers a peer's question.
pub(super) fn answer(units: &Units, query: &Query, sender: &mut FrameSender) {
    match query {
        Query::Ping { node: None } => put_reply(sender, &ping_report(units)),
        Query::Trace { node } => put_reply(
            sender,
            &NextHop {
                next_hop: next_hop(units, node),
            },
        ),
        Query::Ping { node: Some(_) }
        | Query::Status {}
        | Query::Workers {}
        | Query::Work(_)
        | Query::WorkShow { .. }
        | Query::WorkRelease { .. }
        | Query::Drain {} => {
            let message = "this question is answered on the control socket only".to_owned();
            sender.put(
                FrameType::Fault,
                &Fault {
                    kind: Kind::Forbidden,
                    message,
                },
            );
        }
    }
}

fn put_reply<T: serde::Serialize>(sender: &mut FrameSender, reply: &T) {
    sender.put(FrameType::Reply, reply);
}

fn ping_report(units: &Units) -> PingReport {
    let now = Timestamp::now();
    let mut active = units.executor.active().into_iter().map(|unit| ActiveWork {
        id: unit.id,
        directive: unit.directive.to_string(),
        sender: unit.sender,
        state: unit.state.as_str().to_owned(),
        age_s: unit.age.as_secs_f64(),
    });
    PingReport {
        node: units.node.clone(),
        rtt_ms: 0.0,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: units.started.elapsed().as_secs_f64(),
        initial_time: now,
        response_time: now,
        active_work: active.by_ref().take(MAX_ACTIVE).collect(),
        omitted_work: active.count() as u64,
        draining: units.executor.is_draining(),
        pool: pool_report(units),
    }
}

/// How full this node's pool is.
pub(crate) fn pool_report(units: &Units) -> PoolReport {
    let load = units.executor.load();
    let count = |figure: usize| u32::try_from(figure).unwrap_or(u32::MAX);
    PoolReport {
        slots: count(load.slots),
        running: count(load.running),
        queued: count(load.queued),
        queue_limit: count(load.queue_limit),
        abandoned: count(load.abandoned),
    }
}

fn next_hop(units: &Units, node: &NodeId) -> Option<NodeId> {
    let view = units.mesh.view();
    match &view.member(node)?.reach {
        Reach::Via(route) => Some(route.next_hop.clone()),
        Reach::Here | Reach::Nowhere => None,
    }
}

impl Units {
    /// Asks a node, or this one, how it is.
    pub(crate) async fn ping(self: &Arc<Self>, node: Option<&NodeId>) -> Result<PingReport, Fault> {
        let initial_time = Timestamp::now();
        let Some(node) = node.filter(|node| **node != self.node) else {
            return Ok(ping_report(self));
        };
        let started = Instant::now();
        let mut report: PingReport = self.ask(node, &Query::Ping { node: None }).await?;
        report.rtt_ms = millis(started.elapsed());
        report.initial_time = initial_time;
        Ok(report)
    }

    /// Follows the way to `node`: each node on it says whom it would hand a packet to.
    pub(crate) async fn trace(self: &Arc<Self>, node: NodeId) -> Result<Trace, Fault> {
        self.wait_for_member(&node).await;
        let view = self.mesh.view();
        let member = view
            .member(&node)
            .ok_or_else(|| fault(SessionError::NoSuchNode(node.clone())))?;
        let here = member.reach == Reach::Here;
        let next = if here {
            None
        } else {
            Some(next_hop(self, &node).ok_or_else(|| no_way(&self.node, &node))?)
        };
        Ok(Trace {
            units: self.clone(),
            node,
            next,
            hop: 0,
        })
    }

    async fn ask<T: DeserializeOwned>(self: &Arc<Self>, node: &NodeId, query: &Query) -> Result<T, Fault> {
        self.wait_for_member(node).await;
        let asked = tokio::time::timeout(ANSWER, self.ask_now(node, query)).await;
        asked.unwrap_or_else(|_| {
            let message = format!("{node} did not answer within {} s", ANSWER.as_secs());
            Err(Fault {
                kind: Kind::NodeLost,
                message,
            })
        })
    }

    async fn ask_now<T: DeserializeOwned>(
        self: &Arc<Self>,
        node: &NodeId,
        query: &Query,
    ) -> Result<T, Fault> {
        let lost = |error: &dyn std::fmt::Display| Fault {
            kind: Kind::NodeLost,
            message: format!("{node} did not answer: {error}"),
        };
        let answer = match self.exchange(node, query).await? {
            // The session was idle and has just been closed: the node has not seen the question.
            Err(LinkError::Idle) => self.exchange(node, query).await?,
            answer => answer,
        };
        let frame = answer
            .map_err(|e| lost(&e))?
            .ok_or_else(|| lost(&"the answer is empty"))?;
        let broken = |error: &dyn std::fmt::Display| Fault {
            kind: Kind::Protocol,
            message: error.to_string(),
        };
        match frame.frame_type() {
            Some(FrameType::Reply) => codec::decode(&frame.body).map_err(|e| broken(&e)),
            Some(FrameType::Fault) => Err(codec::decode(&frame.body).map_err(|e| broken(&e))?),
            _ => Err(broken(&format!("{node} answered with frame {:#04x}", frame.kind))),
        }
    }
}

impl Units {
    /// One question and the frame that answers it.
    async fn exchange(
        self: &Arc<Self>,
        node: &NodeId,
        query: &Query,
    ) -> Result<Result<Option<Frame>, LinkError>, Fault> {
        let mut conversation = self.sessions().open(node).await.map_err(fault)?;
        conversation.sender.put(FrameType::Query, query);
        if let Err(error) = conversation.sender.finish().await {
            return Ok(Err(error));
        }
        Ok(conversation.receiver.next_frame().await)
    }
}

/// A trace under way.
pub(crate) struct Trace {
    units: Arc<Units>,
    node: NodeId,
    next: Option<NodeId>,
    hop: u16,
}

impl Trace {
    /// The next hop; `None` once the node was reached.
    pub(crate) async fn next(&mut self) -> Result<Option<HopReport>, Fault> {
        let Some(at) = self.next.take() else {
            return Ok(None);
        };
        self.hop += 1;
        if self.hop > MAX_HOPS {
            let message = format!(
                "the way to {} has more than {MAX_HOPS} hops, or goes in a circle",
                self.node
            );
            return Err(Fault {
                kind: Kind::NoRoute,
                message,
            });
        }
        let query = Query::Trace {
            node: self.node.clone(),
        };
        let answer: NextHop = self.units.ask(&at, &query).await?;
        // The session is up: a second question measures the way alone.
        let started = Instant::now();
        let _again: NextHop = self.units.ask(&at, &query).await?;
        let rtt_ms = millis(started.elapsed());
        if at != self.node {
            self.next = Some(answer.next_hop.ok_or_else(|| no_way(&at, &self.node))?);
        }
        Ok(Some(HopReport {
            hop: self.hop,
            node: at,
            rtt_ms,
        }))
    }
}

fn no_way(at: &NodeId, node: &NodeId) -> Fault {
    let message = format!("{at} knows no way to {node}; `node status` there shows its routes");
    Fault {
        kind: Kind::NoRoute,
        message,
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A failed session as the answer to a question.
fn fault(error: SessionError) -> Fault {
    Fault {
        kind: super::origin::kind_of(&error),
        message: error.to_string(),
    }
}
