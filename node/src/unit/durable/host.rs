//! The durable units that this node runs, for others and for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};
use workmesh_proto::unit::durable::{
    DurableExecutor, EarlierStarts, ExecutorPhase, ExecutorTable, ReleaseAnswer, Resumed, TableLimits,
};
use workmesh_proto::wire::durable::Offer;
use workmesh_proto::wire::unit::{Kind, Refused};
use workmesh_proto::{Incarnation, NodeId, UnitId};

use super::deferred::Deferred;
use super::hosted::{Hosted, key};
use super::now_ms;
use super::pipe::Pipe;
use crate::config::WorkSettings;
use crate::exec::{Executor, UnitOutput};
use crate::store::{Starts, Store, StoreError};
use crate::unit::serve::ACCEPTANCE_DELAY;

/// How often units are looked for that nobody asks for.
const COLLECT: Duration = Duration::from_secs(60);
/// How often a release looks for an offer that has come while it removed the one before.
const RELEASE_TRIES: usize = 4;
/// How long the ends of units that were stopped with the node may take to be stored.
const LAST_ENDS: Duration = Duration::from_secs(2);
/// How long a start waits until what became of the units of the life before is stored.
const TAKEN_OVER: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct Host {
    pub(super) node: NodeId,
    pub(super) executor: Executor,
    pub(super) store: Store,
    starts: Starts,
    settings: WorkSettings,
    pub(super) table: Mutex<ExecutorTable<Arc<Hosted>>>,
    /// Units that are over and not stored.
    pub(super) deferred: Deferred,
    /// How long a unit may run before it is stored.
    pub(super) moment: Duration,
    /// Units that wait to be over before they are stored.
    pub(super) waiting: AtomicUsize,
    /// Units that were forgotten because nobody asked for them.
    forgotten: AtomicU64,
    /// The disk has refused the latest unit that was to be stored.
    pub(super) refuses: AtomicBool,
    started: Instant,
    pub(super) tasks: TaskTracker,
    /// Those that keep what workers send.
    pub(super) keepers: TaskTracker,
    /// Nothing that arrives is taken any more.
    pub(super) draining: CancellationToken,
    pub(super) closing: CancellationToken,
}

impl Host {
    pub(crate) fn new(
        node: NodeId,
        life: Incarnation,
        executor: Executor,
        store: Store,
        starts: Starts,
        earlier: EarlierStarts,
        settings: WorkSettings,
    ) -> Self {
        let noting = starts.clone();
        executor.note_starts(move |unit| noting.note(unit));
        Self {
            node,
            executor,
            store,
            starts,
            settings,
            table: Mutex::new(ExecutorTable::new(life, TableLimits::default(), earlier)),
            deferred: Deferred::default(),
            moment: ACCEPTANCE_DELAY,
            waiting: AtomicUsize::new(0),
            forgotten: AtomicU64::new(0),
            refuses: AtomicBool::new(false),
            started: Instant::now(),
            tasks: TaskTracker::new(),
            keepers: TaskTracker::new(),
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Takes a conversation that this node has with itself.
    pub(super) fn answer_here(self: &Arc<Self>, pipe: Pipe) {
        let host = self.clone();
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            let peer = host.node.clone();
            tokio::select! {
                () = closing.cancelled() => {}
                () = Box::pin(host.clone().answer_pipe(peer, pipe)) => {}
            }
        });
    }

    /// By a clock that does not jump.
    fn uptime_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes a unit's place, or says why it can't be taken.
    pub(super) fn reserve(&self, peer: &NodeId, unit: UnitId, offer: Offer) -> Result<Arc<Hosted>, Refused> {
        let mut table = self.table.lock();
        let machine = DurableExecutor::offered(peer.clone(), offer);
        let hosted = Arc::new(Hosted::new(unit, machine, 0));
        match table.submit(unit, peer, offer, || hosted.clone()) {
            Ok(()) => Ok(hosted),
            Err(denial) => Err(refused(denial.kind, denial.message)),
        }
    }

