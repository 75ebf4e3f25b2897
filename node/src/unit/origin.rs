//! A unit at its origin: finds an executor, offers the unit, and passes to the next candidate when one is busy.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::debug;
use worker_api::Directive;
use workmesh_proto::unit::{OriginEvent, OriginUnit};
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::unit::{Eof, Kind, Refused, Submit};
use workmesh_proto::{NodeId, UnitId};

use super::events::{EventSource, UnitEvents, UnitPayload};
use super::placement::{self, Candidate};
use super::units::Units;
use crate::link::LinkError;
use crate::mesh::{Conversation, SessionError};

/// How long a fresh node waits for its neighbours' databases before it says that a node or worker is unknown.
const SETTLE: Duration = Duration::from_millis(700);
/// How long a node may take to accept or refuse a unit, its session and a free stream included.
const ANSWER: Duration = Duration::from_secs(15);
/// The most payload bytes that travel before the executor has accepted: kept, to be offered to the next candidate.
pub(crate) const HEAD_BYTES: usize = 64 * 1024;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct UnitRequest {
    /// The unit's id; the same id twice is one unit.
    pub unit: UnitId,
    /// `module:function`.
    pub directive: String,
    /// The executor; `None` for the nearest least loaded node that has the worker.
    pub to: Option<NodeId>,
    /// The payload's length in bytes, if it is known.
    pub payload_bytes: Option<u64>,
    /// For the worker.
    pub params: BTreeMap<String, String>,
    /// How long the unit may take.
    pub deadline: Option<Duration>,
    /// A W3C `traceparent`.
    pub trace: Option<String>,
}

impl UnitRequest {
    /// A request with a fresh id and nothing but a directive.
    pub fn new(directive: impl Into<String>) -> Self {
        Self {
            unit: fresh_unit_id(),
            directive: directive.into(),
            to: None,
            payload_bytes: None,
            params: BTreeMap::new(),
            deadline: None,
            trace: None,
        }
    }

    /// The submission of this as a durable unit with a payload of so many bytes.
    pub(crate) fn durable(self, payload_bytes: u64) -> Submit {
        Submit {
            to: self.to.clone(),
            payload_bytes: Some(payload_bytes),
            durable: true,
            deadline_ms: self
                .deadline
                .map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            ..self.frame(None)
        }
    }

    fn frame(&self, deadline: Option<Instant>) -> Submit {
        let left = |at: Instant| at.saturating_duration_since(Instant::now()).as_millis();
        Submit {
            unit: self.unit,
            directive: self.directive.clone(),
            to: None,
            payload_bytes: self.payload_bytes,
            params: self.params.clone(),
            deadline_ms: deadline.map(|at| u64::try_from(left(at)).unwrap_or(u64::MAX)),
            trace: self.trace.clone(),
            durable: false,
            detach: false,
            idempotent: false,
            offer: None,
        }
    }
}

/// A new UUIDv7 (RFC 9562, section 5.7), without a system call for its random bits.
pub(crate) fn fresh_unit_id() -> UnitId {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    UnitId(uuid::Builder::from_unix_timestamp_millis(millis, &rand::random()).into_uuid())
}

/// A unit that an executor has accepted.
pub struct SubmittedUnit {
    /// Where the rest of the payload goes.
    pub payload: UnitPayload,
    /// Where responses and the end come from.
    pub events: UnitEvents,
}

/// The first part of a payload.
struct Head {
    data: Bytes,
    complete: bool,
}

/// What all offers of one unit share.
#[derive(Clone, Copy)]
struct Order<'a> {
    request: &'a UnitRequest,
    head: &'a Head,
    deadline: Option<Instant>,
    claim: &'a Claim,
}

/// A unit's place among those submitted lately: given back when dropped, unless the unit may have run.
struct Claim {
    units: Arc<Units>,
    unit: UnitId,
    may_have_run: AtomicBool,
}

impl Claim {
    /// `None` if the unit was submitted before.
    fn new(units: &Arc<Units>, unit: UnitId) -> Option<Self> {
        let fresh = units.recent.lock().insert(unit);
        fresh.then(|| Self {
            units: units.clone(),
            unit,
            may_have_run: AtomicBool::new(false),
        })
    }

    fn set_run(&self, may_have_run: bool) {
        self.may_have_run.store(may_have_run, Ordering::Relaxed);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.may_have_run.load(Ordering::Relaxed) {
            self.units.recent.lock().remove(self.unit);
        }
    }
}

/// How an offer to one candidate went.
enum Offer {
    Accepted(Box<SubmittedUnit>),
    Refused(Refused),
    /// The node could not be reached: it has not seen the unit.
    NotOffered(SessionError),
    /// The node was lost after it had got the unit: the unit may have run.
    Lost(String),
}

/// What a failed session means for a unit or a question.
pub(super) fn kind_of(error: &SessionError) -> Kind {
    match error {
        SessionError::NoSuchNode(_) => Kind::NoSuchNode,
        SessionError::NoRoute(_) => Kind::NoRoute,
        SessionError::Failed { .. } => Kind::NodeLost,
    }
}

