//! How units leave: released, kept for too long, or given up before they were here. Each is removed by one alone: whoever has taken it
//! out of sight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use workmesh_proto::UnitId;
use workmesh_proto::unit::durable::Backoff;

use super::{Active, CANCEL, Entry, Work};
use crate::store::StoreError;
use crate::unit::durable::drive::key;
use crate::unit::durable::now_ms;
use crate::unit::report::ReleaseReport;

/// How long a removal that failed is left alone at first, in milliseconds; then twice as long each time.
const REMOVAL_MS: u64 = 1000;
/// The longest such wait, of a unit that nobody misses.
const REMOVAL_MOST_MS: u64 = 60_000;
/// The same, of one whose id somebody may want to submit again.
const DISCARD_MOST_MS: u64 = 5000;

/// What came of forgetting a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forgotten {
    /// Nobody sees it any more, also after a restart.
    Yes,
    /// It is not here, or somebody else lets it go.
    NotHere,
    /// It has not ended.
    Runs,
    /// The disk does not let it go.
    Kept,
}

fn count(report: &mut ReleaseReport, forgotten: Forgotten) {
    match forgotten {
        Forgotten::Yes => report.released += 1,
        Forgotten::Runs => report.running += 1,
        Forgotten::Kept => report.kept += 1,
        Forgotten::NotHere => {}
    }
}

impl Work {
    /// Forgets units: these, ended or not, and of all that have ended those whose end is old enough.
    pub(crate) async fn release(
        &self,
        units: Vec<UnitId>,
        all: bool,
        older_than_ms: Option<u64>,
    ) -> ReleaseReport {
        for unit in &units {
            if let Some(Entry::Active(active)) = self.find(*unit) {
                active.cancel();
            }
        }
        let mut report = ReleaseReport::default();
        for unit in units {
            self.end(unit).await;
            let forgotten = match self.show(unit) {
                Ok(row) if row.state == "ended" => self.forget(unit).await,
                Ok(_) => Forgotten::Runs,
                Err(_) => Forgotten::NotHere,
            };
            count(&mut report, forgotten);
            if forgotten == Forgotten::NotHere {
                report.unknown.push(unit);
            }
        }
        if all {
            // Without an age those too that have ended in the future, before the clock was set back.
            let before = older_than_ms.map_or(u64::MAX, |age| now_ms().saturating_sub(age));
            for unit in self.ended_before(before) {
                count(&mut report, self.forget(unit).await);
            }
            report.running += self.unended();
        }
        report
    }

    fn unended(&self) -> u64 {
        let table = self.table.lock();
        let active =
            |entry: &&Entry| matches!(entry, Entry::Active(active) if active.with_state(|s| s.end.is_none()));
        table.units.values().filter(active).count() as u64
    }

    fn ended_before(&self, before_ms: u64) -> Vec<UnitId> {
        let table = self.table.lock();
        let old = |(unit, entry): (&UnitId, &Entry)| {
            let ended = match entry {
                Entry::Ended(ended) => Some(ended.ended_ms),
                Entry::Active(active) => active.with_state(|state| state.history.ended_ms()),
                Entry::Storing => None,
            };
            ended.filter(|at| *at <= before_ms).map(|_| *unit)
        };
        table.units.iter().filter_map(old).collect()
    }

    /// Forgets an ended unit. One whose executor has not heard of the end is out of sight at once and for good, and goes when it has.
    async fn forget(&self, unit: UnitId) -> Forgotten {
        let mut known = Forgotten::NotHere;
        if let Some(active) = self.hide(unit) {
            let mut state = active.watch();
            let stored = state.wait_for(|state| state.history.is_forgotten() || state.settled);
            known = match tokio::time::timeout(CANCEL, stored).await {
                Ok(Ok(state)) if state.history.is_forgotten() || state.removed => Forgotten::Yes,
                // It settled before it was told: whoever takes it out of sight lets it go.
                Ok(Ok(_)) => Forgotten::NotHere,
                _ => Forgotten::Kept,
            };
        }
        // It may have settled just before it was told.
        if !self.let_go(unit) {
            return known;
        }
        match self.remove_going(unit).await {
            true => Forgotten::Yes,
            false => Forgotten::Kept,
        }
    }

    /// Takes a unit out of sight that has ended, but not for all concerned; its task does the rest. `None`: there is none, or it is out
    /// of sight already.
    fn hide(&self, unit: UnitId) -> Option<Arc<Active>> {
        let table = self.table.lock();
        match table.find(unit)? {
            Entry::Active(active) if active.with_state(|state| state.end.is_some()) => {
                active.forget();
                Some(active)
            }
            _ => None,
        }
    }

    /// Takes a unit out of sight that has ended for all concerned, for the caller to remove it. `false`: there is none, or it is going
    /// already.
    fn let_go(&self, unit: UnitId) -> bool {
        let mut table = self.table.lock();
        let ended = matches!(table.find(unit), Some(Entry::Ended(_)));
        ended && table.going.insert(unit)
    }

    /// A unit that is kept longer than is asked for, and that nobody reads: from here on it is going, and the caller removes it.
    pub(in crate::unit::durable) fn overdue(&self) -> Option<UnitId> {
        let (mut table, now) = (self.table.lock(), now_ms());
        let looked = Instant::now();
        let needed = |unit| table.going.contains(&unit) || table.readers.keep(unit, looked);
        let succeeded = table
            .succeeded
            .overdue(&self.settings.keep_succeeded, now, needed);
        let overdue = succeeded.or_else(|| table.failed.overdue(&self.settings.keep_failed, now, needed))?;
        table.going.insert(overdue);
        Some(overdue)
    }

    /// Removes a unit that is going, with all that is kept of it, whoever reads it. `false`: the disk does not let it go, and it is here
    /// again.
    pub(in crate::unit::durable) async fn remove_going(&self, unit: UnitId) -> bool {
        let removed = self.store.remove(key(unit)).await;
        let mut table = self.table.lock();
        table.going.remove(&unit);
        match removed {
            Ok(()) => {
                table.remove(unit);
                true
            }
            Err(error) => {
                warn!(%unit, %error, "an ended unit can't be removed");
                false
            }
        }
    }

    /// Nobody sees the unit any more: it goes as soon as the disk lets it go.
    pub(super) async fn remove_forgotten(&self, active: &Active) {
        let backoff = Backoff::new(REMOVAL_MS, REMOVAL_MOST_MS);
        if self.remove_at_last(active.unit, backoff).await {
            self.table.lock().remove(active.unit);
            active.settle_removed();
        }
    }

    /// Gives back the place of a unit that was not stored, once what came of its payload is gone: another submission of the id is not
    /// to find that.
    pub(in crate::unit::durable) fn discard(self: &Arc<Self>, unit: UnitId) {
        let work = self.clone();
        tokio::spawn(async move {
            let backoff = Backoff::new(REMOVAL_MS, DISCARD_MOST_MS);
            let _stopped = work.remove_at_last(unit, backoff).await;
            work.drop_unstored(unit);
        });
    }

    /// Removes what is kept of a unit, again and again until the disk lets it go. `false`: the node stops before.
    async fn remove_at_last(&self, unit: UnitId, mut backoff: Backoff) -> bool {
        let mut failing = false;
        loop {
            match self.store.remove(key(unit)).await {
                Ok(()) => break,
                Err(StoreError::Closed) => return false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(%unit, %error, "a unit that nobody wants any more can't be removed; it is tried again");
                    }
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = tokio::time::sleep(Duration::from_millis(backoff.fail())) => {}
            }
        }
        if failing {
            info!(%unit, "removed a unit that could not be removed before");
        }
        true
    }
}
