//! The executor's side of a batch.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use workmesh_proto::wire::batch::{Batch, MAX_BATCH, MAX_BATCHED_BYTES, Over, Parcel, ReleasedUnits};
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{MAX_RELEASES, Release, Unfinished};
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Accepted, Eof, Refused, Submit};
use workmesh_proto::{NodeId, UnitId};

use crate::exec::OutputItem;
use crate::link::LinkError;
use crate::unit::durable::arrive::{NotTaken, Taken};
use crate::unit::durable::brief::{Moment, put_pieces};
use crate::unit::durable::host::Host;
use crate::unit::durable::pipe::{Pipe, PipeReceiver, PipeSender};

/// How long the units of a batch may take to come.
const COMING: Duration = Duration::from_secs(10);

/// What is told of a unit of a batch.
enum Told {
    /// All of it.
    Over(VecDeque<OutputItem>, Eof),
    /// That it is taken.
    Taken,
    Refused(Refused),
    /// Nothing: it is gone, or not kept yet.
    Gone,
}

/// What is told in a batch.
enum Word {
    /// Of the unit with this number.
    Told(u32, Told),
    /// That another one is forgotten.
    Released(UnitId),
}

impl Host {
    /// Takes the units that follow, and tells of each as soon as there is something to tell.
    pub(in crate::unit::durable) async fn answer_batch(
        self: &Arc<Self>,
        peer: &NodeId,
        batch: Batch,
        pipe: Pipe,
    ) -> Result<(), LinkError> {
        let Pipe {
            mut sender,
            mut receiver,
        } = pipe;
        let Batch { releases } = batch;
        if releases.len() > MAX_RELEASES {
            let message = format!("more than {MAX_RELEASES} releases in a batch");
            return Err(LinkError::Protocol(message));
        }
        let units = tokio::time::timeout(COMING, receive(&mut receiver)).await;
        let units = units.map_err(|_| LinkError::Closed("the batch did not end".to_owned()))??;
        let (tell, mut told) = mpsc::channel((releases.len() + units.len()).max(1));
        let (host, peer, closing) = (self.clone(), peer.clone(), self.closing.clone());
        // On its own: what is taken is not to be left half done because the origin is gone, or does not listen.
        self.tasks.spawn(async move {
            let taking = host.take_all(&peer, units, &tell);
            let releasing = host.release_along(&peer, &releases, &tell);
            tokio::select! {
                () = closing.cancelled() => {}
                _ = Box::pin(async { tokio::join!(taking, releasing) }) => {}
            }
        });
        let (mut words, mut released) = (Vec::new(), Vec::new());
        while told.recv_many(&mut words, MAX_BATCH).await > 0 {
            let mut news = false;
            for word in words.drain(..) {
                match word {
                    Word::Told(number, told) => {
                        sender.turn_to(number);
                        self.put_told(&mut sender, told);
                        news = true;
                    }
                    Word::Released(unit) => released.push(unit),
                }
            }
            // Nobody waits for units to be forgotten: that goes with what is told of others, behind it.
            if news {
                put_released(&mut sender, &mut released);
                sender.flush().await?;
            }
        }
        put_released(&mut sender, &mut released);
        sender.finish().await
    }

    /// Forgets units, and tells of each that is forgotten.
    async fn release_along(&self, peer: &NodeId, releases: &[Release], tell: &mpsc::Sender<Word>) {
        // Threads are called first for the units that have come with them.
        tokio::task::yield_now().await;
        let mut releasing = pin!(self.releasing(peer, releases));
        while let Some(released) = releasing.next().await {
            if let Some(unit) = released {
                // There is room for all of them. Nobody may be left to hear it.
                let _gone = tell.try_send(Word::Released(unit));
            }
        }
    }

    /// Takes units, and tells of each by its number as soon as there is something to tell.
    async fn take_all(
        self: &Arc<Self>,
        peer: &NodeId,
        units: Vec<(Submit, Bytes)>,
        tell: &mpsc::Sender<Word>,
    ) {
        let mut timer = pin!(tokio::time::sleep(self.patience(units.len())));
        let passed = CancellationToken::new();
        let moment = Moment::Shared(&passed);
        let mut taking: FuturesUnordered<_> = (1..)
            .zip(units)
            .map(async |(number, (submit, payload))| {
                let told = self.take_whole(peer, submit, payload, &moment);
                Word::Told(number, told.await)
            })
            .collect();
        loop {
            tokio::select! {
                biased;
                told = taking.next() => match told {
                    // As above.
                    Some(told) => drop(tell.try_send(told)),
                    None => return,
                },
                () = &mut timer, if !passed.is_cancelled() => passed.cancel(),
            }
        }
    }

