//! One durable unit at its executor: what its worker sends goes to the store, and from there to the origin.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use workmesh_proto::UnitId;
use workmesh_proto::record;
use workmesh_proto::unit::ResponseTally;
use workmesh_proto::unit::durable::{DurableExecutor, ExecutorEffect, ExecutorPhase, ResponseCount};
use workmesh_proto::wire::durable::Position;
use workmesh_proto::wire::unit::Kind;

use super::kept::Tail;
use super::now_ms;
use crate::exec::{OutputItem, UnitOutput};
use crate::store::{Entry, Key, Role, Store, StoreError, Stream, Sync};
use crate::unit::serve::ACCEPTANCE_DELAY;

/// How long a store that failed is left alone.
const STORE_PAUSE: Duration = Duration::from_secs(1);
/// Bytes read from the store at once.
const READ_BYTES: usize = 256 * 1024;

/// See the module.
pub(super) struct Hosted {
    pub(super) unit: UnitId,
    machine: Mutex<DurableExecutor>,
    pub(super) tail: Tail,
    /// What may be told: bytes of response frames, and where the unit is.
    kept: watch::Sender<Kept>,
    /// Bytes of response frames that the store has; fewer than are kept of a unit that was over before it was stored.
    stored: AtomicU64,
    acked: Notify,
    /// One at a time carries out what the machine wants, so that it is stored in order.
    storing: tokio::sync::Mutex<()>,
    audience: Mutex<Audience>,
    /// Something may be in the store under its key.
    pub(super) in_store: AtomicBool,
    /// It goes, and nothing is left of it in the store: what comes under its key is another offer's.
    cleared: AtomicBool,
    /// The worker is to stop: the unit is given back, or nobody wants it any more.
    pub(super) stop: CancellationToken,
}

/// Whether the unit's origin still asks for it.
struct Audience {
    /// Conversations in which it may still speak.
    listening: usize,
    /// When the last one began or ended.
    heard: Instant,
}

/// The unit's origin is there, as long as this lives.
pub(super) struct Heard<'a>(&'a Hosted);

impl Drop for Heard<'_> {
    fn drop(&mut self) {
        let mut audience = self.0.audience.lock();
        audience.listening -= 1;
        audience.heard = Instant::now();
    }
}

/// What is in the store, or, of a unit that was over before that, in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) stream_bytes: u64,
    pub(super) phase: ExecutorPhase,
}

impl Kept {
    /// Nothing will be added.
    pub(super) fn is_over(self) -> bool {
        matches!(self.phase, ExecutorPhase::Ended | ExecutorPhase::Returned)
    }

    /// It may be said that the unit is taken.
    pub(super) fn is_accepted(self) -> bool {
        self.phase != ExecutorPhase::Arriving
    }
}

impl Hosted {
    pub(super) fn new(unit: UnitId, machine: DurableExecutor, stream_bytes: u64) -> Self {
        let phase = machine.phase();
        let kept = Kept { stream_bytes, phase };
        Self {
            unit,
            machine: Mutex::new(machine),
            tail: Tail::after(stream_bytes),
            kept: watch::Sender::new(kept),
            stored: AtomicU64::new(stream_bytes),
            acked: Notify::new(),
            storing: tokio::sync::Mutex::default(),
            audience: Mutex::new(Audience {
                listening: 0,
                heard: Instant::now(),
            }),
            in_store: AtomicBool::new(phase != ExecutorPhase::Arriving),
            cleared: AtomicBool::new(false),
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Kept> {
        self.kept.subscribe()
    }

    /// Waits a moment until there is more to tell than that it is taken: what is told of a short unit leaves together.
    pub(super) async fn has_news(&self) {
        let mut kept = self.watch();
        let news = kept.wait_for(|kept| kept.stream_bytes > 0 || kept.is_over());
        let _none = tokio::time::timeout(ACCEPTANCE_DELAY, news).await.is_ok();
    }

    /// Looks at the machine, or feeds it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut DurableExecutor) -> T) -> T {
        act(&mut self.machine.lock())
    }

    /// Whether it is not taken.
    pub(super) fn is_arriving(&self) -> bool {
        self.with(|machine| machine.phase() == ExecutorPhase::Arriving)
    }

    /// Whether it may be said that it is taken.
    pub(super) fn is_accepted(&self) -> bool {
        self.kept.borrow().is_accepted()
    }

    /// The unit's origin asks for it.
    pub(super) fn hear(&self) -> Heard<'_> {
        let mut audience = self.audience.lock();
        audience.listening += 1;
        audience.heard = Instant::now();
        Heard(self)
    }