impl Units {
    /// Submits a unit. `head` is the payload's beginning, at most 64 KiB, or all of it if `complete`.
    /// Returns once an executor has accepted, or with the unit's end if none has.
    pub(crate) async fn submit(
        self: &Arc<Self>,
        request: UnitRequest,
        head: Bytes,
        complete: bool,
    ) -> Result<SubmittedUnit, Eof> {
        let deadline = request.deadline.and_then(|d| Instant::now().checked_add(d));
        let head = Head { data: head, complete };
        // Boxed: whoever holds the submitted unit does not hold what it took to place it.
        let submitting = Box::pin(self.submit_once(&request, &head, deadline));
        let Some(at) = deadline else {
            return submitting.await;
        };
        match tokio::time::timeout_at(at.into(), submitting).await {
            Ok(Ok(mut unit)) => {
                unit.events.expire_at(at);
                Ok(unit)
            }
            Ok(Err(eof)) => Err(eof),
            Err(_) => Err(Eof::without_responses(
                Kind::Expired,
                "deadline passed before an executor accepted",
            )),
        }
    }

    async fn submit_once(
        self: &Arc<Self>,
        request: &UnitRequest,
        head: &Head,
        deadline: Option<Instant>,
    ) -> Result<SubmittedUnit, Eof> {
        let directive = Directive::parse(&request.directive)
            .map_err(|e| Eof::without_responses(Kind::MalformedDirective, e.to_string()))?;
        let Some(claim) = Claim::new(self, request.unit) else {
            let message = format!("unit {} was submitted before; choose another --id", request.unit);
            return Err(Eof::without_responses(Kind::Duplicate, message));
        };
        if self.has_durable(request.unit) {
            let unit = request.unit;
            let message = format!(
                "unit {unit} is a durable one: `node work attach {unit}` follows it; choose another --id for another unit"
            );
            return Err(Eof::without_responses(Kind::Duplicate, message));
        }
        let order = Order {
            request,
            head,
            deadline,
            claim: &claim,
        };
        match &request.to {
            Some(node) => self.submit_to(node, order).await,
            None => self.place(&directive, order).await,
        }
    }

    async fn submit_to(self: &Arc<Self>, node: &NodeId, order: Order<'_>) -> Result<SubmittedUnit, Eof> {
        self.wait_for_member(node).await;
        match self.offer(node, order).await {
            Offer::Accepted(unit) => Ok(*unit),
            Offer::Refused(refused) => Err(Eof::without_responses(refused.kind, refused.message)),
            Offer::NotOffered(error) => Err(Eof::without_responses(kind_of(&error), error.to_string())),
            Offer::Lost(message) => Err(Eof::without_responses(Kind::NodeLost, message)),
        }
    }

