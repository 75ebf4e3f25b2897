//! The origin's side of a batch.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use workmesh_proto::NodeId;
use workmesh_proto::UnitId;
use workmesh_proto::record::Order;
use workmesh_proto::unit::durable::OriginInput;
use workmesh_proto::wire::batch::{
    MAX_BATCH, MAX_BATCHED_BYTES, MAX_BATCHED_PIECES, MAX_BATCHED_RESPONSE_BYTES, Over, ReleasedUnits,
};
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{MAX_RELEASES, Offer};
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::{Item, Piece};
use workmesh_proto::wire::unit::{Kind, cut};

use crate::link::LinkError;
use crate::unit::durable::active::Active;
use crate::unit::durable::ask::{ANSWER, reach, read, silent};
use crate::unit::durable::now_ms;
use crate::unit::durable::pipe::{Pipe, PipeReceiver, PipeSender};
use crate::unit::durable::releases::Sent;
use crate::unit::durable::talk::Line;
use crate::unit::durable::work::Work;

/// More than a parcel has beside its directive, its parameters, its trace and its payload.
const PARCEL_BYTES: usize = 128;
/// What stands around the texts of a parameter.
const PARAMETER_BYTES: usize = 6;
/// Pieces of a unit that its task is handed: they may be cut on their way.
const MAX_PIECES: usize = 2 * MAX_BATCHED_PIECES;

/// Whether a unit is small enough to go with others.
pub(in crate::unit::durable) fn is_small(order: &Order) -> bool {
    let parameter = |(key, value): (&String, &String)| key.len() + value.len() + PARAMETER_BYTES;
    let parameters: usize = order.params.iter().map(parameter).sum();
    let trace = order.trace.as_ref().map_or(0, String::len);
    let body = PARCEL_BYTES + order.directive.len() + parameters + trace;
    order.payload_bytes.saturating_add(body as u64) <= MAX_BATCHED_BYTES as u64
}

/// One unit's part of a batch. Dropped before the executor's last word on it, it is broken off.
pub(in crate::unit::durable) struct Part {
    pub(in crate::unit::durable) order: Arc<Order>,
    pub(in crate::unit::durable) offer: Offer,
    pub(in crate::unit::durable) payload: Bytes,
    pub(in crate::unit::durable) reply: Reply,
}

impl Part {
    /// Whether the unit still listens: it has not turned away from the offer.
    fn is_wanted(&self) -> bool {
        self.reply.is_wanted()
    }
}

/// Where what the executor says of one unit goes, up to its last word.
pub(in crate::unit::durable) struct Reply {
    active: Arc<Active>,
    line: Arc<Line>,
    conversation: u64,
    accepted: bool,
    pieces: usize,
    bytes: usize,
    over: bool,
}

impl Reply {
    pub(in crate::unit::durable) fn new(active: Arc<Active>, line: Arc<Line>, conversation: u64) -> Self {
        Self {
            active,
            line,
            conversation,
            accepted: false,
            pieces: 0,
            bytes: 0,
            over: false,
        }
    }

    fn is_wanted(&self) -> bool {
        Arc::strong_count(&self.line) > 1
    }

    fn say(&self, word: OriginInput) {
        if !self.over && self.is_wanted() {
            self.line.say_now(word);
            self.active.told.wake();
        }
    }

    fn end(&mut self, last: OriginInput) {
        self.say(last);
        self.over = true;
    }

    fn break_off(&mut self, why: &str) {
        if !self.over {
            self.end(OriginInput::Broken(self.conversation, why.to_owned()));
        }
    }

    /// Hands on what the executor has said.
    fn hear(&mut self, item: Item) {
        match item {
            Item::Response { piece, .. } => self.hear_piece(piece),
            Item::Frame(frame) => {
                if let Err(why) = self.hear_frame(&frame) {
                    self.fault(&why);
                }
            }
            Item::Payload { .. } => self.fault("the executor sent payload"),
        }
    }

