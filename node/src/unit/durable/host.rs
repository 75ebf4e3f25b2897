//! The durable units that this node runs, for others and for itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use workmesh_proto::unit::durable::{DurableExecutor, ExecutorPhase, ResumeAnswer, answer_unknown};
use workmesh_proto::wire::durable::Offer;
use workmesh_proto::wire::unit::{Kind, Refused};
use workmesh_proto::{Incarnation, NodeId, UnitId};

use super::hosted::{Hosted, key};
use super::now_ms;
use super::pipe::Pipe;
use crate::config::WorkSettings;
use crate::exec::{Executor, UnitOutput};
use crate::store::Store;

/// Offers that are remembered because they must not be taken any more.
const MAX_DENIED: usize = 65_536;
/// How often units are looked for that nobody asks for.
const COLLECT: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Host {
    pub(super) node: NodeId,
    pub(super) life: Incarnation,
    pub(super) executor: Executor,
    pub(super) store: Store,
    settings: WorkSettings,
    table: Mutex<Table>,
    pub(super) tasks: TaskTracker,
    pub(super) closing: CancellationToken,
}

#[derive(Default)]
struct Table {
    units: HashMap<UnitId, Arc<Hosted>>,
    denied: HashMap<UnitId, u32>,
    denied_order: VecDeque<UnitId>,
}

impl Table {
    /// Offers of the unit up to this number will be refused.
    fn deny(&mut self, unit: UnitId, number: u32) {
        let known = self
            .denied
            .insert(unit, number.max(self.denied.get(&unit).copied().unwrap_or(0)));
        if known.is_none() {
            self.denied_order.push_back(unit);
            if self.denied_order.len() > MAX_DENIED
                && let Some(oldest) = self.denied_order.pop_front()
            {
                self.denied.remove(&oldest);
            }
        }
    }
}

