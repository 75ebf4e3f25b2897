//! The durable units of which this node is the origin.

mod removal;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;
use workmesh_proto::UnitId;
use workmesh_proto::mesh::View;
use workmesh_proto::record::{Order, OriginRecord};
use workmesh_proto::unit::durable::{DurableOrigin, OriginTimings};
use workmesh_proto::wire::query::{Fault, WorkFilter};
use workmesh_proto::wire::unit::{Eof, Kind, Outcome};

use super::active::{Active, MAX_EVENTS};
use super::batch::Batches;
use super::drive::Drive;
use super::happened::{Happened, first_and_latest};
use super::host::Host;
use super::place::place;
use super::releases::Releases;
use super::retention::{Readers, Shelf};
use super::rows::{EndedUnit, Names, wants};
use crate::config::WorkSettings;
use crate::mesh::MeshHandle;
use crate::store::Store;
use crate::unit::report::{DurableReport, WorkReport};
use crate::unit::units::Units;

/// See the module.
pub(crate) struct Work {
    pub(super) units: Arc<Units>,
    pub(super) host: Arc<Host>,
    pub(super) store: Store,
    pub(super) settings: WorkSettings,
    /// Counts the changes of who can be reached.
    pub(super) reach: watch::Sender<u64>,
    /// Told when a unit that was being stored is stored, or refused.
    storing: Notify,
    /// Told when an executor may have room again; wakes one unit that waits.
    pub(super) room: Notify,
    /// Questions to executors that may be open at the same time without an answer.
    pub(super) questions: Semaphore,
    pub(super) releases: Releases,
    pub(super) batches: Batches,
    /// Units whose tasks have failed.
    stranded: AtomicU64,
    table: Mutex<Table>,
    pub(super) names: Names,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// All units, and their order by time of submission.
#[derive(Default)]
struct Table {
    units: HashMap<UnitId, Entry>,
    by_time: BTreeMap<(u64, UnitId), ()>,
    succeeded: Shelf,
    failed: Shelf,
    readers: Readers,
    /// Units that are being removed: they are not here any more.
    going: HashSet<UnitId>,
}

/// A submission that was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken {
    /// Nothing of it is left.
    Refused(Eof),
    /// The node stops, and can't say whether the unit is on the disk: if it is, it goes on at the next start.
    Unknown,
}

impl From<Eof> for NotTaken {
    fn from(eof: Eof) -> Self {
        Self::Refused(eof)
    }
}

/// A unit in the table.
#[derive(Clone)]
pub(super) enum Entry {
    /// On its way to the disk for the first time: nobody may rely on it.
    Storing,
    Active(Arc<Active>),
    Ended(Arc<EndedUnit>),
}

/// Somebody reads a unit, as long as this lives.
pub(super) struct Reading {
    work: Arc<Work>,
    unit: UnitId,
}

impl Reading {
    /// Where what is read lies.
    pub(super) fn store(&self) -> Store {
        self.work.store.clone()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.work.table.lock().readers.leave(self.unit);
    }
}

impl Table {
    /// A unit that is here, and not forgotten.
    fn find(&self, unit: UnitId) -> Option<Entry> {
        let entry = self.units.get(&unit)?;
        match entry {
            Entry::Active(active) if active.is_forgotten() => None,
            _ if self.going.contains(&unit) => None,
            _ => Some(entry.clone()),
        }
    }

    fn enter(&mut self, unit: UnitId, submitted_ms: u64, entry: Entry) {
        let before = self.units.insert(unit, entry);
        if !matches!(before, Some(Entry::Active(_) | Entry::Ended(_))) {
            self.by_time.insert((submitted_ms, unit), ());
        }
    }

    /// The unit has ended for all concerned.
    fn end(&mut self, ended: EndedUnit) {
        self.shelf(ended.outcome).put(&ended);
        self.enter(ended.unit, ended.submitted_ms, Entry::Ended(Arc::new(ended)));
    }

    /// Units that have ended for all concerned.
    fn settled(&self) -> usize {
        self.succeeded.len() + self.failed.len()
    }

    fn shelf(&mut self, outcome: Outcome) -> &mut Shelf {
        match outcome {
            Outcome::Succeeded => &mut self.succeeded,
            _ => &mut self.failed,
        }
    }

    fn remove(&mut self, unit: UnitId) {
        let submitted = match self.units.remove(&unit) {
            Some(Entry::Active(active)) => active.with_state(|state| state.history.order().submitted_ms),
            Some(Entry::Ended(ended)) => {
                self.shelf(ended.outcome).take(&ended);
                ended.submitted_ms
            }
            Some(Entry::Storing) | None => return,
        };
        self.by_time.remove(&(submitted, unit));
        // What a burst has taken is given back when it is over.
        if self.units.len() < self.units.capacity() / 4 {
            self.units.shrink_to(self.units.len() * 2);
        }
    }
}

