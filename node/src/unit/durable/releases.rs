//! What executors are to be told of units that are over. What comes while one is being told goes with the next word to it.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use workmesh_proto::wire::codec;
use workmesh_proto::wire::durable::{MAX_RELEASES, Release, Released};
use workmesh_proto::wire::frame::FrameType;
use workmesh_proto::wire::items::Item;
use workmesh_proto::{NodeId, UnitId};

use super::ask::open;
use super::pipe::{Pipe, PipeReceiver};
use super::work::Work;

/// How long an executor may take to say that it has forgotten units.
const RELEASE: Duration = Duration::from_secs(10);

/// One unit's release, and whoever wants to know that the executor knows; dropped, it does not.
struct Waiting {
    release: Release,
    told: oneshot::Sender<()>,
}

/// What waits, by executor; there is an entry for each that is being told.
#[derive(Default)]
pub(super) struct Releases(Mutex<HashMap<NodeId, VecDeque<Waiting>>>);

/// Tells one executor. When it goes, so does what waits: none of that was told.
struct Teller<'a> {
    releases: &'a Releases,
    executor: &'a NodeId,
    over: bool,
}

impl Teller<'_> {
    /// What is to be told next. At the end of it the executor's entry goes, and whoever comes then has to tell.
    fn next(&mut self) -> Option<VecDeque<Waiting>> {
        let mut executors = self.releases.0.lock();
        let queue = executors.get_mut(self.executor)?;
        if queue.is_empty() {
            executors.remove(self.executor);
            self.over = true;
            return None;
        }
        let rest = queue.split_off(queue.len().min(MAX_RELEASES));
        Some(mem::replace(queue, rest))
    }
}

impl Drop for Teller<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.releases.0.lock().remove(self.executor);
        }
    }
}

impl Releases {
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
        while let Some(mut batch) = teller.next() {
            // Whoever has no answer when this ends was not told.
            let _late = tokio::time::timeout(RELEASE, self.tell(executor, &mut batch)).await;
        }
    }

    /// Answers those of the batch that the executor has answered.
    async fn tell(&self, executor: &NodeId, batch: &mut VecDeque<Waiting>) -> Option<()> {
        let _turn = self.questions.acquire().await.ok()?;
        let Pipe {
            mut sender,
            mut receiver,
        } = open(self, executor).await.ok()?;
        for waiting in &*batch {
            sender.put(FrameType::Release, &waiting.release);
        }
        // Both at once: an executor may answer the first ones before it has the last.
        let (sent, ()) = tokio::join!(sender.finish(), hear(&mut receiver, batch));
        sent.ok()
    }
}

/// Passes on what is released, up to the end of it.
async fn hear(receiver: &mut PipeReceiver, batch: &mut VecDeque<Waiting>) {
    while let Ok(Some(Item::Frame(frame))) = receiver.next().await {
        match frame.frame_type() {
            Some(FrameType::Released) => {
                let Ok(Released { unit }) = codec::decode(&frame.body) else {
                    return;
                };
                settle(batch, unit);
            }
            None => {}
            Some(_) => return,
        }
    }
}

fn settle(batch: &mut VecDeque<Waiting>, unit: UnitId) {
    if let Some(at) = batch.iter().position(|waiting| waiting.release.unit == unit) {
        // Nobody may want to know any more: the node stops, or a later word to the executor has been heard.
        let waiting = batch.remove(at);
        let _gone = waiting.is_some_and(|waiting| waiting.told.send(()).is_err());
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
            assert_eq!(batch.len(), expected);
            told.extend(batch.into_iter().map(|waiting| waiting.release.unit));
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
    fn only_what_the_executor_names_is_released() {
        let ((first, told, mut heard), (_, other, mut unheard)) = (waiting(), waiting());
        let mut batch = VecDeque::from([told, other]);
        settle(&mut batch, UnitId(Uuid::now_v7()));
        settle(&mut batch, first);
        settle(&mut batch, first);
        drop(batch);
        assert_eq!(heard.try_recv(), Ok(()));
        assert!(unheard.try_recv().is_err());
    }
}
