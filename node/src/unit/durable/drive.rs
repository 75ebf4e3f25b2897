//! The task of one durable unit at its origin: carries out what the machine wants, and tells it what came of it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tracing::{debug, info, warn};
use workmesh_proto::record::{self, Order, OriginRecord};
use workmesh_proto::unit::durable::{DurableOrigin, OriginEffect, OriginInput, OriginPhase};
use workmesh_proto::wire::durable::Release;
use workmesh_proto::wire::unit::{Eof, Kind};
use workmesh_proto::{NodeId, UnitId};

use super::active::Active;
use super::ask::{Ask, Question};
use super::batch::{Part, Reply, is_small};
use super::happened::Happened;
use super::now_ms;
use super::place::place;
use super::talk::{Line, Talk};
use super::work::Work;
use crate::store::{Entry, Key, Pending, Role, StoreError, Stream, Sync};

/// The longest sleep without a look at the clock.
const CLOCK: Duration = Duration::from_secs(30);
/// Nodes that are remembered because they have refused.
const MAX_REFUSED: usize = 32;

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
    /// Not answered, in their order.
    appends: Vec<Append>,
    releases: Vec<Telling>,
    /// Bytes of response frames that are on the disk.
    stream_bytes: u64,
    talk: Option<Talk>,
    refused: Vec<NodeId>,
    ended: Option<Eof>,
    /// The latest append was not taken.
    failing: bool,
    forgetting: bool,
    done: bool,
}

/// An append that is on its way to the disk, and the response frames in it.
struct Append {
    number: u64,
    data: Bytes,
    /// What has happened to the unit once it is there.
    happened: Vec<Happened>,
    pending: Pending,
}

/// An executor that is being told that its offers up to a number are over.
struct Telling {
    executor: NodeId,
    number: u32,
    told: oneshot::Receiver<()>,
}

impl Drive {
    pub(super) fn new(
        work: Arc<Work>,
        active: Arc<Active>,
        machine: DurableOrigin,
        stream_bytes: u64,
    ) -> Box<Self> {
        let order = machine.history().order().clone();
        let ended = machine.history().end().cloned();
        Box::new(Self {
            work,
            active,
            machine,
            order,
            payload: Bytes::new(),
            at_hand: None,
            stored: None,
            appends: Vec::new(),
            releases: Vec::new(),
            stream_bytes,
            talk: None,
            refused: Vec::new(),
            ended,
            failing: false,
            forgetting: false,
            done: false,
        })
    }

    /// Stores `payload` with the submission, and says when that is done.
    pub(super) fn submitting(
        mut self: Box<Self>,
        payload: Bytes,
        stored: oneshot::Sender<Result<(), Eof>>,
    ) -> Box<Self> {
        self.at_hand = (payload.len() as u64 == self.order.payload_bytes).then(|| payload.clone());
        self.payload = payload;
        self.stored = Some(stored);
        self
    }