    /// The same, once nothing is left of an earlier offer: that it is over is said with the later one.
    pub(super) async fn reserve_anew(
        &self,
        peer: &NodeId,
        unit: UnitId,
        offer: Offer,
    ) -> Result<Arc<Hosted>, Refused> {
        let taken = self.reserve(peer, unit, offer);
        if taken.is_ok() || !self.table.lock().replaces(unit, peer, offer) {
            return taken;
        }
        debug!(%unit, number = offer.number, "a later offer of a unit takes its place");
        // What could not be removed is still in that place.
        let _gone = self.release(peer, unit, offer.number.saturating_sub(1)).await;
        self.reserve(peer, unit, offer)
    }

    /// The unit's payload is complete: it may be taken, unless its origin has turned away from the offer.
    pub(super) fn may_take(&self, unit: UnitId, offer: Offer) -> Result<(), Refused> {
        let taken = self.table.lock().take(unit, offer).map(drop);
        taken.map_err(|denial| refused(denial.kind, denial.message))
    }

    /// Gives the place back of a unit that was not taken.
    pub(super) fn abandon(&self, unit: UnitId, offer: Offer) {
        drop(self.table.lock().abandon(unit, offer));
    }

    /// A unit that its origin asks for under `offer`; otherwise what it is told, once nothing is left of what has arrived.
    pub(super) async fn find(
        &self,
        peer: &NodeId,
        unit: UnitId,
        offer: Offer,
    ) -> Result<Arc<Hosted>, Refused> {
        let (found, dropped) = self.look_for(peer, unit, offer);
        if let Some(arriving) = dropped {
            arriving.stop.cancel();
            // What stays is removed before the payload of another offer is kept.
            let _stays = self.remove(&arriving).await;
        }
        found
    }

    /// Answers also with what was arriving, and is no more.
    fn look_for(
        &self,
        peer: &NodeId,
        unit: UnitId,
        offer: Offer,
    ) -> (Result<Arc<Hosted>, Refused>, Option<Arc<Hosted>>) {
        let now = self.uptime_ms();
        let mut table = self.table.lock();
        match table.resume(unit, peer, offer, now) {
            Resumed::Here => match table.get(unit) {
                Some(hosted) => (Ok(hosted.clone()), None),
                None => (
                    Err(refused(Kind::Busy, "the unit is about to go: ask again")),
                    None,
                ),
            },
            Resumed::Refused {
                kind,
                message,
                dropped,
            } => (Err(refused(kind, message)), dropped),
        }
    }

    /// Stops and forgets the unit, if it is here under an offer up to `number`; refuses these offers from here on.
    /// `false`: it can't be removed, or it can't be remembered that they are refused. To be asked again.
    pub(super) async fn release(&self, peer: &NodeId, unit: UnitId, number: u32) -> bool {
        for _ in 0..RELEASE_TRIES {
            let held = self.table.lock().get(unit).cloned();
            if let Some(hosted) = held
                && hosted.with(|machine| machine.origin() == peer && machine.handle_release(number))
            {
                hosted.stop.cancel();
                // It has its place until nothing is left of it: another offer is not to find that.
                if self.clear(&hosted).await.is_err() {
                    return false;
                }
            }
            let mut table = self.table.lock();
            let goes = table.to_release(unit, peer, number);
            if goes.is_some_and(|hosted| !hosted.is_cleared()) {
                // It has come in this moment.
                continue;
            }
            return match table.release(unit, peer, number, self.uptime_ms()) {
                ReleaseAnswer::Forget(_) => {
                    // While no other offer can come, which might begin.
                    self.starts.forget(unit);
                    true
                }
                ReleaseAnswer::Nothing => true,
                ReleaseAnswer::Later => false,
            };
        }
        false
    }

    /// Removes what is kept of a unit that goes, once: whoever comes later finds it done.
    async fn clear(&self, hosted: &Hosted) -> Result<(), StoreError> {
        let _unchanged = hosted.unchanged().await;
        if !hosted.is_cleared() {
            self.remove_kept(hosted).await?;
            hosted.set_cleared();
        }
        Ok(())
    }