    fn hear_frame(&mut self, frame: &Frame) -> Result<(), String> {
        let at = self.conversation;
        match frame.frame_type() {
            Some(FrameType::Over) => {
                let Over(mut eof) =
                    codec::decode(&frame.body).map_err(|error| format!("Over frame: {error}"))?;
                cut(&mut eof.message);
                self.accept();
                self.end(OriginInput::Eof(at, eof));
            }
            Some(FrameType::Unfinished) => self.break_off("it is not over in a moment"),
            _ => match read(at, frame)? {
                Some(last @ OriginInput::Refused(..)) => self.end(last),
                Some(OriginInput::Accepted(_)) if !self.accepted => self.accept(),
                Some(_) => return Err("the executor says in a batch what has no place there".to_owned()),
                // Of a later version.
                None => {}
            },
        }
        Ok(())
    }

    /// A unit of which something is told is accepted, whether that was said or not.
    fn accept(&mut self) {
        if !mem::replace(&mut self.accepted, true) {
            self.say(OriginInput::Accepted(self.conversation));
        }
    }

    fn hear_piece(&mut self, piece: Piece) {
        self.accept();
        self.pieces += 1;
        self.bytes += piece.data.len();
        // The rest is asked for.
        if self.pieces > MAX_PIECES || self.bytes > MAX_BATCHED_RESPONSE_BYTES {
            return self.break_off("it sends more than has room in a batch");
        }
        self.say(OriginInput::Piece(self.conversation, piece));
    }

    fn fault(&mut self, why: &str) {
        self.end(OriginInput::Fault(
            self.conversation,
            Kind::Protocol,
            why.to_owned(),
        ));
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.break_off("the batch was given up");
    }
}

/// What is to be offered, by executor, in batches: for each of them somebody is on the way who offers it.
#[derive(Default)]
pub(in crate::unit::durable) struct Batches {
    waiting: Mutex<HashMap<NodeId, VecDeque<Vec<Part>>>>,
    offered: AtomicU64,
    releases: AtomicU64,
}

impl Batches {
    /// Units that were offered in batches.
    pub(in crate::unit::durable) fn offered(&self) -> u64 {
        self.offered.load(Ordering::Relaxed)
    }

    /// Releases that batches have taken along.
    pub(in crate::unit::durable) fn releases(&self) -> u64 {
        self.releases.load(Ordering::Relaxed)
    }

    /// `true`: a batch begins with this one, and the caller has it offered.
    fn push(&self, executor: &NodeId, part: Part) -> bool {
        let mut executors = self.waiting.lock();
        let Some(batches) = executors.get_mut(executor) else {
            executors.insert(executor.clone(), VecDeque::from([vec![part]]));
            return true;
        };
        if let Some(last) = batches.back_mut().filter(|last| last.len() < MAX_BATCH) {
            last.push(part);
            return false;
        }
        batches.push_back(vec![part]);
        true
    }

    /// The batch that has waited longest.
    fn take(&self, executor: &NodeId) -> Vec<Part> {
        let mut executors = self.waiting.lock();
        let Some(batches) = executors.get_mut(executor) else {
            return Vec::new();
        };
        let batch = batches.pop_front();
        if batches.is_empty() {
            executors.remove(executor);
        }
        batch.unwrap_or_default()
    }
}

impl Work {
    /// Whether what is offered to this node goes with others now.
    pub(in crate::unit::durable) fn takes_batch(&self, executor: &NodeId) -> bool {
        let others = self.under_way().saturating_sub(1);
        if others < self.settings.batch_from {
            return false;
        }
        let view = self.units.mesh.view();
        view.member(executor).is_some_and(|member| member.lsa.batches)
    }

    /// Offers a unit together with those that are offered to the same executor in this moment.
    pub(in crate::unit::durable) fn offer_with_others(self: &Arc<Self>, executor: &NodeId, part: Part) {
        if self.batches.push(executor, part) {
            let (work, executor) = (self.clone(), executor.clone());
            self.spawn(async move { work.offer_batch(&executor).await });
        }
    }

