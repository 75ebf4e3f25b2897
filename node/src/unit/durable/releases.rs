//! What executors are to be told of units that are over. What comes while one is being told goes with the next word to it. While small units
//! go in batches it waits for a moment, and a batch to that executor takes it along.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use workmesh_proto::wire::batch::Batch;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{MAX_RELEASES, Release, Released};
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::items::Item;
use workmesh_proto::{NodeId, UnitId};

use super::ask::open;
use super::pipe::{Pipe, PipeReceiver, PipeSender};
use super::work::Work;

/// How long an executor may take to say that it has forgotten units.
const RELEASE: Duration = Duration::from_secs(10);

/// How long what is to be told waits for a batch that takes it along, if one comes.
const ALONG: Duration = Duration::from_millis(10);

/// One unit's release, and whoever wants to know that the executor knows; dropped, it does not.
pub(super) struct Waiting {
    release: Release,
    told: oneshot::Sender<()>,
}

/// What waits, by executor; there is an entry for each that is being told.
#[derive(Default)]
pub(super) struct Releases(Mutex<HashMap<NodeId, VecDeque<Waiting>>>);

/// Releases on their way to an executor. Those that are not heard of when this is dropped were not told.
#[derive(Default)]
pub(super) struct Sent(VecDeque<Waiting>);

impl Sent {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Gathers them.
    pub(super) fn put(&self, sender: &mut PipeSender) {
        for waiting in &self.0 {
            sender.put(FrameType::Release, &waiting.release);
        }
    }

    /// The same as the head of a batch.
    pub(super) fn batch(&self) -> Batch {
        let releases = self.0.iter().map(|waiting| waiting.release.clone());
        Batch {
            releases: releases.collect(),
        }
    }

    /// The executor has released a unit. One that it was not told of is of no interest.
    pub(super) fn settle(&mut self, unit: UnitId) {
        if let Some(at) = self.0.iter().position(|waiting| waiting.release.unit == unit) {
            // Nobody may want to know any more: the node stops, or a later word to the executor has been heard.
            let waiting = self.0.remove(at);
            let _gone = waiting.is_some_and(|waiting| waiting.told.send(()).is_err());
        }
    }
}

/// Tells one executor. When it goes, so does what waits: none of that was told.
struct Teller<'a> {
    releases: &'a Releases,
    executor: &'a NodeId,
    over: bool,
}

impl Teller<'_> {
    /// What is to be told next. At the end of it the executor's entry goes, and whoever comes then has to tell.
    fn next(&mut self) -> Option<Sent> {
        let mut executors = self.releases.0.lock();
        let queue = executors.get_mut(self.executor)?;
        if queue.is_empty() {
            executors.remove(self.executor);
            self.over = true;
            return None;
        }
        Some(take(queue))
    }
}

impl Drop for Teller<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.releases.0.lock().remove(self.executor);
        }
    }
}

fn take(queue: &mut VecDeque<Waiting>) -> Sent {
    let rest = queue.split_off(queue.len().min(MAX_RELEASES));
    Sent(mem::replace(queue, rest))
}

impl Releases {
    /// What waits for this executor, for somebody who has a word with it: its teller finds it gone.
    pub(super) fn take(&self, executor: &NodeId) -> Sent {
        self.0.lock().get_mut(executor).map(take).unwrap_or_default()
    }

    /// `true`: nobody tells this executor anything yet, and the caller has to.
    fn push(&self, executor: &NodeId, waiting: Waiting) -> bool {
        let mut executors = self.0.lock();
        if let Some(queue) = executors.get_mut(executor) {
            queue.push_back(waiting);
            return false;
        }
        executors.insert(executor.clone(), VecDeque::from([waiting]));
        true
    }

    fn teller<'a>(&'a self, executor: &'a NodeId) -> Teller<'a> {
        Teller {
            releases: self,
            executor,
            over: false,
        }
    }
}

impl Work {
    /// Tells an executor that offers of a unit are over. Answered once it knows, or dropped if it could not be told.
    pub(super) fn tell_release(
        self: &Arc<Self>,
        executor: &NodeId,
        release: Release,
    ) -> oneshot::Receiver<()> {
        let (told, heard) = oneshot::channel();
        if self.releases.push(executor, Waiting { release, told }) {
            let (work, executor) = (self.clone(), executor.clone());
            self.spawn(async move { work.tell_releases(&executor).await });
        }
        heard
    }

