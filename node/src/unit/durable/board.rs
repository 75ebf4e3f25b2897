//! What a unit's task says of it, for whoever wants to look or to follow. Most units are followed by one reader or none, and there are
//! many of them: a board is a lock, a count and a list of those who wait.

use std::pin::pin;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// See the module.
#[derive(Debug)]
pub(super) struct Board<T> {
    shown: Mutex<Shown<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct Shown<T> {
    value: T,
    /// How many changes there were.
    edition: Edition,
}

/// Up to where a follower has looked. The default is the board as it was first shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Edition(u64);

impl<T> Board<T> {
    pub(super) fn new(value: T) -> Self {
        let edition = Edition::default();
        Self {
            shown: Mutex::new(Shown { value, edition }),
            changed: Notify::new(),
        }
    }

    /// Looks at it as it is now. `look` must not touch the board.
    pub(super) fn look<A>(&self, look: impl FnOnce(&T) -> A) -> A {
        look(&self.shown.lock().value)
    }

    /// The same, for a follower that wants to hear of what comes after it.
    pub(super) fn follow<A>(&self, seen: &mut Edition, look: impl FnOnce(&T) -> A) -> A {
        let shown = self.shown.lock();
        *seen = shown.edition;
        look(&shown.value)
    }

    /// Changes it; if `change` says that this is worth a look, all who wait are woken.
    pub(super) fn change(&self, change: impl FnOnce(&mut T) -> bool) {
        {
            let mut shown = self.shown.lock();
            if !change(&mut shown.value) {
                return;
            }
            shown.edition.0 += 1;
        }
        self.changed.notify_waiters();
    }

    /// Waits for a change after what was `seen`. Cancel-safe.
    pub(super) async fn changed(&self, seen: Edition) {
        self.wait(|shown| (shown.edition != seen).then_some(())).await
    }

    /// Waits until it shows what is wanted. Cancel-safe.
    pub(super) async fn wait_for(&self, wanted: impl Fn(&T) -> bool) {
        self.wait(|shown| wanted(&shown.value).then_some(())).await
    }

    async fn wait<A>(&self, find: impl Fn(&Shown<T>) -> Option<A>) -> A {
        loop {
            if let Some(found) = find(&self.shown.lock()) {
                return found;
            }
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(found) = find(&self.shown.lock()) {
                return found;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;

    use super::*;

    fn set(board: &Board<u32>, to: u32) {
        board.change(|value| std::mem::replace(value, to) != to);
    }

    #[test]
    fn a_follower_hears_of_what_it_has_not_seen_and_of_nothing_else() {
        let board = Board::new(1);
        let mut seen = Edition::default();
        assert_eq!(board.changed(seen).now_or_never(), None);
        set(&board, 1);
        assert_eq!(board.changed(seen).now_or_never(), None, "nothing has changed");
        set(&board, 2);
        set(&board, 3);
        assert_eq!(board.changed(seen).now_or_never(), Some(()));
        assert_eq!(board.follow(&mut seen, |value| *value), 3);
        assert_eq!(board.changed(seen).now_or_never(), None);
        assert_eq!(board.look(|value| *value), 3);
    }

    #[tokio::test]
    async fn all_who_wait_are_woken() {
        let board = Arc::new(Board::new(0));
        let wait = |wanted| {
            let board = board.clone();
            tokio::spawn(async move { board.wait_for(|value| *value >= wanted).await })
        };
        let (first, second, third) = (wait(1), wait(1), wait(2));
        tokio::task::yield_now().await;
        set(&board, 1);
        first.await.unwrap();
        second.await.unwrap();
        assert!(!third.is_finished());
        set(&board, 2);
        third.await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_that_is_dropped_takes_no_wake_up_with_it() {
        let board = Board::new(0);
        let mut dropped = Box::pin(board.wait_for(|value| *value == 1));
        let mut waiting = Box::pin(board.wait_for(|value| *value == 1));
        assert!((&mut dropped).now_or_never().is_none() && (&mut waiting).now_or_never().is_none());
        set(&board, 1);
        drop(dropped);
        waiting.await;
    }
}