    async fn place(self: &Arc<Self>, directive: &Directive, order: Order<'_>) -> Result<SubmittedUnit, Eof> {
        let mut refusal = None;
        for candidate in self.candidates(directive).await {
            match self.offer(&candidate.node, order).await {
                Offer::Accepted(unit) => return Ok(*unit),
                Offer::Refused(refused) if matches!(refused.kind, Kind::Busy | Kind::Draining) => {
                    debug!(unit = %order.request.unit, node = %candidate.node, kind = %refused.kind, "next candidate");
                    refusal = Some(Eof::without_responses(refused.kind, refused.message));
                }
                Offer::Refused(refused) => {
                    return Err(Eof::without_responses(refused.kind, refused.message));
                }
                Offer::NotOffered(error) => {
                    debug!(unit = %order.request.unit, node = %candidate.node, %error, "next candidate");
                    refusal.get_or_insert_with(|| Eof::without_responses(kind_of(&error), error.to_string()));
                }
                Offer::Lost(message) if candidate.idempotent => {
                    refusal = Some(Eof::without_responses(Kind::NodeLost, message));
                }
                Offer::Lost(message) => return Err(Eof::without_responses(Kind::NodeLost, message)),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            let message =
                format!("no reachable node has the worker {directive}; `node workers` lists what there is");
            Eof::without_responses(Kind::NoCapableNode, message)
        }))
    }

    async fn candidates(&self, directive: &Directive) -> Vec<Candidate> {
        let mut views = self.mesh.watch();
        let find = |view: &workmesh_proto::mesh::View| {
            let found = placement::candidates(view, directive, &self.outstanding);
            (view.synced || !found.is_empty()).then_some(found)
        };
        if let Some(found) = find(&views.borrow_and_update()) {
            return found;
        }
        let settled = views.wait_for(|view| find(view).is_some());
        // What it gives holds the view's lock: dropped here.
        drop(tokio::time::timeout(SETTLE, settled).await);
        find(&self.mesh.view()).unwrap_or_default()
    }

    /// Waits a moment for a node that is not known while neighbours are still telling what they know.
    pub(super) async fn wait_for_member(&self, node: &NodeId) {
        if *node == self.node {
            return;
        }
        let mut views = self.mesh.watch();
        let known = views.wait_for(|view| view.member(node).is_some() || view.synced);
        let _late = tokio::time::timeout(SETTLE, known).await;
    }

    async fn offer(self: &Arc<Self>, node: &NodeId, order: Order<'_>) -> Offer {
        if *node == self.node {
            return self.offer_here(order).await;
        }
        let offer = match self.offer_in_time(node, order).await {
            // The session was idle and has just been closed: the node has not seen the unit.
            Offer::NotOffered(SessionError::Failed {
                error: LinkError::Idle,
                ..
            }) => self.offer_in_time(node, order).await,
            offer => offer,
        };
        if matches!(offer, Offer::Refused(_) | Offer::NotOffered(_)) {
            order.claim.set_run(false);
        }
        offer
    }

    /// A node that takes the unit but does not say so within [`ANSWER`] counts as lost.
    async fn offer_in_time(self: &Arc<Self>, node: &NodeId, order: Order<'_>) -> Offer {
        let offering = self.offer_there(node, order);
        tokio::time::timeout(ANSWER, offering)
            .await
            .unwrap_or_else(|_| Offer::Lost(format!("{node} did not answer within {} s", ANSWER.as_secs())))
    }

    async fn offer_here(self: &Arc<Self>, order: Order<'_>) -> Offer {
        let admitted = match self
            .executor
            .admit(&order.request.frame(order.deadline), self.node.base())
        {
            Ok(admitted) => admitted,
            Err(refused) => return Offer::Refused(refused),
        };
        order.claim.set_run(true);
        let mut feed = admitted.payload;
        let mut payload = UnitPayload::complete();
        let taken = order.head.data.is_empty() || feed.push(order.head.data.clone()).await.is_ok();
        if taken {
            match order.head.complete {
                true => feed.finish(),
                false => payload = UnitPayload::local(feed),
            }
        }
        let source = EventSource::Local {
            output: admitted.output,
            cancel: admitted.cancel,
            batch: VecDeque::new(),
        };
        Offer::Accepted(Box::new(SubmittedUnit {
            payload,
            events: self.events(order.request, &self.node, source),
        }))
    }

    async fn offer_there(self: &Arc<Self>, node: &NodeId, order: Order<'_>) -> Offer {
        let Conversation {
            mut sender,
            mut receiver,
            in_use,
            peer: _,
        } = match self.sessions().open(node).await {
            Ok(conversation) => conversation,
            Err(error) => return Offer::NotOffered(error),
        };
        order.claim.set_run(true);
        sender.put(FrameType::Submit, &order.request.frame(order.deadline));
        sender.put_payload(order.head.data.clone());
        let mut payload = UnitPayload::complete();
        // A refusal can come before the payload is through: what it says counts, not the broken stream.
        if order.head.complete {
            sender.put_bare(FrameType::PayloadEnd);
            let _refused = sender.finish().await;
        } else {
            let _refused = sender.flush().await;
            payload = UnitPayload::session(sender);
        }
        let mut machine = OriginUnit::new();
        loop {
            let item = match receiver.next().await {
                Ok(Some(item)) => item,
                Ok(None) => return Offer::Lost(format!("{node} closed the stream without an answer")),
                Err(error @ LinkError::Idle) => {
                    let node = node.clone();
                    return Offer::NotOffered(SessionError::Failed { node, error });
                }
                Err(error) => return Offer::Lost(format!("{node} was lost before it answered: {error}")),
            };
            match machine.handle_item(item) {
                Ok(Some(OriginEvent::Accepted(_))) => {
                    let source = EventSource::Session {
                        units: self.clone(),
                        machine,
                        receiver,
                        _in_use: in_use,
                    };
                    let events = self.events(order.request, node, source);
                    return Offer::Accepted(Box::new(SubmittedUnit { payload, events }));
                }
                Ok(Some(OriginEvent::Refused(refused))) => return Offer::Refused(refused),
                Ok(
                    Some(
                        OriginEvent::Piece(_)
                        | OriginEvent::Eof(_)
                        | OriginEvent::Stored(_)
                        | OriginEvent::Started(_)
                        | OriginEvent::Unfinished(_),
                    )
                    | None,
                ) => {}
                Err(fault) => {
                    let message = format!("{node} broke the protocol: {fault}");
                    return Offer::Refused(Refused {
                        kind: fault.kind(),
                        message,
                    });
                }
            }
        }
    }

    fn events(self: &Arc<Self>, request: &UnitRequest, node: &NodeId, source: EventSource) -> UnitEvents {
        UnitEvents {
            unit: request.unit,
            executor: node.clone(),
            source,
            give_up: None,
            shut_down: false,
            ended: false,
            _placed: self.outstanding.place(node),
        }
    }
}
