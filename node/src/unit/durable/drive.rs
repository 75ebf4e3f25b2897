//! The task of one durable unit at its origin: carries out what the machine wants, and tells it what came of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};
use workmesh_proto::record::{self, Order, OriginRecord};
use workmesh_proto::unit::durable::{DurableOrigin, OriginEffect, OriginInput, OriginPhase};
use workmesh_proto::wire::durable::{Position, Release};
use workmesh_proto::wire::unit::{Eof, Kind};
use workmesh_proto::{NodeId, UnitId};

use super::active::Active;
use super::ask::{Ask, Question};
use super::now_ms;
use super::place::place;
use super::work::Work;
use crate::store::{Entry, Key, Role, StoreError, Stream, Sync};
use crate::unit::placement::Placed;
use crate::unit::report::WorkEvent;

/// What the executor said that may wait for the unit's task.
const WORDS: usize = 16;
/// The longest sleep without a look at the clock.
const CLOCK: Duration = Duration::from_secs(30);
/// Nodes that are remembered because they have refused.
const MAX_REFUSED: usize = 32;

/// An input, and the bytes of response frames that are on the disk with it.
type Answer = BoxFuture<'static, (OriginInput, u64)>;

/// See the module.
pub(super) struct Drive {
    work: Arc<Work>,
    active: Arc<Active>,
    machine: DurableOrigin,
    order: Arc<Order>,
    /// Payload that goes to the store with the first append.
    payload: Bytes,
    /// The same for the first offer, if that is made at once and the payload is all there.
    at_hand: Option<Bytes>,
    stored: Option<oneshot::Sender<Result<(), Eof>>>,
    /// Appends and releases that are not answered.
    pending: FuturesUnordered<Answer>,
    /// Bytes of response frames that are on the disk, and in the append that is under way.
    stream_bytes: u64,
    talk: Option<Talk>,
    refused: Vec<NodeId>,
    ended: Option<Eof>,
    forgetting: bool,
    done: bool,
}

