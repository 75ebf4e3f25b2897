//! Wake-ups between the store's thread and the runtime, gathered. A single one is a system call on one side and a turn on the
//! other; a batch needs one of them in either direction, and appends that wait for each other share a write and a sync.
//!
//! Nothing depends on it: without an attendant every append wakes the thread, and every answer its task.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::queue::Item;

/// See the module.
#[derive(Default)]
pub(super) struct Attendant(Mutex<State>);

#[derive(Default)]
struct State {
    present: bool,
    /// While it sleeps.
    waker: Option<Waker>,
    /// The store's thread is to be woken.
    nudged: bool,
    /// Items that are done, and not answered yet.
    done: Vec<Item>,
}

impl Attendant {
    /// Has the store's thread woken once the tasks that are ready have had their turn. `false`: nobody is there to do it.
    pub(super) fn nudge(&self) -> bool {
        let mut state = self.0.lock();
        if state.present && !std::mem::replace(&mut state.nudged, true) {
            let waker = state.waker.take();
            drop(state);
            waker.into_iter().for_each(Waker::wake);
            return true;
        }
        state.present
    }

    /// Has these answered on the runtime, behind those of earlier calls.
    pub(super) fn answer(&self, items: Vec<Item>) {
        let mut state = self.0.lock();
        if !state.present {
            drop(state);
            return items.into_iter().for_each(Item::succeed);
        }
        state.done.extend(items);
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Answers at once what is done: a failure is about to be told, which is not to overtake it.
    pub(super) fn answer_all(&self) {
        // Under the lock, so that none is on its way from another hand.
        self.0.lock().done.drain(..).for_each(Item::succeed);
    }

    /// Attends for ever; `wake` wakes the store's thread. One attendant is enough.
    pub(super) async fn attend(&self, wake: impl Fn()) {
        let present = Present::new(self, &wake);
        poll_fn(|cx| present.attendant.poll_attend(cx, &wake)).await
    }

    fn poll_attend(&self, cx: &Context<'_>, wake: &impl Fn()) -> Poll<()> {
        let mut state = self.0.lock();
        if std::mem::take(&mut state.nudged) {
            wake();
        }
        state.done.drain(..).for_each(Item::succeed);
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Gathers while it lives.
struct Present<'a, W: Fn()> {
    attendant: &'a Attendant,
    wake: &'a W,
}

impl<'a, W: Fn()> Present<'a, W> {
    fn new(attendant: &'a Attendant, wake: &'a W) -> Self {
        attendant.0.lock().present = true;
        Self { attendant, wake }
    }
}

impl<W: Fn()> Drop for Present<'_, W> {
    fn drop(&mut self) {
        let mut state = self.attendant.0.lock();
        (state.present, state.waker) = (false, None);
        if std::mem::take(&mut state.nudged) {
            (self.wake)();
        }
        state.done.drain(..).for_each(Item::succeed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use futures_util::FutureExt as _;
    use tokio::task::yield_now;
    use workmesh_proto::UnitId;

    use super::super::key::{Key, Role};
    use super::super::queue::{Pending, Queue, Turn, Work};
    use super::*;

    fn push(queue: &Arc<Queue>) -> Pending {
        let key = Key {
            role: Role::Origin,
            unit: UnitId(uuid::Uuid::now_v7()),
        };
        queue.push(key, Work::Remove, None)
    }

    /// What the store's thread does, in this one.
    fn work(queue: &Queue) {
        let Turn::Items(items) = queue.take(Some(Instant::now()), usize::MAX) else {
            panic!("nothing waits");
        };
        queue.succeed(items);
    }

    #[test]
    fn without_an_attendant_answers_come_at_once() {
        let queue = Arc::<Queue>::default();
        let pending = push(&queue);
        work(&queue);
        assert!(pending.now_or_never().is_some());
    }

    #[tokio::test]
    async fn answers_come_in_the_attendants_turn() {
        let queue = Arc::<Queue>::default();
        let attending = queue.clone();
        tokio::spawn(async move { attending.attend().await });
        yield_now().await;
        let (mut first, second) = (push(&queue), push(&queue));
        work(&queue);
        assert!((&mut first).now_or_never().is_none());
        first.await.unwrap();
        assert!(second.now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_failure_does_not_overtake_what_was_done_before() {
        let queue = Arc::<Queue>::default();
        let attending = queue.clone();
        tokio::spawn(async move { attending.attend().await });
        yield_now().await;
        let pending = push(&queue);
        work(&queue);
        queue.fail(Vec::new(), &super::super::error::StoreError::Full);
        assert!(pending.now_or_never().is_some());
    }

    #[tokio::test]
    async fn an_attendant_that_goes_leaves_nobody_waiting() {
        let queue = Arc::<Queue>::default();
        let attending = queue.clone();
        let attendant = tokio::spawn(async move { attending.attend().await });
        yield_now().await;
        let (first, second) = (push(&queue), push(&queue));
        work(&queue);
        attendant.abort();
        let _aborted = attendant.await;
        assert!(first.now_or_never().is_some() && second.now_or_never().is_some());
        let third = push(&queue);
        work(&queue);
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn the_thread_is_woken_once_for_all_that_came_together() {
        let attendant = Attendant::default();
        let woken = std::cell::Cell::new(0);
        let wake = || woken.set(woken.get() + 1);
        assert!(!attendant.nudge());
        let mut attending = Box::pin(attendant.attend(wake));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(attending.poll_unpin(&mut cx).is_pending());
        assert!(attendant.nudge() && attendant.nudge());
        assert_eq!(woken.get(), 0);
        assert!(attending.poll_unpin(&mut cx).is_pending());
        assert_eq!(woken.get(), 1);
        assert!(attendant.nudge());
        drop(attending);
        assert_eq!(woken.get(), 2);
    }
}