    /// Takes a unit whose payload is all there, and sees it to its end if that comes in a moment.
    async fn take_whole(
        self: &Arc<Self>,
        peer: &NodeId,
        submit: Submit,
        payload: Bytes,
        moment: &Moment<'_>,
    ) -> Told {
        let mut receiver = PipeReceiver::of(VecDeque::from([
            Item::Payload {
                unit: 0,
                data: payload,
            },
            Item::Frame(Frame::new(FrameType::PayloadEnd, 0, Bytes::new())),
        ]));
        match self.take_offered(peer, &submit, &mut receiver, moment).await {
            Ok((hosted, Taken::Over(items))) => {
                let eof = hosted.with(|machine| machine.end_of().cloned());
                eof.map_or(Told::Gone, |eof| Told::Over(items, eof))
            }
            // It was given back, or the disk does not take it yet: who asks for it is told once that is stored.
            Ok((hosted, Taken::Kept)) if !hosted.is_accepted() => Told::Gone,
            Ok((_, Taken::Kept)) => Told::Taken,
            Ok((hosted, Taken::Stored(stored))) => {
                self.begin(&hosted, *stored);
                Told::Taken
            }
            Err(NotTaken::Refused(refused)) => Told::Refused(refused),
            Err(NotTaken::Broken(_) | NotTaken::Dropped) => Told::Gone,
        }
    }

    fn put_told(&self, sender: &mut PipeSender, told: Told) {
        match told {
            // That it is accepted goes without saying.
            Told::Over(items, eof) => {
                put_pieces(sender, items);
                sender.put(FrameType::Over, &Over(eof));
            }
            Told::Taken => {
                let executor = self.node.clone();
                sender.put(FrameType::Accepted, &Accepted { executor });
                let (state, reason) = ("accepted".to_owned(), String::new());
                sender.put(FrameType::Unfinished, &Unfinished { state, reason });
            }
            Told::Refused(refused) => sender.put(FrameType::Refused, &refused),
            Told::Gone => {}
        }
    }
}

fn put_released(sender: &mut PipeSender, released: &mut Vec<UnitId>) {
    if !released.is_empty() {
        sender.turn_to(0);
        sender.put(FrameType::ReleasedUnits, &ReleasedUnits(std::mem::take(released)));
    }
}

/// The units of a batch: one after the other, numbered from 1.
async fn receive(receiver: &mut PipeReceiver) -> Result<Vec<(Submit, Bytes)>, LinkError> {
    let mut units = Vec::new();
    while let Some(item) = receiver.next().await? {
        let Item::Frame(frame) = item else {
            return Err(LinkError::Protocol(
                "something else than units in a batch".to_owned(),
            ));
        };
        match frame.frame_type() {
            Some(FrameType::Parcel) => units.push(read(&frame, units.len()).map_err(LinkError::Protocol)?),
            Some(kind) => return Err(LinkError::Protocol(format!("{kind:?} frame in a batch"))),
            // Of a later version.
            None => {}
        }
    }
    Ok(units)
}

/// The unit that follows `before` others.
fn read(frame: &Frame, before: usize) -> Result<(Submit, Bytes), String> {
    let number = frame.unit as usize;
    if number != before + 1 {
        return Err(format!("unit {number} of a batch comes out of order"));
    }
    if number > MAX_BATCH {
        return Err(format!("more than {MAX_BATCH} units in a batch"));
    }
    if frame.body.len() > MAX_BATCHED_BYTES {
        let bytes = frame.body.len();
        return Err(format!(
            "a unit of {bytes} bytes in a batch, where {MAX_BATCHED_BYTES} are allowed"
        ));
    }
    let parcel: Parcel = codec::decode(&frame.body).map_err(|error| error.to_string())?;
    let (submit, payload) = parcel.open();
    submit.check()?;
    Ok((submit, payload))
}