impl Host {
    pub(crate) fn new(
        node: NodeId,
        life: Incarnation,
        executor: Executor,
        store: Store,
        settings: WorkSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            life,
            executor,
            store,
            settings,
            table: Mutex::default(),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        })
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

    /// Takes a unit's place, or says why it can't be taken.
    pub(super) fn reserve(&self, peer: &NodeId, unit: UnitId, offer: Offer) -> Result<Arc<Hosted>, Refused> {
        if offer.life != self.life {
            return Err(refused(
                Kind::NodeLost,
                "the offer is for an earlier life of this node",
            ));
        }
        let mut table = self.table.lock();
        if table
            .denied
            .get(&unit)
            .is_some_and(|denied| *denied >= offer.number)
        {
            return Err(refused(Kind::Duplicate, "the offer was withdrawn before it came"));
        }
        if let Some(known) = table.units.get(&unit) {
            let older =
                known.with(|machine| machine.offer().number < offer.number && machine.origin() == peer);
            return Err(match older {
                true => refused(Kind::Busy, "an earlier offer of the unit is still here"),
                false => refused(Kind::Duplicate, "the unit is here already"),
            });
        }
        let machine = DurableExecutor::offered(peer.clone(), offer);
        let hosted = Arc::new(Hosted::new(unit, machine, 0));
        table.units.insert(unit, hosted.clone());
        Ok(hosted)
    }

    /// Gives the place back of a unit that was not taken.
    pub(super) fn drop_untaken(&self, hosted: &Hosted) {
        let mut table = self.table.lock();
        let untaken = hosted.with(|machine| machine.phase() == ExecutorPhase::Arriving);
        if untaken
            && table
                .units
                .get(&hosted.unit)
                .is_some_and(|held| std::ptr::eq(&**held, hosted))
        {
            table.units.remove(&hosted.unit);
        }
    }

    /// A unit that its origin asks for under `offer`; otherwise what it is told.
    pub(super) fn find(
        &self,
        peer: &NodeId,
        unit: UnitId,
        offer: Offer,
    ) -> Result<Arc<Hosted>, ResumeAnswer> {
        let mut table = self.table.lock();
        if let Some(hosted) = table.units.get(&unit).cloned() {
            let (mine, arriving, number) = hosted.with(|machine| {
                let arriving = machine.phase() == ExecutorPhase::Arriving;
                (machine.origin() == peer, arriving, machine.offer().number)
            });
            if mine && !arriving && number == offer.number {
                return Ok(hosted);
            }
            if mine && arriving {
                // Its payload broke off with the stream that it came on.
                hosted.stop.cancel();
                table.units.remove(&unit);
            }
        }
        let answer = answer_unknown(offer, self.life);
        if offer.life == self.life {
            table.deny(unit, offer.number);
        }
        Err(answer)
    }

    /// Stops and forgets the unit, if it is here under an offer up to `number`; refuses these offers from here on.
    pub(super) async fn release(&self, peer: &NodeId, unit: UnitId, number: u32) {
        let hosted = {
            let mut table = self.table.lock();
            let Some(hosted) = table.units.get(&unit).cloned() else {
                table.deny(unit, number);
                return;
            };
            let mine = hosted.with(|machine| machine.origin() == peer && machine.handle_release(number));
            if !mine {
                return;
            }
            table.deny(unit, number);
            table.units.remove(&unit);
            hosted
        };
        hosted.stop.cancel();
        self.remove(&hosted).await;
    }

    async fn remove(&self, hosted: &Hosted) {
        match self.store.remove(key(hosted.unit)).await {
            Ok(()) | Err(crate::store::StoreError::NoSuchKey) => {}
            Err(error) => {
                warn!(unit = %hosted.unit, %error, "a released unit can't be removed from the store")
            }
        }
    }

    /// Keeps what the unit's worker sends.
    pub(super) fn keep(&self, hosted: &Arc<Hosted>, output: UnitOutput) {
        let keeping = hosted
            .clone()
            .keep(self.store.clone(), output, self.settings.spool_limit);
        let closing = self.closing.clone();
        self.tasks.spawn(async move {
            let keeping = Box::pin(keeping);
            tokio::select! {
                () = closing.cancelled() => {}
                () = keeping => {}
            }
        });
    }

    /// Takes a unit that an earlier life has left.
    pub(super) fn take_over(&self, hosted: Hosted) {
        let mut table = self.table.lock();
        table.units.insert(hosted.unit, Arc::new(hosted));
    }

    /// Gives back the units that have not started: their origins may offer them to others.
    pub(crate) async fn give_back(&self) {
        let waiting: Vec<_> = self.table.lock().units.values().cloned().collect();
        let mut count = 0;
        for hosted in waiting {
            let taken = hosted.with(|machine| machine.phase() == ExecutorPhase::Taken);
            if taken && self.executor.withdraw(hosted.unit) {
                let given = hosted.with(|machine| machine.give_back("the executor shuts down", now_ms()));
                if given && hosted.store_once(&self.store).await.is_ok() {
                    count += 1;
                }
            }
        }
        if count > 0 {
            info!(count, "gave back units that had not started");
        }
    }

    /// Ends the tasks; what is kept stays for the next life.
    pub(crate) async fn stop(&self) {
        self.closing.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Forgets, for ever, what ended so long ago that nobody can be expected to ask for it.
    pub(crate) async fn collect(self: Arc<Self>) {
        let patience = self
            .settings
            .keep_failed
            .age
            .max(self.settings.keep_succeeded.age);
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        loop {
            tokio::time::sleep(COLLECT).await;
            let before = now_ms().saturating_sub(patience);
            let orphans: Vec<_> = {
                let table = self.table.lock();
                let old = |hosted: &&Arc<Hosted>| {
                    hosted.with(|machine| machine.ended_ms().is_some_and(|at| at < before))
                };
                table.units.values().filter(old).cloned().collect()
            };
            for hosted in orphans {
                warn!(unit = %hosted.unit, "forgot a unit that its origin has not asked for");
                self.table.lock().units.remove(&hosted.unit);
                hosted.stop.cancel();
                self.remove(&hosted).await;
            }
        }
    }

    /// Units that are kept for their origins.
    pub(crate) fn count(&self) -> usize {
        self.table.lock().units.len()
    }
}

pub(super) fn refused(kind: Kind, message: impl Into<String>) -> Refused {
    Refused {
        kind,
        message: message.into(),
    }
}