/// The conversation with an executor.
struct Talk {
    conversation: u64,
    words: mpsc::Receiver<OriginInput>,
    stored: watch::Sender<Position>,
    task: tokio::task::AbortHandle,
    _placed: Placed,
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drive {
    pub(super) fn new(
        work: Arc<Work>,
        active: Arc<Active>,
        machine: DurableOrigin,
        stream_bytes: u64,
    ) -> Self {
        let order = machine.history().order().clone();
        let ended = machine.history().end().cloned();
        Self {
            work,
            active,
            machine,
            order,
            payload: Bytes::new(),
            at_hand: None,
            stored: None,
            pending: FuturesUnordered::new(),
            stream_bytes,
            talk: None,
            refused: Vec::new(),
            ended,
            forgetting: false,
            done: false,
        }
    }

    /// Stores `payload` with the submission, and says when that is done.
    pub(super) fn submitting(mut self, payload: Bytes, stored: oneshot::Sender<Result<(), Eof>>) -> Self {
        self.at_hand = (payload.len() as u64 == self.order.payload_bytes).then(|| payload.clone());
        self.payload = payload;
        self.stored = Some(stored);
        self
    }

    /// Until all concerned know of the unit's end. Dropped, the unit goes on at the next start of the node.
    pub(super) async fn run(mut self) {
        let mut reach = self.work.reach.subscribe();
        loop {
            self.carry_out();
            if self.done {
                return;
            }
            let input = self.next_input(&mut reach).await;
            self.handle(input);
            // What the executor has said already goes to the disk together.
            while self.machine.wants_pieces()
                && let Some(word) = self.talk.as_mut().and_then(|talk| talk.words.try_recv().ok())
            {
                self.handle(word);
            }
        }
    }

    fn handle(&mut self, input: OriginInput) {
        if let OriginInput::Refused(..) = &input {
            self.remember_refusal();
        }
        self.machine.handle(input, now_ms());
    }

    async fn next_input(&mut self, reach: &mut watch::Receiver<u64>) -> OriginInput {
        let wake = self.machine.poll_timeout();
        let wants_pieces = self.machine.wants_pieces();
        let waits = self.machine.phase() == OriginPhase::Waiting && self.talk.is_none();
        // What waits tries again at its own time; a deadline is none to be late for.
        let jitter = waits && wake != self.order.deadline_ms;
        let cancelled = self.active.is_cancelled() && self.machine.phase() != OriginPhase::Ended;
        if cancelled && self.stored.is_none() {
            return OriginInput::Cancel;
        }
        if self.active.is_forgotten() && self.ended.is_some() && !self.forgetting {
            self.forgetting = true;
            return OriginInput::Forget;
        }
        tokio::select! {
            biased;
            () = self.active.told.notified() => OriginInput::Wake,
            Some((answer, stored)) = self.pending.next() => {
                self.stream_bytes += stored;
                answer
            }
            Some(word) = next_word(&mut self.talk), if wants_pieces => word,
            Ok(()) = reach.changed() => OriginInput::MeshChanged,
            () = self.work.room.notified(), if waits => OriginInput::MeshChanged,
            () = until(wake, jitter) => OriginInput::Wake,
        }
    }

    fn remember_refusal(&mut self) {
        if let Some((executor, _)) = self.machine.history().offered()
            && self.refused.len() < MAX_REFUSED
        {
            self.refused.push(executor.clone());
        }
    }

    fn carry_out(&mut self) {
        let mut changed = false;
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                OriginEffect::Append {
                    number,
                    records,
                    data,
                    sync,
                } => self.append(number, records, data, sync),
                OriginEffect::Place => self.place(),
                OriginEffect::Offer {
                    conversation,
                    executor,
                    offer,
                } => self.ask(conversation, executor, Question::Offer(offer)),
                OriginEffect::Resume {
                    conversation,
                    executor,
                    offer,
                    position,
                } => self.ask(conversation, executor, Question::Resume(offer, position)),
                OriginEffect::Ack {
                    conversation,
                    position,
                } => {
                    if let Some(talk) = self
                        .talk
                        .as_ref()
                        .filter(|talk| talk.conversation == conversation)
                    {
                        talk.stored.send_replace(position);
                    }
                }
                OriginEffect::Close(conversation) => {
                    self.talk.take_if(|talk| talk.conversation == conversation);
                }
                OriginEffect::Release {
                    executor,
                    number,
                    outcome,
                } => {
                    let release = Release {
                        unit: self.active.unit,
                        number,
                        outcome,
                    };
                    let telling = self.work.clone().tell_release(executor.clone(), release);
                    self.pending.push(Box::pin(async move {
                        let input = match telling.await {
                            true => OriginInput::Released(executor, number),
                            false => OriginInput::NotReleased(executor, number),
                        };
                        (input, 0)
                    }));
                }
                OriginEffect::Stored => {
                    self.work.stored(&self.active);
                    if let Some(stored) = self.stored.take() {
                        // A client that is gone does not need to hear it.
                        let _gone = stored.send(Ok(()));
                    }
                }
                OriginEffect::NotStored(why) => self.not_stored(why),
                OriginEffect::Changed => {}
                OriginEffect::Ended(eof) => self.end(eof),
                OriginEffect::Done => self.done = true,
            }
            changed = true;
        }
        if changed {
            self.active
                .publish(&self.machine, self.stream_bytes, self.ended.as_ref());
        }
        if self.done && self.ended.is_some() {
            self.work.settle(&self.active);
        }
    }

    fn append(&mut self, number: u64, records: Vec<OriginRecord>, data: Bytes, sync: bool) {
        let mut entries = Vec::with_capacity(records.len() + 2);
        let payload = std::mem::take(&mut self.payload);
        if !payload.is_empty() {
            entries.push(Entry::Data(Stream::Payload, payload));
        }
        if !data.is_empty() {
            entries.push(Entry::Data(Stream::Responses, data.clone()));
        }
        for record in &records {
            self.note(record);
            entries.push(Entry::Record(record::encode(record)));
        }
        let sync = if sync { Sync::Synced } else { Sync::Written };
        let pending = self.work.store.enqueue(key(self.active.unit), entries, sync);
        let active = self.active.clone();
        self.pending.push(Box::pin(async move {
            match pending.await {
                Ok(()) => {
                    let length = data.len() as u64;
                    if length > 0 {
                        active.tail.push(data);
                    }
                    (OriginInput::Stored(number), length)
                }
                Err(error @ StoreError::StreamClosed { .. }) => {
                    (OriginInput::Closed(number, error.to_string()), 0)
                }
                Err(error) => (OriginInput::NotStored(number, error.to_string()), 0),
            }
        }));
    }

    fn place(&mut self) {
        // A unit that waits for its place waits without its payload.
        self.at_hand = None;
        let input = match place(&self.work.units, &self.order, &self.refused) {
            Ok(candidate) => {
                if self.refused.contains(&candidate.executor) {
                    self.refused.clear();
                }
                OriginInput::Found(candidate)
            }
            Err(none) => OriginInput::NotFound(none.message),
        };
        self.machine.handle(input, now_ms());
    }

    fn ask(&mut self, conversation: u64, executor: NodeId, question: Question) {
        let (told, words) = mpsc::channel(WORDS);
        let stored = watch::Sender::new(self.machine.stored());
        let placed = self.work.units.outstanding.place(&executor);
        let ask = Ask {
            work: self.work.clone(),
            unit: self.active.unit,
            order: self.order.clone(),
            executor,
            conversation,
            question,
            payload: self.at_hand.take(),
            stored: stored.subscribe(),
            told,
        };
        self.talk = Some(Talk {
            conversation,
            words,
            stored,
            task: tokio::spawn(ask.run()).abort_handle(),
            _placed: placed,
        });
    }

    fn not_stored(&mut self, why: String) {
        warn!(unit = %self.active.unit, error = why, "durable unit refused: it can't be stored");
        let eof = Eof::without_responses(Kind::NoSpace, why);
        let heard = self
            .stored
            .take()
            .is_some_and(|stored| stored.send(Err(eof)).is_ok());
        if !heard {
            // Nobody is left who would give its place back.
            self.work.discard(self.active.unit);
        }
        self.done = true;
    }

    fn end(&mut self, eof: Eof) {
        let (unit, directive) = (self.active.unit, &self.order.directive);
        let (outcome, kind) = (eof.outcome, eof.kind);
        if kind == Kind::Ok {
            debug!(%unit, directive, %outcome, responses = eof.responses, bytes = eof.bytes, "durable unit ended");
        } else {
            info!(%unit, directive, %outcome, %kind, error = eof.message, "durable unit ended");
        }
        self.ended = Some(eof);
        // Its executor may have room for another one.
        self.work.room.notify_one();
    }

    fn note(&self, record: &OriginRecord) {
        if let Some(event) = event(record) {
            self.active.note(event);
        }
    }
}

