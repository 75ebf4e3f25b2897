//! Wake-ups on their way from the workers' threads to the runtime's. Each would cost a system call there and a turn of the
//! runtime here, which sends what it finds: one unit's end in a packet. Gathered, they cost that once for many units.
//!
//! A wake-up may be held back for a moment when more are about to follow. Nothing is held back unless the attendant is sure to
//! look within [`TICK`]: it looks while it is armed, and holding is refused while it is not.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::Sleep;

/// How long a wake-up may be held back while others follow.
const HELD: Duration = Duration::from_micros(100);
/// How long one may be held back if none follows, against expectation.
const TICK: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Wakeups(Mutex<Gathered>);

#[derive(Debug, Default)]
struct Gathered {
    wakers: Vec<Waker>,
    /// When the first of those that are held back came.
    held_since: Option<Instant>,
    /// There is an attendant: without one, nothing is gathered.
    attended: bool,
    /// The attendant, while it sleeps.
    attendant: Option<Waker>,
    /// The attendant looks at its next tick.
    armed: bool,
}

impl Wakeups {
    /// Wakes these, and all that are held back.
    pub(super) fn pass_on(&self, wakers: impl IntoIterator<Item = Waker>) {
        let mut gathered = self.0.lock();
        gathered.held_since = None;
        if !gathered.attended {
            drop(gathered);
            wakers.into_iter().for_each(Waker::wake);
            return;
        }
        gathered.wakers.extend(wakers);
        if !gathered.wakers.is_empty()
            && let Some(attendant) = gathered.attendant.take()
        {
            drop(gathered);
            attendant.wake();
        }
    }

    /// Wakes these a moment later, or with the next that are passed on.
    pub(super) fn hold(&self, wakers: impl IntoIterator<Item = Waker>) {
        let mut gathered = self.0.lock();
        let now = Instant::now();
        let since = *gathered.held_since.get_or_insert(now);
        if gathered.armed && now.duration_since(since) < HELD {
            gathered.wakers.extend(wakers);
        } else {
            drop(gathered);
            self.pass_on(wakers);
        }
    }

    /// Makes the attendant look within [`TICK`]. Called on the runtime's thread, when work arrives whose wake-ups may be held.
    pub(super) fn arm(&self) {
        let mut gathered = self.0.lock();
        if gathered.armed || !gathered.attended {
            return;
        }
        gathered.armed = true;
        if let Some(attendant) = gathered.attendant.take() {
            drop(gathered);
            attendant.wake();
        }
    }

    /// Takes what has been gathered, all that is held back included. `ticked`: the attendant is armed no longer.
    fn take(&self, into: &mut Vec<Waker>, ticked: bool) {
        let mut gathered = self.0.lock();
        gathered.held_since = None;
        gathered.armed &= !ticked;
        into.append(&mut gathered.wakers);
    }

    /// Sleeps unless something has been passed on. Answers with whether the attendant is armed.
    fn sleep(&self, cx: &Context<'_>) -> Option<bool> {
        let mut gathered = self.0.lock();
        if !gathered.wakers.is_empty() && gathered.held_since.is_none() {
            return None;
        }
        gathered.attendant = Some(cx.waker().clone());
        Some(gathered.armed)
    }

    /// Wakes who is to be woken, for ever. Needs a runtime with time; one attendant is enough.
    pub(super) async fn attend(&self) {
        let _attended = Attended::new(self);
        let mut taken = Vec::new();
        let mut tick: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(|cx| self.poll_attend(cx, &mut taken, &mut tick)).await
    }

    fn poll_attend(
        &self,
        cx: &mut Context<'_>,
        taken: &mut Vec<Waker>,
        tick: &mut Option<Pin<Box<Sleep>>>,
    ) -> Poll<()> {
        loop {
            let ticked = tick
                .as_mut()
                .is_some_and(|tick| tick.as_mut().poll(cx).is_ready());
            if ticked {
                *tick = None;
                self.take(taken, true);
            }
            match self.sleep(cx) {
                None => self.take(taken, false),
                Some(true) if tick.is_none() => *tick = Some(Box::pin(tokio::time::sleep(TICK))),
                Some(_) if taken.is_empty() => return Poll::Pending,
                Some(_) => {}
            }
            taken.drain(..).for_each(Waker::wake);
        }
    }
}

/// Gathers while it lives.
struct Attended<'a>(&'a Wakeups);

impl<'a> Attended<'a> {
    fn new(wakeups: &'a Wakeups) -> Self {
        wakeups.0.lock().attended = true;
        Self(wakeups)
    }
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        let mut gathered = self.0.0.lock();
        (gathered.attended, gathered.armed, gathered.attendant) = (false, false, None);
        let left = std::mem::take(&mut gathered.wakers);
        drop(gathered);
        left.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Count {
        fn waker(self: &Arc<Self>) -> [Waker; 1] {
            [Waker::from(self.clone())]
        }

        fn get(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    /// Wake-ups with an attendant that has looked once.
    async fn attended() -> Arc<Wakeups> {
        let wakeups = Arc::<Wakeups>::default();
        let attending = wakeups.clone();
        tokio::spawn(async move { attending.attend().await });
        turn().await;
        wakeups
    }

    async fn turn() {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn without_an_attendant_nothing_is_gathered() {
        let (wakeups, count) = (Wakeups::default(), Arc::<Count>::default());
        wakeups.arm();
        wakeups.hold(count.waker());
        wakeups.pass_on(count.waker());
        assert_eq!(count.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn unarmed_attendant_lets_nothing_be_held() {
        let (wakeups, count) = (attended().await, Arc::<Count>::default());
        wakeups.hold(count.waker());
        turn().await;
        assert_eq!(count.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_goes_with_the_next_that_is_passed_on() {
        let (wakeups, count) = (attended().await, Arc::<Count>::default());
        wakeups.arm();
        wakeups.hold(count.waker());
        wakeups.pass_on(count.waker());
        turn().await;
        assert_eq!(count.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_goes_at_the_tick_if_nothing_follows() {
        let (wakeups, count) = (attended().await, Arc::<Count>::default());
        wakeups.arm();
        turn().await;
        wakeups.hold(count.waker());
        tokio::time::sleep(TICK + Duration::from_millis(1)).await;
        assert_eq!(count.get(), 1);
        wakeups.hold(count.waker());
        turn().await;
        assert_eq!(count.get(), 2, "the tick has disarmed the attendant");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_held_for_long() {
        let (wakeups, count) = (attended().await, Arc::<Count>::default());
        wakeups.arm();
        turn().await;
        wakeups.hold(count.waker());
        std::thread::sleep(HELD);
        wakeups.hold(count.waker());
        turn().await;
        assert_eq!(count.get(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn attendant_that_goes_leaves_nobody_asleep() {
        let wakeups = Arc::<Wakeups>::default();
        let count = Arc::<Count>::default();
        let attending = wakeups.clone();
        let attendant = tokio::spawn(async move { attending.attend().await });
        turn().await;
        wakeups.arm();
        turn().await;
        wakeups.hold(count.waker());
        attendant.abort();
        turn().await;
        assert_eq!(count.get(), 1);
    }
}