    /// Whether it has no end on the disk, and nobody has asked for it for so long.
    pub(super) fn is_forsaken(&self, patience: Duration) -> bool {
        let stored_end = self.kept.borrow().is_over();
        let unended = !stored_end && !self.is_arriving();
        let audience = self.audience.lock();
        unended && audience.listening == 0 && audience.heard.elapsed() >= patience
    }

    /// Whether its origin converses about it.
    pub(super) fn is_heard(&self) -> bool {
        self.audience.lock().listening > 0
    }

    pub(super) fn is_cleared(&self) -> bool {
        self.cleared.load(Ordering::Relaxed)
    }

    pub(super) fn set_cleared(&self) {
        self.cleared.store(true, Ordering::Relaxed);
    }

    pub(super) fn acknowledge(&self, position: Position) {
        self.with(|machine| machine.handle_ack(position));
        self.acked.notify_one();
    }

    /// Stores what the machine wants to have stored, until the store takes it. A unit whose responses it takes no more ends.
    pub(super) async fn store_all(&self, store: &Store) {
        let mut failing = false;
        while let Err(error) = self.store_once(store).await {
            match &error {
                StoreError::Closed | StoreError::NoSuchKey => return,
                StoreError::StreamClosed { .. } => {
                    if !self.fail(store, &error).await {
                        return;
                    }
                }
                _ => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(unit = %self.unit, %error, "the responses of a durable unit can't be stored; its worker waits");
                    }
                    tokio::time::sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    /// The responses can't be kept or read any more: the unit ends with those that can be read, and that is to be stored. `false`:
    /// nobody wants its end.
    pub(super) async fn fail(&self, store: &Store, why: &StoreError) -> bool {
        let _one = self.storing.lock().await;
        let end = self.kept.borrow().stream_bytes;
        let (tally, stream_bytes) = readable(store, key(self.unit), end).await;
        let failed = self.with(|machine| machine.fail(&why.to_string(), tally, now_ms()));
        if failed {
            error!(unit = %self.unit, error = %why, "a durable unit ends because its responses can't be kept");
            self.stored.store(stream_bytes, Ordering::Relaxed);
            self.change(|kept| kept.stream_bytes = stream_bytes);
        }
        failed
    }

    /// Stores what the machine wants to have stored; what the store did not take is left with the machine.
    pub(super) async fn store_once(&self, store: &Store) -> Result<(), StoreError> {
        let _one = self.storing.lock().await;
        loop {
            let effect = self.with(DurableExecutor::poll_effect);
            match effect {
                Some(ExecutorEffect::Append { records, data }) => {
                    let mut entries = Vec::with_capacity(records.len() + 1);
                    if !data.is_empty() {
                        entries.push(Entry::Data(Stream::Responses, data.clone()));
                    }
                    entries.extend(record::encode_all(&records).map(Entry::Record));
                    self.in_store.store(true, Ordering::Relaxed);
                    if let Err(error) = store.append(key(self.unit), entries, Sync::Written).await {
                        self.with(|machine| machine.append_again(records, data));
                        return Err(error);
                    }
                    let length = data.len() as u64;
                    let end = self.stored.fetch_add(length, Ordering::Relaxed) + length;
                    if end > self.kept.borrow().stream_bytes {
                        self.tail.push(data);
                        self.change(|kept| kept.stream_bytes = end);
                    }
                }
                Some(ExecutorEffect::Stop) => self.stop.cancel(),
                Some(ExecutorEffect::Accept | ExecutorEffect::Run | ExecutorEffect::Forget) => {}
                None => break,
            }
        }
        let phase = self.with(|machine| machine.phase());
        self.kept
            .send_if_modified(|kept| std::mem::replace(&mut kept.phase, phase) != phase);
        Ok(())
    }

    /// What came of a unit that is over may be told, though the store has not got it.
    pub(super) fn show(&self) {
        self.change(|kept| {
            self.with(|machine| {
                for data in machine.unasked() {
                    self.tail.push(data.clone());
                    kept.stream_bytes += data.len() as u64;
                }
                kept.phase = machine.phase();
            });
        });
    }

    /// Changes what is kept, and wakes whoever follows.
    fn change(&self, change: impl FnOnce(&mut Kept)) {
        self.kept.send_if_modified(|kept| {
            change(kept);
            self.kept.receiver_count() > 0
        });
    }

    /// Whether it is over, and something of it is to be stored.
    pub(super) fn is_unstored(&self) -> bool {
        self.kept.borrow().is_over() && self.with(|machine| machine.wants_append())
    }

    /// Waits until nobody stores anything of it; as long as the guard lives nobody does.
    pub(super) async fn unchanged(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.storing.lock().await
    }

    /// Keeps what the worker sends, up to the unit's end; holds the worker while it is `limit` bytes ahead of the origin.
    pub(super) async fn keep(self: Arc<Self>, store: Store, output: UnitOutput, limit: u64) {
        let stop = self.stop.clone();
        tokio::select! {
            biased;
            // Nothing is appended after it. The output is dropped: the function is told.
            () = stop.cancelled() => {}
            () = self.keep_all(&store, output, limit) => {}
        }
    }

    async fn keep_all(&self, store: &Store, mut output: UnitOutput, limit: u64) {
        let mut batch = VecDeque::new();
        // What has come before is stored first.
        loop {
            self.store_all(store).await;
            if self.with(|machine| machine.is_over()) {
                return;
            }
            while self.with(|machine| machine.unacknowledged()) > limit {
                tokio::select! {
                    () = self.acked.notified() => {}
                    // The rest is short, and its end is among it.
                    () = output.ended() => break,
                }
            }
            output.next_batch(&mut batch).await;
            self.take(&batch);
            batch.clear();
        }
    }

    /// Hands what the worker has put out to the machine.
    pub(super) fn take(&self, items: &VecDeque<OutputItem>) {
        self.with(|machine| take(machine, items));
    }
}

fn take(machine: &mut DurableExecutor, items: &VecDeque<OutputItem>) {
    for item in items {
        match item {
            OutputItem::Started => {
                machine.handle_started();
            }
            OutputItem::Piece { data, last, .. } => machine.handle_piece(data, *last),
            OutputItem::Eof(eof) => {
                // The executor goes, and has not started it: false for one that has.
                let goes = matches!(eof.kind, Kind::Shutdown | Kind::Draining);
                if !(goes && machine.give_back(&eof.message, now_ms())) {
                    machine.handle_end(eof.clone(), now_ms());
                }
            }
        }
    }
    machine.flush();
}

/// Counts what can be read of the first `end` bytes of a unit's responses; answers also with how many bytes that is.
async fn readable(store: &Store, key: Key, end: u64) -> (ResponseTally, u64) {
    let mut count = ResponseCount::default();
    let (mut tally, mut offset) = (ResponseTally::new(), 0);
    while offset < end {
        let most = usize::try_from(end - offset)
            .unwrap_or(READ_BYTES)
            .min(READ_BYTES);
        let Ok(data) = store.read(key, Stream::Responses, offset, most).await else {
            break;
        };
        let length = data.len() as u64;
        if length == 0 || count.feed(data).is_err() {
            break;
        }
        (tally, offset) = (count.so_far(), offset + length);
    }
    (tally, offset)
}

pub(super) fn key(unit: UnitId) -> Key {
    Key {
        role: Role::Executor,
        unit,
    }
}