    /// Until all concerned know of the unit's end, or the node stops: then the unit goes on at its next start.
    pub(super) async fn run(mut self: Box<Self>) {
        let mut reach = None;
        loop {
            self.carry_out();
            if self.done {
                return;
            }
            let Some(input) = self.next_input(&mut reach).await else {
                return;
            };
            self.handle(input);
            // What the executor has said already goes to the disk together.
            while self.machine.wants_pieces()
                && let Some(word) = self.talk.as_ref().and_then(Talk::next_ready)
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

    /// What happens next; `None`: the node stops. `reach` is held while something waits that a change of the mesh hurries.
    async fn next_input(&mut self, reach: &mut Option<watch::Receiver<u64>>) -> Option<OriginInput> {
        let work = self.work.clone();
        match self.machine.hurries() {
            true => {
                reach.get_or_insert_with(|| work.reach.subscribe());
            }
            false => *reach = None,
        }
        let wake = self.machine.poll_timeout();
        let waits = self.machine.phase() == OriginPhase::Waiting && self.talk.is_none();
        // What waits tries again at its own time; a deadline is none to be late for.
        let jitter = waits && wake != self.order.deadline_ms;
        let mut outside = pin!(async {
            tokio::select! {
                biased;
                () = changed(reach) => OriginInput::MeshChanged,
                () = work.room.notified(), if waits => OriginInput::MeshChanged,
                () = until(wake, jitter) => OriginInput::Wake,
            }
        });
        poll_fn(|cx| match self.poll_own(cx) {
            Poll::Pending => outside.as_mut().poll(cx).map(Some),
            ready => ready,
        })
        .await
    }

    /// What comes from the unit's own doings, or is asked of it; `None`: the node stops.
    fn poll_own(&mut self, cx: &mut Context<'_>) -> Poll<Option<OriginInput>> {
        self.active.told.register(cx.waker());
        if self.work.is_stopping() {
            return Poll::Ready(None);
        }
        let unended = self.machine.phase() != OriginPhase::Ended;
        if self.active.is_cancelled() && unended && self.stored.is_none() {
            return Poll::Ready(Some(OriginInput::Cancel));
        }
        if self.active.is_forgotten() && self.ended.is_some() && !self.forgetting {
            self.forgetting = true;
            return Poll::Ready(Some(OriginInput::Forget));
        }
        let answered = self.poll_appends(cx).or_else(|| self.poll_releases(cx));
        match answered.or_else(|| self.poll_talk(cx)) {
            Some(input) => Poll::Ready(Some(input)),
            None => Poll::Pending,
        }
    }

    fn poll_appends(&mut self, cx: &mut Context<'_>) -> Option<OriginInput> {
        for at in 0..self.appends.len() {
            if let Poll::Ready(stored) = Pin::new(&mut self.appends[at].pending).poll(cx) {
                let append = self.appends.remove(at);
                return Some(self.on_append(append, stored));
            }
        }
        None
    }

    fn on_append(&mut self, append: Append, stored: Result<(), StoreError>) -> OriginInput {
        let Append {
            number,
            data,
            happened,
            ..
        } = append;
        let failed_before = std::mem::replace(&mut self.failing, stored.is_err());
        match stored {
            Ok(()) => {
                happened
                    .into_iter()
                    .for_each(|happened| self.active.note(happened));
                self.stream_bytes += data.len() as u64;
                if !data.is_empty() {
                    self.active.tail.push(data);
                }
                OriginInput::Stored(number)
            }
            Err(error @ StoreError::StreamClosed { .. }) => OriginInput::Closed(number, error.to_string()),
            Err(error) => {
                // A submission is refused, and told of as that.
                if !failed_before && self.stored.is_none() {
                    warn!(unit = %self.active.unit, %error, "what came of a durable unit can't be stored; it is tried again");
                }
                OriginInput::NotStored(number, error.to_string())
            }
        }
    }

    fn poll_releases(&mut self, cx: &mut Context<'_>) -> Option<OriginInput> {
        for at in 0..self.releases.len() {
            if let Poll::Ready(told) = Pin::new(&mut self.releases[at].told).poll(cx) {
                let Telling { executor, number, .. } = self.releases.swap_remove(at);
                return Some(match told {
                    Ok(()) => OriginInput::Released(executor, number),
                    Err(_) => OriginInput::NotReleased(executor, number),
                });
            }
        }
        None
    }

    fn poll_talk(&mut self, cx: &mut Context<'_>) -> Option<OriginInput> {
        match self.talk.as_mut()?.poll_word(cx, self.machine.wants_pieces()) {
            Poll::Ready(word) => Some(word),
            Poll::Pending => None,
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
                        talk.acknowledge(position);
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
                    let told = self.work.tell_release(&executor, release);
                    self.releases.push(Telling {
                        executor,
                        number,
                        told,
                    });
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
        // What leads to the end is told with it.
        let ending = self.machine.phase() == OriginPhase::Ended && !self.appends.is_empty();
        if changed && (self.ended.is_some() || !ending) {
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
        let happened = records.iter().filter_map(Happened::of).collect();
        entries.extend(record::encode_all(&records).map(Entry::Record));
        let sync = if sync { Sync::Synced } else { Sync::Written };
        let pending = self.work.store.enqueue(key(self.active.unit), entries, sync);
        self.appends.push(Append {
            number,
            data,
            happened,
            pending,
        });
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
        let line = Arc::<Line>::default();
        let together = self.at_hand.is_some() && is_small(&self.order) && self.work.takes_batch(&executor);
        let placed = self.work.units.outstanding.place(&executor);
        if let Question::Offer(offer) = question
            && together
            && let Some(payload) = self.at_hand.take()
        {
            let part = Part {
                order: self.order.clone(),
                offer,
                payload,
                reply: Reply::new(self.active.clone(), line.clone(), conversation),
            };
            self.work.offer_with_others(&executor, part);
            self.talk = Some(Talk::in_batch(conversation, line, placed));
            return;
        }
        let ask = Ask {
            work: self.work.clone(),
            unit: self.active.unit,
            order: self.order.clone(),
            executor,
            conversation,
            question,
            payload: self.at_hand.take(),
            line: line.clone(),
        };
        self.talk = Some(Talk::new(conversation, line, ask.converse(), placed));
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
}

impl Drop for Drive {
    fn drop(&mut self) {
        // What it does next is known to nobody but the store, which is read at the next start.
        if std::thread::panicking() && !self.done {
            self.work.strand(&self.active);
        }
    }
}

/// Waits until the mesh changes; for ever if that is of no interest.
async fn changed(reach: &mut Option<watch::Receiver<u64>>) {
    let changed = match reach {
        Some(reach) => reach.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        std::future::pending().await
    }
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

/// A failure of the store as the end of a unit that was not stored.
pub(super) fn store_fault(error: &StoreError) -> Eof {
    let kind = match error {
        error if error.is_no_room() => Kind::NoSpace,
        StoreError::NoDescriptor { .. } => Kind::Busy,
        _ => Kind::Internal,
    };
    Eof::without_responses(kind, error.to_string())
}
