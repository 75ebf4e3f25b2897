//! Wake-ups on their way from the workers' threads to the runtime's. Each would cost a system call there and a turn of the
//! runtime here, which sends what it finds: one unit's end in a packet. Gathered, they cost that once for many units.
//!
//! The other way it is the same: quick units whose payloads become complete in one turn of the runtime call threads once, when the tasks that are
//! ready have had theirs. A thread that is called for the first of them may take the runtime's processor, and the runtime's lock.
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
    /// And then at the one after it.
    wanted: bool,
    /// Threads are to be called for what is ready.
    calls: bool,
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
            gathered.wanted = gathered.armed;
            return;
        }
        gathered.armed = true;
        if let Some(attendant) = gathered.attendant.take() {
            drop(gathered);
            attendant.wake();
        }
    }

    /// Has threads called once the tasks that are ready have had their turn. `false`: nobody is there to do it. For the runtime's thread
    /// alone: from another one it would cost what it is to spare.
    pub(super) fn call_later(&self) -> bool {
        let mut gathered = self.0.lock();
        if gathered.attended
            && !std::mem::replace(&mut gathered.calls, true)
            && let Some(attendant) = gathered.attendant.take()
        {
            drop(gathered);
            attendant.wake();
            return true;
        }
        gathered.attended
    }

    /// Whether threads are to be called, which the caller sees to.
    fn take_calls(&self) -> bool {
        std::mem::take(&mut self.0.lock().calls)
    }

    /// Takes what has been gathered, all that is held back included. `ticked`: the attendant is armed no longer, unless more work has come
    /// since it was. So while units come the runtime knows when to look next, and has not to be told of each later time.
    fn take(&self, into: &mut Vec<Waker>, ticked: bool) {
        let mut gathered = self.0.lock();
        gathered.held_since = None;
        if ticked {
            gathered.armed = std::mem::take(&mut gathered.wanted);
        }
        into.append(&mut gathered.wakers);
    }

    /// Sleeps unless something has been passed on, or threads are to be called. Answers with whether the attendant is armed.
    fn sleep(&self, cx: &Context<'_>) -> Option<bool> {
        let mut gathered = self.0.lock();
        if gathered.calls || (!gathered.wakers.is_empty() && gathered.held_since.is_none()) {
            return None;
        }
        gathered.attendant = Some(cx.waker().clone());
        Some(gathered.armed)
    }

    /// Wakes who is to be woken, for ever; `call` calls threads. Needs a runtime with time; one attendant is enough.
    pub(super) async fn attend(&self, call: impl Fn()) {
        let attended = Attended::new(self, &call);
        let mut taken = Vec::new();
        let mut tick: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(|cx| attended.poll(cx, &mut taken, &mut tick)).await
    }
}

/// Gathers while it lives.
struct Attended<'a, C: Fn()> {
    wakeups: &'a Wakeups,
    call: &'a C,
}

impl<'a, C: Fn()> Attended<'a, C> {
    fn new(wakeups: &'a Wakeups, call: &'a C) -> Self {
        wakeups.0.lock().attended = true;
        Self { wakeups, call }
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        taken: &mut Vec<Waker>,
        tick: &mut Option<Pin<Box<Sleep>>>,
    ) -> Poll<()> {
        loop {
            if self.wakeups.take_calls() {
                (self.call)();
            }
            let ticked = tick
                .as_mut()
                .is_some_and(|tick| tick.as_mut().poll(cx).is_ready());
            if ticked {
                *tick = None;
                self.wakeups.take(taken, true);
            }
            match self.wakeups.sleep(cx) {
                None => self.wakeups.take(taken, false),
                Some(true) if tick.is_none() => *tick = Some(Box::pin(tokio::time::sleep(TICK))),
                Some(_) if taken.is_empty() => return Poll::Pending,
                Some(_) => {}
            }
            taken.drain(..).for_each(Waker::wake);
        }
    }
}

impl<C: Fn()> Drop for Attended<'_, C> {
    fn drop(&mut self) {
        let mut gathered = self.wakeups.0.lock();
        (gathered.attended, gathered.armed, gathered.wanted) = (false, false, false);
        gathered.attendant = None;
        let left = std::mem::take(&mut gathered.wakers);
        let calls = std::mem::take(&mut gathered.calls);
        drop(gathered);
        left.into_iter().for_each(Waker::wake);
        if calls {
            (self.call)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use tokio::task::JoinHandle;

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
        attended_calling(&Arc::default()).await.0
    }

    /// The same, and the calls of threads are counted.
    async fn attended_calling(calls: &Arc<AtomicUsize>) -> (Arc<Wakeups>, JoinHandle<()>) {
        let wakeups = Arc::<Wakeups>::default();
        let (attending, calls) = (wakeups.clone(), calls.clone());
        let call = move || {
            calls.fetch_add(1, Ordering::Relaxed);
        };
        let attendant = tokio::spawn(async move { attending.attend(call).await });
        turn().await;
        (wakeups, attendant)
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
        assert!(!wakeups.call_later());
    }

    #[tokio::test(start_paused = true)]
    async fn threads_are_called_once_for_all_that_is_ready_in_a_turn() {
        let calls = Arc::default();
        let (wakeups, _) = attended_calling(&calls).await;
        for round in 1..=2 {
            assert!((0..5).all(|_| wakeups.call_later()));
            assert_eq!(
                calls.load(Ordering::Relaxed),
                round - 1,
                "not before others have had their turn"
            );
            turn().await;
            assert_eq!(calls.load(Ordering::Relaxed), round);
        }
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
    async fn attendant_looks_at_each_tick_while_work_comes() {
        let (wakeups, count) = (attended().await, Arc::<Count>::default());
        wakeups.arm();
        turn().await;
        wakeups.arm();
        tokio::time::advance(TICK).await;
        turn().await;
        wakeups.hold(count.waker());
        turn().await;
        assert_eq!(count.get(), 0, "it is armed for one more tick");
        tokio::time::advance(TICK).await;
        turn().await;
        assert_eq!(count.get(), 1);
        wakeups.hold(count.waker());
        turn().await;
        assert_eq!(count.get(), 2, "nothing has come since");
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
        let (calls, count) = (Arc::default(), Arc::<Count>::default());
        let (wakeups, attendant) = attended_calling(&calls).await;
        wakeups.arm();
        turn().await;
        wakeups.hold(count.waker());
        attendant.abort();
        assert!(wakeups.call_later());
        turn().await;
        assert_eq!((count.get(), calls.load(Ordering::Relaxed)), (1, 1));
    }
}
