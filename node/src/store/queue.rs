//! What waits for the store's thread, in order; and which keys have an append that failed.
//!
//! A key whose append failed takes no other until its caller has seen the failure: an append is stored only if all
//! earlier ones of its key were, or if whoever made it knows which were not.

use std::collections::{HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::attendant::Attendant;
use super::error::StoreError;
use super::key::{Entry, Key, Sync};

type Answer = Result<(), StoreError>;

/// Items that are worth a batch of their own: with so many the thread is woken at once, so that it writes and syncs while the runtime
/// makes more.
const EAGER: usize = 32;

/// What the store's thread is to do.
#[derive(Clone)]
pub(super) enum Work {
    Append(Vec<Entry>, Sync),
    Remove,
    /// Notes that a key is damaged, for the next time that the store is opened.
    Damage(String),
    /// The same, where it is not known whether the key has lost something.
    Doubt(String),
}

impl Work {
    /// Bytes that it brings along.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Append(entries, _) => entries.iter().map(entry_bytes).sum(),
            Self::Remove => 0,
            Self::Damage(text) | Self::Doubt(text) => text.len(),
        }
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    match entry {
        Entry::Record(bytes) | Entry::Data(_, bytes) => bytes.len(),
    }
}

/// Work for one key, and who waits for it.
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) work: Work,
    done: Option<oneshot::Sender<Answer>>,
    /// Its share of the bytes that may wait.
    _room: Option<OwnedSemaphorePermit>,
}

impl Item {
    /// Work of the store's own.
    pub(super) fn internal(key: Key, work: Work) -> Self {
        Self {
            key,
            work,
            done: None,
            _room: None,
        }
    }

    /// Tells whoever waits that it is done.
    pub(super) fn succeed(self) {
        if let Some(done) = self.done {
            // Nobody waits: the caller did not want to know.
            let _ = done.send(Ok(()));
        }
    }
}

/// What is to be done next.
pub(super) enum Turn {
    Items(Vec<Item>),
    /// The time given has passed.
    Idle,
    /// Everything is done, and nothing more will come.
    Closing,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// That the items bring along.
    bytes: usize,
    failed: HashMap<Key, Failure>,
    closing: bool,
}

/// That appends of a key failed, and somebody has not seen it yet.
struct Failure {
    error: StoreError,
    /// Answers that are on their way.
    waiting: usize,
    /// Whether a failure was answered to nobody.
    unseen: bool,
}

/// The queue of the store's thread. Its bytes are bounded by the room that callers of `append` wait for.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    attendant: Attendant,
}

impl Queue {
    /// Puts work behind everything that is there.
    pub(super) fn push(
        self: &Arc<Self>,
        key: Key,
        work: Work,
        room: Option<OwnedSemaphorePermit>,
    ) -> Pending {
        let queue = Arc::clone(self);
        let (done, answer) = oneshot::channel();
        let item = Item {
            key,
            work,
            done: Some(done),
            _room: room,
        };
        let answer = match self.place(item) {
            Ok(waiting) => {
                // Without the lock: a thread that is woken under it is handed it, and takes a while to come.
                if !self.attendant.nudge() || waiting >= EAGER {
                    self.ready.notify_one();
                }
                Waiting::Answer(answer)
            }
            Err(refused) => refused,
        };
        Pending { key, queue, answer }
    }

    /// Answers with how many items wait now, or with what becomes of this one at once.
    fn place(&self, item: Item) -> Result<usize, Waiting> {
        let bytes = item.work.bytes();
        let mut state = self.state.lock();
        if state.closing {
            return Err(Waiting::Closed);
        }
        if matches!(item.work, Work::Append(..))
            && let Some(failure) = state.failed.get_mut(&item.key)
        {
            failure.waiting += 1;
            failure.unseen = false;
            return Err(Waiting::Failed(failure.error.clone()));
        }
        state.bytes += bytes;
        state.items.push_back(item);
        Ok(state.items.len())
    }

    /// Waits for work until `until`, and takes at most `max_bytes` of it, or one piece.
    pub(super) fn take(&self, until: Option<Instant>, max_bytes: usize) -> Turn {
        // Made without the lock: whoever holds it keeps the runtime waiting.
        let room = VecDeque::with_capacity(2 * EAGER);
        let mut state = self.state.lock();
        while state.items.is_empty() {
            if state.closing {
                return Turn::Closing;
            }
            match until {
                None => self.ready.wait(&mut state),
                Some(until) if self.ready.wait_until(&mut state, until).timed_out() => {
                    if state.items.is_empty() && !state.closing {
                        return Turn::Idle;
                    }
                }
                Some(_) => {}
            }
        }
        if state.bytes <= max_bytes {
            state.bytes = 0;
            let taken = std::mem::replace(&mut state.items, room);
            drop(state);
            return Turn::Items(taken.into());
        }
        Turn::Items(state.take_some(max_bytes))
    }