impl Work {
    pub(crate) fn new(units: Arc<Units>, host: Arc<Host>, store: Store, settings: WorkSettings) -> Arc<Self> {
        Arc::new(Self {
            units,
            host,
            store,
            settings,
            reach: watch::Sender::new(0),
            storing: Notify::new(),
            room: Notify::new(),
            questions: Semaphore::new(MAX_QUESTIONS),
            releases: Releases::default(),
            batches: Batches::default(),
            stranded: AtomicU64::new(0),
            table: Mutex::default(),
            names: Names::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Counts the changes of who can be reached, for ever.
    pub(crate) async fn watch_reach(self: Arc<Self>, mesh: MeshHandle) {
        let mut views = mesh.watch();
        let mut known = 0;
        loop {
            let now = digest(&views.borrow_and_update());
            if now != known {
                known = now;
                self.reach.send_modify(|changes| *changes += 1);
            }
            if views.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the tasks of all units: they go on at the next start.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        for entry in self.table.lock().units.values() {
            // One that is being stored looks by itself once it is.
            if let Entry::Active(active) = entry {
                active.told.wake();
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        self.host.stop().await;
        self.store.close().await;
    }

    /// Whether the tasks of units are to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) fn timings(&self) -> OriginTimings {
        OriginTimings {
            lost_ms: u64::try_from(self.settings.lost_after.as_millis()).unwrap_or(u64::MAX),
            ..OriginTimings::default()
        }
    }

    // coming in

    /// Takes the place of a new unit; the one that has it already otherwise.
    pub(super) fn reserve(&self, unit: UnitId) -> Result<(), Entry> {
        let mut table = self.table.lock();
        if let Some(entry) = table.units.get(&unit) {
            return Err(entry.clone());
        }
        table.units.insert(unit, Entry::Storing);
        Ok(())
    }

    /// Gives back the place of a unit that was not stored.
    pub(super) fn drop_unstored(&self, unit: UnitId) {
        self.table.lock().remove(unit);
        self.storing.notify_waiters();
    }

    /// What has become of a unit that another submission is storing; still `Storing` if that takes too long.
    pub(super) async fn once_stored(&self, unit: UnitId) -> Option<Entry> {
        let stored = async {
            loop {
                let changed = self.storing.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                match self.find(unit) {
                    Some(Entry::Storing) => changed.await,
                    entry => return entry,
                }
            }
        };
        let stored = tokio::time::timeout(STORING, stored).await;
        stored.unwrap_or(Some(Entry::Storing))
    }

    /// Stores a unit whose place is reserved; `payload` is the part of it that is not in the store yet. Refused at once if it
    /// can't be placed and has no deadline to wait for.
    pub(super) async fn store_unit(
        self: &Arc<Self>,
        unit: UnitId,
        order: Order,
        payload: Bytes,
    ) -> Result<Arc<Active>, NotTaken> {
        let candidate = match place(&self.units, &order, &[]) {
            Ok(candidate) => Some(candidate),
            // A node that is full or drains has the unit wait.
            Err(none) if none.kind == Kind::Busy => None,
            Err(none) if none.kind == Kind::MalformedDirective || order.deadline_ms.is_none() => {
                return Err(NotTaken::Refused(Eof::without_responses(none.kind, none.message)));
            }
            Err(_) => None,
        };
        let submitted_ms = order.submitted_ms;
        let machine = DurableOrigin::submit(order, candidate, self.timings(), submitted_ms);
        let active = Arc::new(Active::new(unit, &machine, 0, Vec::new()));
        let (told, stored) = oneshot::channel();
        self.run(Drive::new(self.clone(), active.clone(), machine, 0).submitting(payload, told));
        match stored.await {
            Ok(Ok(())) => Ok(active),
            Ok(Err(eof)) => Err(NotTaken::Refused(eof)),
            Err(_) => Err(NotTaken::Unknown),
        }
    }

    /// A unit has come to the disk: from here on it is found.
    pub(super) fn stored(&self, active: &Arc<Active>) {
        let submitted_ms = active.with_state(|state| state.history.order().submitted_ms);
        self.table
            .lock()
            .enter(active.unit, submitted_ms, Entry::Active(active.clone()));
        self.storing.notify_waiters();
    }

    /// Takes a unit that an earlier life of the node has left. Its task is run by [`run`](Self::run).
    pub(super) fn take_over(
        self: &Arc<Self>,
        unit: UnitId,
        machine: DurableOrigin,
        stream_bytes: u64,
        records: &[OriginRecord],
    ) -> Box<Drive> {
        let submitted_ms = machine.history().order().submitted_ms;
        let events = first_and_latest(records.iter().filter_map(Happened::of).collect(), MAX_EVENTS);
        let active = Arc::new(Active::new(unit, &machine, stream_bytes, events));
        self.table
            .lock()
            .enter(unit, submitted_ms, Entry::Active(active.clone()));
        Drive::new(self.clone(), active, machine, stream_bytes)
    }

    /// Takes a unit that has ended for all concerned.
    pub(super) fn take_ended(&self, ended: EndedUnit) {
        self.table.lock().end(ended);
    }

    /// Runs a unit's task, until the unit has ended for all concerned or the node stops.
    pub(super) fn run(&self, drive: Box<Drive>) {
        self.tasks.spawn(drive.run());
    }

    /// The task of a unit has panicked.
    pub(super) fn strand(&self, active: &Active) {
        self.stranded.fetch_add(1, Ordering::Relaxed);
        error!(unit = %active.unit, "the task of a durable unit panicked: the unit goes on when this node is started again");
        active.strand();
    }

    /// Spawns what ends with this node's work.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let task = Box::pin(task);
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// A unit has ended for all concerned: what is left of it in memory is a row.
    pub(super) fn settle(self: &Arc<Self>, active: &Arc<Active>) {
        if active.is_forgotten() {
            let (work, active) = (self.clone(), active.clone());
            self.tasks
                .spawn(async move { work.remove_forgotten(&active).await });
            return;
        }
        if let Some(ended) = EndedUnit::of(active, &self.names) {
            self.table.lock().end(ended);
        }
        active.settle();
    }

    /// Units that have not ended for all concerned, with those that are on their way into the store.
    pub(super) fn under_way(&self) -> usize {
        let table = self.table.lock();
        table.units.len().saturating_sub(table.settled())
    }

    // being asked

    pub(super) fn find(&self, unit: UnitId) -> Option<Entry> {
        self.table.lock().find(unit)
    }

    /// Finds a unit to be read: it stays as long as the answer's second part lives, though not for ever.
    pub(super) fn find_to_read(self: &Arc<Self>, unit: UnitId) -> Option<(Entry, Reading)> {
        let mut table = self.table.lock();
        let entry = table.find(unit)?;
        table.readers.enter(unit, Instant::now());
        let work = self.clone();
        Some((entry, Reading { work, unit }))
    }

    /// The unit is read from here on.
    pub(super) fn read(self: &Arc<Self>, unit: UnitId) -> Reading {
        self.table.lock().readers.enter(unit, Instant::now());
        let work = self.clone();
        Reading { work, unit }
    }

    /// Where a listing that goes on after this unit begins; `None`: the unit is not here.
    pub(crate) fn place_of(&self, unit: UnitId) -> Option<(u64, UnitId)> {
        let table = self.table.lock();
        let submitted = match table.units.get(&unit)? {
            Entry::Active(active) => active.with_state(|state| state.history.order().submitted_ms),
            Entry::Ended(ended) => ended.submitted_ms,
            Entry::Storing => return None,
        };
        Some((submitted, unit))
    }

    /// Units that fit the filter, newest first, from before `place` on, as many as can be looked at in a moment; and where to go on, if there
    /// are more. The filter's own limit and place are the caller's affair.
    pub(crate) fn list(
        &self,
        filter: &WorkFilter,
        place: Option<(u64, UnitId)>,
    ) -> (Vec<WorkReport>, Option<(u64, UnitId)>) {
        let table = self.table.lock();
        let since = filter.since_ms.map(|age| super::now_ms().saturating_sub(age));
        let end = place.map_or(Bound::Unbounded, Bound::Excluded);
        let mut looked = table.by_time.range((Bound::Unbounded, end)).rev();
        let (mut rows, mut last) = (Vec::new(), None);
        for (place, ()) in looked.by_ref().take(LOOK_ROWS) {
            if since.is_some_and(|since| place.0 < since) {
                return (rows, None);
            }
            last = Some(*place);
            let entry = table.units.get(&place.1);
            rows.extend(entry.and_then(|entry| wants(filter, entry)));
        }
        let more = looked.next().is_some();
        (rows, last.filter(|_| more))
    }

    /// One unit, with what happened to it.
    pub(crate) fn show(&self, unit: UnitId) -> Result<WorkReport, Fault> {
        match self.find(unit) {
            Some(Entry::Active(active)) => Ok(super::rows::report(&active, true)),
            Some(Entry::Ended(ended)) => Ok(ended.report(true)),
            Some(Entry::Storing) | None => Err(unknown(unit)),
        }
    }

    /// Whether the unit is durable and here.
    pub(crate) fn has(&self, unit: UnitId) -> bool {
        self.find(unit).is_some()
    }

    /// Ends the unit, if it has no end; waits until its end is on the disk, and for a moment until its executor knows.
    pub(crate) async fn cancel(&self, unit: UnitId) -> Result<WorkReport, Fault> {
        if let Some(active) = self.end(unit).await {
            let mut state = active.watch();
            let told = state.wait_for(|state| state.history.debts().next().is_none());
            // One that can't be reached hears of it when it can.
            let _late = tokio::time::timeout(TOLD, told).await.is_ok();
        }
        self.show(unit)
    }

    /// The same, without a moment for its executor. `None`: it is over for all concerned, or not here, or its end is not on the disk.
    async fn end(&self, unit: UnitId) -> Option<Arc<Active>> {
        let Some(Entry::Active(active)) = self.find(unit) else {
            return None;
        };
        active.cancel();
        let mut state = active.watch();
        let ended = state.wait_for(|state| state.end.is_some());
        // Without a disk that takes it the end stays a wish.
        let ended = tokio::time::timeout(CANCEL, ended).await.is_ok();
        ended.then_some(active)
    }

    /// What is kept here, in short.
    pub(crate) fn kept(&self) -> DurableReport {
        let (units, settled) = self.counted();
        let usage = self.store.usage();
        DurableReport {
            units,
            unended: units.saturating_sub(settled),
            hosted: self.host.count() as u64,
            bytes: usage.log_bytes + usage.data_bytes,
            quota_bytes: self.store.quota_bytes(),
            damaged: usage.damaged,
            refuses: self.store.admit(0).err().map(|error| error.to_string()),
        }
    }

    /// Units that are here, and those of them that have ended for all concerned.
    fn counted(&self) -> (u64, u64) {
        let table = self.table.lock();
        (table.by_time.len() as u64, table.settled() as u64)
    }

    /// Figures for the status: what is here now, and what the store has done since the start.
    pub(crate) fn figures(&self) -> [(&'static str, u64); 17] {
        let (units, settled) = self.counted();
        let usage = self.store.usage();
        [
            ("work.units", units),
            ("work.unended", units.saturating_sub(settled)),
            ("work.hosted", self.host.count() as u64),
            ("work.stranded", self.stranded.load(Ordering::Relaxed)),
            ("work.batched", self.batches.offered()),
            ("work.batched_releases", self.batches.releases()),
            ("work.forgotten", self.host.forgotten()),
            ("work.undeferred", self.host.undeferred()),
            ("store.keys", usage.keys),
            ("store.log_bytes", usage.log_bytes),
            ("store.data_bytes", usage.data_bytes),
            ("store.segments", usage.segments),
            ("store.data_files", usage.data_files),
            ("store.damaged", usage.damaged),
            ("store.syncs", usage.syncs),
            ("store.appends", usage.appends),
            ("store.failures", usage.failures),
        ]
    }
}

/// Changes with who is there, in which life, with which workers and whether it can be reached; not with loads.
fn digest(view: &View) -> u64 {
    let mut hasher = DefaultHasher::new();
    for member in view.members.values() {
        let lsa = &member.lsa;
        (
            member.node().as_str(),
            lsa.incarnation,
            lsa.sequence,
            member.is_reachable(),
        )
            .hash(&mut hasher);
    }
    hasher.finish()
}

/// Conversations that may be under way without an answer: offers, resumptions, releases.
const MAX_QUESTIONS: usize = 512;
/// Rows that are looked at without giving way to others.
const LOOK_ROWS: usize = 1000;

/// How long a second submission of a unit waits for the first.
const STORING: Duration = Duration::from_secs(10);
/// How long a cancellation or a release waits for its record to be on the disk.
const CANCEL: Duration = Duration::from_secs(5);
/// How long a cancellation waits for its executor to know of it.
const TOLD: Duration = Duration::from_millis(500);

/// The answer about a unit that is not here.
pub(crate) fn unknown(unit: UnitId) -> Fault {
    Fault {
        kind: Kind::NoSuchUnit,
        message: format!("no durable unit {unit} here; `node work list` shows those that this node keeps"),
    }
}

#[cfg(test)]
mod tests;
