//! The executor's side of a batch.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{
    MAX_BATCH, MAX_BATCHED_BYTES, MAX_RELEASES, Release, Released, Unfinished,
};
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Accepted, Eof, Refused, Submit};
use workmesh_proto::{NodeId, UnitId};

use crate::exec::OutputItem;
use crate::link::LinkError;
use crate::unit::durable::arrive::{NotTaken, Taken};
use crate::unit::durable::brief::Moment;
use crate::unit::durable::host::Host;
use crate::unit::durable::pipe::{Pipe, PipeReceiver, PipeSender};

/// How long the units of a batch may take to come.
const COMING: Duration = Duration::from_secs(10);

/// One unit of a batch.
struct Submission {
    submit: Submit,
    payload: BytesMut,
    /// Of its `Submit` and its payload together.
    bytes: usize,
    complete: bool,
}

/// What comes in a batch: releases, then the units one after the other, numbered from 1.
#[derive(Default)]
struct Coming {
    releases: Vec<Release>,
    units: Vec<Submission>,
}

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
        pipe: Pipe,
    ) -> Result<(), LinkError> {
        let Pipe {
            mut sender,
            mut receiver,
        } = pipe;
        let coming = tokio::time::timeout(COMING, Coming::receive(&mut receiver)).await;
        let Coming { releases, units } =
            coming.map_err(|_| LinkError::Closed("the batch did not end".to_owned()))??;
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
    async fn take_all(self: &Arc<Self>, peer: &NodeId, units: Vec<Submission>, tell: &mpsc::Sender<Word>) {
        let mut timer = pin!(tokio::time::sleep(self.patience(units.len())));
        let passed = CancellationToken::new();
        let moment = Moment::Shared(&passed);
        let mut taking: FuturesUnordered<_> = (1..)
            .zip(units)
            .map(async |(number, unit)| {
                let told = self.take_whole(peer, unit.submit, unit.payload.freeze(), &moment);
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
            Told::Over(items, eof) => Self::put_over(sender, items, &eof),
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
    sender.turn_to(0);
    for unit in released.drain(..) {
        sender.put(FrameType::Released, &Released { unit });
    }
}

impl Coming {
    async fn receive(receiver: &mut PipeReceiver) -> Result<Self, LinkError> {
        let mut coming = Self::default();
        while let Some(item) = receiver.next().await? {
            coming.take(item).map_err(LinkError::Protocol)?;
        }
        match coming.units.last() {
            Some(last) if !last.complete => {
                Err(LinkError::Protocol("the batch ends within a unit".to_owned()))
            }
            _ => Ok(coming),
        }
    }

    fn take(&mut self, item: Item) -> Result<(), String> {
        let number = item.unit() as usize;
        match item {
            Item::Frame(frame) => match frame.frame_type() {
                Some(FrameType::Submit) => self.begin(number, &frame.body),
                Some(FrameType::Release) if number == 0 => self.release(&frame.body),
                Some(FrameType::PayloadEnd) => {
                    self.open(number)?.complete = true;
                    Ok(())
                }
                None => Ok(()),
                Some(kind) => Err(format!("{kind:?} frame in a batch")),
            },
            Item::Payload { data, .. } => {
                let unit = self.open(number)?;
                unit.payload.extend_from_slice(&data);
                unit.bytes += data.len();
                fits(unit.bytes)
            }
            Item::Response { .. } => Err("a response in a batch of units".to_owned()),
        }
    }

    fn release(&mut self, body: &[u8]) -> Result<(), String> {
        if !self.units.is_empty() {
            return Err("a release behind the units of a batch".to_owned());
        }
        if self.releases.len() == MAX_RELEASES {
            return Err(format!("more than {MAX_RELEASES} releases in a batch"));
        }
        let release = codec::decode(body).map_err(|error| error.to_string())?;
        self.releases.push(release);
        Ok(())
    }

    fn begin(&mut self, number: usize, body: &[u8]) -> Result<(), String> {
        let due = self.units.len() + 1;
        if number != due || self.units.last().is_some_and(|last| !last.complete) {
            return Err(format!("unit {number} of a batch begins out of order"));
        }
        if due > MAX_BATCH {
            return Err(format!("more than {MAX_BATCH} units in a batch"));
        }
        fits(body.len())?;
        let submit: Submit = codec::decode(body).map_err(|error| error.to_string())?;
        submit.check()?;
        if !submit.durable {
            return Err("a unit in a batch that is not durable".to_owned());
        }
        self.units.push(Submission {
            submit,
            payload: BytesMut::new(),
            bytes: body.len(),
            complete: false,
        });
        Ok(())
    }

    /// The unit that is coming, which has to be this one.
    fn open(&mut self, number: usize) -> Result<&mut Submission, String> {
        let latest = self.units.len();
        let coming = self
            .units
            .last_mut()
            .filter(|last| number == latest && !last.complete);
        coming.ok_or_else(|| format!("payload of unit {number} of a batch out of order"))
    }
}

fn fits(bytes: usize) -> Result<(), String> {
    match bytes {
        0..=MAX_BATCHED_BYTES => Ok(()),
        _ => Err(format!(
            "a unit of more than {MAX_BATCHED_BYTES} bytes in a batch"
        )),
    }
}