    async fn tell_releases(&self, executor: &NodeId) {
        let mut teller = self.releases.teller(executor);
        loop {
            if self.takes_batch(executor) {
                tokio::time::sleep(ALONG).await;
            }
            let Some(batch) = teller.next() else { return };
            // Whoever has no answer when this ends was not told.
            let _late = tokio::time::timeout(RELEASE, self.tell(executor, batch)).await;
        }
    }

    /// Answers those that the executor has answered.
    async fn tell(&self, executor: &NodeId, mut batch: Sent) -> Option<()> {
        let _turn = self.questions.acquire().await.ok()?;
        let Pipe {
            mut sender,
            mut receiver,
        } = open(self, executor).await.ok()?;
        batch.put(&mut sender);
        // Both at once: an executor may answer the first ones before it has the last.
        let (sent, ()) = tokio::join!(sender.finish(), hear(&mut receiver, &mut batch));
        sent.ok()
    }
}

/// Passes on what is released, up to the end of it.
async fn hear(receiver: &mut PipeReceiver, batch: &mut Sent) {
    while let Ok(Some(Item::Frame(frame))) = receiver.next().await {
        match frame.frame_type() {
            Some(FrameType::Released) => match codec::decode(&frame.body) {
                Ok(Released { unit }) => batch.settle(unit),
                Err(_) => return,
            },
            None => {}
            Some(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;
    use workmesh_proto::wire::unit::Outcome;

    use super::*;

    fn waiting() -> (UnitId, Waiting, oneshot::Receiver<()>) {
        let unit = UnitId(Uuid::now_v7());
        let release = Release {
            unit,
            number: 1,
            outcome: Outcome::Succeeded,
        };
        let (told, heard) = oneshot::channel();
        (unit, Waiting { release, told }, heard)
    }

    #[test]
    fn what_comes_meanwhile_is_told_next_in_order_and_in_bounded_words() {
        let releases = Releases::default();
        let executor = NodeId::parse("e").unwrap();
        let mut heard = Vec::new();
        let mut units = Vec::new();
        for at in 0..MAX_RELEASES + 2 {
            let (unit, waiting, hears) = waiting();
            assert_eq!(releases.push(&executor, waiting), at == 0, "one tells");
            units.push(unit);
            heard.push(hears);
        }
        let mut told = Vec::new();
        let mut teller = releases.teller(&executor);
        for expected in [MAX_RELEASES, 2] {
            let batch = teller.next().unwrap();
            assert_eq!(batch.0.len(), expected);
            told.extend(batch.0.into_iter().map(|waiting| waiting.release.unit));
        }
        assert_eq!(told, units);
        assert!(teller.next().is_none());
        assert!(releases.0.lock().is_empty(), "nothing stays of an executor");
        assert!(releases.push(&executor, waiting().1), "the next one tells again");
        drop(teller);
        assert!(
            !releases.push(&executor, waiting().1),
            "it has gone with its own entry alone"
        );
    }

    #[test]
    fn what_a_teller_leaves_was_not_told_and_another_one_may_tell() {
        let releases = Releases::default();
        let executor = NodeId::parse("e").unwrap();
        let (_, first, mut unheard) = waiting();
        assert!(releases.push(&executor, first));
        drop(releases.teller(&executor));
        assert_eq!(unheard.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(releases.push(&executor, waiting().1));
    }

    #[test]
    fn what_somebody_else_takes_along_is_not_told_again() {
        let releases = Releases::default();
        let executor = NodeId::parse("e").unwrap();
        assert!(releases.take(&executor).0.is_empty());
        let mut heard = Vec::new();
        for _ in 0..MAX_RELEASES + 1 {
            let (_, waiting, hears) = waiting();
            releases.push(&executor, waiting);
            heard.push(hears);
        }
        let mut teller = releases.teller(&executor);
        assert_eq!(releases.take(&executor).0.len(), MAX_RELEASES);
        assert_eq!(heard[0].try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(teller.next().unwrap().0.len(), 1);
        assert!(teller.next().is_none());
        assert!(releases.0.lock().is_empty());
    }

    #[test]
    fn only_what_the_executor_names_is_released() {
        let ((first, told, mut heard), (_, other, mut unheard)) = (waiting(), waiting());
        let mut batch = Sent(VecDeque::from([told, other]));
        for unit in [UnitId(Uuid::now_v7()), first, first] {
            batch.settle(unit);
        }
        drop(batch);
        assert_eq!(heard.try_recv(), Ok(()));
        assert!(unheard.try_recv().is_err());
    }
}