    async fn offer_batch(&self, executor: &NodeId) {
        // Held until the executor has answered: what many units ask at once is asked in turn.
        let turn = self.questions.acquire().await;
        // Not before: until then others come to it, and some turn away.
        let batch = self.batches.take(executor);
        if turn.is_err() {
            return;
        }
        let Some((pipe, batch)) = reach_for(batch, reach(self, executor)).await else {
            return;
        };
        self.batches
            .offered
            .fetch_add(batch.len() as u64, Ordering::Relaxed);
        let Pipe {
            mut sender,
            mut receiver,
        } = pipe;
        let mut releases = self.releases.take(executor);
        self.batches
            .releases
            .fetch_add(releases.len() as u64, Ordering::Relaxed);
        let mut replies = gather(&mut sender, &releases, batch);
        let mut released = Vec::new();
        let conversing = async {
            // Both at once: an executor may answer the first ones before it has the last.
            tokio::join!(sender.finish(), hear(&mut receiver, &mut replies, &mut released)).1
        };
        let why = match tokio::time::timeout(ANSWER, conversing).await {
            Ok(Ok(())) => "the executor closed the stream".to_owned(),
            // The session was idle and has just been closed: the executor has not seen the batch.
            Ok(Err(error @ LinkError::Idle)) if !replies.iter().any(|reply| reply.accepted || reply.over) => {
                return unreachable(replies, &error.to_string());
            }
            Ok(Err(error)) => format!("the stream broke: {error}"),
            Err(_) => silent(executor),
        };
        for mut reply in replies {
            reply.break_off(&why);
        }
        // What has come of the units goes to the disk first.
        tokio::task::yield_now().await;
        for unit in released {
            releases.settle(unit);
        }
    }
}

/// Reaches the executor of a batch; answers with what `reach` has, and with those units that still want it then. `None`: nobody does.
async fn reach_for<T>(
    mut batch: Vec<Part>,
    reach: impl Future<Output = Result<T, String>>,
) -> Option<(T, Vec<Part>)> {
    batch.retain(Part::is_wanted);
    if batch.is_empty() {
        return None;
    }
    match reach.await {
        Ok(reached) => {
            // Again: it may have taken a while.
            batch.retain(Part::is_wanted);
            (!batch.is_empty()).then_some((reached, batch))
        }
        Err(why) => {
            unreachable(batch.into_iter().map(|part| part.reply), &why);
            None
        }
    }
}

fn unreachable(replies: impl IntoIterator<Item = Reply>, why: &str) {
    for mut reply in replies {
        let at = reply.conversation;
        reply.end(OriginInput::Unreachable(at, why.to_owned()));
    }
}

/// Gathers all that is to be sent.
fn gather(sender: &mut PipeSender, releases: &Sent, batch: Vec<Part>) -> Vec<Reply> {
    sender.put(FrameType::Batch, &releases.batch());
    let now = now_ms();
    let put = |(number, mut part): (u32, Part)| {
        sender.turn_to(number);
        let (unit, payload) = (part.reply.active.unit, mem::take(&mut part.payload));
        sender.put(
            FrameType::Parcel,
            &part.order.parcel(unit, part.offer, now, payload),
        );
        part.reply
    };
    (1..).zip(batch).map(put).collect()
}

/// Hands on what the executor says of the units, and gathers what else it has released, up to the end of it.
async fn hear(
    receiver: &mut PipeReceiver,
    replies: &mut [Reply],
    released: &mut Vec<UnitId>,
) -> Result<(), LinkError> {
    while let Some(item) = receiver.next().await? {
        match &item {
            Item::Frame(frame) if frame.frame_type().is_none() => continue,
            Item::Frame(frame) if frame.unit == 0 && frame.frame_type() == Some(FrameType::ReleasedUnits) => {
                let units = codec::decode(&frame.body);
                let ReleasedUnits(units) = units.map_err(|error| LinkError::Protocol(error.to_string()))?;
                if released.len() + units.len() > MAX_RELEASES {
                    return Err(LinkError::Protocol("too much is released".to_owned()));
                }
                released.extend(units);
                continue;
            }
            _ => {}
        }
        let number = item.unit();
        let place = (number as usize).checked_sub(1);
        match place.and_then(|at| replies.get_mut(at)) {
            Some(reply) => reply.hear(item),
            None => {
                let message = format!("number {number} in a batch of {}", replies.len());
                return Err(LinkError::Protocol(message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