    /// Removes what is kept of the unit, if there is anything. Behind all that was appended before it is first polled.
    pub(super) async fn remove(&self, hosted: &Hosted) -> Result<(), StoreError> {
        let _unchanged = hosted.unchanged().await;
        self.remove_kept(hosted).await
    }

    async fn remove_kept(&self, hosted: &Hosted) -> Result<(), StoreError> {
        if !hosted.in_store.load(Ordering::Relaxed) && !self.store.has(key(hosted.unit)) {
            return Ok(());
        }
        match self.store.remove(key(hosted.unit)).await {
            Ok(()) | Err(StoreError::NoSuchKey) => Ok(()),
            Err(error) => {
                warn!(unit = %hosted.unit, %error, "what is left of a unit can't be removed");
                Err(error)
            }
        }
    }

    /// Keeps what the unit's worker sends.
    pub(super) fn keep(&self, hosted: &Arc<Hosted>, output: UnitOutput) {
        let keeping = hosted
            .clone()
            .keep(self.store.clone(), output, self.settings.spool_limit);
        let closing = self.closing.clone();
        self.keepers.spawn(async move {
            let keeping = Box::pin(keeping);
            tokio::select! {
                () = closing.cancelled() => {}
                () = keeping => {}
            }
        });
    }

    /// Takes a unit that an earlier life has left. The task has stored what follows for the unit from that life's end.
    pub(super) fn take_over(&self, hosted: Hosted) -> JoinHandle<()> {
        let (origin, offer) = hosted.with(|machine| (machine.origin().clone(), machine.offer()));
        let hosted = Arc::new(hosted);
        self.table
            .lock()
            .restore(hosted.unit, origin, offer, hosted.clone());
        // That it ended with its node is stored when the store has room.
        self.store_in(&self.tasks, hosted)
    }

    /// Stores what the unit wants to have stored, in the background; nothing behind its removal.
    pub(super) fn store_in(&self, tasks: &TaskTracker, hosted: Arc<Hosted>) -> JoinHandle<()> {
        let (store, closing) = (self.store.clone(), self.closing.clone());
        tasks.spawn(async move {
            tokio::select! {
                biased;
                () = closing.cancelled() => {}
                () = hosted.stop.cancelled() => {}
                () = hosted.store_all(&store) => {}
            }
        })
    }