async fn next_word(talk: &mut Option<Talk>) -> Option<OriginInput> {
    let open = talk.as_mut()?;
    if let Some(word) = open.words.recv().await {
        return Some(word);
    }
    let conversation = open.conversation;
    *talk = None;
    Some(OriginInput::Broken(
        conversation,
        "the conversation ended without a last word".to_owned(),
    ))
}

/// Waits until a time in milliseconds since 1970, looking at the clock now and then: it may be set.
async fn until(at_ms: Option<u64>, jitter: bool) {
    let Some(at) = at_ms else {
        return std::future::pending().await;
    };
    let mut left = at.saturating_sub(now_ms());
    if jitter {
        left += rand::random_range(0..=left / 4);
    }
    tokio::time::sleep(Duration::from_millis(left).min(CLOCK)).await;
}

pub(super) fn key(unit: UnitId) -> Key {
    Key {
        role: Role::Origin,
        unit,
    }
}

/// A record as people read it; `None` for what they need not know.
pub(super) fn event(record: &OriginRecord) -> Option<WorkEvent> {
    let (at_ms, what) = match record {
        OriginRecord::Submitted(order) => (order.submitted_ms, "submitted".to_owned()),
        OriginRecord::Offered { executor, at_ms, .. } => (*at_ms, format!("offered to {executor}")),
        OriginRecord::Accepted { at_ms } => (*at_ms, "accepted".to_owned()),
        OriginRecord::Started { at_ms } => (*at_ms, "started".to_owned()),
        OriginRecord::Withdrawn { reason, at_ms } => (*at_ms, format!("not taken: {reason}")),
        OriginRecord::GivenUp { reason, at_ms } => (*at_ms, format!("to run again: {reason}")),
        OriginRecord::Ended { eof, at_ms } => (*at_ms, format!("ended: {}", eof.kind)),
        OriginRecord::Released { .. } | OriginRecord::Forgotten { .. } => return None,
    };
    let at = Timestamp::from_millisecond(i64::try_from(at_ms).ok()?).ok()?;
    Some(WorkEvent { at, what })
}

/// A failure of the store as the end of a unit that was not stored.
pub(super) fn store_fault(error: &StoreError) -> Eof {
    let kind = match error {
        error if error.is_no_room() => Kind::NoSpace,
        StoreError::NoDescriptor { .. } => Kind::Busy,
        _ => Kind::Internal,
    };
    Eof::without_responses(kind, error.to_string())
}
