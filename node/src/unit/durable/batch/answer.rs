//! The executor's side of a batch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use workmesh_proto::NodeId;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{MAX_BATCH, MAX_BATCHED_BYTES, Unfinished};
use workmesh_proto::wire::frame::{Frame, FrameType};
use workmesh_proto::wire::items::Item;
use workmesh_proto::wire::unit::{Accepted, Eof, Refused, Submit};

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

/// The units of a batch, as they come: one after the other, numbered from 1.
#[derive(Default)]
struct Submissions(Vec<Submission>);

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
        let coming = tokio::time::timeout(COMING, Submissions::receive(&mut receiver)).await;
        let Submissions(units) =
            coming.map_err(|_| LinkError::Closed("the batch did not end".to_owned()))??;
        let (tell, mut told) = mpsc::channel(units.len().max(1));
        let (host, peer, closing) = (self.clone(), peer.clone(), self.closing.clone());
        // On its own: what is taken is not to be left half done because the origin is gone, or does not listen.
        self.tasks.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = Box::pin(host.take_all(&peer, units, tell)) => {}
            }
        });
        let mut some = Vec::new();
        while told.recv_many(&mut some, MAX_BATCH).await > 0 {
            for (number, told) in some.drain(..) {
                sender.turn_to(number);
                self.put_told(&mut sender, told);
            }
            sender.flush().await?;
        }
        sender.finish().await
    }

    /// Takes units, and tells of each by its number as soon as there is something to tell.
    async fn take_all(
        self: &Arc<Self>,
        peer: &NodeId,
        units: Vec<Submission>,
        tell: mpsc::Sender<(u32, Told)>,
    ) {
        let passed = tokio::time::sleep(self.patience(units.len()));
        tokio::pin!(passed);
        let over = CancellationToken::new();
        let moment = Moment::Shared(&over);
        let mut taking: FuturesUnordered<_> = (1..)
            .zip(units)
            .map(async |(number, unit)| {
                let told = self.take_whole(peer, unit.submit, unit.payload.freeze(), &moment);
                (number, told.await)
            })
            .collect();
        loop {
            tokio::select! {
                biased;
                told = taking.next() => match told {
                    // There is room for all of them. Nobody may be left to hear it.
                    Some(told) => drop(tell.try_send(told)),
                    None => return,
                },
                () = &mut passed, if !over.is_cancelled() => over.cancel(),
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

impl Submissions {
    async fn receive(receiver: &mut PipeReceiver) -> Result<Self, LinkError> {
        let mut submissions = Self::default();
        while let Some(item) = receiver.next().await? {
            submissions.take(item).map_err(LinkError::Protocol)?;
        }
        match submissions.0.last() {
            Some(last) if !last.complete => {
                Err(LinkError::Protocol("the batch ends within a unit".to_owned()))
            }
            _ => Ok(submissions),
        }
    }

    fn take(&mut self, item: Item) -> Result<(), String> {
        let number = item.unit() as usize;
        match item {
            Item::Frame(frame) => match frame.frame_type() {
                Some(FrameType::Submit) => self.begin(number, &frame.body),
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

    fn begin(&mut self, number: usize, body: &[u8]) -> Result<(), String> {
        let due = self.0.len() + 1;
        if number != due || self.0.last().is_some_and(|last| !last.complete) {
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
        self.0.push(Submission {
            submit,
            payload: BytesMut::new(),
            bytes: body.len(),
            complete: false,
        });
        Ok(())
    }

    /// The unit that is coming, which has to be this one.
    fn open(&mut self, number: usize) -> Result<&mut Submission, String> {
        let latest = self.0.len();
        let coming = self
            .0
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