    /// Notes which units begin in this life, once those that were taken over are stored; a disk that does not take them is not waited for.
    pub(super) async fn begin_life(&self, taken_over: Vec<JoinHandle<()>>) {
        let stored = async {
            for task in taken_over {
                // It ends early with the node, or with the unit.
                let _ended = task.await;
            }
        };
        if tokio::time::timeout(TAKEN_OVER, stored).await.is_err() {
            warn!("what became of units that ran here could not be stored in time");
        }
        let starts = self.starts.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || starts.begin()).await {
            warn!(%error, "units that wait when this node is killed will count as begun");
        }
    }

    fn all(&self) -> Vec<Arc<Hosted>> {
        self.table
            .lock()
            .iter_mut()
            .map(|(_, hosted)| hosted.clone())
            .collect()
    }

    /// Gives back the units that have not started, and refuses those whose payload is on the way: their origins may offer them to
    /// others. The executor refuses new ones by then.
    pub(crate) async fn give_back(&self) {
        self.draining.cancel();
        let mut count = 0;
        for hosted in self.all() {
            count += u64::from(self.give_back_one(&hosted).await);
        }
        if count > 0 {
            info!(count, "gave back units that had not started");
        }
    }

    /// `false`: the unit is not taken, or has started.
    pub(super) async fn give_back_one(&self, hosted: &Hosted) -> bool {
        // In one go: its keeper must not see the end from the pool before the unit is given back.
        let given = hosted.with(|machine| {
            machine.phase() == ExecutorPhase::Taken
                && self.executor.withdraw(hosted.unit)
                && machine.give_back("the executor shuts down", now_ms())
        });
        given && hosted.store_once(&self.store).await.is_ok()
    }

    /// Ends the tasks; what is kept stays for the next life. The executor has ended its units by then, and a moment is given to store
    /// these ends.
    pub(crate) async fn stop(&self) {
        self.store_all_deferred();
        self.keepers.close();
        if tokio::time::timeout(LAST_ENDS, self.keepers.wait())
            .await
            .is_err()
        {
            let count = self.keepers.len();
            warn!(
                count,
                "the ends of units could not be stored in time; they count as lost"
            );
        }
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Ends what nobody asks for any more, and forgets what ended long ago, for ever.
    pub(crate) async fn collect(self: Arc<Self>) {
        loop {
            tokio::time::sleep(COLLECT).await;
            self.collect_once().await;
        }
    }

    async fn collect_once(&self) {
        let WorkSettings {
            lost_after,
            keep_succeeded,
            keep_failed,
            ..
        } = &self.settings;
        let patience = keep_failed.age.max(keep_succeeded.age).max(*lost_after);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        self.remove_released().await;
        self.end_forsaken(*lost_after).await;
        self.forget_ended_before(now_ms().saturating_sub(patience)).await;
        self.forget_starts();
    }

    /// Removes the units that were released when the disk did not let them go, as if their origins asked again: they may not.
    async fn remove_released(&self) {
        let released = |hosted: &Arc<Hosted>| hosted.with(|machine| machine.is_forgotten());
        for hosted in self.all().into_iter().filter(released) {
            let (origin, offer) = hosted.with(|machine| (machine.origin().clone(), machine.offer()));
            // What stays is tried again the next time.
            let _released = self.release(&origin, hosted.unit, offer.number).await;
        }
    }

    /// Ends the units whose origins have not been heard of for so long: they count them as lost, and a worker may be held for them.
    async fn end_forsaken(&self, patience: Duration) {
        let forsaken = |hosted: &Arc<Hosted>| hosted.is_forsaken(patience);
        for hosted in self.all().into_iter().filter(forsaken) {
            let why = format!("its origin has not asked for it for {patience:?}");
            if hosted.with(|machine| machine.lose(&why, now_ms())) {
                warn!(unit = %hosted.unit, "ended a unit that its origin has not asked for");
            }
            let stored = tokio::select! {
                biased;
                // Released: nothing is appended behind its removal.
                () = hosted.stop.cancelled() => continue,
                stored = hosted.store_once(&self.store) => stored,
            };
            if let Err(error) = stored {
                warn!(unit = %hosted.unit, %error, "the end of a unit can't be stored; it is tried again");
            }
        }
    }

    /// Nobody can be expected to ask for these any more. That they began stays noted: should somebody ask all the same, they are lost.
    async fn forget_ended_before(&self, before_ms: u64) {
        let old = |hosted: &Arc<Hosted>| {
            hosted.with(|machine| machine.ended_ms().is_some_and(|at| at < before_ms)) && !hosted.is_heard()
        };
        for hosted in self.all().into_iter().filter(old) {
            hosted.stop.cancel();
            // What stays is tried again the next time.
            if self.clear(&hosted).await.is_err() {
                continue;
            }
            let offer = hosted.with(|machine| machine.offer());
            let forgotten = self.table.lock().forget(hosted.unit, offer);
            // Not one that was released meanwhile.
            if forgotten.is_some() {
                self.forgotten.fetch_add(1, Ordering::Relaxed);
                warn!(unit = %hosted.unit, "forgot a unit that its origin has not asked for");
            }
        }
    }

    /// Forgets that units have begun which were released while that was being noted.
    fn forget_starts(&self) {
        let table = self.table.lock();
        self.starts.retain(|unit| table.remembers(unit));
    }

    /// Units that were forgotten because their origins had not asked for them.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// How often a unit that was over had to be stored at once, because too many others were not stored yet.
    pub(crate) fn undeferred(&self) -> u64 {
        self.deferred.refused()
    }

    /// Units that are kept for their origins.
    pub(crate) fn count(&self) -> usize {
        self.table.lock().len()
    }
}

pub(super) fn refused(kind: Kind, message: impl Into<String>) -> Refused {
    Refused {
        kind,
        message: message.into(),
    }
}

#[cfg(test)]
mod tests;