    /// Gathers wake-ups, for ever.
    pub(super) async fn attend(&self) {
        let wake = || {
            self.ready.notify_one();
        };
        self.attendant.attend(wake).await
    }

    /// Tells that these are done.
    pub(super) fn succeed(&self, items: Vec<Item>) {
        self.attendant.answer(items);
    }

    /// Tells that these have failed, and with them everything that waits behind them for the same keys, up to a removal.
    /// Answers with how many that were.
    pub(super) fn fail(&self, items: Vec<Item>, error: &StoreError) -> u64 {
        self.attendant.answer_all();
        let mut told = Vec::new();
        {
            let mut state = self.state.lock();
            let mut hit: HashSet<Key> = items
                .iter()
                .filter(|item| item.done.is_some() && matches!(item.work, Work::Append(..)))
                .map(|item| item.key)
                .collect();
            told.extend(items);
            for item in std::mem::take(&mut state.items) {
                if matches!(item.work, Work::Remove) {
                    hit.remove(&item.key);
                }
                if hit.contains(&item.key) && item.done.is_some() {
                    state.bytes -= item.work.bytes();
                    told.push(item);
                } else {
                    state.items.push_back(item);
                }
            }
            for item in &told {
                if item.done.is_some() && matches!(item.work, Work::Append(..)) {
                    state.failure(item.key, error).waiting += 1;
                }
            }
        }
        let count = told.len() as u64;
        for item in told {
            let Some(done) = item.done else { continue };
            let seen = done.send(Err(error.clone())).is_ok();
            if !seen && matches!(item.work, Work::Append(..)) {
                self.unseen(item.key);
            }
        }
        count
    }

    /// Items that the thread has not taken yet.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state.lock().items.len()
    }

    /// Notes a failure that no append was there to be told of; the key's next one is.
    pub(super) fn fail_next(&self, key: Key, error: &StoreError) {
        self.state.lock().failure(key, error).unseen = true;
    }

    /// Forgets what failed of these keys: they are removed.
    pub(super) fn forgive(&self, keys: &[Key]) {
        let mut state = self.state.lock();
        for key in keys {
            state.failed.remove(key);
        }
    }

    /// Takes no more; what is there is still done.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.ready.notify_all();
    }

    /// The thread has ended: whoever waits learns that.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.bytes = 0;
        state.items.clear();
    }

    fn seen(&self, key: Key) {
        let mut state = self.state.lock();
        let Some(failure) = state.failed.get_mut(&key) else {
            return;
        };
        failure.waiting = failure.waiting.saturating_sub(1);
        if failure.waiting == 0 && !failure.unseen {
            state.failed.remove(&key);
        }
    }

    fn unseen(&self, key: Key) {
        if let Some(failure) = self.state.lock().failed.get_mut(&key) {
            failure.waiting = failure.waiting.saturating_sub(1);
            failure.unseen = true;
        }
    }
}

impl State {
    /// The first items: as many as have `max_bytes` together, and one if that has more.
    fn take_some(&mut self, max_bytes: usize) -> Vec<Item> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(item) = self.items.front() {
            let more = item.work.bytes();
            if !taken.is_empty() && bytes + more > max_bytes {
                break;
            }
            bytes += more;
            taken.extend(self.items.pop_front());
        }
        self.bytes -= bytes;
        taken
    }

    fn failure(&mut self, key: Key, error: &StoreError) -> &mut Failure {
        self.failed.entry(key).or_insert_with(|| Failure {
            error: error.clone(),
            waiting: 0,
            unseen: false,
        })
    }
}

enum Waiting {
    Answer(oneshot::Receiver<Answer>),
    Failed(StoreError),
    Closed,
    Done,
}

/// The answer to an append that stands in the queue. Dropping it takes nothing back; a failure that was dropped unseen is
/// the answer to the key's next append.
#[must_use = "whether the append is stored is known once this resolves"]
pub(crate) struct Pending {
    key: Key,
    queue: Arc<Queue>,
    answer: Waiting,
}

impl Future for Pending {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match &mut self.answer {
            Waiting::Answer(answer) => {
                ready!(Pin::new(answer).poll(context)).unwrap_or(Err(StoreError::Closed))
            }
            Waiting::Failed(error) => Err(error.clone()),
            Waiting::Closed | Waiting::Done => Err(StoreError::Closed),
        };
        self.answer = Waiting::Done;
        if answer.is_err() {
            self.queue.seen(self.key);
        }
        Poll::Ready(answer)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        match &mut self.answer {
            Waiting::Answer(answer) => {
                answer.close();
                if let Ok(Err(_)) = answer.try_recv() {
                    self.queue.unseen(self.key);
                }
            }
            Waiting::Failed(_) => self.queue.unseen(self.key),
            Waiting::Closed | Waiting::Done => {}
        }
    }
}
